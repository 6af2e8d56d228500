"""Arize Phoenix."""

from metrics_pipeline.adapters.product import ALEMBIC, Installed, Product, milliseconds


def _logs(installed: Installed) -> str:
    return f"""\
SELECT s.id,
       t.project_rowid::text AS agent_id,
       s.start_time AS "timestamp",
       CASE s.status_code WHEN 'ERROR' THEN 'failed' ELSE 'success' END AS status,
       {milliseconds("s.end_time - s.start_time")} AS latency_ms,
       s.cumulative_llm_token_count_prompt + s.cumulative_llm_token_count_completion AS token_count,
       round((SELECT sum(c.total_cost::text::numeric) FROM {installed.table("span_costs")} AS c
               WHERE c.trace_rowid = s.trace_rowid), 9) AS cost_usd,
       CASE WHEN s.status_code = 'ERROR' THEN jsonb_path_query_first(
           s.events, '$[*] ? (@.name == "exception").attributes.exception.type') #>> '{{}}' END AS error_type,
       s.attributes -> 'user' ->> 'id' AS user_id
  FROM {installed.table("spans")} AS s
  JOIN {installed.table("traces")} AS t ON t.id = s.trace_rowid
 WHERE s.parent_id IS NULL"""


PRODUCT = Product(
    name="phoenix",
    title="Arize Phoenix",
    required={
        "projects": "id name",
        "traces": "id project_rowid",
        "spans": (
            "id trace_rowid parent_id start_time end_time attributes events status_code "
            "cumulative_llm_token_count_prompt cumulative_llm_token_count_completion"
        ),
        "span_costs": "trace_rowid total_cost",
    },
    agent="a project",
    execution="a trace, by its root span",
    failure="status code ERROR of the root span; the error type is that of its first exception event",
    user="the attribute user.id of the root span",
    cost="the sum of the trace's span costs, rounded to a nano-dollar",
    lacks="human interventions",
    registry=lambda installed: (
        f"SELECT id::text AS id, name, 'active'::text AS status FROM {installed.table('projects')}"
    ),
    logs=_logs,
    migrations=ALEMBIC,
)
