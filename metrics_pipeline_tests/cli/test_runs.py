"""`aggregate` and `backfill`: what they print and store, and what is left when they fail, are stopped or are killed."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from dagster import DagsterInstance, DagsterRun, RunsFilter
from sqlalchemy import text

from metrics_pipeline.cli import main
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings
from metrics_pipeline.store.publishing import lock_day
from metrics_pipeline_tests.forked import Forked, command, forking
from metrics_pipeline_tests.orchestration.runs import DAYS, assert_equal_to_oracle, execute, ledger, restatement_reasons
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until

FRIDAY, SATURDAY, SUNDAY = DAYS
THURSDAY = "2025-07-10"
#: The command line with an hour before a step's second attempt.
PATIENT = partial(command, first_pause_seconds=3600)
Start = Callable[..., Forked]


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts a command; what still runs at the end of the test is killed."""
    with forking(home) as start:
        yield start


@pytest.fixture(scope="module")
def instance(home: Path) -> Iterator[DagsterInstance]:
    """The commands' instance."""
    with open_instance(Settings(home=home)) as instance:
        yield instance


def last_run(instance: DagsterInstance, day: date = FRIDAY) -> DagsterRun:
    """The newest run of the day, or of the range that begins with it."""
    tags = ({name: day.isoformat()} for name in ("dagster/partition", "dagster/asset_partition_range_start"))
    found = [run for each in tags for run in instance.get_run_records(RunsFilter(tags=each), limit=1)]
    return max(found, key=lambda record: record.storage_id).dagster_run


def waiting_for_locks(database: Database) -> int:
    with database.engine.connect() as connection:
        return connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        )


def table(stdout: str) -> dict[str, list[str]]:
    """The cells of each day's row."""
    return {
        cells[0]: cells[1:] for line in stdout.splitlines() if re.match(r"2\d{3}-", line) and (cells := line.split())
    }


@pytest.mark.end_to_end
def test_days_are_stored_printed_and_shown_as_runs_with_their_reason(
    start: Start, logs: None, database: Database, database_url: str, instance: DagsterInstance
) -> None:
    environment = {"METRICS_DATABASE_URL": database_url, "COLUMNS": "80"}
    first = start("backfill", "--from", FRIDAY, "--to", SUNDAY, **environment)
    stdout, stderr = first.communicate()
    assert (first.returncode, stderr) == (0, "")
    rows = table(stdout)
    assert list(rows) == [day.isoformat() for day in DAYS]
    assert rows["2025-07-11"][0] == "200"
    assert rows["2025-07-11"][4:7] == ["8", "0", "0"]
    assert "\x1b" not in stdout
    run = last_run(instance)
    assert (run.status.value, run.job_name) == ("SUCCESS", "daily_metrics_job")
    # The page of the job and the timeline show the runs with this tag.
    shown = instance.get_runs(RunsFilter(tags={".dagster/repository": "__repository__@metrics_pipeline"}))
    assert run.run_id in [each.run_id for each in shown]
    assert run.run_id in stdout
    assert set(ledger(database).values()) == {run.run_id}
    assert_equal_to_oracle(database, *DAYS)

    execute(database, "UPDATE agent_execution_logs SET latency_ms = latency_ms + 1")
    second = start("aggregate", "--date", FRIDAY, "--include-inactive-agents", **environment)
    stdout, _ = second.communicate()
    assert second.returncode == 0
    assert_equal_to_oracle(database, FRIDAY, include_inactive=True)
    assert restatement_reasons(database) == {"manual"}
    assert last_run(instance).tags["dagster/partition"] == "2025-07-11"

    start("backfill", "--from", SATURDAY, "--to", SATURDAY, **environment).communicate()
    assert restatement_reasons(database) == {"manual", "backfill"}
    assert_equal_to_oracle(database, SATURDAY)


@pytest.mark.end_to_end
def test_a_day_that_fails_is_one_sentence_a_sealed_one_is_left_out_and_the_others_are_stored(
    start: Start, logs: None, database: Database, database_url: str
) -> None:
    for day, zone, pruned_at in ((SATURDAY, "Asia/Tokyo", "NULL"), (THURSDAY, "UTC", "now()")):
        execute(
            database,
            f"""INSERT INTO metric_day_ledger
                SELECT :day, '{zone}', now(), now(), 7, 7, 0, 1, '{{}}', '1', now(), now(), 'r', {pruned_at}, 7""",
            day=day,
        )
    process = start("backfill", "--from", THURSDAY, "--to", SUNDAY, METRICS_DATABASE_URL=database_url)
    stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert list(table(stdout)) == ["2025-07-11", "2025-07-13"]
    assert "Left out: 2025-07-10 is sealed: 7 of its raw logs were pruned" in stdout
    assert re.fullmatch(r"Error: Run \S+ failed. 2025-07-12 is stored as a day of Asia/Tokyo, .*\n", stderr)
    assert_equal_to_oracle(database, FRIDAY, SUNDAY)


