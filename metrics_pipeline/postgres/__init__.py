"""Access to PostgreSQL: URLs, sessions, faults, our tables and their migrations, privileges."""
