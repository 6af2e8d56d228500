"""Asset checks: one module per family of them, and `assembly`, which puts them together.

None of them is partitioned: Dagster loses the partition of a check in a run over several days. Instead each looks at
days of its own choice, whichever day its run was for, and its metadata name them. So a backfill of an old day never
turns a red check green, and costs one evaluation, however many days it has.
"""
