"""The logs of other systems: the contract with their tables, and a day of logs as partial aggregates."""
