"""The page Run in production: from a bare database to a restored backup, and Dagster as an operator uses it there."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from metrics_pipeline.cli import main
from metrics_pipeline.embedded.installation import binaries
from metrics_pipeline.log_files.sample_logs import store_sample
from metrics_pipeline.metrics.windows import day_window, days_between, last_complete_day
from metrics_pipeline.orchestration.instance import write_instance
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.tables import upstream_metadata
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline_tests.cli.ui import (
    Ui,
    days_of,
    first_tick,
    launch_backfill,
    launch_run,
    note_that_the_daemon_was_down,
    running_ui,
)
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import Log, aggregate, execute, query, store_logs
from metrics_pipeline_tests.documents.pages import DOCS, code_lines
from metrics_pipeline_tests.orchestration.runs import assert_equal_to_oracle, ledger
from metrics_pipeline_tests.processes import Start, processes, wait_until

from .private_files import everything_in
from .roles import Role, apply, printed
from .roles import roles as roles
from .test_secrets import QUOTED, TOKEN, assert_clean

PROJECT = Path(__file__).parents[1]

# The last tick of the nightly schedule before now asks for the last of these days.
NEWEST = last_complete_day(datetime.now(UTC) - timedelta(hours=2), "UTC")
*BACKFILLED, BY_HAND, _, LATE, MISSED = DAYS = days_between(NEWEST - timedelta(days=5), NEWEST)

# Older than raw logs are kept.
OLD = NEWEST - timedelta(days=40)

_METRICS = {"path": ["agent_performance_metrics"]}
_RUNS = "{ runsOrError { ... on Runs { results { id status tags { key value } } } } }"
_ASSETS = """{ assetNodes {
    assetKey { path } dependencyKeys { path }
    assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } }
} }"""
_METADATA = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetMaterializations { partition metadataEntries { label ... on IntMetadataEntry { intValue } } }
} } }"""


@pytest.fixture
def role(roles: dict[str, Role], database_url: str) -> Role:
    """One role for all that Dagster runs: the pipeline and retention."""
    role = roles["pipeline"]
    apply(printed(database_url, f"--retention={role.name}"), database_url)
    return role


