"""Days with dimensions: `python -m metrics_pipeline_tests.benchmarks.breakdowns`, on an embedded server of its own.

Stores one day of --logs by --agents, with 5 models, 20 versions, a key of 100,000 values that is a list in one log of a
hundred, and a key that has another value in each log. Aggregates the day without dimensions and by model and version in
turn, --rounds times, and once by each of the keys, each time in a process of its own. Compares the sums over the values
with the agents' rows. Prints the medians, and each goal beside what was measured.
"""

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date

from sqlalchemy import text

from metrics_pipeline.embedded import acquire
from metrics_pipeline.metrics.dimensions import parse_dimensions
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.aggregation import AggregatedDay, AggregationOptions, aggregate_days
from metrics_pipeline.pipeline.opening import open_database, open_logs
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import Reason
from metrics_pipeline_tests.benchmarks.server import autocommit, temporary_home
from metrics_pipeline_tests.benchmarks.windows import peak_mb

_DAY = date(2025, 3, 4)
_WITHOUT, _BY_TWO = "without dimensions", "by model and version"
_DECLARED = {
    _WITHOUT: "",
    _BY_TWO: "model,version=metadata.release.version",
    "by a key of 100,000 values": "many",
    "by a key with a value for each log": "each",
}
_MOST_TIMES, _MOST_MB = 2, 600

_AGENTS = text("""
INSERT INTO agent_registry (id, name, status) SELECT 'agent-' || n, 'Agent', 'active'
FROM generate_series(1, :agents) AS n""")
_LOGS = text("""
INSERT INTO agent_execution_logs
    (agent_id, "timestamp", status, latency_ms, token_count, cost_usd, error_type, metadata)
SELECT 'agent-' || (1 + floor(random() * :agents)::int), timestamptz '2025-03-04Z' + random() * interval '86399 s',
       CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'success' END, exp(6 + random() * 3)::int, (random() * 5000)::int,
       round(random()::numeric / 10, 6), CASE WHEN n % 20 = 0 THEN 'timeout' END,
       jsonb_build_object('user_id', 'user-' || floor(random() * 100000)::int,
           'model', 'model-' || floor(random() * 5)::int,
           'release', jsonb_build_object('version', '1.' || floor(random() * 20)::int),
           'many', CASE WHEN n % 100 = 0 THEN '[1, 2]'::jsonb
                        ELSE to_jsonb('value-' || floor(random() * 100000)::int) END,
           'each', 'request-' || n)
FROM generate_series(1, :logs) AS n""")
_DIFFERENCES = text("""
SELECT count(*) FROM agent_performance_metrics AS agent
CROSS JOIN (SELECT DISTINCT dimension FROM agent_dimension_metrics) AS dimensions
LEFT JOIN (SELECT agent_id, dimension, sum(total_executions) AS total_executions, sum(total_cost_usd) AS total_cost_usd,
                  sum(total_tokens) AS total_tokens, sum(successful_executions) AS successful_executions,
                  sum(failed_executions) AS failed_executions, sum(human_interventions) AS human_interventions,
                  sum((error_distribution->>'timeout')::bigint) AS timeouts
             FROM agent_dimension_metrics GROUP BY 1, 2) AS by_value USING (agent_id, dimension)
WHERE agent.total_executions > 0
  AND (agent.total_executions, agent.total_cost_usd, agent.total_tokens, agent.successful_executions,
       agent.failed_executions, agent.human_interventions, (agent.error_distribution->>'timeout')::bigint)
      IS DISTINCT FROM (by_value.total_executions, by_value.total_cost_usd, by_value.total_tokens,
       by_value.successful_executions, by_value.failed_executions, by_value.human_interventions, timeouts)""")
_ROWS = text("""
SELECT coalesce(sum(rows), 0), coalesce(max(rows), 0), (
    SELECT pg_total_relation_size('agent_dimension_metrics') + pg_total_relation_size('agent_dimension_distributions'))
FROM (SELECT count(*) AS rows FROM agent_dimension_metrics GROUP BY agent_id, dimension) AS of_agents""")


@dataclass(frozen=True)
class _Measured:
    """One aggregation of the day: memory in MB at its peak, `stored` in bytes."""

    seconds: float
    memory: float
    steps: str
    wrong: int
    rows: int
    most_rows: int
    stored: int


def main() -> None:
    """Prints a Markdown table, and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=1_000_000, help="(default %(default)s)")
    parser.add_argument("--agents", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _aggregate_once(*options.child)
        return
    with temporary_home() as home:
        database, uri = open_database(Settings(home=home)), acquire(home)
        with database.begin() as connection:
            connection.execute(_AGENTS, vars(options))
            connection.execute(_LOGS, vars(options))
        autocommit(database, "VACUUM ANALYZE")
        found: dict[str, list[_Measured]] = {title: [] for title in _DECLARED}
        for round_ in range(options.rounds):
            for title, declared in _DECLARED.items():
                if round_ == 0 or title in (_WITHOUT, _BY_TWO):
                    found[title].append(_in_a_process(database, uri, declared))
    medians = {title: statistics.median(each.seconds for each in runs) for title, runs in found.items()}
    print("| day | seconds | steps | MB | rows | most of an agent and dimension | MB stored | wrong sums |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for title, runs in found.items():
        memory, last = max(each.memory for each in runs), runs[-1]
        print(
            f"| {title} | {medians[title]:.2f} | {last.steps} | {memory:.0f} | {last.rows:,} | {last.most_rows} "
            f"| {last.stored / 1e6:.0f} | {sum(each.wrong for each in runs)} |"
        )
    print(
        f"\nBy model and version: {medians[_BY_TWO] / medians[_WITHOUT]:.2f} times the day without dimensions, "
        f"goal {_MOST_TIMES}."
    )
    for title in [*_DECLARED][2:]:
        (run,) = found[title]
        print(f"{title.capitalize()}: {run.memory:.0f} MB, goal {_MOST_MB}.")


def _in_a_process(database: Database, uri: str, declared: str) -> _Measured:
    tables = (
        "agent_performance_metrics, agent_day_distributions, agent_dimension_metrics, agent_dimension_distributions"
    )
    with database.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables}, metric_day_ledger"))
    child = [sys.executable, "-m", "metrics_pipeline_tests.benchmarks.breakdowns", "--child", uri, declared]
    seconds, memory, steps = subprocess.run(child, check=True, capture_output=True, text=True).stdout.split(maxsplit=2)
    with database.connect() as connection:
        wrong = connection.execute(_DIFFERENCES).scalar_one()
        rows, most_rows, stored = connection.execute(_ROWS).one()
    return _Measured(float(seconds), float(memory), steps.strip(), wrong, int(rows), most_rows, stored)


def _aggregate_once(uri: str, declared: str) -> None:
    database = Database(DatabaseUrl.parse(uri))
    logs = open_logs(database, parse_dimensions(declared) if declared else ())
    started = time.perf_counter()
    for _, day in aggregate_days(
        database, logs, {"day": day_window(_DAY, "UTC")}, AggregationOptions(), run_id="benchmark", reason=Reason.MANUAL
    ):
        assert isinstance(day, AggregatedDay), day
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in day.computed.timings.seconds.items())
    print(time.perf_counter() - started, peak_mb(), steps)


if __name__ == "__main__":
    main()
