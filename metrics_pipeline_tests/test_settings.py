"""Settings whose values Dagster or people see."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_pipeline.cli import main
from metrics_pipeline.definitions import build_defs
from metrics_pipeline.errors import SettingsError
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY
from metrics_pipeline.orchestration.instance import instance_folder
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.postgres.upgrading import require_current
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline.settings import VARIABLES, Settings
from metrics_pipeline_tests.examples import examples


@pytest.mark.parametrize(
    ("value", "owners"),
    [
        ("", ()),
        ("team:agents", ("team:agents",)),
        (
            " team:agent platform , ops+metrics@example.com,, team:agent platform",
            ("team:agent platform", "ops+metrics@example.com"),
        ),
    ],
)
def test_owners_are_what_dagster_accepts(value: str, owners: tuple[str, ...]) -> None:
    assert Settings.from_environment({"METRICS_OWNERS": value}).owners == owners
    graph = build_defs(owners=owners).resolve_asset_graph()
    assert {tuple(graph.get(key).owners) for key in graph.materializable_asset_keys} == {owners}


@pytest.mark.parametrize("value", ["agents", "team:", "ops@example", "a@b.com c@d.com", "team:x,Team:y"])
def test_another_owner_is_refused_by_its_name(value: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"^METRICS_OWNERS is {value!r}, in which '.*' is not an owner\. Set email"
    ):
        Settings.from_environment({"METRICS_OWNERS": value})


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("METRICS_PIPELINE_HOME", "~nosuchuser/x", "there is no such user. Set the path of a folder of your own."),
        ("METRICS_TIME_ZONE", "localtime", "not a time zone of the IANA database. Set a name such as UTC"),
        ("METRICS_TIME_ZONE", "right/UTC", "not a time zone of the IANA database. Set a name such as UTC"),
        ("METRICS_TIME_ZONE", "posix/Europe/Berlin", "not a time zone of the IANA database. Set a name such as UTC"),
        ("METRICS_TIME_ZONE", "America", "not a time zone of the IANA database. Set a name such as UTC"),
        ("METRICS_START_DATE", "20250101", "Set a date from 1900-01-01 to 9998-12-31, written as YYYY-MM-DD."),
        ("METRICS_START_DATE", "1899-12-31", "Set a date from 1900-01-01 to 9998-12-31, written as YYYY-MM-DD."),
        ("METRICS_START_DATE", "9999-12-31", "Set a date from 1900-01-01 to 9998-12-31, written as YYYY-MM-DD."),
        ("METRICS_LOOKBACK_DAYS", "0000000019999", "Set a whole number of days from 1 to 366."),
        ("METRICS_SUCCESS_STATUSES", "ok, o'k", "separated by commas and spelled as in the logs, such as ok,SUCCESS."),
        ("METRICS_FAILED_STATUSES", "error,success", "spelled as in the logs, such as error,FAILED."),
        ("METRICS_RETENTION_ALERT_DAYS", "36601", "Set a whole number of days from 1 to 36,600, or never."),
    ],
)
def test_what_cannot_be_used_is_refused_with_variable_value_and_remedy(variable: str, value: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({variable: value})
    assert str(raised.value).startswith(f"{variable} is {value!r}")
    assert remedy in str(raised.value)


def test_one_error_names_every_variable_that_cannot_be_used_and_shows_no_secret() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(
            {
                "METRICS_TIME_ZONE": "Mars/Base",
                "METRICS_API_TOKENS": SECRET,
                "METRICS_USER_KEY": SECRET,
                "METRICS_LOGS_URL": SECRET,
                "METRICS_RETENTION_RAW_LOG_DAYS": "many",
                "METRICS_LOOKBACK_DAYS": "7",
            }
        )
    said = str(raised.value).splitlines()
    assert [line.split()[0] for line in said] == [
        "METRICS_LOGS_URL",
        "METRICS_TIME_ZONE",
        "METRICS_RETENTION_RAW_LOG_DAYS",
        "METRICS_USER_KEY",
        "METRICS_API_TOKENS",
    ]
    assert said[0].startswith("METRICS_LOGS_URL names neither a lake nor a Spark. Set a URL such as parquet:///")
    assert said[2] == (
        "METRICS_RETENTION_RAW_LOG_DAYS is 'many', which cannot be used. Set a whole number of days from 1 to 36,600, "
        "or never."
    )
    assert SECRET not in "".join(traceback.format_exception(raised.value))


#: Secrets that may not be empty: their absence means something else.
MEANT = {
    "METRICS_DATABASE_URL",
    "METRICS_API_DATABASE_URL",
    "METRICS_API_TOKENS",
    "METRICS_USER_KEY",
    "METRICS_NOTIFY",
    "METRICS_NOTIFY_DAILY",
    "METRICS_NOTIFY_WEEKLY",
}


def test_the_declared_default_of_each_variable_means_the_same_as_leaving_it_unset() -> None:
    unset = Settings.from_environment({})
    defaults = {variable.name: variable.default for variable in VARIABLES.values() if variable.default}
    assert {name: defaults[name] for name in ("METRICS_TIME_ZONE", "METRICS_RETENTION_METRIC_DAYS")} == {
        "METRICS_TIME_ZONE": "UTC",
        "METRICS_RETENTION_METRIC_DAYS": "365",
    }
    for name, default in defaults.items():
        assert Settings.from_environment({name: default}) == unset
    empty = {variable.name: "" for variable in VARIABLES.values() if variable.name not in MEANT}
    assert Settings.from_environment(empty) == unset


def test_a_status_cannot_count_as_success_and_as_failed() -> None:
    with pytest.raises(
        SettingsError, match=r"^METRICS_SUCCESS_STATUSES and METRICS_FAILED_STATUSES both name 'done'\."
    ):
        Settings.from_environment({"METRICS_SUCCESS_STATUSES": "ok,done", "METRICS_FAILED_STATUSES": "done"})


@pytest.mark.parametrize("name", ["METRICS_DATABASE_URL", "METRICS_API_DATABASE_URL"])
def test_an_empty_secret_never_leads_to_another_database(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is set but empty. Set a URL such as .*, or unset it.$"):
        Settings.from_environment({name: ""})


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the password database, as in many containers."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("XDG_DATA_HOME")


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home_needs_none_where_the_databases_are_elsewhere(tmp_path: Path, database_url: str) -> None:
    settings = Settings.from_environment({"METRICS_DATABASE_URL": database_url, "DAGSTER_HOME": str(tmp_path)})
    assert instance_folder(settings) == tmp_path
    with open_database(settings).connect() as connection:
        require_current(connection)


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home_is_told_so_where_one_is_needed() -> None:
    for_runs = Settings.from_environment({"METRICS_DATABASE_URL": "postgresql://h/m"})
    needing: list[Callable[[], object]] = [lambda: Settings.from_environment({}), lambda: instance_folder(for_runs)]
    for call in needing:
        with pytest.raises(
            SettingsError, match=r"has no home directory, and .* needs? one\. Set METRICS_PIPELINE_HOME"
        ):
            call()


@pytest.mark.parametrize(
    "code",
    [
        "from metrics_pipeline.settings import read_env_file; read_env_file()",
        "from dagster._core.secrets.env_file import get_env_var_dict; os.environ.update(get_env_var_dict(os.getcwd()))",
    ],
    ids=["our commands", "dagster dev"],
)
def test_a_file_env_beside_the_project_means_the_same_to_our_commands_as_to_dagster_dev(
    code: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "export METRICS_TIME_ZONE='Mars/Base' # where\nMETRICS_OWNERS=x${METRICS_TIME_ZONE}\n"
    )
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os; {code}; print(os.environ['METRICS_TIME_ZONE'], os.environ['METRICS_OWNERS'])",
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "METRICS_TIME_ZONE": "UTC"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert told.stdout == "Mars/Base xMars/Base\n"


@pytest.mark.end_to_end
def test_files_are_read_and_written_as_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(mode=0o700)
    code = (
        "import sys; from pathlib import Path; from metrics_pipeline.orchestration.instance import write_instance; "
        "write_instance(Path(sys.argv[1]), force=True)"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for folder, variables in (("a", locale), ("b", {"PYTHONUTF8": "1"})):
        subprocess.run(
            [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning:metrics_pipeline", "-c", code,
             str(tmp_path / folder)],
            env={"PATH": os.environ["PATH"], **variables}, check=True,
        )  # fmt: skip
    written = [(tmp_path / folder / "dagster.yaml").read_bytes() for folder in ("a", "b")]
    assert written[0].replace(b"/a/", b"/b/") == written[1]


def test_commands_read_the_file_env(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / ".env").write_text("METRICS_DATABASE_URL=\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METRICS_DATABASE_URL", "postgresql://h/m")
    monkeypatch.setattr(sys, "argv", ["metrics-pipeline", "db", "check"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("Error: METRICS_DATABASE_URL is set but empty.")


def test_numbers_of_days_may_have_leading_zeros() -> None:
    assert Settings.from_environment({"METRICS_LOOKBACK_DAYS": "00000000000021"}).lookback_days == 21


#: Those that hold passwords or tokens, which no message may repeat.
SECRETS = {
    "METRICS_DATABASE_URL", "METRICS_API_DATABASE_URL", "METRICS_API_TOKENS", "DAGSTER_WEBSERVER_URL",
    "METRICS_USER_KEY", "METRICS_API_URL", "METRICS_SOURCE_URL", "METRICS_NOTIFY", "METRICS_NOTIFY_DAILY",
    "METRICS_NOTIFY_WEEKLY", "METRICS_LOGS_URL", "METRICS_DAGSTER_URL",
}  # fmt: skip
SECRET = "hunter2"
NAMES = [
    "METRICS_DATABASE_URL", "METRICS_PIPELINE_HOME", "METRICS_TIME_ZONE", "METRICS_START_DATE", "METRICS_LOOKBACK_DAYS",
    "METRICS_LOGS_URL", "METRICS_LOGS_TABLE", "METRICS_LOGS_COLUMNS", "METRICS_SUCCESS_STATUSES",
    "METRICS_FAILED_STATUSES",
    "METRICS_RETENTION_RAW_LOG_DAYS", "METRICS_RETENTION_METRIC_DAYS", "METRICS_RETENTION_ALERT_DAYS", "METRICS_OWNERS",
    "METRICS_DIMENSIONS", "METRICS_USER_KEY", "DAGSTER_HOME", "METRICS_API_TOKENS", "METRICS_API_DATABASE_URL",
    "DAGSTER_WEBSERVER_URL", "METRICS_API_URL", "METRICS_SOURCE_URL", "METRICS_ALERT_RULES", "METRICS_NOTIFY",
    "METRICS_ALERTS_TO", "METRICS_NOTIFY_DAILY", "METRICS_NOTIFY_WEEKLY", "METRICS_DAGSTER_URL",
]  # fmt: skip


def test_every_variable_is_declared_with_a_sentence_of_description() -> None:
    assert sorted(variable.name for variable in VARIABLES.values()) == sorted(NAMES)
    assert {variable.name for variable in VARIABLES.values() if variable.is_secret} == SECRETS
    for variable in VARIABLES.values():
        assert variable.description.endswith(".")


HOSTILE = [
    " ", "0", "-1", "1.5", "NaN", "1e9", "9" * 5000, "٣", "²", "0001-01-01", "1900-01-01", "9998-12-31", "9999-12-31",
    "2025-W01-1", "2025-02-30", "'; DROP TABLE x; --", "\n", "a\nb", "\x1b[31m", "\udcff", "é", "x" * 5000, "..", "/",
    "/dev/null", "~", "~nosuchuser/x", "America", "right/UTC", "Etc/GMT+12", "Pacific/Kiritimati", "../UTC",
    "/etc/passwd",
    "team:x", "team:\x1b", "a@b.co", "http://x", "http://" + "a" * 300, "http://a..b", "http://[::1]:3", "http://[v1.x]",
    "http://x:٣", "http://\udcff/", "postgresql://", "postgresql:///?dbname=%00", "postgresql://h:٣/d",
    "postgresql://h/d?port=1,2,3&host=a", f"postgresql://u:{SECRET}@h:99999/d", f"postgresql://\udcff:{SECRET}@h/d",
    f"mysql://u:{SECRET}@h/d", "me:write:" + SECRET * 6, "me:read:" + SECRET * 6, SECRET * 6,
]  # fmt: skip


@examples(150)
@given(
    variable=st.sampled_from(NAMES),
    value=st.sampled_from(HOSTILE) | st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12),
)
@example(variable="METRICS_PIPELINE_HOME", value="x" * 5000)
def test_any_value_of_any_variable_is_usable_or_refused_by_its_name_and_value(variable: str, value: str) -> None:
    try:
        found = Settings.from_environment({variable: value})
        for name, url in (
            ("METRICS_DATABASE_URL", found.database_url),
            ("METRICS_API_DATABASE_URL", found.api_database_url),
        ):
            if url is not None:
                assert SECRET not in DatabaseUrl.parse(url, name).description
    except SettingsError as error:
        said = str(error)
        assert variable in said
        assert said.endswith((".", ")."))
        if variable in SECRETS:
            assert SECRET not in "".join(traceback.format_exception(error))  # noqa: PT017 - as Dagster shows it
        elif variable == "METRICS_OWNERS":
            assert any(repr(owner.strip()) in said for owner in value.split(","))
        elif not variable.startswith("METRICS_RETENTION"):
            assert repr(value) in said
    else:
        overrides = {field.name: getattr(found, field.name) for field in fields(found)}
        partitions = build_defs(**overrides).resolve_asset_graph().get(METRICS_ASSET_KEY).partitions_def
        assert partitions.get_first_partition_key() in (None, found.start_date.isoformat())


@pytest.mark.end_to_end
def test_the_code_location_refuses_a_value_in_a_sentence_at_the_end_of_what_dagster_shows() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import metrics_pipeline.definitions"],
        env={"PATH": os.environ["PATH"], "METRICS_TIME_ZONE": "Mars/Base"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "metrics_pipeline.errors.SettingsError: METRICS_TIME_ZONE is 'Mars/Base', which is not a time zone of the IANA "
        "database. Set a name such as UTC, Europe/Berlin or America/New_York."
    )
