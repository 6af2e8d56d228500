"""Reading a day: one snapshot for the logs, the agents and what is stored; the logs as a streamed LazyFrame."""

import os
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise

import adbc_driver_postgresql
import polars as pl
from polars.io.plugins import register_io_source
from psycopg import sql
from sqlalchemy import Connection, text

from metrics_pipeline.metrics.costs import NOT_FINITE, parse_costs
from metrics_pipeline.metrics.schema import EXACT_COSTS_SCHEMA, logs_schema
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.storage.contract import UpstreamContract
from metrics_pipeline.storage.database import Database
from metrics_pipeline.storage.faults import database_faults
from metrics_pipeline.storage.log_columns import (
    CONTENT_HASH,
    FAILED,
    HUMAN_INTERVENTION,
    LOG_COLUMNS,
    NO_LATENCY,
    NO_TOKENS,
    SUCCESSFUL,
)
from metrics_pipeline.storage.merging import merge

# Small enough that reading and grouping overlap, large enough that a batch's fixed cost is lost in it.
_BATCH_BYTES = 4 * 1024 * 1024
# Up to 50,000 logs a second connection and a query per slice cost as much as they win; 1,000,000 are read 13 % faster.
_PARALLEL_FROM_LOGS = 100_000
# More slices than readers, so that a reader with quiet hours takes over some of the busy ones.
_SLICES = 8
# Each reader takes a connection and nearly a core of the server, which serves others at night as well.
_MAX_READERS = 4

# OFFSET 0 keeps PostgreSQL from evaluating the JSON look-ups, the dearest part of a row, once more for the hash.
_LOGS = f"""
SELECT log.*, {CONTENT_HASH} AS content_hash
FROM (
    SELECT {LOG_COLUMNS}
    FROM agent_execution_logs
    WHERE "timestamp" >= {{start}} AND "timestamp" < {{end}}
    OFFSET 0
) AS log"""

# A reader that waits behind an ALTER TABLE does so before it has taken a slice, and another reader takes them all.
_LOCK = "SELECT 1 FROM agent_execution_logs LIMIT 0"

_PLAN = """
EXPLAIN (FORMAT JSON)
SELECT 1 FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end"""

# Whole-number division, because numeric's own quotient is rounded before it could be rounded to nano-dollars.
_EXACT_COSTS = text(f"""
SELECT agent_id,
       trunc(round(nano_usd))::text AS total_cost_nano_usd,
       (sign(nano_usd) * div(2 * abs(nano_usd) + logs, 2 * logs))::text AS avg_cost_nano_usd
FROM (
    SELECT agent_id::text AS agent_id, count(*) AS logs,
           coalesce(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN {NOT_FINITE}), 0) * 1000000000 AS nano_usd
    FROM agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end AND agent_id::text = ANY(:agents)
    GROUP BY agent_id
) AS costs""")

# An agent that was retired since the day was aggregated keeps its row, and the row keeps following its logs.
_AGENTS = text("""
SELECT id::text AS agent_id FROM agent_registry WHERE :include_inactive OR status::text = 'active'
UNION
SELECT agent_id FROM agent_performance_metrics WHERE metric_date = :metric_date
ORDER BY agent_id""")


@dataclass
class LogScan:
    """The logs of a window as a stream that can be read once.

    lazy: logs_schema(). rows_read: counted as the batches arrive.
    """

    lazy: pl.LazyFrame
    rows_read: int = 0


