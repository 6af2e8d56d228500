"""Langfuse 2, the last version that keeps traces in PostgreSQL."""

from metrics_pipeline.adapters.product import PRISMA, Installed, Product, milliseconds


def _registry(installed: Installed) -> str:
    return f"""\
SELECT DISTINCT t.project_id || '/' || coalesce(t.name, '') AS id, p.name || '/' || coalesce(t.name, '') AS name,
       'active'::text AS status
  FROM {installed.table("traces")} AS t
  JOIN {installed.table("projects")} AS p ON p.id = t.project_id"""


def _logs(installed: Installed) -> str:
    return f"""\
SELECT t.id,
       t.project_id || '/' || coalesce(t.name, '') AS agent_id,
       t."timestamp",
       CASE WHEN o.has_failed THEN 'failed' ELSE 'success' END AS status,
       {milliseconds("o.ended - o.began")} AS latency_ms,
       o.tokens::integer AS token_count,
       round(o.cost, 9) AS cost_usd,
       CASE WHEN o.has_failed THEN 'error' END AS error_type,
       t.user_id
  FROM {installed.table("traces")} AS t
  LEFT JOIN LATERAL (
           SELECT bool_or(level = 'ERROR') AS has_failed, min(start_time) AS began, max(end_time) AS ended,
                  sum(total_tokens) AS tokens, sum(calculated_total_cost) AS cost
             FROM {installed.table("observations")}
            WHERE trace_id = t.id AND project_id = t.project_id) AS o ON true"""


PRODUCT = Product(
    name="langfuse2",
    title="Langfuse 2",
    required={
        "projects": "id name",
        "traces": "id timestamp name user_id project_id",
        "observations": "trace_id project_id start_time end_time level total_tokens calculated_total_cost",
    },
    agent="the traces of one name in a project, since Langfuse has no table of agents",
    execution="a trace; its latency is the time from its first to its last observation",
    failure="an observation of level ERROR",
    user="the trace's user_id",
    cost="the sum of the observations' calculated cost, rounded to a nano-dollar",
    lacks="error types, human interventions; Langfuse 3 keeps traces in ClickHouse, which cannot be read",
    registry=_registry,
    logs=_logs,
    migrations=PRISMA,
)
