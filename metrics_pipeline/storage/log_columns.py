"""What of a log a metric depends on, as SQL: the same expressions for extraction, fingerprints and pruning."""

from metrics_pipeline.metrics.schema import FAILED_STATUS, SUCCESS_STATUS

# A json column can hold \u0000 and half of a surrogate pair, of which no text can be made: ->> of any key would fail,
# and the day with it. Each reads as U+FFFD, the mark for what cannot be read. jsonb refuses them on entry and is not
# searched. \x and \y, which no JSON holds, stand in for whole pairs and escaped backslashes meanwhile: with lookbehinds
# instead, a megabyte of halves took minutes.
_READABLE = r"""replace(
        regexp_replace(regexp_replace(regexp_replace(replace(metadata::text, '\\', '\y'),
            '\\u([dD][89abAB]..)\\u([dD][c-fC-F]..)', '\\x\1\2', 'g'),
            '\\u(0000|[dD][89a-fA-F]..)', '\\ufffd', 'g'),
            '\\x(....)(....)', '\\u\1\\u\2', 'g'),
        '\y', '\\')"""
_VALUE = rf"""CASE WHEN pg_typeof(metadata) <> 'jsonb'::regtype AND strpos(metadata::text, '\u') > 0
            AND metadata::text ~ '\\u(0000|[dD][89a-fA-F])'
        THEN {_READABLE}::json->>'KEY'
        ELSE metadata->>'KEY' END"""

#: A cost from here on, NaN and the infinities among them, is not added up as a whole number of nano-dollars.
_HUGE = "1e19"

#: The bits of `flags`. Those from NO_LATENCY on tell apart what hashes alike: NULL from a value, a sign from the other.
SUCCESSFUL, FAILED, HUMAN_INTERVENTION, HUGE_COST = (1 << bit for bit in range(4))
_NO_LATENCY, _NO_TOKENS, _NO_COST, _NEGATIVE_COST, _NO_AGENT, _NO_USER = (1 << bit for bit in range(4, 10))

#: A SELECT list over agent_execution_logs.
#: The label is the error type of a failed log, or a status that is neither success nor failure.
LOG_COLUMNS = f"""
    agent_id::text AS agent_id,
    latency_ms::integer AS latency_ms,
    token_count::integer AS token_count,
    cost_usd,
    CASE status::text WHEN '{SUCCESS_STATUS}' THEN NULL WHEN '{FAILED_STATUS}' THEN error_type::text
        ELSE status::text END AS label,
    {_VALUE.replace("KEY", "user_id")} AS user_id,
    CASE status::text WHEN '{SUCCESS_STATUS}' THEN {SUCCESSFUL} WHEN '{FAILED_STATUS}' THEN {FAILED} ELSE 0 END
        + CASE WHEN {_VALUE.replace("KEY", "human_intervention")} = 'true' THEN {HUMAN_INTERVENTION} ELSE 0 END
        + CASE WHEN agent_id IS NULL THEN {_NO_AGENT} ELSE 0 END
        + CASE WHEN latency_ms IS NULL THEN {_NO_LATENCY} ELSE 0 END
        + CASE WHEN token_count IS NULL THEN {_NO_TOKENS} ELSE 0 END
        + CASE WHEN cost_usd IS NULL THEN {_NO_COST}
               WHEN cost_usd < 0 THEN {_NEGATIVE_COST} + CASE WHEN cost_usd <= -{_HUGE} THEN {HUGE_COST} ELSE 0 END
               WHEN cost_usd >= {_HUGE} THEN {HUGE_COST} ELSE 0 END AS flags"""

# Each call's seed is the hash so far; the two numbers are the first seed as they are. A numeric hashes as its digits
# do, without sign and without zeros at the end. 0 hashes as its seed, so that has to be a hash before flags change it.
_HASH = f"""
    hashtextextended(coalesce(user_id, '') COLLATE "C",
    hash_numeric_extended(coalesce(cost_usd, 0),
    hashtextextended(coalesce(agent_id, '') COLLATE "C",
        coalesce(latency_ms, 0)::bigint << 32 | (coalesce(token_count, 0)::bigint & 4294967295))
        # (flags + CASE WHEN user_id IS NULL THEN {_NO_USER} ELSE 0 END)::bigint))"""

#: A 64-bit hash of all of LOG_COLUMNS. Few logs have a label, so the others are spared its call.
CONTENT_HASH = f"""
    CASE WHEN label IS NULL THEN {_HASH} ELSE hashtextextended(label COLLATE "C", {_HASH}) END"""

#: A cost that is a whole number of nano-dollars, and one that Int128 can add up ten thousand million of.
IS_REGULAR_COST = f"abs(cost_usd) < {_HUGE} AND scale(trim_scale(cost_usd)) <= 9"

#: What FINGERPRINT is made from, as a SELECT list over agent_execution_logs.
FINGERPRINT_INPUT = f'"timestamp" AS moment, {LOG_COLUMNS}'

#: The fields of SourceFingerprint as aggregates over rows of FINGERPRINT_INPUT.
FINGERPRINT = f"""
    count(*) AS logs,
    count(*) FILTER (WHERE flags & {SUCCESSFUL} <> 0) AS successful,
    count(*) FILTER (WHERE flags & {FAILED} <> 0) AS failed,
    coalesce(sum(latency_ms), 0) AS latency_ms,
    coalesce(sum(token_count), 0) AS tokens,
    coalesce(sum(cost_usd * 1000000000) FILTER (WHERE {IS_REGULAR_COST}), 0) AS cost_nano_usd,
    coalesce(sum({CONTENT_HASH}), 0) AS content_hash"""
