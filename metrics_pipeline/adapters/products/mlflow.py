"""MLflow's traces."""

from metrics_pipeline.adapters.product import ALEMBIC, Installed, Product, integer

_MOMENT = "to_timestamp(timestamp_ms / 1000::double precision)"


def _logs(installed: Installed) -> str:
    def metadata(alias: str, key: str) -> str:
        table = installed.table("trace_request_metadata")
        return f"LEFT JOIN {table} AS {alias} ON {alias}.request_id = i.request_id AND {alias}.key = '{key}'"

    usage, cost = installed.json("usage.value"), installed.json("cost.value")
    return f"""\
SELECT i.request_id AS id,
       i.experiment_id::text AS agent_id,
       {_MOMENT} AS "timestamp",
       CASE i.status WHEN 'OK' THEN 'success' WHEN 'ERROR' THEN 'failed' ELSE lower(i.status) END AS status,
       {integer("i.execution_time_ms")} AS latency_ms,
       (({usage}) ->> 'total_tokens')::integer AS token_count,
       round((({cost}) ->> 'total_cost')::numeric, 9) AS cost_usd,
       person.value AS user_id
  FROM {installed.table("trace_info")} AS i
  {metadata("usage", "mlflow.trace.tokenUsage")}
  {metadata("cost", "mlflow.trace.cost")}
  {metadata("person", "mlflow.trace.user")}"""


PRODUCT = Product(
    name="mlflow",
    title="MLflow",
    required={
        "experiments": "experiment_id name lifecycle_stage",
        "trace_info": "request_id experiment_id timestamp_ms execution_time_ms status",
        "trace_request_metadata": "request_id key value",
    },
    agent="an experiment",
    execution="a trace",
    failure="state ERROR",
    user="the trace's metadata mlflow.trace.user",
    cost="the trace's metadata mlflow.trace.cost, rounded to a nano-dollar",
    lacks="error types, human interventions",
    registry=lambda installed: (
        "SELECT experiment_id::text AS id, name, lifecycle_stage::text AS status\n"
        f"  FROM {installed.table('experiments')}"
    ),
    logs=_logs,
    indexes=lambda installed: (f"{installed.table('trace_info')} ({_MOMENT})",),
    migrations=ALEMBIC,
)
