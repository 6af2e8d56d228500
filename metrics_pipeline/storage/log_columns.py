"""What of a log a metric depends on, as SQL: the same expressions for the extraction and for the fingerprints."""

from metrics_pipeline.metrics.schema import FAILED_STATUS

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
