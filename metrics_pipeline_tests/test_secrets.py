"""No output of the commands, the API or Dagster contains a password or a token, whatever goes wrong."""

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import dagster as dg
import psutil
import pytest
from sqlalchemy import text

from metrics_pipeline.cli import main
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, store_agents, store_logs
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.private_files import everything_in

# Every character that a URL must encode, between parts by which also a piece of the password is found.
PASSWORD = "lEft-9f3c@/:?#%+ &=rIght-71d2"
TOKEN = "tOken-4b8e" * 4
PIECES = ("lEft-9f3c", "rIght-71d2", TOKEN)
QUOTED = quote(PASSWORD, safe="")

#: Ways to write a login, and what is wrong with it or with the server.
URLS = [
    f"postgresql://alice:{QUOTED}@127.0.0.1:1/m",
    f"postgresql+psycopg2://alice:{QUOTED}@127.0.0.1:1/m",
    f"postgresql://127.0.0.1:1/m?user=alice&password={QUOTED}",
    f"postgresql://alice@127.0.0.1:1/m?sslpassword={QUOTED}&passfile=/nowhere/{QUOTED}",
    f"postgresql://alice:{QUOTED}@h.invalid/m",
    f"postgresql://alice:{QUOTED}@127.0.0.1:99999/m",
    f"postgresql://alice:{QUOTED}@127.0.0.1/m?sslmode=always",
    f"postgresql://alice:{QUOTED}@127.0.0.1/m?nonsense=1",
    f"postgresql://alice:{PASSWORD}@127.0.0.1/m",
    f"postgresql://127.0.0.1?password={PASSWORD}",
    f"mysql://alice:{QUOTED}@127.0.0.1/m",
    f"alice:{PASSWORD}",
]
COMMANDS = [
    ["db", "check"],
    ["db", "upgrade"],
    ["db", "grants"],
    ["status"],
    ["restatements"],
    ["aggregate", "--date", "2025-03-04"],
    ["backfill", "--from", "2025-03-04", "--to", "2025-03-05", "--preview"],
    ["retention", "--dry-run"],
    ["logs", "generate", "--yes"],
    ["notify", "test"],
]
#: One that cannot be reached, and one that the library refuses, in whose log the token is.
RECEIVERS = f"json://127.0.0.1:1/{TOKEN} slack://{TOKEN}"


def assert_clean(said: str) -> None:
    for piece in PIECES:
        assert piece not in said, said[max(said.index(piece) - 300, 0) :][:600]


@pytest.mark.parametrize("url", variants(URLS))
def test_a_command_that_cannot_reach_the_database_repeats_no_secret(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "dagster").mkdir()
    environment = {
        "METRICS_DATABASE_URL": url,
        "METRICS_API_TOKENS": f"me:read:{TOKEN}",
        "METRICS_NOTIFY": RECEIVERS,
        "METRICS_PIPELINE_HOME": str(tmp_path / "home"),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command in [*COMMANDS, ["--help"], ["api", "--help"], ["api", "--port", "no"], ["api", "--host", "h.invalid"]]:
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        assert_clean(printed.out + printed.err)
        assert "Traceback" not in printed.err
        if command in COMMANDS:
            assert (ended.value.code, printed.err[:7]) == (1, "Error: ")
    for path in everything_in(tmp_path):
        if path.is_file():
            assert_clean(path.read_bytes().decode("latin-1"))


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    folder = tmp_path / "dagster"
    folder.mkdir()
    return folder


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "fault", ["statement error", *(pytest.param(fault, marks=pytest.mark.ci) for fault in ("refused login", "none"))]
)
def test_a_run_leaves_no_secret_in_its_output_its_events_or_the_process_list(
    fault: str, database: Database, database_url: str, dagster_home: Path
) -> None:
    """The server trusts everybody, so the URL has a password that the server never asks for."""
    store_agents(database, {"a": "active"})
    store_logs(database, [Log("a")])
    if fault == "statement error":
        with database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE metric_day_ledger ADD CONSTRAINT never CHECK (agents > 99)"))
    user = "nobody" if fault == "refused login" else "postgres"
    url = urlsplit(database_url)._replace(netloc=f"{user}:{QUOTED}@").geturl()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(dagster_home.parent),
        "DAGSTER_HOME": str(dagster_home),
        "METRICS_DATABASE_URL": f"{url}&sslpassword={QUOTED}",
        "METRICS_API_TOKENS": f"me:read:{TOKEN}",
        "METRICS_NOTIFY": RECEIVERS,
    }
    arguments = ["asset", "materialize", "-m", "metrics_pipeline.definitions", "--select", "agent_performance_metrics"]
    command = [sys.executable, "-m", "dagster", *arguments, "--partition", "2025-03-04"]
    with (dagster_home.parent / "output").open("w+") as output:
        process = psutil.Popen(
            command, env=environment, cwd=dagster_home.parent, stdout=output, stderr=subprocess.STDOUT
        )
        listed = set()
        while process.poll() is None:
            listed |= {" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])}
            time.sleep(0.05)
        output.seek(0)
        said = output.read()
    assert (process.returncode == 0) == (fault == "none")
    assert_clean(said)
    assert any("asset materialize" in line for line in listed)
    assert_clean("\n".join(listed))
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        (run,) = instance.get_runs()
        events = instance.all_logs(run.run_id)
        assert events
        assert_clean(f"{run!r} {events!r}")
        if fault == "refused login":
            assert "The server refused the login to database" in repr(events)
    for path in everything_in(dagster_home):
        if path.is_file():
            assert_clean(path.read_bytes().decode("latin-1"))
