"""Reading the logs of several days in one pass of the server, each log with its day."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.windows import DayWindow

# width_bucket numbers the windows from 1 by a search among their starts, so one index range scan, in parallel workers
# where the server has some, serves them all. What lies between two windows counts for neither.
_DAY = 'width_bucket("timestamp", CAST(:starts AS {type}[]))'
_LOGS = f"""agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end AND "timestamp" < (CAST(:ends AS {{type}}[]))[{_DAY}]"""


def over_days(
    connection: Connection, contract: UpstreamContract, windows: Sequence[DayWindow], statement: str, **parameters: Any
) -> Sequence[RowMapping]:
    """The rows of a statement over the logs of `windows`, which are in the order of their days.

    In the statement, {logs} stands for the table with its condition, to be read FROM, and {day} for the number of a
    log's window, counted from 1.
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
