"""How many logs there are, by the index of their timestamps."""

from datetime import datetime

from sqlalchemy import Connection, TextClause, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.names import LOGS_TABLE

_OF_DAY = text("""
SELECT count(*) FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end""")
_BEFORE = """SELECT count(*) FROM {table} WHERE "timestamp" < :before"""


def count_logs_of_day(connection: Connection, contract: UpstreamContract, window: DayWindow) -> int:
    """How many logs of the day are in the table."""
    count: int = connection.execute(_OF_DAY, contract.bounds(window)).scalar_one()
    return count


def count_logs_before(
    connection: Connection, contract: UpstreamContract, moment: datetime, table: str = LOGS_TABLE
) -> int:
    """How many logs of before the instant are in the table of that quoted name."""
    count: int = connection.execute(on_table(_BEFORE, table), {"before": contract.instant(moment)}).scalar_one()
    return count


def on_table(statement: str, quoted_name: str) -> TextClause:
    """The statement with {table} as that table. A colon of its name is not a parameter."""
    return text(statement.replace("{table}", quoted_name.replace(":", "\\:")))
