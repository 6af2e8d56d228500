"""What of a log a metric depends on, as SQL: the same expressions for extraction, fingerprints and pruning."""

from metrics_pipeline.metrics.schema import FAILED_STATUS, SUCCESS_STATUS

# A json column can hold \u0000, of which no text can be made: ->> of any key would fail, and the day with it. It reads
# as U+FFFD, Unicode's mark for what cannot be read. jsonb refuses it on entry and is not searched.
_VALUE = r"""CASE WHEN pg_typeof(metadata) <> 'jsonb'::regtype AND strpos(metadata::text, '\u0000') > 0
        THEN regexp_replace(metadata::text, '(?<!\\)((\\\\)*)\\u0000', '\1\\ufffd', 'g')::json->>'KEY'
        ELSE metadata->>'KEY' END"""

#: The bits of `flags`. The last two tell NULL from the empty text.
SUCCESSFUL, FAILED, HUMAN_INTERVENTION, NO_LATENCY, NO_TOKENS, NO_AGENT, NO_USER = (1 << bit for bit in range(7))

#: A SELECT list over agent_execution_logs. Every field of a row costs time in the server, on the way and in the
#: client, so the numbers share one of 64 bits (latency in the upper half, 0 for NULL) and the rest are bits of another.
#: The label is the error type of a failed log, or a status that is neither success nor failure.
#: Text is exact for a cost of any precision, and cheaper to make, send and read than numeric or a scaled number.
LOG_COLUMNS = f"""
    agent_id::text AS agent_id,
    coalesce(latency_ms::integer, 0)::bigint << 32
        | (coalesce(token_count::integer, 0)::bigint & 4294967295) AS latency_and_tokens,
    trim_scale(cost_usd)::text AS cost_usd,
    CASE status::text WHEN '{SUCCESS_STATUS}' THEN NULL WHEN '{FAILED_STATUS}' THEN error_type::text
        ELSE status::text END AS label,
    {_VALUE.replace("KEY", "user_id")} AS user_id,
    (CASE status::text WHEN '{SUCCESS_STATUS}' THEN {SUCCESSFUL} WHEN '{FAILED_STATUS}' THEN {FAILED} ELSE 0 END
        + CASE WHEN {_VALUE.replace("KEY", "human_intervention")} = 'true' THEN {HUMAN_INTERVENTION} ELSE 0 END
        + CASE WHEN latency_ms IS NULL THEN {NO_LATENCY} ELSE 0 END
        + CASE WHEN token_count IS NULL THEN {NO_TOKENS} ELSE 0 END)::smallint AS flags"""

# Each call's seed is the hash so far. The numbers are the first seed as they are; the flags come second, because the
# first has no bit to spare for them.
_HASH = f"""
    hashtextextended(coalesce(user_id, '') COLLATE "C",
    hashtextextended(coalesce(agent_id, '') COLLATE "C",
    hashtextextended(coalesce(cost_usd, '') COLLATE "C", latency_and_tokens)
        # (flags + CASE WHEN agent_id IS NULL THEN {NO_AGENT} ELSE 0 END
               + CASE WHEN user_id IS NULL THEN {NO_USER} ELSE 0 END)::bigint))"""

#: A 64-bit hash of all of LOG_COLUMNS. Few logs have a label, so the others are spared its call.
CONTENT_HASH = f"""
    CASE WHEN label IS NULL THEN {_HASH} ELSE hashtextextended(label COLLATE "C", {_HASH}) END"""

#: What FINGERPRINT is made from, as a SELECT list over agent_execution_logs.
FINGERPRINT_INPUT = f'"timestamp" AS moment, latency_ms, token_count, cost_usd AS exact_cost_usd, {LOG_COLUMNS}'

#: The fields of SourceFingerprint as aggregates over rows of FINGERPRINT_INPUT. A cost is regular as parse_costs means
#: it.
FINGERPRINT = f"""
    count(*) AS logs,
    count(*) FILTER (WHERE flags & {SUCCESSFUL} <> 0) AS successful,
    count(*) FILTER (WHERE flags & {FAILED} <> 0) AS failed,
    coalesce(sum(latency_ms::bigint), 0) AS latency_ms,
    coalesce(sum(token_count::bigint), 0) AS tokens,
    coalesce(sum(exact_cost_usd * 1000000000) FILTER (
        WHERE scale(trim_scale(exact_cost_usd)) <= 9 AND abs(exact_cost_usd) < 1e19), 0) AS cost_nano_usd,
    coalesce(sum({CONTENT_HASH}), 0) AS content_hash"""
