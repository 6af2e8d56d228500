"""aegra, an open server of the LangGraph Platform's API."""

from metrics_pipeline.adapters.product import ALEMBIC, Installed, Product, first_word, milliseconds


def _logs(installed: Installed) -> str:
    return f"""\
SELECT run_id AS id,
       assistant_id AS agent_id,
       created_at AS "timestamp",
       CASE WHEN status IN ('error', 'timeout') THEN 'failed' ELSE status END AS status,
       CASE WHEN status IN ('success', 'error', 'timeout') THEN {milliseconds("updated_at - created_at")} END
           AS latency_ms,
       CASE status WHEN 'timeout' THEN 'timeout' ELSE {first_word("error_message")} END AS error_type,
       user_id,
       status = 'interrupted' AS human_intervention
  FROM {installed.table("runs")}"""


PRODUCT = Product(
    name="langgraph",
    title="LangGraph Platform's API (aegra)",
    required={
        "assistant": "assistant_id name",
        "runs": "run_id assistant_id status error_message user_id created_at updated_at",
    },
    agent="an assistant",
    execution="a run; its latency is the time to its last update, once it has ended",
    failure="status 'error' or 'timeout'; the error type is the first word of the message",
    user="the run's user_id",
    cost="not logged",
    lacks="tokens, cost; status 'interrupted' counts as a human intervention",
    registry=lambda installed: (
        f"SELECT assistant_id AS id, name, 'active'::text AS status FROM {installed.table('assistant')}"
    ),
    logs=_logs,
    migrations=ALEMBIC,
)
