"""One agent's totals over two periods that follow one another."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.catalog import METRICS, OverDays
from metrics_pipeline.metrics.summary import PeriodTotals
from metrics_pipeline.store.answers.metrics import IS_KNOWN
from metrics_pipeline.store.answers.rows import rows_version
from metrics_pipeline.store.unlogged import ROWS_AND_DAYS, known

# The metrics that are added up over days, of those that a summary shows.
_SHOWN = {field.name for field in fields(PeriodTotals)}
_SUMS = [metric.name for metric in METRICS if metric.over_days is OverDays.SUM and metric.name in _SHOWN]
# A metric of a day, and which executions are counted by whether it is known.
_COUNTED = {
    "avg_latency_ms": "executions_with_latency",
    "total_cost_usd": "executions_with_cost",
    "human_interventions": "executions_with_help",
}
# sum() of whole numbers is a numeric.
_WHOLE = (
    *("days_stored", "mean_latencies_ms", "days_with_latency", "weighted_latencies_ms", *_COUNTED.values()),
    *(name for name in _SUMS if name != "total_cost_usd"),
)

_DAYS = "agent_id = :agent_id AND metric_date BETWEEN :first AND :last"
_TOTALS = text(f"""
WITH version AS MATERIALIZED (
    -- A summary also shows what the distributions say, and a day may get its first one without a change of its row.
    SELECT metrics.value || md5(coalesce((
        SELECT string_agg(concat_ws(' ', metric_date, xmin), ',' ORDER BY metric_date)
        FROM agent_day_distributions WHERE {_DAYS}), '')) AS value
    FROM ({rows_version(_DAYS)}) AS metrics
), days AS MATERIALIZED (
    SELECT agent_id, success_rate, error_distribution, {", ".join(map(known, ("avg_latency_ms", *_SUMS)))},
           metric_date >= :middle AS is_current
    FROM {ROWS_AND_DAYS} CROSS JOIN version
    WHERE {_DAYS} AND version.value <> ALL(CAST(:held AS text[]))
), errors AS (
    SELECT is_current, jsonb_object_agg(error_type, executions) AS distribution
    FROM (SELECT is_current, error_type, sum(executions::bigint) AS executions
          FROM days, jsonb_each_text(error_distribution) AS counts(error_type, executions)
          GROUP BY is_current, error_type) AS summed
    GROUP BY is_current
)
SELECT version.value AS version, {IS_KNOWN} AS is_known, period.is_current,
       count(days.agent_id) AS days_stored,
       coalesce(sum(success_rate), 0) AS success_rates,
       coalesce(sum(avg_latency_ms), 0) AS mean_latencies_ms, count(avg_latency_ms) AS days_with_latency,
       coalesce(sum(avg_latency_ms::numeric * total_executions), 0) AS weighted_latencies_ms,
       {
    ", ".join(f"coalesce(sum(total_executions) FILTER (WHERE {n} IS NOT NULL), 0) AS {c}" for n, c in _COUNTED.items())
},
       -- 0 without any day, and NULL if nothing is known of those there are.
       {", ".join(f"CASE count(days.agent_id) WHEN 0 THEN 0 ELSE sum({name}) END AS {name}" for name in _SUMS)},
       coalesce((SELECT distribution FROM errors WHERE errors.is_current = period.is_current), '{{}}')
           AS error_distribution
FROM version CROSS JOIN (VALUES (false), (true)) AS period(is_current)
LEFT JOIN days ON days.is_current = period.is_current
GROUP BY version.value, period.is_current
ORDER BY period.is_current""")


@dataclass(frozen=True)
class TwoPeriods:
    """The totals before `middle` and from it on; zeros if the client holds `version`."""

    version: str
    is_known: bool
    previous: PeriodTotals
    current: PeriodTotals


def agent_totals(
    connection: Connection, agent_id: str, first: date, middle: date, last: date, *, held: Collection[str]
) -> TwoPeriods:
    """Totals of [first, middle) and of [middle, last]; is_known tells whether the agent exists at all."""
    parameters = {"agent_id": agent_id, "first": first, "middle": middle, "last": last, "held": list(held)}
    rows = connection.execute(_TOTALS, parameters).mappings().all()
    previous, current = (
        PeriodTotals(
            success_rates=row["success_rates"],
            total_cost_usd=row["total_cost_usd"],
            error_distribution=row["error_distribution"],
            **{name: row[name] if row[name] is None else int(row[name]) for name in _WHOLE},
        )
        for row in rows
    )
    return TwoPeriods(rows[0]["version"], rows[0]["is_known"], previous, current)
