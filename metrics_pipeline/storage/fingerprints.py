"""The present fingerprint of each day of a window, from one pass over its logs in the server."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.schema import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.storage.contract import UpstreamContract
from metrics_pipeline.storage.log_columns import CONTENT_HASH, LOG_COLUMNS

# width_bucket numbers the days from 1 by a search among their starts, so one index range scan, in parallel workers
# where the server has some, serves the whole window. A cost is regular as the calculator means it.
_FINGERPRINTS = """
SELECT width_bucket(moment, CAST(:starts AS {timestamp_type}[])) AS day,
       count(*) AS logs,
       count(*) FILTER (WHERE status = '{success}') AS successful,
       count(*) FILTER (WHERE status = '{failed}') AS failed,
       coalesce(sum(latency_ms::bigint), 0) AS latency_ms,
       coalesce(sum(token_count::bigint), 0) AS tokens,
       coalesce(sum(exact_cost_usd * 1000000000) FILTER (
           WHERE scale(trim_scale(exact_cost_usd)) <= 9 AND abs(exact_cost_usd) < 1e19), 0) AS cost_nano_usd,
       sum({content_hash}) AS content_hash
FROM (
    SELECT "timestamp" AS moment, cost_usd AS exact_cost_usd, {log_columns}
    FROM agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end
) AS log
GROUP BY 1"""


def present_fingerprints(
    connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow]
) -> dict[date, SourceFingerprint]:
    """The fingerprint of each day that has logs; equal to the ledger's where the logs are the same.

    `windows` are days that follow one another, the first of them first.
    """
    if not windows:
        return {}
    statement = text(
        _FINGERPRINTS.format(
            timestamp_type="timestamp" if contract.timestamp_is_naive else "timestamptz",
            success=SUCCESS_STATUS,
            failed=FAILED_STATUS,
            content_hash=CONTENT_HASH,
            log_columns=LOG_COLUMNS,
        )
    )
    starts = [contract.instant(window.start) for window in windows]
    rows = connection.execute(
        statement, {"starts": starts, "start": starts[0], "end": contract.instant(windows[-1].end)}
    ).mappings()
    return {
        windows[row["day"] - 1].metric_date: SourceFingerprint(
            **{name: int(value) for name, value in row.items() if name != "day"}
        )
        for row in rows
    }
