"""What of a log a metric depends on, as SQL: the same expressions for extraction, fingerprints and pruning."""

from metrics_pipeline.metrics.schema import FAILED_STATUS, SUCCESS_STATUS

#: The columns of LOGS_SCHEMA but content_hash, as a SELECT list over agent_execution_logs.
LOG_COLUMNS = f"""
    agent_id::text AS agent_id,
    status::text AS status,
    latency_ms::integer AS latency_ms,
    token_count::integer AS token_count,
    trim_scale(cost_usd)::text AS cost_usd,
    CASE WHEN status::text = '{FAILED_STATUS}' THEN error_type::text END AS error_type,
    coalesce(metadata->>'human_intervention' = 'true', false) AS human_intervention,
    metadata->>'user_id' AS user_id"""

# No value could stand for NULL: any text can occur, and hashint8extended folds every bigint onto some integer's hash.
_NULLABLE = ("agent_id", "status", "latency_ms", "token_count", "cost_usd", "error_type", "user_id")
_NULLS = " + ".join(f"CASE WHEN {name} IS NULL THEN {2 << bit} ELSE 0 END" for bit, name in enumerate(_NULLABLE))

#: A 64-bit hash of all of LOG_COLUMNS. Its innermost seed says which of them are NULL.
CONTENT_HASH = f"""
    hashtextextended(coalesce(user_id, '') COLLATE "C",
    hashtextextended(coalesce(error_type, '') COLLATE "C",
    hashtextextended(coalesce(status, '') COLLATE "C",
    hashtextextended(coalesce(agent_id, '') COLLATE "C",
    hashtextextended(coalesce(cost_usd, '') COLLATE "C",
    hashint4extended(coalesce(latency_ms, 0),
    hashint4extended(coalesce(token_count, 0), human_intervention::int + {_NULLS})))))))"""

#: What FINGERPRINT is made from, as a SELECT list over agent_execution_logs.
FINGERPRINT_INPUT = f'"timestamp" AS moment, cost_usd AS exact_cost_usd, {LOG_COLUMNS}'

#: The fields of SourceFingerprint as aggregates over rows of FINGERPRINT_INPUT. A cost is regular as the calculator
#: means it.
FINGERPRINT = f"""
    count(*) AS logs,
    count(*) FILTER (WHERE status = '{SUCCESS_STATUS}') AS successful,
    count(*) FILTER (WHERE status = '{FAILED_STATUS}') AS failed,
    coalesce(sum(latency_ms::bigint), 0) AS latency_ms,
    coalesce(sum(token_count::bigint), 0) AS tokens,
    coalesce(sum(exact_cost_usd * 1000000000) FILTER (
        WHERE scale(trim_scale(exact_cost_usd)) <= 9 AND abs(exact_cost_usd) < 1e19), 0) AS cost_nano_usd,
    coalesce(sum({CONTENT_HASH}), 0) AS content_hash"""
