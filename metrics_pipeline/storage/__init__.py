"""Everything that talks to PostgreSQL. Knows nothing of Dagster."""
