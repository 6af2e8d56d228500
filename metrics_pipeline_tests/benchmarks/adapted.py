"""Views over other products' tables: `python -m metrics_pipeline_tests.benchmarks.adapted`, on a server of its own.

For each product it makes --executions of ten days in the product's tables, applies what `db adapt` prints and the
indexes that it names, and copies what the views say into a table of our own with an index on timestamp. Then it reads
--days of the ten as one window through the view and from the table, --rounds times in turn, compares the two results to
the last digit with each other, and one day with the oracle. Prints the medians of the processor seconds of server and
client together, their ratio, and the goal of 1.5. The floor is the ratio that would be left if the view computed
nothing: the columns that it needs, joined and parsed as JSON, are counted in the product's tables and in ours, and the
difference of the two is added to the table's seconds.
"""

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import psycopg

from metrics_pipeline.adapters.products import PRODUCTS
from metrics_pipeline.adapters.views import product_queries, require, view_statements
from metrics_pipeline.embedded import acquire, server_pid
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
_FIRST_DAY = day_window(_FIRST, "UTC")
_ONE_DAY = day_window(_FIRST + timedelta(days=3), "UTC")

#: By product: the columns that its view needs, from the product's tables.
_BARE = {
    "litellm": """SELECT api_key, agent_id, status, request_duration_ms, total_tokens, spend, end_user, "user"
        FROM "LiteLLM_SpendLogs" WHERE "startTime" >= %(start)s AND "startTime" < %(end)s""",
    "langgraph": """SELECT assistant_id, status, created_at, updated_at, error_message, user_id
        FROM runs WHERE created_at >= %(start)s AND created_at < %(end)s""",
    "openwebui": """SELECT model_id, done, error, created_at, updated_at, usage::json #> '{}', user_id
        FROM chat_message WHERE to_timestamp(created_at) >= %(start)s AND to_timestamp(created_at) < %(end)s""",
    "n8n": """SELECT "workflowId", status, "startedAt", "stoppedAt", value FROM execution_entity
        LEFT JOIN execution_metadata ON "executionId" = execution_entity.id AND key = 'user_id'
        WHERE "stoppedAt" >= %(start)s AND "stoppedAt" < %(end)s""",
    "flowise": """SELECT "agentflowId", state, "createdDate", "updatedDate", "executionData" IS JSON, "sessionId"
        FROM execution WHERE "createdDate" >= %(start)s AND "createdDate" < %(end)s""",
    "mlflow": """SELECT experiment_id, i.status, execution_time_ms, u.value IS JSON, c.value IS JSON, p.value
        FROM trace_info AS i
        LEFT JOIN trace_request_metadata AS u ON u.request_id = i.request_id AND u.key = 'mlflow.trace.tokenUsage'
        LEFT JOIN trace_request_metadata AS c ON c.request_id = i.request_id AND c.key = 'mlflow.trace.cost'
        LEFT JOIN trace_request_metadata AS p ON p.request_id = i.request_id AND p.key = 'mlflow.trace.user'
        WHERE to_timestamp(timestamp_ms / 1000::double precision) >= %(start)s
        AND to_timestamp(timestamp_ms / 1000::double precision) < %(end)s""",
    "phoenix": """SELECT project_rowid, status_code, start_time, end_time, cumulative_llm_token_count_prompt,
        cumulative_llm_token_count_completion, total_cost, attributes FROM spans
        JOIN traces ON traces.id = spans.trace_rowid LEFT JOIN span_costs ON span_costs.trace_rowid = traces.id
        WHERE parent_id IS NULL AND start_time >= %(start)s AND start_time < %(end)s""",
    "langfuse2": """SELECT traces.project_id, name, user_id, level, start_time, end_time, total_tokens,
        calculated_total_cost FROM traces LEFT JOIN observations ON trace_id = traces.id
        WHERE "timestamp" >= %(start)s AND "timestamp" < %(end)s""",
    "dify": """SELECT app_id, status, provider_response_latency, message_tokens, answer_tokens, total_price,
        from_end_user_id FROM messages WHERE created_at >= %(start)s AND created_at < %(end)s
        UNION ALL SELECT r.app_id, status, elapsed_time, total_tokens, 0,
        CASE WHEN execution_metadata IS JSON THEN 0 END, created_by FROM workflow_runs AS r
        LEFT JOIN workflow_node_executions AS n ON n.workflow_run_id = r.id AND n.tenant_id = r.tenant_id
        AND n.app_id = r.app_id AND n.workflow_id = r.workflow_id AND n.triggered_from = 'workflow-run'
        WHERE r.created_at >= %(start)s AND r.created_at < %(end)s""",
    "otel": """SELECT "SpanAttributes", "Duration", "StatusCode" FROM otel_traces
        WHERE "Timestamp" >= %(start)s AND "Timestamp" < %(end)s""",
}
_SETTINGS = """SET TimeZone = 'UTC'; SET search_path = public; SET work_mem = '64MB'; SET jit = off;
    SET max_parallel_workers_per_gather = 0"""
