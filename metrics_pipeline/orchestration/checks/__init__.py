"""Asset checks: one module per family, and `assembly`, which puts them together.

Checks are not partitioned, because Dagster loses the partition of a check in a run over several days. Instead each
check chooses its days, whatever days its run was for, and names them in its metadata. So a backfill of old days never
turns a red check green, and costs one evaluation, however many days it has.
"""
