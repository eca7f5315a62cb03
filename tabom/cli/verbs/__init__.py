"""The verbs that train nothing: each parses its own words."""
