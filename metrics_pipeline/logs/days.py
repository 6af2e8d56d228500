"""Reads the logs of several days in one pass on the server, each log with its day."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.windows import DayWindow

# width_bucket finds the window of a log, numbered from 1, by a binary search in the windows' starts. So one index range
# scan serves all windows, in parallel workers if the server has them. Logs between two windows belong to neither.
_DAY = 'width_bucket("timestamp", CAST(:starts AS {type}[]))'
_LOGS = f"""agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end AND "timestamp" < (CAST(:ends AS {{type}}[]))[{_DAY}]"""


def over_days(
    connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow], statement: str, **parameters: Any
) -> Sequence[RowMapping]:
    """The rows of a statement over the logs of `windows`, which are sorted by day.

    In the statement, {logs} becomes the table and its WHERE clause, and {day} the number of a log's window, from 1.
    """
    if not windows:
        return []
    type_ = "timestamp" if contract.timestamp_is_naive else "timestamptz"
    bounds = [contract.bounds(window) for window in windows]
    sql = statement.format(day=_DAY.format(type=type_), logs=_LOGS.format(type=type_))
    given = {
        "starts": [each["start"] for each in bounds],
        "ends": [each["end"] for each in bounds],
        "start": bounds[0]["start"],
        "end": bounds[-1]["end"],
    }
    return connection.execute(text(sql), given | parameters).mappings().all()
