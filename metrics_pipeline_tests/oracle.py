"""The day's metrics again, in SQL, as the documents and PostgreSQL define them. Shares no code with the package.

The mean cost is the one exception: numeric's division rounds before it could be rounded to nine places, so the
quotient is formed from whole numbers in Python.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, text

# What a name means that is no column of the logs: in the subquery of LATERAL, one of an inner table comes first.
_ABSENT = r"""
    (SELECT NULL::integer AS latency_ms, NULL::integer AS token_count, NULL::numeric AS cost_usd,
            NULL::text AS error_type, '"(absent)"'::jsonb AS metadata, NULL::text AS user_id,
            NULL::boolean AS human_intervention) AS absent"""

_ORACLE = text(rf"""
WITH errors AS MATERIALIZED (
    SELECT agent_id, jsonb_object_agg(error_type, executions) AS distribution
      FROM (SELECT agent_id::text,
                   CASE WHEN length(reason) > 256
                        THEN regexp_replace(reason, '^(.{{200}}).*$', '\1')
                             || U&'\2026' || substr(sha256(convert_to(reason, 'UTF8'))::text, 3, 16)
                        ELSE coalesce(reason, 'unknown') END AS error_type,
                   count(*) AS executions
              FROM {_ABSENT} CROSS JOIN LATERAL (
                       SELECT agent_id, error_type::text AS reason FROM agent_execution_logs
                        WHERE status::text = 'failed' AND "timestamp" >= :start AND "timestamp" < :end) AS failed
             GROUP BY 1, 2) AS counts
     GROUP BY agent_id
)
SELECT agent.id AS agent_id,
       count(log) AS total_executions,
       count(*) FILTER (WHERE log.status::text = 'success') AS successful_executions,
       count(*) FILTER (WHERE log.status::text = 'failed') AS failed_executions,
       CASE WHEN count(log) = 0 THEN 1
            ELSE round(count(*) FILTER (WHERE log.status::text = 'success')::numeric / count(log), 6)
       END AS success_rate,
       coalesce(avg(log.latency_ms)::int, 0) AS avg_latency_ms,
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0) AS p50_latency_ms,
       coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0) AS p95_latency_ms,
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY log.latency_ms)::int, 0) AS p99_latency_ms,
       coalesce(sum(log.token_count), 0) AS total_tokens,
       coalesce(sum(log.cost_usd), 0) AS exact_cost_usd,
       coalesce((SELECT distribution FROM errors WHERE errors.agent_id = agent.id), '{{}}') AS error_distribution,
       count(*) FILTER (WHERE log.human_intervention = 'true') AS human_interventions,
       count(DISTINCT log.user_id) AS unique_users
  FROM (SELECT id::text FROM agent_registry
         WHERE status::text = 'active' OR :include_inactive OR id::text = ANY(:retired)) AS agent
  LEFT JOIN (SELECT given.*,
                    trunc(latency + sign(latency) * 0.5) AS latency_ms, cost AS cost_usd
               FROM {_ABSENT}, LATERAL (
                   SELECT agent_id, "timestamp", status, token_count,
                          -- Not a cast from double precision, which keeps 15 digits.
                          CASE WHEN latency_ms::text !~ 'Inf|NaN' THEN latency_ms::text::numeric END AS latency,
                          CASE WHEN cost_usd::text !~ 'Inf|NaN' THEN cost_usd::text::numeric END AS cost,
                          CASE metadata::text WHEN '"(absent)"' THEN user_id::text ELSE metadata->>'user_id' END
                              AS user_id,
                          CASE metadata::text WHEN '"(absent)"' THEN human_intervention::text
                                              ELSE metadata->>'human_intervention' END AS human_intervention
                     FROM agent_execution_logs) AS given) AS log
    ON log.agent_id::text = agent.id AND log."timestamp" >= :start AND log."timestamp" < :end
 GROUP BY agent.id""")

_STORED_VALUES = text(
    "SELECT * FROM agent_dimension_metrics WHERE metric_date = :metric_date AND dimension = :dimension"
)
_STORED = text("SELECT * FROM agent_performance_metrics WHERE metric_date = :metric_date")

# The keys of the groups of a window, as expressions over agent_id and day.
_GROUP_KEYS = {
    "agent": "agent_id",
    "day": "day AS metric_date",
    "week": "date_trunc('week', day)::date AS week",
    "month": "date_trunc('month', day)::date AS month",
}
# {keys} is a SELECT list, which may be empty.
_LOGS_OF_WINDOW = """
WITH logs AS (
    SELECT {keys} log.*
      FROM (SELECT id::text AS agent_id FROM agent_registry WHERE status::text = 'active') AS agent
     CROSS JOIN (SELECT day::date FROM generate_series(CAST(:first AS date), :last, '1 day') AS day) AS days
      LEFT JOIN (SELECT id AS log_id, agent_id::text AS log_agent_id, ("timestamp" AT TIME ZONE 'UTC')::date AS log_day,
                        status, latency_ms, token_count, cost_usd, error_type, metadata
                   FROM agent_execution_logs) AS log ON log_agent_id = agent_id AND log_day = day
)"""
_WINDOW = """
SELECT {names} count(log_id) AS total_executions,
       count(*) FILTER (WHERE status = 'success') AS successful_executions,
       count(*) FILTER (WHERE status = 'failed') AS failed_executions,
       round(count(*) FILTER (WHERE status = 'success')::numeric / nullif(count(log_id), 0), 6) AS success_rate,
       avg(latency_ms)::int AS avg_latency_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms)::int AS p50_latency_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms)::int AS p95_latency_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms)::int AS p99_latency_ms,
       coalesce(sum(token_count), 0) AS total_tokens,
       coalesce(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN ('NaN', 'Infinity', '-Infinity')), 0)
           AS total_cost_usd,
       count(*) FILTER (WHERE metadata->>'human_intervention' = 'true') AS human_interventions,
       count(DISTINCT metadata->>'user_id') AS unique_users
  FROM logs {grouped} {ordered}"""
_WINDOW_ERRORS = """
SELECT {names} coalesce(error_type, 'unknown') AS error_type, count(*) AS executions
  FROM logs WHERE status = 'failed' GROUP BY {names} coalesce(error_type, 'unknown') ORDER BY error_type"""

# The metrics of each agent and value of a dimension. {value}: the value as json or text, from a row of logs.
_BY_VALUE = """
WITH logs AS (
    SELECT log.*, agent_id::text AS agent, {kind} AS kind, {value} AS value
      FROM agent_execution_logs AS log JOIN agent_registry ON agent_registry.id::text = agent_id::text
     WHERE agent_registry.status::text = 'active' AND "timestamp" >= :start AND "timestamp" < :end
), ranked AS (
    SELECT agent, kind, value, row_number() OVER
               (PARTITION BY agent ORDER BY count(*) DESC, value COLLATE "C", kind COLLATE "C") AS rank
      FROM logs GROUP BY agent, kind, value
), mapped AS (
    SELECT logs.*, CASE WHEN rank <= 50 THEN kind ELSE 'other' END AS value_kind,
           CASE WHEN rank <= 50 THEN value ELSE '(other)' END AS shown
      FROM logs JOIN ranked USING (agent, kind, value)
)
SELECT agent AS agent_id, value_kind, shown AS value, count(*) AS total_executions,
       count(*) FILTER (WHERE status::text = 'success') AS successful_executions,
       count(*) FILTER (WHERE status::text = 'failed') AS failed_executions,
       round(count(*) FILTER (WHERE status::text = 'success')::numeric / count(*), 6) AS success_rate,
       coalesce(avg(latency_ms)::int, 0) AS avg_latency_ms,
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms)::int, 0) AS p50_latency_ms,
       coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms)::int, 0) AS p95_latency_ms,
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms)::int, 0) AS p99_latency_ms,
       coalesce(sum(token_count), 0) AS total_tokens,
       coalesce(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN ('NaN', 'Infinity', '-Infinity')), 0)
           AS exact_cost_usd,
       count(*) FILTER (WHERE metadata->>'human_intervention' = 'true') AS human_interventions,
       count(DISTINCT metadata->>'user_id') AS unique_users,
       count(DISTINCT (kind, value)) AS merged_values,
       array_agg(coalesce(error_type::text, 'unknown')) FILTER (WHERE status::text = 'failed') AS errors
  FROM mapped GROUP BY agent, value_kind, shown"""
_KIND = "CASE WHEN {value} IS NULL THEN 'none' WHEN {is_list} THEN 'list' ELSE 'value' END"
_SHOWN = r"""CASE WHEN {value} IS NULL THEN '(none)' WHEN {is_list} THEN '(list)'
    WHEN length({value}) <= 128 THEN {value}
    ELSE substr({value}, 1, 111) || U&'\2026' || substr(sha256(convert_to({value}, 'UTF8'))::text, 3, 16) END"""

_NANO = 10**9


def expected_metrics(
    connection: Connection,
    start: datetime,
    end: datetime,
    *,
    include_inactive: bool = False,
    retired: Iterable[str] = (),
) -> dict[str, dict[str, Any]]:
    """What must be stored of the window [start, end), by agent.

    `retired` are agents that are no longer active, but were when the day was first aggregated.
    """
    parameters = {"start": start, "end": end, "include_inactive": include_inactive, "retired": list(retired)}
    rows = connection.execute(_ORACLE, parameters).mappings()
    expected = {}
    for row in map(dict, rows):
        cost = Fraction(row.pop("exact_cost_usd"))
        row["total_cost_usd"] = _rounded(cost)
        row["avg_cost_per_execution"] = _rounded(cost / max(row["total_executions"], 1))
        expected[row.pop("agent_id")] = row
    return expected


def stored_metrics(connection: Connection, metric_date: date) -> dict[str, dict[str, Any]]:
    """What is stored of the day, by agent, without the keys and the times of writing."""
    stored = {}
    for row in map(dict, connection.execute(_STORED, {"metric_date": metric_date}).mappings()):
        for name in ("metric_date", "created_at", "updated_at"):
            del row[name]
        stored[row.pop("agent_id")] = row
    return stored


def expected_values(
    connection: Connection, start: datetime, end: datetime, value: str, is_list: str
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What must be stored of the window by one dimension, by agent, kind and value.

    value, is_list: the dimension's value as text and whether it is a list, in SQL. Where a cost has more than nine
    places, only the sum over an agent's values is rounded as the agent's is.
    """
    parts = {"value": f"({value})", "is_list": f"({is_list})"}
    statement = _BY_VALUE.format(kind=_KIND.format(**parts), value=_SHOWN.format(**parts))
    expected = {}
    for row in map(dict, connection.execute(text(statement), {"start": start, "end": end}).mappings()):
        cost = Fraction(row.pop("exact_cost_usd"))
        row["total_cost_usd"] = _rounded(cost)
        row["avg_cost_per_execution"] = _rounded(cost / row["total_executions"])
        row["error_distribution"] = dict(Counter(row.pop("errors") or ()))
        expected[row.pop("agent_id"), row.pop("value_kind"), row.pop("value")] = row
    return expected


