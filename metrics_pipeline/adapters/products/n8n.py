"""n8n."""

from metrics_pipeline.adapters.product import TYPEORM, Installed, Product, milliseconds


def _logs(installed: Installed) -> str:
    # By "stoppedAt", which has an index; "startedAt" has none.
    values = installed.table("execution_metadata")
    if not installed.is_unique("execution_metadata", "executionId", "key"):
        # Before July 2024 a key could have several values, and the execution would count as often.
        values = f'(SELECT "executionId", key, max(value) AS value FROM {values} GROUP BY 1, 2)'
    return f"""\
SELECT e.id,
       e."workflowId" AS agent_id,
       e."stoppedAt" AS "timestamp",
       CASE WHEN e.status IN ('error', 'crashed') THEN 'failed' ELSE e.status END AS status,
       {milliseconds('e."stoppedAt" - e."startedAt"')} AS latency_ms,
       CASE WHEN e.status IN ('error', 'crashed') THEN e.status END AS error_type,
       m.value AS user_id,
       e.mode
  FROM {installed.table("execution_entity")} AS e
  LEFT JOIN {values} AS m ON m."executionId" = e.id AND m.key = 'user_id'
 WHERE e.mode <> 'manual'"""


PRODUCT = Product(
    name="n8n",
    title="n8n",
    required={
        "workflow_entity": "id name active",
        "execution_entity": "id workflowId startedAt stoppedAt status mode",
        "execution_metadata": "executionId key value",
    },
    agent="a workflow",
    execution="an execution that was not started by hand, on the day on which it ended",
    failure="status 'error' or 'crashed', which is also the error type",
    user="the custom execution data user_id",
    cost="not logged",
    lacks="tokens, cost, other error types, human interventions; n8n deletes executions after 14 days by default",
    registry=lambda installed: (
        "SELECT id, name, CASE WHEN active THEN 'active' ELSE 'inactive' END AS status\n"
        f"  FROM {installed.table('workflow_entity')}"
    ),
    logs=_logs,
    migrations=TYPEORM,
)
