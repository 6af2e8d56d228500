"""Divides a large day among several readers: into slices of time, by the planner's estimates."""

from datetime import datetime, timedelta
from itertools import pairwise

from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.upstream import LOG_COLUMNS, METADATA_COLUMNS
from metrics_pipeline.metrics.windows import DayWindow

Slice = tuple[datetime, datetime]

# Below this, a second connection and a query per slice cost as much as they save.
_DIVIDED_FROM_LOGS = 100_000
# More slices than readers, so that a reader of quiet hours can take over some of the busy ones.
_SLICES = 8
# One server process holds a slice's latencies and users in memory: about 20 MB. Slices of 200,000 logs took 10 % longer
# with 2,000 agents, because each slice has a row per agent.
_LOGS_PER_SLICE = 500_000
_SHORTEST = timedelta(seconds=1)
# Without an index each slice reads the whole table, so the slices are few, of about 100 MB each.
_LOGS_PER_SLICE_WITHOUT_INDEX = 4_000_000
# The planner's cost of reading a table of about 5,000 rows, which takes less than a millisecond.
_SMALL = 100

# With its columns: a view may join tables that a query without them does not read.
_PLAN = """
EXPLAIN (FORMAT JSON)
SELECT {columns} FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end"""


def slices_of(connection: Connection, contract: UpstreamContract, window: DayWindow) -> list[Slice]:
    """Half-open slices that make up the window: one for a small day, several for a large one, the largest last."""
    read = (column.name for column in (*LOG_COLUMNS, *METADATA_COLUMNS) if column.name in contract.types)
    columns = ", ".join(f'"{name}"' for name in read)
    statement = text(_PLAN.format(columns=columns))

    def estimate(start: datetime, end: datetime) -> tuple[int, bool]:
        """The estimated logs between two moments, and whether reading them would scan a table that is not small."""
        bounds = {"start": contract.instant(start), "end": contract.instant(end)}
        plan = connection.execute(statement, bounds).scalar_one()[0]["Plan"]
        nodes = [plan]
        for node in nodes:
            nodes += node.get("Plans", [])
        scans = [node for node in nodes if node["Node Type"] == "Seq Scan"]
        return plan["Plan Rows"], any(scan["Total Cost"] > _SMALL for scan in scans)

    logs, _ = estimate(window.start, window.end)
    if logs < _DIVIDED_FROM_LOGS:
        return [(window.start, window.end)]
    eighths = _equal_parts(window, _SLICES)
    _, reads_whole_table = estimate(*eighths[_SLICES // 2])
    if reads_whole_table:
        return _equal_parts(window, -(-logs // _LOGS_PER_SLICE_WITHOUT_INDEX))
    slices: dict[Slice, int] = {}
    to_divide = eighths
    while to_divide:
        start, end = to_divide.pop()
        logs, _ = estimate(start, end)
        if end - start > _SHORTEST and logs > _LOGS_PER_SLICE:
            middle = start + (end - start) / 2
            to_divide += [(start, middle), (middle, end)]
        else:
            slices[start, end] = logs
    return sorted(slices, key=slices.__getitem__)


def _equal_parts(window: DayWindow, number: int) -> list[Slice]:
    step = (window.end - window.start) / number
    return list(pairwise([*(window.start + part * step for part in range(number)), window.end]))
