"""What watching costs: `python -m metrics_pipeline_tests.benchmarks.watching`, on an embedded server of its own.

Stores --days days of --logs logs each, in a table that is partitioned by day and in a plain one, and measures: a tick
of late_logs_sensor after logs of today only; a tick after 1,000 late logs of one day, beside the aggregation of that
day; the check within a run; the reading of every log, which is what each of them did before and the nightly check does;
and a whole run of a day. Dagster's instance is that of `metrics-pipeline dev`. Of the plain table everything is
measured again with the change feed. `--layouts partitioned` takes three minutes on two idle cores, and so does
`--layouts plain feed --logs 300000`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
from rich.progress import track
from sqlalchemy import text

from metrics_pipeline.definitions import build_defs
from metrics_pipeline.logs.change_feed import trigger_statements
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.metrics.windows import day_window, last_complete_day
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.instance import embedded_configuration
from metrics_pipeline.orchestration.reconciling import judge
from metrics_pipeline.orchestration.sensors import build_late_logs_sensor
from metrics_pipeline.pipeline.aggregation import AggregationOptions, aggregate_days
from metrics_pipeline.pipeline.opening import open_database, open_logs
from metrics_pipeline.pipeline.watching import Effort
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.benchmarks.server import LOAD_LOGS, autocommit, temporary_home

_LATE_LOGS = _LOGS_OF_TODAY = 1_000

_LAYOUTS = {"partitioned": "partitioned by day", "plain": "a plain table", "feed": "the same with the change feed"}
_TICK = f"a tick, {_LOGS_OF_TODAY:,} logs of today were written"
_LATE_TICK = f"a tick, {_LATE_LOGS:,} late logs on one day"
_AGGREGATION = "the aggregation of that day"
_IN_AGGREGATIONS = "the tick with late logs, in aggregations of the day"
_RUN = "a run of the newest day with its checks, the whole `dagster` process"
#: Of logs of a million a day, in seconds; the tick of a plain table counts them.
_TARGETS = {_TICK: 0.15, _IN_AGGREGATIONS: 1.2, _RUN: 4.0}
_PLAIN_TICK = 2.5

_COPY = """
INSERT INTO agent_execution_logs
    (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, error_type, metadata)
