"""LiteLLM's proxy writes its own log, and a day's metrics equal what it reports as its daily activity.

LITELLM_VENV names a virtual environment with `litellm[proxy]`, `litellm-proxy-extras`, `prisma` and `psycopg`, in which
the requests are made: its dependencies do not fit those of the package.
"""

import json
import os
import subprocess
from datetime import date
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.upgrading import upgrade
from metrics_pipeline_tests.days import assert_exact_twice, query
from metrics_pipeline_tests.roles import apply, new_role

PYTHON = Path(os.environ.get("LITELLM_VENV", "/nowhere")) / "bin" / "python"


@pytest.mark.skipif(not PYTHON.exists(), reason="LITELLM_VENV names no folder with bin/python")
def test_a_days_metrics_equal_the_daily_activity_that_litellm_reports_of_its_own_requests(
    bare_database_url: str, tmp_path: Path
) -> None:
    report = tmp_path / "activity.json"
    command = [str(PYTHON), str(Path(__file__).with_name("litellm_proxy.py")), bare_database_url, str(report)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    days = {day["date"]: day["breakdown"]["api_keys"] for day in json.loads(report.read_text())["results"]}
    with (
        psycopg.connect(bare_database_url, autocommit=True) as connection,
        new_role(connection, bare_database_url, "pipeline") as role,
    ):
        adapted = CliRunner().invoke(
            app, ["db", "adapt", "litellm", "--role", role.name], env={"METRICS_DATABASE_URL": bare_database_url}
        )
        apply(adapted.output, bare_database_url)
        database = role.database
        upgrade(database)
        for day, reported in days.items():
            aggregated = assert_exact_twice(database, day_window(date.fromisoformat(day), "UTC"))
            # The master key is no agent.
            master = reported.pop("litellm_proxy_master_key", None)
            requests = 0 if master is None else master["metrics"]["api_requests"]
            assert aggregated.computed.metrics.skipped_logs == requests
        rows = query(
            database,
            """SELECT metric_date::text, agent_id, total_executions, successful_executions, failed_executions,
                      total_tokens, total_cost_usd, error_distribution, unique_users
                 FROM agent_performance_metrics WHERE total_executions > 0""",
        )
        latencies = query(
            database,
            """SELECT "timestamp"::date::text, agent_id, sum(latency_ms) FROM agent_execution_logs
                WHERE status = 'success' GROUP BY 1, 2""",
        )
    assert {(day, key) for day, reported in days.items() for key in reported} == {row[:2] for row in rows}
    for day, key, *numbers, cost, errors, users in rows:
        its = days[day][key]["metrics"]
        names = ("api_requests", "successful_requests", "failed_requests", "total_tokens")
        assert numbers == [its[name] for name in names]
        # A float there; here each request's is a whole number of nano-dollars.
        assert abs(cost - Decimal(repr(its["spend"]))) < Decimal("1e-9") * numbers[0]
        assert (errors, users) == ({"RateLimitError": its["failed_requests"]}, 3)
        # It measures successful requests only.
        assert (day, key, its["total_response_time_ms"]) in latencies
