"""LiteLLM's proxy."""

from metrics_pipeline.adapters.product import PRISMA, Installed, Product, milliseconds

_LOGS = "LiteLLM_SpendLogs"
_KEYS = "LiteLLM_VerificationToken"
_AGENTS = "LiteLLM_AgentsTable"


def _registry(installed: Installed) -> str:
    keys = f"""\
SELECT token AS id, coalesce(key_alias, left(token, 8)) AS name,
       CASE WHEN blocked THEN 'blocked' ELSE 'active' END AS status
  FROM {installed.table(_KEYS)}"""
    if not installed.has(_AGENTS, "agent_name"):
        return keys
    return f"""\
{keys}
 UNION ALL
SELECT agent_id, agent_name, 'active' FROM {installed.table(_AGENTS)}"""


def _logs(installed: Installed) -> str:
    status = "coalesce(status, metadata ->> 'status', 'success')"
    if not installed.has(_LOGS, "status"):
        status = "coalesce(metadata ->> 'status', 'success')"
    agent = "api_key"
    if installed.has(_LOGS, "agent_id") and installed.has(_AGENTS, "agent_name"):
        agent = "coalesce(nullif(agent_id, ''), api_key)"
    latency = milliseconds('"endTime" - "startTime"')
    if installed.has(_LOGS, "request_duration_ms"):
        latency = f"coalesce(request_duration_ms, {latency})"
    return f"""\
SELECT request_id AS id,
       {agent} AS agent_id,
       "startTime" AS "timestamp",
       CASE {status} WHEN 'failure' THEN 'failed' ELSE {status} END AS status,
       {latency} AS latency_ms,
       total_tokens AS token_count,
       round(spend::text::numeric, 9) AS cost_usd,
       CASE WHEN {status} = 'failure' THEN metadata -> 'error_information' ->> 'error_class' END AS error_type,
       coalesce(nullif(end_user, ''), nullif("user", '')) AS user_id,
       nullif(model, '') AS model,
       nullif(team_id, '') AS team
  FROM {installed.table(_LOGS)}"""


PRODUCT = Product(
    name="litellm",
    title="LiteLLM proxy",
    required={
        _LOGS: ("request_id api_key spend total_tokens startTime endTime model user end_user metadata team_id"),
        _KEYS: "token key_alias blocked",
    },
    optional={_LOGS: "status agent_id request_duration_ms", _AGENTS: "agent_id agent_name"},
    agent="LiteLLM's agent if the request names one, otherwise the virtual key",
    execution="a request (a row of the spend logs)",
    failure="status 'failure'; the error type is the exception's class",
    user="end_user, otherwise user",
    cost="spend, rounded to a nano-dollar",
    lacks="human interventions; requests with the master key or a deleted key are counted as skipped",
    registry=_registry,
    logs=_logs,
    migrations=PRISMA,
)
