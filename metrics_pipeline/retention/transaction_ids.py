"""Which transaction wrote a row, as a 64-bit number that never wraps: how verified rows are told from later ones."""

# Of all 64-bit ids that end in the 32 bits of xmin, the last that was given out. Rows of more than four billion
# transactions ago can look newer than they are; such a row is left standing for a while, never deleted unverified.
_NEXT = "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"

#: The id of the transaction that wrote a row; over a table, not over a partitioned parent's RETURNING.
WRITER = f"({_NEXT} - (({_NEXT} - xmin::text::bigint) & 4294967295))"

#: Every transaction before this id has ended, so none of its rows can still appear. Ids between this one and the
#: newest are no proof: a subtransaction's id looks finished while its transaction is still open.
OLDEST_OPEN = "(SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint)"