@pytest.fixture
def environment(home: Path, role: Role, bare_database_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What every service is given. Dagster's storage is a database of its own."""
    storage = with_password(bare_database_url, "postgres").replace("postgresql://", "postgresql+psycopg2://", 1)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", storage)
    folder = home.parent / "dagster"
    write_instance(folder, force=False)
    return {
        "DAGSTER_HOME": str(folder),
        "DAGSTER_POSTGRES_URL": storage,
        "METRICS_DATABASE_URL": with_password(role.url, quote(role.name, safe="")),
        "METRICS_API_TOKENS": f"me:read:{TOKEN}",
        "METRICS_START_DATE": OLD.isoformat(),
        "METRICS_LOOKBACK_DAYS": "2",
    }


def with_password(url: str, user: str) -> str:
    """The same for a server without passwords: it also shows what is not needed."""
    return urlsplit(url)._replace(netloc=f"{user}:{QUOTED}@").geturl()


@pytest.fixture
def instance(environment: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        yield instance


def asked_by(ui: Ui, name: str) -> list[str]:
    """The keys of the runs that the first tick of a schedule or sensor asks for."""
    tick = first_tick(ui, name)
    assert tick["error"] is None
    return tick["runKeys"]


def ended_runs(ui: Ui, count: int) -> list[dict[str, Any]]:
    """All runs, once there are so many and none is under way."""
    return ui.wait_for(
        lambda: ui.query(_RUNS)["runsOrError"]["results"],
        lambda runs: len(runs) >= count and all(run["status"] in ("SUCCESS", "FAILURE") for run in runs),
    )


@pytest.mark.end_to_end
@pytest.mark.long
def test_everything_that_an_operator_does_in_the_ui_works_in_production(
    home: Path, database: Database, bare_database_url: str, instance: dg.DagsterInstance, environment: dict[str, str]
) -> None:
    spec = SampleSpec(seed=5, agents=9, logs_per_day=60)
    store_sample(database, spec, [OLD, *DAYS], "UTC", lambda *_: None)
    for day in (OLD, LATE):
        aggregate(database, day_window(day, "UTC"), run_id="long ago")
    store_logs(database, [Log("unregistered", timestamp=day_window(LATE, "UTC").start)])
    note_that_the_daemon_was_down(instance)
    command = (sys.executable, "-m", "dagster", "dev", "--log-level", "warning")
    with running_ui(home, command, PROJECT, **environment) as ui:
        backfill = launch_backfill(
            ui, assetSelection=[_METRICS], partitionNames=[day.isoformat() for day in BACKFILLED]
        )
        by_hand = launch_run(ui, "daily_metrics_job", **{"dagster/partition": BY_HAND.isoformat()})
        launch_run(ui, "data_retention_job", config={"ops": {"data_retention": {"config": {"dry_run": False}}}})
        asked = [asked_by(ui, name) for name in ("daily_metrics_schedule", "late_logs_sensor")]
        assert days_of(*asked[0], *asked[1]) == {LATE, MISSED}
        runs = ended_runs(ui, 3 + len(asked[0]) + len(asked[1]))
        assert {run["status"] for run in runs} == {"SUCCESS"}
        run_ids = {tag["value"]: run["id"] for run in runs for tag in run["tags"]}

        stored = ledger(database)
        assert stored.pop(OLD) == "long ago"
        assert list(stored) == [*BACKFILLED, BY_HAND, LATE, MISSED]
        assert stored[BY_HAND] == by_hand
        assert {stored[day] for day in BACKFILLED} == {run_ids[backfill]}
        assert_equal_to_oracle(database, *stored)
        assert query(database, f"SELECT count(*) FROM agent_execution_logs WHERE timestamp::date = '{OLD}'") == [(0,)]
        assert_is_shown(ui, database)
        assert_no_secret(ui, home, bare_database_url)
        os.kill(ui.process.pid, signal.SIGINT)
        assert ui.process.wait(timeout=60) == 0
        wait_until(lambda: not processes(home), seconds=30)
        assert "Traceback" not in ui.output()


def assert_no_secret(ui: Ui, home: Path, dagster_url: str) -> None:
    """Not in the output, the process list, a file, or a row of Dagster's storage."""
    listed = [" ".join(process.cmdline()) for process in processes(home)]
    assert len(listed) >= 4
    files = [path.read_bytes().decode("latin-1") for path in everything_in(home.parent) if path.is_file()]
    assert files
    with psycopg.connect(dagster_url) as connection:
        names = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        rows = [
            row
            for name in names
            for (row,) in connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name)))
        ]
    assert any("daily_metrics_job" in row for row in rows)
    for said in (ui.output(), *listed, *files, *rows):
        assert_clean(said)


def assert_is_shown(ui: Ui, database: Database) -> None:
    nodes = {node["assetKey"]["path"][-1]: node for node in ui.query(_ASSETS)["assetNodes"]}
    upstream = {name: {key["path"][-1] for key in node["dependencyKeys"]} for name, node in nodes.items()}
    assert upstream["agent_performance_metrics"] == {"agent_execution_logs", "agent_registry"}
    assert upstream["data_retention"] == {"agent_execution_logs", "agent_performance_metrics", "alert_history"}
    evaluations = {
        check["name"]: check["executionForLatestMaterialization"]
        for name in ("agent_performance_metrics", "data_retention")
        for check in nodes[name]["assetChecksOrError"]["checks"]
    }
    assert evaluations.pop("no_logs_held_back")["status"] == "SUCCEEDED"
    # The other checks judge the newest days, so they may be red here, but none may fail with an error.
    assert {evaluation["status"] for evaluation in evaluations.values()} <= {"SUCCEEDED", "FAILED"}, evaluations

    materialized = ui.query(_METADATA, key=_METRICS)["assetNodeOrError"]["assetMaterializations"]
    logs_read = {
        each["partition"]: entry["intValue"]
        for each in reversed(materialized)
        for entry in each["metadataEntries"]
        if entry["label"] == "logs_read"
    }
    logs = query(
        database,
        """SELECT metric_date::text, count(*) FROM metric_day_ledger
             JOIN agent_execution_logs ON "timestamp" >= window_start AND "timestamp" < window_end
            GROUP BY 1""",
    )
    assert logs_read == dict(logs)