SELECT agent_id, "timestamp" + CAST(:later AS interval), status, latency_ms, token_count, cost_usd, error_type, metadata
FROM agent_execution_logs WHERE "timestamp" >= :start AND "timestamp" < :end"""

_PARTITION = (
    "ALTER TABLE agent_execution_logs RENAME TO plain",
    """CREATE TABLE agent_execution_logs (LIKE plain INCLUDING DEFAULTS) PARTITION BY RANGE ("timestamp")""",
    'CREATE INDEX ON agent_execution_logs ("timestamp")',
    "DROP TABLE plain",
)


def main() -> None:
    """Prints a Markdown table for each layout."""
    parser = argparse.ArgumentParser(
        prog="python -m metrics_pipeline_tests.benchmarks.watching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--logs", type=int, default=1_000_000, help="logs of a day (default %(default)s)")
    parser.add_argument("--days", type=int, default=14, help="days (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default %(default)s)")
    parser.add_argument("--layouts", nargs="+", choices=_LAYOUTS, default=[*_LAYOUTS], help="default: all")
    options = parser.parse_args()
    for servers_layouts in (["partitioned"], ["plain", "feed"]):
        layouts = [layout for layout in servers_layouts if layout in options.layouts]
        if not layouts:
            continue
        with temporary_home() as home:
            stored = Stored.in_home(home, datetime.now(UTC), options.days)
            stored.make(options.logs, is_partitioned="partitioned" in layouts)
            for layout in layouts:
                if layout == "feed":
                    stored.install_feed()
                print(f"\n{options.days} × {options.logs:,} logs, {_LAYOUTS[layout]}\n")
                in_days = _PLAIN_TICK * options.days / 14 * options.logs / 1_000_000
                _print_table(stored.measure(options.rounds), _TARGETS | ({_TICK: in_days} if layout == "plain" else {}))


def _print_table(rows: dict[str, list[float]], targets: dict[str, float]) -> None:
    print("| operation | median s | fastest s | slowest s | target |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, seconds in rows.items():
        target = f"{targets[name]:.2f}" if name in targets else ""
        cells = f"{statistics.median(seconds):.3f} | {min(seconds):.3f} | {max(seconds):.3f}"
        print(f"| {name} | {cells} | {target} |", flush=True)


@dataclass(frozen=True)
class Stored:
    """Days of logs on the server of a home, and what watches them. `now` is after the last of `days`."""

    settings: Settings
    database: Database
    days: list[date]
    now: datetime

    @classmethod
    def in_home(cls, home: Path, now: datetime, number: int) -> "Stored":
        """The `number` days before `now`. Starts the server."""
        newest = last_complete_day(now, "UTC")
        days = [newest - timedelta(days=n) for n in reversed(range(number))]
        settings = Settings(home=home, start_date=days[0], lookback_days=number)
        return cls(settings, open_database(settings), days, now)

    def make(self, logs: int, *, is_partitioned: bool) -> None:
        """Makes and aggregates the logs."""
        _store(self.database, self.days, logs, is_partitioned=is_partitioned)
        for day in self.days:
            _aggregate(self.database, day)

    def install_feed(self) -> None:
        """Has the change feed watch the logs from now on."""
        with self.database.begin() as connection:
            for statement in trigger_statements(connection, check_contract(connection), remove=False):
                connection.execute(text(statement))

    def measure(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each operation in each round."""
        late, source = self.days[len(self.days) // 2], open_logs(self.database)
        seconds: dict[str, list[float]] = {}

        @contextmanager
        def timed(name: str) -> Iterator[None]:
            started = time.perf_counter()
            yield
            seconds.setdefault(name, []).append(time.perf_counter() - started)

        folder = self.settings.home / "dagster"
        folder.mkdir(exist_ok=True)
        (folder / "dagster.yaml").write_text(embedded_configuration(self.settings.home, folder))
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            for day in self.days:
                instance.report_runless_asset_event(dg.AssetMaterialization(METRICS_ASSET_KEY, partition=str(day)))
            tick = _tick(instance, self.database, self.settings, self.now)
            tick()
            for _ in range(rounds):
                with timed("every log read: the nightly check, and each tick and check before"):
                    judge(instance, self.database, source, "UTC", self.days, Effort(is_full=True))
                _load(self.database, self.days[-1] + timedelta(days=1), _LOGS_OF_TODAY)
                with timed(_TICK):
                    assert tick() == []
                with timed("the check within a run, nothing changed"):
                    judge(instance, self.database, source, "UTC", self.days, Effort(trusted_for=timedelta(hours=1)))
                _load(self.database, late, _LATE_LOGS)
                with timed(_LATE_TICK):
                    assert tick() == [str(late)]
                with timed(_AGGREGATION):
                    _aggregate(self.database, late)
                with timed(_RUN):
                    run = self._run(folder)
                (last,) = instance.get_runs(limit=1)
                if run.returncode or not instance.all_logs(last.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
                    raise SystemExit(f"The run failed, or evaluated no check:\n{run.stdout}{run.stderr}")
        ratios = [tick / day for tick, day in zip(seconds[_LATE_TICK], seconds[_AGGREGATION], strict=True)]
        return seconds | {_IN_AGGREGATIONS: ratios}

    def _run(self, folder: Path) -> subprocess.CompletedProcess[str]:
        given = {
            # A service's second run finds all modules compiled.
            "PYTHONDONTWRITEBYTECODE": "",
            "DAGSTER_HOME": str(folder),
            "METRICS_PIPELINE_HOME": str(self.settings.home),
            "METRICS_START_DATE": str(self.days[0]),
            "METRICS_LOOKBACK_DAYS": str(len(self.days)),
        }
        command = ["dagster", "asset", "materialize", "-m", "metrics_pipeline.definitions"]
        command += ["--select", "agent_performance_metrics", "--partition", str(self.days[-1])]
        return subprocess.run([sys.executable, "-m", *command], env=os.environ | given, capture_output=True, text=True)


def _store(database: Database, days: list[date], logs: int, *, is_partitioned: bool) -> None:
    with database.engine.begin() as connection:
        for statement in _PARTITION if is_partitioned else ():
            connection.execute(text(statement))
        for day in [*days, days[-1] + timedelta(days=1)] if is_partitioned else ():
            bounds = f"FROM ('{day}Z') TO ('{day + timedelta(days=1)}Z')"
            connection.execute(text(f'CREATE TABLE "logs {day}" PARTITION OF agent_execution_logs FOR VALUES {bounds}'))
    first, *others = days
    _load(database, first, logs)
    with ThreadPoolExecutor(2) as both_cores:
        copies = both_cores.map(lambda day: _copy(database, first, day), others)
        for _ in track(copies, description="Making logs", total=len(others), transient=True):
            pass
    autocommit(database, "VACUUM ANALYZE agent_execution_logs")


def _load(database: Database, day: date, logs: int) -> None:
    window = day_window(day, "UTC")
    with database.engine.begin() as connection:
        connection.execute(LOAD_LOGS, {"start": window.start, "span": window.end - window.start, "logs": logs})
        # Otherwise the counters of the partition follow within 10 seconds.
        connection.execute(text("SELECT pg_stat_force_next_flush()"))


def _copy(database: Database, first: date, day: date) -> None:
    window = day_window(first, "UTC")
    with database.engine.begin() as connection:
        bounds = {"start": window.start, "end": window.end}
        connection.execute(text(_COPY), bounds | {"later": day - first})


def _aggregate(database: Database, day: date) -> None:
    windows = {str(day): day_window(day, "UTC")}
    options = AggregationOptions(include_inactive_agents=True)
    for _ in aggregate_days(database, open_logs(database), windows, options, run_id="benchmark", reason=Reason.MANUAL):
        pass


def _tick(
    instance: dg.DagsterInstance, database: Database, settings: Settings, now: datetime
) -> Callable[[], list[str | None]]:
    """Evaluates late_logs_sensor as the code server does, and returns the days that it asks for."""
    defs = build_defs(start_date=settings.start_date, lookback_days=settings.lookback_days)
    sensor = build_late_logs_sensor(defs.resolve_job_def("daily_metrics_job"), settings, now=lambda: now)

    def tick() -> list[str | None]:
        with dg.build_sensor_context(
            instance, resources={"database": database}, repository_def=defs.get_repository_def()
        ) as context:
            return [request.partition_key for request in sensor.evaluate_tick(context).run_requests or ()]

    return tick


if __name__ == "__main__":
    main()
