"""The present fingerprint of each day of a window, from one pass over its logs in the server."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import FINGERPRINT, log_columns
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.schema import DEFINITION_VERSION
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.store.ledger import stored_days

# width_bucket numbers the windows from 1 by a search among their starts, so one index range scan, in parallel workers
# where the server has some, serves them all. What lies between two windows counts for neither.
_FINGERPRINTS = f"""
SELECT width_bucket(moment, CAST(:starts AS {{timestamp_type}}[])) AS day, {FINGERPRINT}
FROM (
    SELECT "timestamp" AS moment, {{log_columns}}
    FROM agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end
) AS log
WHERE moment < (CAST(:ends AS {{timestamp_type}}[]))[width_bucket(moment, CAST(:starts AS {{timestamp_type}}[]))]
GROUP BY 1"""


def present_fingerprints(
    connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow]
) -> dict[date, SourceFingerprint]:
    """The fingerprint of each day that has logs; equal to the ledger's where the logs are the same.

    `windows` are in the order of their days; there may be days between them.
    """
    if not windows:
        return {}
    timestamp_type = "timestamp" if contract.timestamp_is_naive else "timestamptz"
    statement = text(_FINGERPRINTS.format(timestamp_type=timestamp_type, log_columns=log_columns(contract)))
    starts = [contract.instant(window.start) for window in windows]
    ends = [contract.instant(window.end) for window in windows]
    rows = connection.execute(
        statement, {"starts": starts, "ends": ends, "start": starts[0], "end": ends[-1]}
    ).mappings()
    return {
        windows[row["day"] - 1].metric_date: SourceFingerprint(
            **{name: int(value) for name, value in row.items() if name != "day"}
        )
        for row in rows
    }


def finished_days(connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow]) -> set[date]:
    """Those of `windows` that are stored under the present definition and cannot be stored any better.

    Nothing of their logs has changed since, or the logs were pruned.
    """
    present = present_fingerprints(connection, contract, windows)
    stored = stored_days(connection, windows[0].metric_date, windows[-1].metric_date)
    return {
        window.metric_date
        for window in windows
        if window.metric_date in stored
        and stored[window.metric_date].definition_version == DEFINITION_VERSION
        and (
            stored[window.metric_date].raw_pruned_at is not None
            or stored[window.metric_date].source_fingerprint
            == present.get(window.metric_date, SourceFingerprint.of_no_logs())
        )
    }
