"""`make bench`: one day of logs on the embedded server, aggregated by each contender in turn, as a Markdown table.

A first round watches each contender's memory and is not timed. Then come the timed rounds, in which every contender
has its turn. After every turn what it stored is compared with the oracle.
"""

import argparse
import platform
import statistics
from collections import defaultdict
from pathlib import Path

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import text

from metrics_pipeline.embedded import acquire
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.benchmarks.contenders import CONTENDERS
from metrics_pipeline_tests.benchmarks.measuring import Round, TooSlowError, run_contender
from metrics_pipeline_tests.benchmarks.server import temporary_home
from metrics_pipeline_tests.benchmarks.shapes import DAY, Shape
from metrics_pipeline_tests.oracle import expected_metrics, stored_metrics


def main() -> None:
    """Prints the table, and the median seconds of our steps."""
    parser = argparse.ArgumentParser(
        prog="make bench BENCH_ARGUMENTS=",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The contenders are:\n" + "\n".join(f"  {name:14}{it.title}" for name, it in CONTENDERS.items()),
    )
    Shape.add_options(parser)
    parser.add_argument(
        "--contenders",
        default=",".join(CONTENDERS),
        metavar="NAMES",
        help="those to measure, separated by commas (default all); the order stays",
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default %(default)s)")
    parser.add_argument(
        "--limit-seconds", type=float, default=600, help="a contender that takes longer is out (default %(default)s)"
    )
    options = parser.parse_args()
    chosen = options.contenders.split(",")
    if unknown := set(chosen) - set(CONTENDERS):
        parser.error(f"there is no contender {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    if min(options.logs, options.agents, options.rounds) < 1 or options.surrounding_days < 0:
        parser.error("--logs, --agents and --rounds are at least 1, --surrounding-days at least 0")
    names = [name for name in CONTENDERS if name in chosen]
    with temporary_home() as home:
        _measure(home, Shape.from_options(options), names, options.rounds, options.limit_seconds)


def _measure(home: Path, shape: Shape, names: list[str], timed_rounds: int, limit_seconds: float) -> None:
    database = open_database(Settings(home=home))
    url = acquire(home)
    shape.store(database)
    window = day_window(DAY, "UTC")
    with database.engine.connect() as connection:
        expected = expected_metrics(connection, window.start, window.end)
    rounds: dict[str, list[Round]] = defaultdict(list)
    verdicts = {name: "equal to the oracle" if CONTENDERS[name].stores else "-" for name in names}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("", total=len(names) * (1 + timed_rounds))
        for number in range(1 + timed_rounds):
            for name in names:
                progress.update(task, description=f"Round {number}: {name}")
                if "over" not in verdicts[name]:
                    with database.engine.begin() as connection:
                        connection.execute(
                            text("TRUNCATE agent_performance_metrics, agent_day_distributions, metric_day_ledger")
                        )
                    try:
                        measured = run_contender(
                            name, url, str(DAY), home, limit_seconds=limit_seconds, watch_memory=number == 0
                        )
                    except TooSlowError:
                        verdicts[name] = f"over {limit_seconds:,.0f} s"
                        rounds.pop(name, None)
                    else:
                        rounds[name].append(measured)
                        with database.engine.connect() as connection:
                            if CONTENDERS[name].stores and stored_metrics(connection, DAY) != expected:
                                verdicts[name] = "wrong"
                progress.advance(task)
        with database.engine.connect() as connection:
            server = connection.execute(text("SHOW server_version")).scalar_one()
    machine = f"{psutil.cpu_count()} cores, PostgreSQL {server}, Python {platform.python_version()}"
    print(f"{shape}; {machine}; {timed_rounds} rounds\n")
    _print_table(shape, rounds, verdicts)
    if steps := [measured.steps for measured in rounds.get("ours", [])[1:]]:
        medians = {step: statistics.median(round_[step] for round_ in steps) for step in steps[0]}
        print("\nOur steps: " + ", ".join(f"{step} {value:.3f} s" for step, value in medians.items()))


def _print_table(shape: Shape, rounds: dict[str, list[Round]], verdicts: dict[str, str]) -> None:
    medians = {name: statistics.median(it.seconds for it in taken[1:]) for name, taken in rounds.items()}
    print("| contender | result | median s | fastest s | ratio to ours | logs per second | peak MB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, verdict in verdicts.items():
        figures = ["-"] * 5
        if name in medians:
            fastest = min(it.seconds for it in rounds[name][1:])
            figures = [f"{medians[name]:.3f}", f"{fastest:.3f}", "-", f"{shape.logs / medians[name]:,.0f}"]
            figures.append(f"{rounds[name][0].peak_mb:,.0f}")
            if "ours" in medians:
                figures[2] = f"{medians[name] / medians['ours']:.2f}"
        print(f"| {CONTENDERS[name].title} | {verdict} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
