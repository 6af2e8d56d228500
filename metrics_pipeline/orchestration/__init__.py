"""Dagster, one module per concept. Only this room, definitions.py and the command line import it."""
