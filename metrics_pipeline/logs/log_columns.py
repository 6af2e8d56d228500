"""What of a log a metric depends on, as SQL: the same expressions for extraction, fingerprints and pruning."""

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.costs import FINGERPRINT_MODULUS_NANO_USD
from metrics_pipeline.metrics.schema import FAILED_STATUS, NANO_USD_PER_USD, SUCCESS_STATUS

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
_VALUE_OF_JSON = rf"""CASE WHEN strpos(metadata::text, '\u') > 0 AND metadata::text ~ '\\u(0000|[dD][89a-fA-F])'
        THEN {_READABLE}::json->>'KEY'
        ELSE metadata->>'KEY' END"""
_VALUE_OF_JSONB = "metadata->>'KEY'"

# The plus makes of the cost a value that is not packed. Each function that takes a packed one unpacks it anew.
_LOG_COLUMNS = f"""
    agent_id::text AS agent_id,
    latency_ms::integer AS latency_ms,
    token_count::integer AS token_count,
    +cost_usd AS cost_usd,
    status::text AS status,
    error_type::text AS error_type,
    status::text = '{SUCCESS_STATUS}' AS is_successful,
    (USER_ID) AS user_id,
    (HUMAN_INTERVENTION) = 'true' AS is_human_intervention"""


def log_columns(contract: UpstreamContract) -> str:
    """A SELECT list over agent_execution_logs.

    In a subquery that ends with OFFSET 0 each column is evaluated once per row; otherwise once per use.
    """
    value = _VALUE_OF_JSON if contract.metadata_is_json else _VALUE_OF_JSONB
    return _LOG_COLUMNS.replace("USER_ID", value.replace("KEY", "user_id")).replace(
        "HUMAN_INTERVENTION", value.replace("KEY", "human_intervention")
    )


#: Whether a log of log_columns() failed. Most are spared the comparison of texts.
HAS_FAILED = f"(is_successful IS NOT TRUE AND status = '{FAILED_STATUS}')"

# Two integers in one bigint. The factor is the largest that cannot overflow; 2147483647 tokens look like -2147483648
# of a log with one millisecond more, which the sums tell apart.
_COUNTS = """coalesce(latency_ms * 4294967295 + token_count,
        coalesce(latency_ms, 0) * 4294967295 + coalesce(token_count, 0))"""
# Few logs have a label: the error type of a failed one, or a status that is neither success nor failure.
_LABEL = f"CASE WHEN status = '{FAILED_STATUS}' THEN error_type ELSE status END"
_WITH_LABEL = f"""CASE WHEN is_successful THEN {_COUNTS}
        ELSE coalesce(hashtextextended({_LABEL} COLLATE "C", {_COUNTS}), {_COUNTS}) END"""
_WITH_USER = f'coalesce(hashtextextended(user_id COLLATE "C", {_WITH_LABEL}), {_WITH_LABEL})'
_WITH_AGENT = f"""hashtextextended(coalesce(agent_id, '') COLLATE "C", {_WITH_USER})"""
_WITH_COST = f"hash_numeric_extended(coalesce(cost_usd, 0), {_WITH_AGENT})"

# What hashes alike otherwise: the statuses, a label and a user of the same name where the other is NULL, NULL and 0 or
# '', a cost and its negative.
_MARKS = f"""CASE WHEN is_successful THEN 1
          WHEN status = '{FAILED_STATUS}' THEN CASE WHEN error_type IS NULL THEN 3 ELSE 2 END
          WHEN status IS NULL THEN 4 ELSE 0 END
        + CASE WHEN is_human_intervention THEN 8 ELSE 0 END
        + CASE WHEN cost_usd < 0 THEN 16 ELSE 0 END
        + CASE WHEN num_nulls(agent_id, latency_ms, token_count, cost_usd) = 0 THEN 0
          ELSE 32 * (agent_id IS NULL)::integer + 64 * (latency_ms IS NULL)::integer
              + 128 * (token_count IS NULL)::integer + 256 * (cost_usd IS NULL)::integer END"""

#: A 64-bit hash of all of log_columns(): each call's seed is the hash of the values before. A numeric hashes as its
#: digits do, without sign and without zeros at the end; of 0 and of what is no number little more comes than the seed,
#: so another hash comes after it.
CONTENT_HASH = f"hashint4extended({_MARKS}, {_WITH_COST})"

#: A cost that is a number and a whole one of nano-dollars: NaN and the infinities have no scale.
IS_REGULAR_COST = "scale(trim_scale(cost_usd)) <= 9"


def total_regular_cost_nano_usd(cost_usd: str) -> str:
    """A sum of regular costs, an SQL expression that may be NULL, in nano-dollars as a fingerprint has it."""
    modulus = FINGERPRINT_MODULUS_NANO_USD
    half = modulus // 2
    # Scaled only when it is small: one cost of 131,072 digits would overflow, and with it the fingerprints of all days
    # that are read in the same statement.
    nano_usd = f"mod(coalesce({cost_usd}, 0), {modulus // NANO_USD_PER_USD}) * {NANO_USD_PER_USD}"
    return f"(mod({nano_usd} + {modulus + half}, {modulus}) - {half})"


#: The aggregate over the costs of logs.
REGULAR_COST_NANO_USD = total_regular_cost_nano_usd(f"sum(cost_usd) FILTER (WHERE {IS_REGULAR_COST})")

#: The fields of SourceFingerprint as aggregates over rows of log_columns().
FINGERPRINT = f"""
    count(*) AS logs,
    count(*) FILTER (WHERE is_successful) AS successful,
    count(*) FILTER (WHERE {HAS_FAILED}) AS failed,
    coalesce(sum(latency_ms), 0) AS latency_ms,
    coalesce(sum(token_count), 0) AS tokens,
    {REGULAR_COST_NANO_USD} AS cost_nano_usd,
    coalesce(sum({CONTENT_HASH}), 0) AS content_hash"""
