"""`python -m metrics_pipeline_tests.benchmarks.change_feed`: what the change feed costs writers, as a Markdown table.

Eight clients of pgbench insert logs, with the feed and without it in turns on one server, each first in every second
turn, into a table that is emptied before. A row of the result shows the medians of the turns, and the median of the
ratio of two neighbours. `--ages today's --rows 1 --turns 41 --seconds 1` takes three minutes.
"""

import argparse
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from metrics_pipeline.embedded import acquire
from metrics_pipeline.embedded.installation import binaries
from metrics_pipeline.logs.change_feed import mark, raise_watermark, trigger_statements
from metrics_pipeline.logs.contract import check_contract
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import create_upstream_tables, upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.benchmarks.server import autocommit, temporary_home

_WRITERS = 8
_INSERT = """
INSERT INTO agent_execution_logs (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, metadata)
SELECT 'agent-' || n % 100, now() - interval '{age}' - n * interval '1 ms', 'success', 800 + n, 1500, 0.0123,
       '{{"user_id": "user-17", "human_intervention": "false"}}'
FROM generate_series(1, {rows}) AS n;
"""
_AGES = {"today's": "0 s", "late": "2 days"}


@dataclass(frozen=True)
class Turn:
    """Rows per second, and the 99th percentile of a statement's time."""

    rows_per_second: float
    p99_ms: float


def main() -> None:
    """Prints a row per age of the rows and number of rows in a statement."""
    parser = argparse.ArgumentParser(
        prog="python -m metrics_pipeline_tests.benchmarks.change_feed", description=__doc__
    )
    parser.add_argument("--turns", type=int, default=7, help="turns with the feed and without (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="seconds of a turn (default %(default)s)")
    parser.add_argument("--ages", nargs="+", choices=_AGES, default=[*_AGES], help="of the rows (default all)")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 1000], help="in a statement (default 1 and 1000)")
    options = parser.parse_args()
    print("| rows | a statement | rows per second without | with | ratio | p99 ms without | with | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with temporary_home() as home:
        uri = acquire(home)
        database = Database(DatabaseUrl.parse(uri))
        create_upstream_tables(database)
        upgrade(database)
        for name in options.ages:
            for rows in options.rows:
                script = _INSERT.format(age=_AGES[name], rows=rows)
                pairs: list[tuple[Turn, Turn]] = []
                for number in range(options.turns):
                    # Whoever comes second finds a warmer server, or a slower machine.
                    order = (False, True) if number % 2 else (True, False)
                    taken = {on: _turn(database, uri, script, rows, options.seconds, is_watched=on) for on in order}
                    pairs.append((taken[False], taken[True]))
                cells = []
                for value in ("rows_per_second", "p99_ms"):
                    without, watched = ([getattr(pair[on], value) for pair in pairs] for on in (0, 1))
                    ratio = statistics.median(b / a for a, b in zip(without, watched, strict=True))
                    cells += [
                        f"{statistics.median(without):,.2f}",
                        f"{statistics.median(watched):,.2f}",
                        f"{ratio:.3f}",
                    ]
                print(f"| {name} | {rows:,} | {' | '.join(cells)} |", flush=True)


def _turn(database: Database, uri: str, script: str, rows: int, seconds: int, *, is_watched: bool) -> Turn:
    with database.begin() as connection:
        for statement in trigger_statements(connection, check_contract(connection), remove=not is_watched):
            connection.execute(text(statement))
        connection.exec_driver_sql("TRUNCATE agent_execution_logs")
    if is_watched:
        raise_watermark(database, datetime.now(UTC) - timedelta(days=1))
        with database.connect() as connection:
            assert mark(connection) is not None
    autocommit(database, "CHECKPOINT")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "insert.sql").write_text(script)
        subprocess.run(
            [
                *(str(binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared", "--log", "--file=insert.sql"),
                *(f"--client={_WRITERS}", f"--time={seconds}", uri),
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        lines = [line.split() for log in Path(folder).glob("pgbench_log.*") for line in log.read_text().splitlines()]
    times_ms = sorted(int(line[2]) / 1000 for line in lines)
    return Turn(len(times_ms) * rows / seconds, times_ms[int(len(times_ms) * 0.99)])


if __name__ == "__main__":
    main()
