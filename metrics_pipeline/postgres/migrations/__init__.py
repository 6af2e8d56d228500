"""Alembic's scripts for our own tables. There is no way down: a downgrade would have to throw numbers away."""
