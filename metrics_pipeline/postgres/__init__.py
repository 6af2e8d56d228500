"""How PostgreSQL is reached: URLs, sessions, faults, our tables and their migrations, privileges."""
