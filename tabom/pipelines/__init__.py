"""Pipelines: files that list commands, what each needs, and loops over them; one command runs them."""
