"""Alembic's scripts for our own tables. They cannot downgrade, because a downgrade would have to discard numbers."""
