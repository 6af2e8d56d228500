"""Adapted tables whose logs are in another database, as the guide says, and tables behind PgBouncer."""

import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.embedded.installation import binaries
from metrics_pipeline.logs import slices
from metrics_pipeline.metrics.reconciliation import DayState
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.pipeline.watching import Effort
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.adapters.installations import INSTALLATIONS
from metrics_pipeline_tests.adapters.rows import rows_of
from metrics_pipeline_tests.adapters.servers import pgbouncer, postgres_with_fdw
from metrics_pipeline_tests.adapters.test_guide import login
from metrics_pipeline_tests.days import aggregate, assert_exact, assert_exact_twice, judged
from metrics_pipeline_tests.documents.pages import DOCS
from metrics_pipeline_tests.roles import apply

_DAY = date(2026, 11, 18)
_BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def litellm(bare_database_url: str, _server_connection: psycopg.Connection) -> Iterator[str]:
    """LiteLLM's database with 2,000 requests of ten days."""
    with psycopg.connect(bare_database_url) as connection:
        connection.execute(INSTALLATIONS["litellm"].statements)  # type: ignore[call-overload]
        connection.execute(rows_of("litellm", 2_000))  # type: ignore[call-overload]
    yield bare_database_url
    with psycopg.connect(bare_database_url) as connection:
        connection.execute("DROP OWNED BY metrics_reader")
    _server_connection.execute("DROP ROLE metrics_reader")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_guide_leads_to_metrics_of_logs_in_another_database(
    litellm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = (DOCS / "howto" / "adapt.md").read_text().partition("## Logs in another database")[2]
    products, ours, commands, *_ = _BLOCK.findall(section)
    apply(products, litellm)
    place = urlsplit(litellm)
    with postgres_with_fdw() as metrics:
        socket = parse_qs(place.query)["host"][0]
        apply(ours.replace("db.example", socket).replace("dbname 'litellm'", f"dbname '{place.path[1:]}'"), metrics)
        for line in commands.splitlines():
            program, *words = shlex.split(line)
            if program == "export":
                user = urlsplit(words[0].partition("=")[2]).username
                monkeypatch.setenv("METRICS_DATABASE_URL", login(metrics, str(user)))
            elif program == "psql":
                words = [os.environ["METRICS_DATABASE_URL"], *words[1:]]
                command = [str(binaries() / "psql"), "--no-psqlrc", "--quiet", *words]
                assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
            else:
                assert program == "metrics-pipeline"
                words, target = (words[:-2], words[-1]) if words[-2] == ">" else (words, None)
                said = run(*words)
                if target is not None:
                    Path(target).write_text(said)
        assert "Ready for pipeline" in said
        assert said.count("Warning: ") == said.count("not have human_intervention") == 1
        assert "counted at each look, because a change may escape its tables' counters" in said
        database = Database(DatabaseUrl.parse(os.environ["METRICS_DATABASE_URL"]))
        day = assert_exact_twice(database, day_window(_DAY, "UTC"))
        metrics = day.computed.metrics
        # Of the requests with a key, one in twelve is of a blocked one; with an agent, none.
        assert (metrics.aggregated_logs, metrics.skipped_logs) == (184, 16)
        with psycopg.connect(litellm) as connection:
            connection.execute("""DELETE FROM "LiteLLM_SpendLogs" WHERE request_id = 'request601'""")
        [verdict] = judged(database, _DAY, effort=Effort())
        assert verdict.state == DayState.SHRUNK


def test_adapted_tables_are_read_and_watched_through_pgbouncer_with_the_search_path_of_the_role(
    bare_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also with all readers of a large day, of whom the pool lets two work at once.
    monkeypatch.setattr(slices, "_DIVIDED_FROM_LOGS", 0)
    role = f"pooled_{uuid.uuid4().hex[:8]}"
    place = urlsplit(bare_database_url)
    with psycopg.connect(bare_database_url, autocommit=True) as connection:
        connection.execute(INSTALLATIONS["litellm"].statements)  # type: ignore[call-overload]
        connection.execute(rows_of("litellm", 2_000))  # type: ignore[call-overload]
        connection.execute(f"CREATE ROLE {role} LOGIN")  # type: ignore[call-overload]
        monkeypatch.setenv("METRICS_DATABASE_URL", bare_database_url)
        apply(run("db", "adapt", "litellm", "--role", role), bare_database_url)
        with pgbouncer(parse_qs(place.query)["host"][0], role, place.path[1:]) as url:
            monkeypatch.setenv("METRICS_DATABASE_URL", url)
            run("db", "upgrade")
            said = run("db", "check")
            assert "Ready for pipeline" in said
            assert said.count("Warning: ") == said.count("not have human_intervention") == 1
            database = Database(DatabaseUrl.parse(url))
            assert_exact_twice(database, day_window(_DAY, "UTC"))
            assert [verdict.state for verdict in judged(database, _DAY)] == [DayState.AGGREGATED]
            connection.execute("""UPDATE "LiteLLM_SpendLogs" SET spend = 1 WHERE request_id = 'request601'""")
            assert [verdict.state for verdict in judged(database, _DAY)] == [DayState.DIRTY]
            aggregate(database, day_window(_DAY, "UTC"))
            assert_exact(database, day_window(_DAY, "UTC"))
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")  # type: ignore[call-overload]