@pytest.fixture
def stopped_at_saturday(
    start: Start, logs: None, database: Database, database_url: str
) -> Callable[[signal.Signals], tuple[int, str, str]]:
    """Sends a signal to a backfill that has stored Friday and is about to store Saturday."""

    def stop(signal_: signal.Signals) -> tuple[int, str, str]:
        with database.engine.connect() as connection:
            lock_day(connection, day_window(SATURDAY, "UTC"))
            process = start("backfill", "--from", FRIDAY, "--to", SUNDAY, METRICS_DATABASE_URL=database_url)
            wait_until(lambda: waiting_for_locks(database) == 1)
            process.send_signal(signal_)
            stdout, stderr = process.communicate(timeout=HANGING_SECONDS)
        assert process.returncode is not None
        return process.returncode, stdout, stderr

    return stop


@pytest.mark.end_to_end
@pytest.mark.parametrize("signal_", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.ci)])
def test_a_backfill_that_is_interrupted_keeps_its_days_and_goes_on_when_run_again(
    signal_: signal.Signals,
    stopped_at_saturday: Callable[[signal.Signals], tuple[int, str, str]],
    start: Start,
    database: Database,
    database_url: str,
    instance: DagsterInstance,
) -> None:
    code, stdout, stderr = stopped_at_saturday(signal_)
    assert code == 130
    assert stderr == "Interrupted. 1 day is stored; run the command again to go on.\n"
    assert list(table(stdout)) == ["2025-07-11"]
    assert list(ledger(database)) == [FRIDAY]
    assert last_run(instance).status.value == "FAILURE"

    again = start("backfill", "--from", FRIDAY, "--to", SUNDAY, METRICS_DATABASE_URL=database_url)
    assert list(table(again.communicate()[0])) == ["2025-07-12", "2025-07-13"]
    assert again.returncode == 0
    assert_equal_to_oracle(database, *DAYS)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("correction", "option", "days"),
    [
        (None, (), ["2025-07-12", "2025-07-13"]),
        pytest.param(
            "UPDATE agent_execution_logs SET cost_usd = 1",
            (),
            ["2025-07-11", "2025-07-12", "2025-07-13"],
            marks=pytest.mark.ci,
        ),
        pytest.param(
            None,
            ("--include-inactive-agents",),
            ["2025-07-11", "2025-07-12", "2025-07-13"],
            marks=pytest.mark.ci,
        ),
    ],
    ids=["as it was", "logs corrected since", "other agents"],
)
def test_a_backfill_that_is_killed_is_finished_by_the_next_which_repeats_only_what_has_changed(
    stopped_at_saturday: Callable[[signal.Signals], tuple[int, str, str]],
    start: Start,
    database: Database,
    database_url: str,
    instance: DagsterInstance,
    correction: str | None,
    option: tuple[str, ...],
    days: list[str],
) -> None:
    code, _, _ = stopped_at_saturday(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert list(ledger(database)) == [FRIDAY]
    killed = last_run(instance)
    if correction:
        execute(database, correction)
    again = start("backfill", "--from", FRIDAY, "--to", SUNDAY, *option, METRICS_DATABASE_URL=database_url)
    stdout, _ = again.communicate(timeout=HANGING_SECONDS)
    assert again.returncode == 0
    assert list(table(stdout)) == days
    assert f"Went on where run {killed.run_id} stopped" in stdout
    assert_equal_to_oracle(database, *DAYS, include_inactive=bool(option))
    assert instance.get_run_by_id(killed.run_id).status.value == "FAILURE"
    assert last_run(instance).parent_run_id == killed.run_id


@pytest.mark.end_to_end
def test_an_interrupt_ends_the_pause_before_the_next_attempt(
    start: Start, logs: None, database: Database, database_url: str, instance: DagsterInstance
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    execute(database, f"ALTER DATABASE \"{name}\" SET lock_timeout = '50ms'")
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK TABLE agent_performance_metrics IN EXCLUSIVE MODE")
        process = start("aggregate", "--date", SUNDAY, function=PATIENT, METRICS_DATABASE_URL=database_url)
        wait_until(lambda: "Trying again in 3600 s." in messages(instance, SUNDAY))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=HANGING_SECONDS)
    assert process.returncode == 130
    assert stderr == "Interrupted. 0 days are stored; run the command again to go on.\n"


def test_an_interrupt_while_the_program_is_imported_shows_no_traceback() -> None:
    code = (
        "import os, signal, sys; from metrics_pipeline.__main__ import main; sys.addaudithook(lambda event, given: "
        "event == 'import' and given[0] == 'metrics_pipeline.cli' and os.kill(os.getpid(), signal.SIGINT)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def messages(instance: DagsterInstance, day: date) -> str:
    tags = {"dagster/partition": day.isoformat()}
    runs = instance.get_runs(RunsFilter(tags=tags), limit=1)
    return "\n".join(entry.user_message for run in runs for entry in instance.all_logs(run.run_id))


@pytest.mark.end_to_end
def test_two_commands_for_one_day_at_once_both_succeed_with_one_right_result(
    start: Start, logs: None, database: Database, database_url: str
) -> None:
    arguments = ("aggregate", "--date", FRIDAY)
    with database.engine.connect() as connection:
        lock_day(connection, day_window(FRIDAY, "UTC"))
        both = [start(*arguments, METRICS_DATABASE_URL=database_url) for _ in range(2)]
        # Both have read the day and wait to publish it.
        wait_until(lambda: waiting_for_locks(database) == 2 or any(process.poll() is not None for process in both))
    rows = [table(process.communicate(timeout=HANGING_SECONDS)[0])["2025-07-11"][4:7] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(rows) == [["0", "0", "8"], ["8", "0", "0"]]
    assert_equal_to_oracle(database, FRIDAY)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs a command in this process and returns its stderr. It must end with the given code before it starts a run."""

    def run(*arguments: object, code: int = 1, **environment: str) -> str:
        monkeypatch.setenv("METRICS_PIPELINE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("COLUMNS", "200")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["metrics-pipeline", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert not (tmp_path / "home").exists()
        if code == 1:
            assert re.fullmatch("Error: .*\n", printed.err)
        return printed.err

    return run


TODAY = datetime.now(UTC).date()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("aggregate", "--date", TODAY + timedelta(days=2)), r"has not ended in UTC.*The last complete day is 2"),
        (("backfill", "--from", FRIDAY, "--to", TODAY + timedelta(days=2)), "has not ended in UTC"),
        (("backfill", "--from", SUNDAY, "--to", FRIDAY), "The first day, 2025-07-13, comes after the last, 2025-07-11"),
        (("backfill", "--from", "2024-12-31", "--to", FRIDAY), "2024-12-31 lies before METRICS_START_DATE, 2025-01-01"),
    ],
)
def test_days_that_cannot_be_aggregated_are_one_sentence(
    refused: Callable[..., str], arguments: tuple[object, ...], sentence: str
) -> None:
    assert re.search(sentence, refused(*arguments, METRICS_DATABASE_URL="postgresql://u@127.0.0.1:1/m"))


@pytest.mark.parametrize("day", ["yesterday", "2025-02-30", "2025-7-11", "20250711", "2025-W28-5", ""])
def test_a_date_that_is_not_written_as_yyyy_mm_dd_is_a_usage_error(refused: Callable[..., str], day: str) -> None:
    assert f"Invalid value for '--date': {day!r} is not a date; use YYYY-MM-DD." in refused(
        "aggregate", "--date", day, code=2
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("aggregate --format JSN", "'JSN' is not one of table, json, csv. Did you mean json?"),
        ("db check --for pipeline --for x", "'x' is not one of pipeline, retention, reader, operator, alerts."),
        ("logs load spans --format otpl", "'otpl' is not otlp. Did you mean otlp?"),
        ("db adapt litelm", ", otel. Did you mean litellm? For another table: --from TABLE."),
        ("status --days 0", "'0' is not a whole number from 1 to 3,660."),
        ("logs load spans --max-mib 1.5", "'1.5' is not a whole number from 1 on."),
    ],
)
def test_a_choice_or_a_number_that_is_none_is_refused_with_those_that_are_accepted(
    refused: Callable[..., str], arguments: str, sentence: str
) -> None:
    assert f"{sentence} " in refused(*arguments.split(), code=2)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("METRICS_TIME_ZONE", "Berlin", "METRICS_TIME_ZONE is 'Berlin', which is not a time zone"),
        ("METRICS_START_DATE", "soon", "METRICS_START_DATE is 'soon', which is not a date"),
        ("METRICS_DATABASE_URL", "postgresql://alice:s3cr@t/x@h/m", "METRICS_DATABASE_URL"),
        (
            "METRICS_DATABASE_URL",
            "postgresql://alice:s3cr%zzt@h/m",
            "METRICS_DATABASE_URL is not a PostgreSQL URL",
        ),
        ("METRICS_DATABASE_URL", "postgresql://alice:s3cret@127.0.0.1:1/m", "connection to database m on 127.0.0.1:1"),
    ],
)
def test_a_setting_or_database_that_cannot_be_used_is_one_sentence_without_a_password(
    refused: Callable[..., str], name: str, value: str, sentence: str
) -> None:
    error = refused("aggregate", "--date", FRIDAY, **{name: value})
    assert sentence in error
    assert "s3cr" not in error


def test_missing_tables_name_the_command_that_makes_them(
    refused: Callable[..., str], database: Database, database_url: str
) -> None:
    execute(database, "DROP TABLE metrics_pipeline_alembic_version")
    assert "Run `metrics-pipeline db upgrade`." in refused(
        "aggregate", "--date", FRIDAY, METRICS_DATABASE_URL=database_url
    )


def test_a_dagster_home_that_is_no_folder_is_one_sentence(refused: Callable[..., str], database_url: str) -> None:
    error = refused("aggregate", "--date", FRIDAY, METRICS_DATABASE_URL=database_url, DAGSTER_HOME="/nowhere")
    assert "DAGSTER_HOME is '/nowhere'" in error
