"""The API's reads: one statement each, whose rows PostgreSQL writes as JSON, so that every digit is kept."""
