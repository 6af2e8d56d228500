"""What programs ask: each answer is one statement, whose rows PostgreSQL writes out itself, digit by digit."""