# The page, followed to the letter.

LINES = [" ".join(line.split()) for line in code_lines(DOCS / "howto" / "production.md")]

#: The logins of the page, in the order in which it checks them.
LOGINS = ("metrics", "dashboards", "oncall")

LAST = last_complete_day(datetime.now(UTC), "UTC")
FIRST, _, _ = HISTORY = days_between(LAST - timedelta(days=2), LAST)


def lines(command: str) -> list[str]:
    """The page's lines that call metrics-pipeline with these words, in the page's order."""
    return [line for line in LINES if re.search(rf"(^|[ /])metrics-pipeline {command}( |$)", line)]


def words(line: str) -> list[str]:
    """The arguments for metrics-pipeline on a line."""
    return shlex.split(line.rpartition("metrics-pipeline ")[2].partition(" | ")[0], comments=True)


class Operator:
    """Types commands in an environment, and reads what they print."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self.environment = {"METRICS_PIPELINE_HOME": str(home)}

    def types(self, line: str, *, exit_code: int = 0, **environment: str) -> str:
        with self._monkeypatch.context() as patched:
            for name, value in (self.environment | environment).items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", ["metrics-pipeline", *words(line)])
            with pytest.raises(SystemExit) as ended:
                main()
        printed = self._capfd.readouterr()
        assert (ended.value.code or 0) == exit_code, printed
        assert_clean(printed.out + printed.err)
        return printed.out


@pytest.fixture
def operator(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Operator:
    return Operator(home, monkeypatch, capfd)


@pytest.fixture
def platform(server_uri: str, _server_connection: psycopg.Connection) -> Iterator[str]:
    """The platform's database with logs of HISTORY. Their owner, the role platform, owns no database and no schema."""
    with scratch_database(server_uri, "template0", _server_connection) as url:
        database = Database(DatabaseUrl.parse(url))
        upstream_metadata.create_all(database.engine)
        store_sample(database, SampleSpec(seed=5, agents=9, logs_per_day=60), HISTORY, "UTC", lambda *_: None)
        execute(database, *(f"CREATE ROLE {name} LOGIN" for name in ("platform", *LOGINS)))
        execute(database, *(f"ALTER TABLE {table} OWNER TO platform" for table in upstream_metadata.tables))
        yield url
    _server_connection.execute("DROP DATABASE IF EXISTS dagster WITH (FORCE)")
    for name in ("dagster", *LOGINS, "platform"):
        _server_connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def psql(script: str, url: str) -> str:
    """Applies the script and returns psql's warnings."""
    return client("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", url, script=script)


