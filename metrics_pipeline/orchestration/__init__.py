"""Dagster, one module per concept. The only room, beside definitions.py and the command line, that imports it."""
