"""The whole method on a laptop, from a tiny base model to a table and a figure."""
