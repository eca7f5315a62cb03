"""Sweep files, run on this machine or handed to a W&B server."""