_BARE_TABLE = """SELECT agent_id, status, "timestamp" FROM plain.agent_execution_logs
    WHERE "timestamp" >= %(start)s AND "timestamp" < %(end)s"""


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", nargs="*", default=[*PRODUCTS], help="(default: all)")
    parser.add_argument("--executions", type=int, default=300_000, help="(default %(default)s)")
    parser.add_argument("--days", type=int, default=10, help="how many of the ten are read (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    options = parser.parse_args()
    print("| product | view | table | ratio | floor | goal | a day and its oracle |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    with temporary_home() as home:
        server = acquire(home)
        for name in options.products:
            with scratch_database(server, "template0") as url:
                seconds = _measure(home, url, name, options)
            view, table, bare, bare_table = (statistics.median(found) for found in seconds.values())
            cells = f"{view:.2f} | {table:.2f} | {view / table:.2f} | {(table + bare - bare_table) / table:.2f}"
            print(f"| {name} | {cells} | {GOAL} | equal |", flush=True)


def _measure(home: Path, url: str, name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """The processor seconds of each round: through the view, from the table, and of the bare columns of both."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(INSTALLATIONS[name].statements)  # type: ignore[call-overload]
        connection.execute(rows_of(name, options.executions))  # type: ignore[call-overload]
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
    seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def counted(what: str) -> Iterator[None]:
        before = _processor_seconds(home)
        yield
        seconds[what].append(_processor_seconds(home) - before)

    hashes = set()
    window = replace(_FIRST_DAY, end=_FIRST_DAY.start + timedelta(days=options.days))
    bounds = {"start": window.start.replace(tzinfo=None), "end": window.end.replace(tzinfo=None)}
    for _ in range(options.rounds):
        for schema, database in (("adapted", adapted), ("plain", plain)):
            with database.snapshot() as snapshot:
                logs = open_logs(database)
                with counted(schema):
                    day = logs.read_day(snapshot, window, include_inactive_agents=True)
            # A slice of the window has a row for each agent.
            by_agent = day.partials.group_by("agent_id").agg(pl.col("total_executions", "content_hash").sum())
            hashes.add(tuple(by_agent.sort("agent_id").iter_rows()))
        for schema, statement in (("bare", _BARE[name]), ("bare table", _BARE_TABLE)):
            with psycopg.connect(url) as connection:
                connection.execute(_SETTINGS)
                bare = psycopg.ClientCursor(connection)
                with counted(schema):
                    # The server computes the rows and sends none.
                    bare.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {statement}", bounds)  # type: ignore[arg-type]
    if len(hashes) != 1 or day.logs < options.executions * options.days * 0.099:
        raise AssertionError(f"{name}: the view and the table differ, or hold {day.logs} logs")
    return seconds


def _processor_seconds(home: Path) -> float:
    """Of this process, and of all processes of the server, also of those that have ended."""
    pid = server_pid(home)
    while True:
        try:
            ticks = sum(map(int, _stat(f"{pid}")[11:15]))
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                ticks += sum(map(int, _stat(child)[11:13]))
            break
        except (FileNotFoundError, ProcessLookupError):
            # It ended after it was listed or its file was opened, and counts among those that have ended.
            continue
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def _stat(pid: str) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: [11] to [14] are utime, stime, cutime and cstime."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


if __name__ == "__main__":
    main()
