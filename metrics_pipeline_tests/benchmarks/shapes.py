"""The day that is aggregated: how many logs of how many agents, and what surrounds them in the table."""

import argparse
from dataclasses import dataclass
from datetime import date

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import text

from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.sample.agents import SampleSpec

#: A working day, so that it has as many logs as asked for.
DAY = date(2025, 6, 2)

# Copies of the day around it, half before and half after: as many logs of the same agents each.
_SURROUND = text("""
INSERT INTO agent_execution_logs
    (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, error_type, metadata)
SELECT agent_id, "timestamp" + make_interval(days => :days), status, latency_ms, token_count, cost_usd, error_type,
       metadata
FROM agent_execution_logs
WHERE "timestamp" >= :day AND "timestamp" < CAST(:day AS date) + 1
ORDER BY "timestamp" """)

# 2 kB of text that hardly compresses, as prompts and traces are.
_WIDEN = text("""
UPDATE agent_execution_logs
SET metadata = coalesce(metadata, '{}') || jsonb_build_object('trace', (
    SELECT string_agg(md5(agent_execution_logs.id::text || n), '') FROM generate_series(1, 64) AS n))""")


@dataclass(frozen=True)
class Shape:
    """The table that the contenders read. Metadata is about 80 bytes of JSON per log, or 2 kB if it is wide."""

    logs: int
    agents: int
    surrounding_days: int
    has_index: bool
    is_wide: bool

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """The options that `from_options` reads."""
        parser.add_argument("--logs", type=int, default=1_000_000, help="logs of the day (default %(default)s)")
        parser.add_argument("--agents", type=int, default=500, help="agents, by Zipf's law (default %(default)s)")
        parser.add_argument(
            "--surrounding-days", type=int, default=0, help="days with as many logs around it (default %(default)s)"
        )
        parser.add_argument("--without-index", action="store_true", help="drop the index on timestamp")
        parser.add_argument(
            "--metadata", choices=("narrow", "wide"), default="narrow", help="80 bytes or 2 kB (default %(default)s)"
        )

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> "Shape":
        """The shape that the command line asks for."""
        return cls(
            logs=options.logs,
            agents=options.agents,
            surrounding_days=options.surrounding_days,
            has_index=not options.without_index,
            is_wide=options.metadata == "wide",
        )

    def __str__(self) -> str:
        parts = [f"{self.logs:,} logs of {self.agents:,} agents"]
        if self.surrounding_days:
            parts.append(f"{self.surrounding_days} days of as many around them")
        parts += ["2 kB of metadata each"] * self.is_wide + ["no index on timestamp"] * (not self.has_index)
        return ", ".join(parts)

    def store(self, database: Database) -> None:
        """Makes the table, with a progress bar, and leaves it vacuumed and analysed."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task("Making logs", total=self.logs)
            store_sample(
                database,
                SampleSpec(agents=self.agents, logs_per_day=self.logs),
                [DAY],
                "UTC",
                lambda _, logs: progress.advance(task, logs),
            )
            with database.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                if self.is_wide:
                    progress.update(progress.add_task("Widening the metadata", total=None))
                    connection.execute(_WIDEN)
                    connection.execute(text("VACUUM FULL agent_execution_logs"))
                first = -(self.surrounding_days // 2)
                days = [days for days in range(first, first + self.surrounding_days + 1) if days]
                for number in progress.track(days, description="Copying to other days"):
                    connection.execute(_SURROUND, {"days": number, "day": DAY})
                if not self.has_index:
                    connection.execute(text("DROP INDEX agent_execution_logs_timestamp"))
                connection.execute(text("VACUUM ANALYZE agent_execution_logs"))
                connection.execute(text("CHECKPOINT"))