@dataclass(frozen=True)
class Snapshot:
    """One state of the database, as an open read-only transaction sees it.

    `connection` serves further queries on the same state. `taken_at` is the server's clock.
    """

    connection: Connection
    taken_at: datetime
    _database: Database
    _contract: UpstreamContract
    _exported_id: str

    def agents(self, metric_date: date, *, include_inactive: bool) -> pl.Series:
        """The agents in scope: the active ones, the inactive if asked for, and those that have a row of the day."""
        rows = self.connection.execute(_AGENTS, {"metric_date": metric_date, "include_inactive": include_inactive})
        return pl.Series("agent_id", rows.scalars().all(), dtype=pl.String)

    def logs(self, window: DayWindow) -> LogScan:
        """The logs of the window, in no certain order. Nothing is read before `lazy` is collected.

        A large window is read in slices of time by several connections, if an index serves such slices. While it is
        collected, database faults surface as TransientError or PermanentError.
        """
        schema = logs_schema()

        def read(
            columns: list[str] | None, predicate: pl.Expr | None, row_limit: int | None, _batch_rows: int | None
        ) -> Iterator[pl.DataFrame]:
            # The first rows of a day need no second reader.
            slices = deque(self._slices(window) if row_limit is None else [(window.start, window.end)])
            readers = min(len(slices), _MAX_READERS, os.cpu_count() or 1)
            for batch in merge([self._read(slices, schema) for _ in range(readers)]):
                rows = batch if row_limit is None else batch.head(row_limit - scan.rows_read)
                scan.rows_read += rows.height
                frame = rows.lazy()
                if predicate is not None:
                    frame = frame.filter(predicate)
                yield frame.select(columns or schema.names()).collect()
                if scan.rows_read == row_limit:
                    return

        scan = LogScan(register_io_source(read, schema=schema, explain_name="agent_execution_logs"))
        return scan

    def exact_costs(self, window: DayWindow, agents: list[str]) -> pl.DataFrame:
        """Exact total and mean cost (EXACT_COSTS_SCHEMA) of the agents that have irregular costs in the window.

        NULL stands for a cost of 1.7 * 10^29 USD or more, which Int128 cannot hold.
        """
        if not agents:
            return pl.DataFrame(schema=EXACT_COSTS_SCHEMA)
        bounds = {"start": self._contract.instant(window.start), "end": self._contract.instant(window.end)}
        rows = self.connection.execute(_EXACT_COSTS, {**bounds, "agents": agents})
        texts = pl.DataFrame([tuple(row) for row in rows], schema=EXACT_COSTS_SCHEMA.names(), orient="row")
        return texts.cast(EXACT_COSTS_SCHEMA, strict=False)

    def _slices(self, window: DayWindow) -> list[tuple[datetime, datetime]]:
        """The window as one slice or, where it pays, as several of equal length."""
        step = (window.end - window.start) / _SLICES
        bounds = [*(window.start + number * step for number in range(_SLICES)), window.end]
        slices = list(pairwise(bounds))
        with database_faults(self._database.description):
            estimate, _ = self._plan(window.start, window.end)
            if estimate < _PARALLEL_FROM_LOGS:
                return [(window.start, window.end)]
            # Without an index each slice would read the whole table.
            _, scans = self._plan(*slices[_SLICES // 2])
        return [(window.start, window.end)] if "Seq Scan" in scans else slices

    def _plan(self, start: datetime, end: datetime) -> tuple[int, set[str]]:
        """The server's estimate of the rows between two moments, and the types of its plan's nodes."""
        bounds = {"start": self._contract.instant(start), "end": self._contract.instant(end)}
        # Rolled back at once, because EXPLAIN locks the table as reading it does: an ALTER TABLE that queued behind
        # this transaction would keep the readers waiting, and this transaction waits for the readers.
        with self.connection.begin_nested() as savepoint:
            plan = self.connection.execute(text(_PLAN), bounds).scalar_one()[0]["Plan"]
            savepoint.rollback()
        nodes, types = [plan], set()
        for node in nodes:
            types.add(node["Node Type"])
            nodes += node.get("Plans", [])
        return plan["Plan Rows"], types

    def _read(self, slices: deque[tuple[datetime, datetime]], schema: pl.Schema) -> Generator[pl.DataFrame]:
        """Takes one slice after the other, until none is left, and yields its logs in batches."""
        with (
            database_faults(self._database.description),
            self._database.adbc_connect() as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{self._exported_id}'")
            cursor.execute(_LOCK)
            cursor.adbc_statement.set_options(
                **{adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(_BATCH_BYTES)}
            )
            for start, end in _taken(slices):
                query = sql.SQL(_LOGS).format(
                    start=sql.Literal(self._contract.instant(start)), end=sql.Literal(self._contract.instant(end))
                )
                cursor.execute(query.as_string())
                for batch in cursor.fetch_record_batch():
                    yield _unpacked(pl.DataFrame(pl.from_arrow(batch)), schema)


def _unpacked(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """LOG_COLUMNS and content_hash, as the server packed them, in the schema of logs."""

    def has(flag: int) -> pl.Expr:
        return (pl.col("flags") & flag) != 0

    numbers = pl.col("latency_and_tokens")
    return (
        rows.hstack(parse_costs(rows["cost_usd"]))
        .select(
            "agent_id",
            "cost_nano_usd",
            "is_cost_irregular",
            "is_cost_not_finite",
            "user_id",
            "content_hash",
            error_type=pl.when(has(FAILED)).then("label"),
            is_successful=has(SUCCESSFUL),
            is_failed=has(FAILED),
            human_intervention=has(HUMAN_INTERVENTION),
            latency_ms=pl.when(~has(NO_LATENCY)).then(numbers // (1 << 32)),
            # Wrapped around, the lower half is a signed number again.
            token_count=pl.when(~has(NO_TOKENS)).then(numbers.cast(pl.Int32, wrap_numerical=True)),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    )


def _taken(slices: deque[tuple[datetime, datetime]]) -> Iterator[tuple[datetime, datetime]]:
    """Takes from a queue that other threads take from as well."""
    while True:
        try:
            yield slices.popleft()
        except IndexError:
            return


@contextmanager
def open_snapshot(database: Database, contract: UpstreamContract) -> Iterator[Snapshot]:
    """Opens a read-only transaction and exports its snapshot, so that the readers of the logs see the same state.

    Database faults inside the block become TransientError or PermanentError.
    """
    with database_faults(database.description), database.engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        exported_id, taken_at = connection.execute(text("SELECT pg_export_snapshot(), now()")).one()
        yield Snapshot(connection, taken_at, database, contract, exported_id)
