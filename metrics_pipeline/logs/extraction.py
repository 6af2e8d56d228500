"""Reading a day from one snapshot: the logs as partial aggregates, the agents, and what is stored."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl
from sqlalchemy import Connection, text

from metrics_pipeline.logs.contract import UpstreamContract
from metrics_pipeline.logs.log_columns import REGULAR_COST_NANO_USD
from metrics_pipeline.logs.partials import read_partials
from metrics_pipeline.logs.slices import Slice, slices_of
from metrics_pipeline.metrics.costs import NOT_FINITE
from metrics_pipeline.metrics.schema import EXACT_COSTS_SCHEMA
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.postgres.database import Database

# Each reader takes a connection and a core of the server, which serves others at night as well.
_MAX_READERS = 4

# A reader that waits behind an ALTER TABLE does so before it has taken a slice, and another reader takes them all.
_LOCK = text("SELECT 1 FROM agent_execution_logs LIMIT 0")

# Whole-number division, because numeric's own quotient is rounded before it could be rounded to nano-dollars.
_EXACT_COSTS = text(f"""
SELECT agent_id,
       trunc(round(nano_usd))::text AS total_cost_nano_usd,
       (sign(nano_usd) * div(2 * abs(nano_usd) + logs, 2 * logs))::text AS avg_cost_nano_usd,
       trunc(regular_cost_nano_usd)::text,
       not_finite_costs
FROM (
    SELECT agent_id::text AS agent_id, count(*) AS logs,
           coalesce(sum(cost_usd) FILTER (WHERE cost_usd::text NOT IN {NOT_FINITE}), 0) * 1000000000 AS nano_usd,
           {REGULAR_COST_NANO_USD} AS regular_cost_nano_usd,
           count(*) FILTER (WHERE cost_usd::text IN {NOT_FINITE}) AS not_finite_costs
    FROM agent_execution_logs
    WHERE "timestamp" >= :start AND "timestamp" < :end AND (agent_id::text = ANY(:agents) OR agent_id IS NULL)
    GROUP BY agent_id
) AS costs""")

# An agent that was retired since the day was aggregated keeps its row, and the row keeps following its logs.
_AGENTS = text("""
SELECT id::text AS agent_id FROM agent_registry WHERE :include_inactive OR status::text = 'active'
UNION
SELECT agent_id FROM agent_performance_metrics WHERE metric_date = :metric_date
ORDER BY agent_id""")


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

    def partial_aggregates(self, window: DayWindow) -> pl.DataFrame:
        """The logs of the window, aggregated in parts (PARTIALS_SCHEMA), in no certain order.

        A large window is read in slices of time by several connections at once, if an index serves such slices.
        """
        slices = slices_of(self.connection, self._contract, window)
        if len(slices) == 1:
            return read_partials(self.connection, self._contract, *slices[0])
        return self._read_at_once(slices)

    def exact_costs(self, window: DayWindow, agents: Sequence[str | None]) -> pl.DataFrame:
        """EXACT_COSTS_SCHEMA of the agents that have irregular costs in the window, and of the logs without agent."""
        if not agents:
            return pl.DataFrame(schema=EXACT_COSTS_SCHEMA)
        bounds = {"start": self._contract.instant(window.start), "end": self._contract.instant(window.end)}
        rows = self.connection.execute(_EXACT_COSTS, {**bounds, "agents": list(agents)})
        texts = pl.DataFrame([tuple(row) for row in rows], schema=EXACT_COSTS_SCHEMA.names(), orient="row")
        return texts.cast(EXACT_COSTS_SCHEMA, strict=False)

    def _read_at_once(self, slices: Sequence[Slice]) -> pl.DataFrame:
        left = deque(slices)
        number = min(len(slices), _MAX_READERS, os.cpu_count() or 1)
        with ThreadPoolExecutor(number, thread_name_prefix="reader") as threads:
            try:
                readers = [threads.submit(self._read, left) for _ in range(number)]
                return pl.concat([partials for reader in as_completed(readers) for partials in reader.result()])
            finally:
                # After an error of one reader, or an interruption, the others stop when their slice is done.
                left.clear()

    def _read(self, left: deque[Slice]) -> list[pl.DataFrame]:
        """Takes one slice after the other, until none is left."""
        with self._database.snapshot() as connection:
            connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{self._exported_id}'")
            connection.execute(_LOCK)
            return [read_partials(connection, self._contract, *bounds) for bounds in _taken(left)]


def _taken(left: deque[Slice]) -> Iterator[Slice]:
    """Takes from a queue that other threads take from as well; large slices first, so that all end at about once."""
    while True:
        try:
            yield left.pop()
        except IndexError:
            return


@contextmanager
def open_snapshot(database: Database, contract: UpstreamContract) -> Iterator[Snapshot]:
    """Opens a read-only transaction and exports its snapshot, so that several readers of the logs see the same state.

    Database faults inside the block become TransientError or PermanentError.
    """
    with database.snapshot() as connection:
        exported_id, taken_at = connection.execute(text("SELECT pg_export_snapshot(), now()")).one()
        yield Snapshot(connection, taken_at, database, contract, exported_id)
