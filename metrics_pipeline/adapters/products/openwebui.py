"""Open WebUI."""

from metrics_pipeline.adapters.product import ALEMBIC, Installed, Product, integer

_MOMENT = "to_timestamp(created_at)"


def _logs(installed: Installed) -> str:
    return f"""\
SELECT id,
       model_id AS agent_id,
       {_MOMENT} AS "timestamp",
       CASE WHEN error::text <> 'null' THEN 'failed' WHEN done THEN 'success' ELSE 'running' END AS status,
       {integer("(updated_at - created_at) * 1000")} AS latency_ms,
       (SELECT coalesce((parsed ->> 'input_tokens')::integer, (parsed ->> 'prompt_tokens')::integer, 0)
             + coalesce((parsed ->> 'output_tokens')::integer, (parsed ->> 'completion_tokens')::integer, 0)
          FROM (SELECT usage::jsonb AS parsed OFFSET 0) AS once) AS token_count,
       CASE WHEN error::text <> 'null' THEN 'error' END AS error_type,
       user_id
  FROM {installed.table("chat_message")}
 WHERE role = 'assistant'"""


PRODUCT = Product(
    name="openwebui",
    title="Open WebUI",
    required={
        "model": "id name is_active",
        "chat_message": "id user_id role model_id done error usage created_at updated_at",
    },
    agent="a model of the workspace",
    execution="an answer of the assistant; its latency is known to the second, to its last update",
    failure="an answer with an error",
    user="user_id",
    cost="not logged",
    lacks="cost, error types, human interventions; answers of models that are not in the workspace are skipped",
    registry=lambda installed: (
        "SELECT id, name, CASE WHEN is_active THEN 'active' ELSE 'inactive' END AS status\n"
        f"  FROM {installed.table('model')}"
    ),
    logs=_logs,
    indexes=lambda installed: (f"{installed.table('chat_message')} ({_MOMENT})",),
    migrations=ALEMBIC,
)
