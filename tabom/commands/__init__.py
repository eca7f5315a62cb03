"""Verbs of the command line that train nothing."""