def client(program: str, *arguments: str, script: str | None = None) -> str:
    command = [str(binaries() / program), *arguments]
    ended = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def filled_in(url: str, folder: Path) -> dict[str, str]:
    """The example of the environment file with the values of this server, as containers read it: they keep quotes."""
    server = urlsplit(url)
    text = (DOCS / "examples" / "metrics-pipeline.env").read_text()
    text = re.sub(r"<password>@db.example:5432/(\w+)", lambda found: f"{QUOTED}@/{found[1]}?{server.query}", text)
    text = text.replace("/platform?", f"{server.path}?").replace("<64 hexadecimal digits>", TOKEN)
    text = text.replace("=2025-01-01", f"={FIRST}").replace("=/srv/dagster", f"={folder}")
    text = text.replace(",ci:trigger:<64 others>", "")
    assert "<" not in "".join(line for line in text.splitlines() if not line.startswith("#"))
    return {
        name: value
        for name, is_set, value in (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
        if is_set
    }


@pytest.mark.end_to_end
@pytest.mark.long
def test_the_page_leads_from_a_bare_database_to_metrics_and_back_from_a_backup(
    operator: Operator, platform: str, server_uri: str, tmp_path: Path, start: Start
) -> None:
    owner = with_password(platform, "platform")
    check_of = dict(zip(LOGINS, lines("db check"), strict=True))
    assert [line.rpartition("# as ")[2] for line in check_of.values()] == list(LOGINS)

    # Prepare: each check names what is still missing, and says when nothing is.
    said = operator.types("metrics-pipeline db check", exit_code=1, METRICS_DATABASE_URL=owner)
    psql(re.findall(r"GRANT CREATE ON SCHEMA .*", said)[0], platform)
    operator.types("metrics-pipeline db upgrade", METRICS_DATABASE_URL=owner)
    for user, check in check_of.items():
        operator.types(check, exit_code=1, METRICS_DATABASE_URL=with_password(platform, user))
    (grants,) = lines("db grants")
    warnings = psql(operator.types(grants, METRICS_DATABASE_URL=owner), owner)
    assert set(re.findall(r"WARNING: +([a-z ]+)", warnings)) == {"no privileges were granted for "}
    for user, check in check_of.items():
        assert "Ready for" in operator.types(check, METRICS_DATABASE_URL=with_password(platform, user))

    # The instance, its database and the environment.
    folder = tmp_path / "dagster"
    folder.mkdir(mode=0o700)
    (init,) = lines("instance init")
    operator.types(init.replace("/srv/dagster", str(folder)))
    for statement in (line for line in LINES if line.startswith(("CREATE ROLE", "CREATE DATABASE"))):
        psql(statement, server_uri)
    operator.environment |= filled_in(platform, folder)

    # The history, after a look at it.
    preview, backfill = (line.replace("2025-01-01", str(FIRST)) for line in lines("backfill --from"))
    assert "Preview: nothing was written" in operator.types(preview)
    database = Database(DatabaseUrl.parse(platform))
    assert ledger(database) == {}
    process = start(*words(backfill), **operator.environment)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_clean(printed + errors)
    assert_equal_to_oracle(database, *HISTORY)
    operator.types("metrics-pipeline status --exit-code")

    # The upgrade changes nothing when there is nothing to do.
    assert "already" in operator.types("metrics-pipeline db upgrade", METRICS_DATABASE_URL=owner)

    # A backup without the last day comes back in an empty database, whose grants the dump does not hold.
    execute(
        database, "DELETE FROM metric_day_ledger WHERE metric_date = (SELECT max(metric_date) FROM metric_day_ledger)"
    )
    client("pg_dump", "--format=custom", f"--file={tmp_path}/platform.dump", platform)
    with scratch_database(server_uri, "template0") as restored:
        client("pg_restore", f"--dbname={restored}", f"{tmp_path}/platform.dump")
        psql(operator.types(grants, METRICS_DATABASE_URL=with_password(restored, "platform")), restored)
        for user, check in check_of.items():
            operator.types(check, METRICS_DATABASE_URL=with_password(restored, user))
        # The standby of a pair is named second, and the first does not answer.
        pair = urlsplit(with_password(restored, "metrics"))._replace(query=standby(restored)).geturl()
        said = operator.types("metrics-pipeline status --exit-code", exit_code=3, METRICS_DATABASE_URL=pair)
        assert re.findall(r"^(\S+) +missing", said, re.MULTILINE) == [str(LAST)]
        assert query(Database(DatabaseUrl.parse(restored)), "SELECT count(*) FROM metric_restatements") == [(0,)]


def standby(url: str) -> str:
    """The query of a URL that names a server which is away, and then that of `url`."""
    query_ = urlsplit(url).query
    assert re.fullmatch(r"host=[^&]+&port=\d+", query_)
    away = re.sub(r"host=([^&]+)&port=(\d+)", r"host=/nowhere,\1&port=\2,\2", query_)
    return f"{away}&target_session_attrs=read-write"
