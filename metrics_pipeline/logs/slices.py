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

# With its columns: a view may join tables that a query without them does not read.
_PLAN = """
EXPLAIN (FORMAT JSON)
SELECT {columns} FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end"""


def slices_of(connection: Connection, contract: UpstreamContract, window: DayWindow) -> list[Slice]:
    """Half-open slices that make up the window: one for a small day, several for a large one, the largest last."""
    read = (column.name for column in (*LOG_COLUMNS, *METADATA_COLUMNS) if column.name in contract.types)
    columns = ", ".join(f'"{name}"' for name in read)
    statement = text(_PLAN.format(columns=columns))

    def estimate(start: datetime, end: datetime) -> tuple[int, float, bool]:
        """The estimated logs between two moments, what reading them costs, and whether it would scan a whole table."""
        bounds = {"start": contract.instant(start), "end": contract.instant(end)}
        plan = connection.execute(statement, bounds).scalar_one()[0]["Plan"]
        nodes = [plan]
        for node in nodes:
            nodes += node.get("Plans", [])
        return plan["Plan Rows"], plan["Total Cost"], any(node["Node Type"] == "Seq Scan" for node in nodes)

    logs, cost, _ = estimate(window.start, window.end)
    if logs < _DIVIDED_FROM_LOGS:
        return [(window.start, window.end)]
    eighths = _equal_parts(window, _SLICES)
    _, cost_of_eighth, scans_whole_table = estimate(*eighths[_SLICES // 2])
    # The table of the logs without an index, or one that a view joins and that is not small.
    if scans_whole_table and cost_of_eighth > cost * 2 / _SLICES:
        return _equal_parts(window, -(-logs // _LOGS_PER_SLICE_WITHOUT_INDEX))
    slices: dict[Slice, int] = {}
    to_divide = eighths
    while to_divide:
        start, end = to_divide.pop()
        logs, _, _ = estimate(start, end)
        if end - start > _SHORTEST and logs > _LOGS_PER_SLICE:
            middle = start + (end - start) / 2
            to_divide += [(start, middle), (middle, end)]
        else:
            slices[start, end] = logs
    return sorted(slices, key=slices.__getitem__)


def _equal_parts(window: DayWindow, number: int) -> list[Slice]:
    step = (window.end - window.start) / number
    return list(pairwise([*(window.start + part * step for part in range(number)), window.end]))