def stored_values(
    connection: Connection, metric_date: date, dimension: str
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What is stored of the day by one dimension, by agent, kind and value, without the times of writing."""
    rows = connection.execute(_STORED_VALUES, {"metric_date": metric_date, "dimension": dimension}).mappings()
    stored = {}
    for row in map(dict, rows):
        for name in ("metric_date", "dimension", "created_at", "updated_at"):
            del row[name]
        stored[row.pop("agent_id"), row.pop("value_kind"), row.pop("value")] = row
    return stored


def expected_windows(connection: Connection, first: date, last: date, by: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics of the window of UTC days, a row for each group, in the order of the groups. Costs have 9 places."""
    names = [_GROUP_KEYS[each].rpartition(" ")[2] for each in by]
    listed, plain = "".join(f"{name}, " for name in names), ", ".join(names)
    logs = _LOGS_OF_WINDOW.format(keys="".join(f"{_GROUP_KEYS[each]}, " for each in by))
    grouped, ordered = (f"GROUP BY {plain}", f"ORDER BY {plain}") if by else ("", "")
    window = {"first": first, "last": last}
    metrics = text(logs + _WINDOW.format(names=listed, grouped=grouped, ordered=ordered))
    rows = [dict(row) for row in connection.execute(metrics, window).mappings()]
    errors = connection.execute(text(logs + _WINDOW_ERRORS.format(names=listed)), window).mappings().all()
    for row in rows:
        cost, executions = Fraction(row["total_cost_usd"]), row["total_executions"]
        unassisted = row["successful_executions"] - row["human_interventions"]
        row["avg_cost_per_execution"] = _rounded(cost / executions) if executions else None
        row["cost_per_unassisted_success"] = _rounded(cost / unassisted) if unassisted > 0 else None
        row["error_distribution"] = [
            {"error_type": error["error_type"], "executions": error["executions"]}
            for error in errors
            if all(error[name] == row[name] for name in names)
        ]
    return rows


def _rounded(usd: Fraction) -> Decimal:
    nano, half = divmod(abs(usd) * _NANO, 1)
    whole = nano + (half >= Fraction(1, 2))
    return Decimal(int(whole if usd >= 0 else -whole)).scaleb(-9)
