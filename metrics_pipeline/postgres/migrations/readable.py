"""What agent_performance_metrics may hold, so that every reader can read every row.

Adoption refuses other rows, and revision 0005 makes CHECK constraints of these conditions. It belongs to that revision.
"""

from collections.abc import Collection

from sqlalchemy import Connection, text

_YEARS = "is infinite, or not in the years 1 to 9999"
_COUNT = ("VALUE BETWEEN 0 AND 999999999999999", "is NaN, negative, or 10^15 or more")
_COST = ("VALUE > -100000000000 AND VALUE < 100000000000", "is NaN, infinite, or 10^11 or more")
_INSTANT = ("VALUE BETWEEN '0001-01-02' AND '9999-12-31'", _YEARS)

#: By column: a condition, which is true or NULL for what can be read, whatever the type of the column is before
#: adoption, and the words for other values. With this limit of counts, a bigint holds the sum over 9,000 agents.
READABLE = {
    "metric_date": ("VALUE BETWEEN '0001-01-01' AND '9999-12-31'", _YEARS),
    "total_executions": _COUNT,
    "successful_executions": _COUNT,
    "failed_executions": _COUNT,
    "success_rate": ("VALUE BETWEEN 0 AND 1", "is not between 0 and 1 (divide percentages by 100)"),
    "total_cost_usd": _COST,
    "avg_cost_per_execution": _COST,
    # The counts as text are digits only: 2.0, "2", -2, null and lists are not.
    "error_distribution": (
        """jsonb_typeof(VALUE::jsonb) = 'object'
           AND jsonb_path_query_array(VALUE::jsonb, '$.*')::text ~ '^[[]([0-9]{1,15}(, [0-9]{1,15})*)?[]]$'""",
        'is not an object of whole counts such as {"timeout": 2}',
    ),
    "human_interventions": _COUNT,
    "unique_users": _COUNT,
    "created_at": _INSTANT,
    "updated_at": _INSTANT,
}

# Of a table that is not adopted yet. Our bigint columns may hold any number; a number of another type may not fit.
_INTEGER = ("VALUE > -9000000000000000000 AND VALUE < 9000000000000000000", "is NaN, infinite, or too large for bigint")
_BEFORE_ADOPTION = {
    "agent_id": ("VALUE IS NOT NULL", "is NULL"),
    "metric_date": (f"VALUE IS NOT NULL AND {READABLE['metric_date'][0]}", f"is NULL, {_YEARS.removeprefix('is ')}"),
    **dict.fromkeys(("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "total_tokens"), _INTEGER),
}


def unreadable_rows(connection: Connection, columns: Collection[str]) -> list[str]:
    """What is wrong with the values of these columns, with the number of such rows and an example of each."""
    rules = {name: rule for name, rule in (READABLE | _BEFORE_ADOPTION).items() if name in columns}
    wrong = {name: f"NOT ({condition.replace('VALUE', name)})" for name, (condition, _) in rules.items()}
    counts = ", ".join(
        f"""count(*) FILTER (WHERE {is_wrong}) AS {name},
            min(concat('agent ', agent_id, ', ', metric_date, ': ', left(coalesce({name}::text, 'NULL'), 100)))
                FILTER (WHERE {is_wrong}) AS example_of_{name}"""
        for name, is_wrong in wrong.items()
    )
    # OFFSET 0: only wrong rows reach the aggregates, which evaluate each condition twice.
    statement = text(f"""
        SELECT (SELECT count(*) FROM agent_performance_metrics) AS rows, {counts}
          FROM (SELECT * FROM agent_performance_metrics WHERE {" OR ".join(wrong.values())} OFFSET 0) AS wrong""")
    found = connection.execute(statement).mappings().one()
    return [
        f"{name} {words} in {found[name]} of {found['rows']} rows (for example {found[f'example_of_{name}']})"
        for name, (_, words) in rules.items()
        if found[name]
    ]
