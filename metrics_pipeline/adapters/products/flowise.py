"""Flowise's agent flows."""

from metrics_pipeline.adapters.product import TYPEORM, Installed, Product, milliseconds


def _logs(installed: Installed) -> str:
    nodes = installed.json('e."executionData"')
    return f"""\
SELECT e.id,
       e."agentflowId" AS agent_id,
       e."createdDate" AS "timestamp",
       CASE e.state WHEN 'FINISHED' THEN 'success' WHEN 'ERROR' THEN 'failed' WHEN 'TIMEOUT' THEN 'failed'
                    ELSE lower(e.state) END AS status,
       {milliseconds('e."updatedDate" - e."createdDate"')} AS latency_ms,
       (SELECT sum((node #>> '{{data,output,usageMetadata,total_tokens}}')::bigint)
          FROM jsonb_array_elements({nodes}) AS node)::integer AS token_count,
       CASE WHEN e.state IN ('ERROR', 'TIMEOUT') THEN lower(e.state) END AS error_type,
       e."sessionId" AS user_id
  FROM {installed.table("execution")} AS e"""


PRODUCT = Product(
    name="flowise",
    title="Flowise",
    required={
        "chat_flow": "id name",
        "execution": "id executionData state agentflowId sessionId createdDate updatedDate",
    },
    agent="an agent flow",
    execution="an execution of the flow; its latency is the time to its last update",
    failure="state ERROR or TIMEOUT, which is also the error type",
    user="the session, since no user is logged",
    cost="not logged",
    lacks="cost, users, other error types, human interventions",
    registry=lambda installed: f"SELECT id, name, 'active'::text AS status FROM {installed.table('chat_flow')}",
    logs=_logs,
    indexes=lambda installed: (f'{installed.table("execution")} ("createdDate")',),
    migrations=TYPEORM,
)
