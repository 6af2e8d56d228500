"""One agent's totals over two periods that follow one another."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.catalog import METRICS, OverDays
from metrics_pipeline.metrics.summary import PeriodTotals
from metrics_pipeline.store.answers.metrics import IS_KNOWN
from metrics_pipeline.store.answers.rows import rows_version

# The metrics that are added up over days, of those that a summary shows.
_SHOWN = {field.name for field in fields(PeriodTotals)}
_SUMS = [metric.name for metric in METRICS if metric.over_days is OverDays.SUM and metric.name in _SHOWN]
# sum() of whole numbers is a numeric.
_WHOLE = ("days_stored", "mean_latencies_ms", "weighted_latencies_ms", *(n for n in _SUMS if n != "total_cost_usd"))

_DAYS = "agent_id = :agent_id AND metric_date BETWEEN :first AND :last"
_TOTALS = text(f"""
WITH version AS MATERIALIZED (
    -- A summary also shows what the distributions say, and a day may get its first one without a change of its row.
    SELECT metrics.value || md5(coalesce((
        SELECT string_agg(concat_ws(' ', metric_date, xmin), ',' ORDER BY metric_date)
        FROM agent_day_distributions WHERE {_DAYS}), '')) AS value
    FROM ({rows_version(_DAYS)}) AS metrics
), days AS MATERIALIZED (
    SELECT metrics.*, metric_date >= :middle AS is_current
    FROM agent_performance_metrics AS metrics, version
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
       coalesce(sum(avg_latency_ms), 0) AS mean_latencies_ms,
       coalesce(sum(avg_latency_ms::numeric * total_executions), 0) AS weighted_latencies_ms,
       {", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _SUMS)},
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
            **{name: int(row[name]) for name in _WHOLE},
        )
        for row in rows
    )
    return TwoPeriods(rows[0]["version"], rows[0]["is_known"], previous, current)
