"""Views over other products' tables: `python -m metrics_pipeline_tests.benchmarks.adapted`, on a server of its own.

For each product it makes --executions of ten days in the product's tables, applies what `db adapt` prints and the
indexes that it names, and copies what the views say into a table of our own with an index on timestamp. Then it reads
the ten days as one window through the view and from the table, --rounds times in turn, compares the two results to the
last digit with each other, and one day with the oracle. Prints the medians, their ratio, and the goal of 1.5.
"""

import argparse
import statistics
import time
from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import psycopg

from metrics_pipeline.adapters.products import PRODUCTS
from metrics_pipeline.adapters.views import product_queries, require, view_statements
from metrics_pipeline.embedded import acquire
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregationOptions, compute_day, store_day
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.adapters.installations import INSTALLATIONS
from metrics_pipeline_tests.adapters.rows import rows_of
from metrics_pipeline_tests.benchmarks.server import temporary_home
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import assert_exact

GOAL = 1.5
_FIRST = date(2026, 11, 15)
_ONE_DAY = day_window(_FIRST + timedelta(days=3), "UTC")
_TEN_DAYS = replace(day_window(_FIRST, "UTC"), end=day_window(_FIRST + timedelta(days=10), "UTC").start)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", nargs="*", default=[*PRODUCTS], help="(default: all)")
    parser.add_argument("--executions", type=int, default=300_000, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    options = parser.parse_args()
    print("| product | view s | table s | ratio | goal | a day and its oracle |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    with temporary_home() as home:
        server = acquire(home)
        for name in options.products:
            with scratch_database(server, "template0") as url:
                view, table = _measure(url, name, options.executions, options.rounds)
            print(f"| {name} | {view:.2f} | {table:.2f} | {view / table:.2f} | {GOAL} | equal |", flush=True)


def _measure(url: str, name: str, executions: int, rounds: int) -> tuple[float, float]:
    """The medians of the seconds through the view and from the table."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(INSTALLATIONS[name].statements)  # type: ignore[call-overload]
        connection.execute(rows_of(name, executions))  # type: ignore[call-overload]
        adapted, plain = (Database(DatabaseUrl.parse(f"{url}&schema={schema}")) for schema in ("adapted", "plain"))
        with adapted.connect() as session:
            installed = require(session, PRODUCTS[name], "public")
        for statement in (
            *(f"CREATE INDEX ON {index}" for index in PRODUCTS[name].indexes(installed)),
            *view_statements("adapted", "postgres", connection.info.dbname, product_queries(PRODUCTS[name], installed)),
        ):
            connection.execute(statement)  # type: ignore[call-overload]
        connection.execute(
            """
            CREATE SCHEMA plain;
            CREATE TABLE plain.agent_registry AS TABLE adapted.agent_registry;
            CREATE TABLE plain.agent_execution_logs AS TABLE adapted.agent_execution_logs;
            CREATE INDEX ON plain.agent_execution_logs ("timestamp");"""
        )
        connection.execute("VACUUM ANALYZE")
    for database in (adapted, plain):
        upgrade(database)
    logs = open_logs(adapted)
    store_day(adapted, compute_day(adapted, logs, _ONE_DAY, AggregationOptions()), run_id="a run", reason=Reason.MANUAL)
    assert_exact(adapted, _ONE_DAY)
    seconds: dict[str, list[float]] = {"adapted": [], "plain": []}
    hashes = set()
    for _ in range(rounds):
        for schema, database in (("adapted", adapted), ("plain", plain)):
            with database.snapshot() as snapshot:
                logs = open_logs(database)
                started = time.perf_counter()
                day = logs.read_day(snapshot, _TEN_DAYS, include_inactive_agents=True)
                seconds[schema].append(time.perf_counter() - started)
            # A slice of the window has a row for each agent.
            by_agent = day.partials.group_by("agent_id").agg(pl.col("total_executions", "content_hash").sum())
            hashes.add(tuple(by_agent.sort("agent_id").iter_rows()))
    if len(hashes) != 1 or day.logs < executions * 0.99:
        raise AssertionError(f"{name}: the view and the table differ, or hold {day.logs} logs")
    view, table = (statistics.median(found) for found in seconds.values())
    return view, table


if __name__ == "__main__":
    main()
