"""The guide from LiteLLM's tables to the page, followed to the letter."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.embedded.installation import binaries
from metrics_pipeline.metrics.windows import day_window, last_complete_day
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.adapters.installations import INSTALLATIONS
from metrics_pipeline_tests.api.serving import serving
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import assert_exact
from metrics_pipeline_tests.documents.pages import DOCS

DAY = last_complete_day(datetime.now(UTC), "UTC")
_BLOCK = re.compile(r"^## From LiteLLM to the page\n+```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def litellm(server_uri: str, _server_connection: psycopg.Connection) -> Iterator[str]:
    """LiteLLM's database, whose owner may create roles, with three requests of yesterday."""
    _server_connection.execute("CREATE ROLE litellm LOGIN CREATEROLE")
    with scratch_database(server_uri, "template0", _server_connection) as url:
        name = urlsplit(url).path[1:]
        _server_connection.execute(f"ALTER DATABASE {name} OWNER TO litellm")  # type: ignore[call-overload]
        with psycopg.connect(login(url, "litellm")) as connection:
            connection.execute(INSTALLATIONS["litellm"].statements.replace("2026-11-20", str(DAY)))  # type: ignore[call-overload]
        yield url
    for role in ("metrics_pipeline", "litellm"):
        _server_connection.execute(f"DROP ROLE IF EXISTS {role}")  # type: ignore[call-overload]


def login(url: str, user: str) -> str:
    return urlsplit(url)._replace(netloc=f"{user}@").geturl()


def run(*words: str) -> str:
    """What a command of metrics-pipeline prints."""
    if words[0] == "backfill":
        # A process of its own, because Dagster's definitions belong to the database of this process's first run.
        command = [sys.executable, "-m", "metrics_pipeline", *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.mark.end_to_end
def test_the_guide_leads_from_litellms_tables_to_the_page(
    litellm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # An instance on SQLite, so that no embedded server is made for Dagster alone.
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (block,) = _BLOCK.findall((DOCS / "howto" / "adapt.md").read_text())
    said = {}
    for line in block.replace("2026-11-01", str(DAY)).splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "export":
            user = urlsplit(words[0].partition("=")[2]).username
            monkeypatch.setenv("METRICS_DATABASE_URL", login(litellm, str(user)))
        elif program == "psql":
            words = [os.environ["METRICS_DATABASE_URL"] if word == "$METRICS_DATABASE_URL" else word for word in words]
            command = [str(binaries() / "psql"), "--no-psqlrc", "--quiet", *words]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
        elif program and words != ["dev"]:
            words, target = (words[:-2], words[-1]) if words[-2] == ">" else (words, None)
            printed = run(*words)
            said[" ".join(words[:2])] = printed
            if target is not None:
                Path(target).write_text(printed)
    assert list(said) == ["db adapt", "db upgrade", "db check", "backfill --from"]
    assert "Ready for pipeline" in said["db check"]
    assert "Not ready" not in said["db check"]
    database = Database(DatabaseUrl.parse(os.environ["METRICS_DATABASE_URL"]))
    assert_exact(database, day_window(DAY, "UTC"))
    now = datetime.combine(DAY + timedelta(days=1), time(12), UTC)
    with serving(database) as serve:
        api = serve(now=now)
        assert "<title>" in api.get("/").text
        (fleet,) = api.get("/api/v1/activity").json()
        # k2 is blocked.
        assert (fleet["total_executions"], fleet["total_cost_usd"]) == (1, 0.3)
        assert (fleet["human_interventions"], fleet["days_without_column"]) == (None, {"human_intervention": 1})
