"""Dify."""

from metrics_pipeline.adapters.product import ALEMBIC, Installed, Product, first_word, integer, seconds


def _logs(installed: Installed) -> str:
    tried = " AND invoke_from IS DISTINCT FROM 'debugger'" if installed.has("messages", "invoke_from") else ""
    return f"""\
SELECT id,
       app_id AS agent_id,
       created_at AS "timestamp",
       CASE status WHEN 'normal' THEN 'success' WHEN 'error' THEN 'failed' ELSE status END AS status,
       {seconds("provider_response_latency")} AS latency_ms,
       message_tokens + answer_tokens AS token_count,
       CASE WHEN currency = 'USD' THEN total_price END AS cost_usd,
       {first_word("error")} AS error_type,
       coalesce(from_end_user_id, from_account_id) AS user_id
  FROM {installed.table("messages")}
 WHERE workflow_run_id IS NULL{tried}
 UNION ALL
SELECT r.id, r.app_id, r.created_at,
       CASE r.status WHEN 'succeeded' THEN 'success' WHEN 'partial-succeeded' THEN 'success' ELSE r.status END,
       {seconds("r.elapsed_time")},
       {integer("r.total_tokens")},
       (SELECT sum((metadata ->> 'total_price')::numeric)
          FROM {installed.table("workflow_node_executions")} AS n
         CROSS JOIN LATERAL (SELECT {installed.json("n.execution_metadata")} AS metadata OFFSET 0) AS parsed
         WHERE n.tenant_id = r.tenant_id AND n.app_id = r.app_id AND n.workflow_id = r.workflow_id
           AND n.triggered_from = 'workflow-run' AND n.workflow_run_id = r.id
           AND metadata ->> 'currency' = 'USD'),
       {first_word("r.error")},
       r.created_by
  FROM {installed.table("workflow_runs")} AS r
 WHERE r.triggered_from <> 'debugging'"""


PRODUCT = Product(
    name="dify",
    title="Dify",
    required={
        "apps": "id name status",
        "messages": (
            "id app_id message_tokens answer_tokens provider_response_latency total_price currency "
            "status error from_end_user_id from_account_id created_at workflow_run_id"
        ),
        "workflow_runs": (
            "id tenant_id app_id workflow_id triggered_from status error elapsed_time total_tokens "
            "created_by created_at"
        ),
        "workflow_node_executions": "tenant_id app_id workflow_id triggered_from workflow_run_id execution_metadata",
    },
    optional={"messages": "invoke_from"},
    agent="an app",
    execution="a message of an app without a workflow, or a published run of a workflow; debugging is left out",
    failure="status 'error' or 'failed'; the error type is the first word of the message",
    user="the end user, otherwise the account",
    cost="the total price in USD of the message or of the workflow's nodes; other currencies are NULL",
    lacks="human interventions",
    registry=lambda installed: (
        "SELECT id, name, CASE status WHEN 'normal' THEN 'active' ELSE status END AS status\n"
        f"  FROM {installed.table('apps')}"
    ),
    logs=_logs,
    migrations=ALEMBIC,
)
