"""The configuration: the only reader of os.environ. Each variable is declared once, with the field that it sets."""
# ruff: noqa: RUF009 - _variable returns a dataclasses.field

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
from dotenv import dotenv_values

from metrics_pipeline.errors import PermanentError, SettingsError
from metrics_pipeline.metrics.alert_rules import DEFAULT_RULES, Alerting, AlertRules, read_alert_rules
from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.dimensions import MAX_DIMENSIONS, Dimension, parse_dimensions
from metrics_pipeline.metrics.distributions import UserKey
from metrics_pipeline.metrics.retention import RetentionPolicy
from metrics_pipeline.names import ALERTS_TABLE
from metrics_pipeline.variables import (
    FIRST_DATE,
    LAST_DATE,
    LOG_COLUMN_NAMES,
    MIN_KEY_CHARACTERS,
    RETENTION_VARIABLES,
    STATUSES,
    ApiToken,
    Receiver,
    Variable,
    contradictions,
    number_of_days,
    parse_alerts_to,
    parse_date,
    parse_days,
    parse_home,
    parse_http_url,
    parse_logs_columns,
    parse_logs_table,
    parse_logs_url,
    parse_owners,
    parse_receivers,
    parse_statuses,
    parse_time_zone,
    parse_tokens,
    parse_user_key,
)

_MAX_LOOKBACK_DAYS = 366

# An empty secret is a mistake of the deployment: it must not lead to a database that nobody meant, to a server without
# tokens, or to another key.
_NEVER_EMPTY = ("database_url", "api_database_url", "api_tokens", "user_key", "notify", "notify_daily", "notify_weekly")

#: The home where none is set and the user has no home directory. Nothing can be created below it.
NO_HOME = Path(os.devnull, "home")

#: The settings whose defaults the demo leaves in files of the home, with these names. Without the first day, the UI
#: would show years of days that never were; without the dimensions, the next run would store its day without them.
REMEMBERED = ("start_date", "dimensions")


def _variable(
    name: str,
    description: str,
    accepts: str,
    parse: Callable[[str], Any] = str,
    *,
    default: Any = None,
    is_secret: bool = False,
) -> Any:
    default_text = "" if default in (None, (), MISSING, DEFAULT_RULES) else str(default)
    variable = Variable(name, description, accepts, parse, default_text, is_secret)
    return field(default=default, repr=not is_secret, metadata={"variable": variable})


def _further_statuses(name: str, word: str, example: str) -> Any:
    return _variable(
        name,
        f"The statuses of logs that count as '{word}', beside this word itself. Stored days with such logs turn dirty. "
        "Unset: none.",
        f"{STATUSES} {example}",
        parse_statuses,
        default=(),
    )


def _default_home() -> Path:
    try:
        return Path(platformdirs.user_data_dir("metrics_pipeline", appauthor=False))
    except RuntimeError:
        # Neither HOME nor an entry in the password database, as in many containers.
        return NO_HOME


def no_home(reason: str) -> str:
    """The message where NO_HOME does not do."""
    return (
        f"METRICS_PIPELINE_HOME is not set, user {os.geteuid()} has no home directory, and {reason}. "
        "Set METRICS_PIPELINE_HOME to a folder of your own, or both METRICS_DATABASE_URL and DAGSTER_HOME."
    )


@dataclass(frozen=True)
class Settings:
    """What one process was configured with. The variable of each field says what it means.

    None as `database_url` means the embedded server under `home`, as `dagster_home` our instance under `home`, and as
    `api_database_url` the same as `database_url`.
    """

    home: Path = _variable(
        "METRICS_PIPELINE_HOME",
        "The folder of the embedded server and of the Dagster instance. Unset: one in the user's data directory.",
        "the path of a folder of your own",
        parse_home,
        default=MISSING,
    )
    database_url: str | None = _variable(
        "METRICS_DATABASE_URL",
        "The PostgreSQL that holds the logs and the metrics. Unset: the embedded server.",
        "a URL such as postgresql://user:password@host:5432/database?sslmode=require",
        is_secret=True,
    )
    logs_url: str | None = _variable(
        "METRICS_LOGS_URL",
        "The lake or the Spark that holds the logs. Unset: agent_execution_logs in the database.",
        "a URL such as parquet:///lake/logs/date={date}/*.parquet, parquet:s3://bucket/logs/{date:%Y/%m/%d}/*.parquet, "
        "delta:///lake/logs, delta:s3://bucket/logs, iceberg:catalog/namespace.table, sc://host:15002, "
        "spark://host:7077 or spark:local[2]",
        parse_logs_url,
        is_secret=True,
    )
    logs_table: str | None = _variable(
        "METRICS_LOGS_TABLE",
        "The table, view or files with the logs in the Spark that METRICS_LOGS_URL names. Unset: no Spark is used.",
        "a name of Spark's SQL such as ops.agent_logs, or files such as parquet.`/lake/logs`",
        parse_logs_table,
    )
    logs_columns: tuple[tuple[str, str], ...] = _variable(
        "METRICS_LOGS_COLUMNS",
        "The columns of the lake that have other names than those of agent_execution_logs. Unset: none.",
        "our names with the lake's, such as agent_id=agent,latency_ms=duration; ours are "
        + ", ".join(LOG_COLUMN_NAMES),
        parse_logs_columns,
        default=(),
    )
    success_statuses: tuple[str, ...] = _further_statuses("METRICS_SUCCESS_STATUSES", SUCCESS_STATUS, "ok,SUCCESS")
    failed_statuses: tuple[str, ...] = _further_statuses("METRICS_FAILED_STATUSES", FAILED_STATUS, "error,FAILED")
    time_zone: str = _variable(
        "METRICS_TIME_ZONE",
        "The time zone whose calendar days are aggregated.",
        "a name such as UTC, Europe/Berlin or America/New_York",
        parse_time_zone,
        default="UTC",
    )
    start_date: date = _variable(
        "METRICS_START_DATE",
        "The first day that is aggregated. Unset, the embedded database of the demo begins with its first day.",
        f"a date from {FIRST_DATE} to {LAST_DATE}, written as YYYY-MM-DD",
        parse_date,
        default=date(2025, 1, 1),
    )
    lookback_days: int = _variable(
        "METRICS_LOOKBACK_DAYS",
        "How many days back the schedule and the sensor look for missing days and for late or corrected logs.",
        number_of_days(_MAX_LOOKBACK_DAYS),
        partial(parse_days, most=_MAX_LOOKBACK_DAYS),
        default=14,
    )
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    dimensions: tuple[Dimension, ...] = _variable(
        "METRICS_DIMENSIONS",
        "By what the metrics of each agent are also broken down. Applies to days that are aggregated from then on. "
        "Unset: no breakdown; the embedded database of the demo by model and version.",
        f"up to {MAX_DIMENSIONS} entries, separated by commas, each a name of its own (model: the key of metadata), "
        "name=metadata.key (keys may be nested: metadata.release.version) or name=column of agent_execution_logs, such "
        "as model,version=metadata.release",
        parse_dimensions,
        default=(),
    )
    user_key: UserKey | None = _variable(
        "METRICS_USER_KEY",
        "The secret with which user ids are hashed before they are stored. Unset: one that the database was given with "
        "its tables. Users of days before and after a change of it cannot be counted together.",
        f"a text of at least {MIN_KEY_CHARACTERS} characters, such as openssl rand -hex 32 prints",
        parse_user_key,
        is_secret=True,
    )
    alert_rules: AlertRules = _variable(
        "METRICS_ALERT_RULES",
        "The file with the rules of alerts that differ from the defaults. Unset: the defaults.",
        "the path of a YAML file of rules",
        read_alert_rules,
        default=DEFAULT_RULES,
    )
    owners: tuple[str, ...] = _variable(
        "METRICS_OWNERS",
        "The owners that the Dagster UI shows: email addresses and team:NAME, separated by commas. Unset: none.",
        "email addresses and team:NAME, separated by commas",
        parse_owners,
        default=(),
    )
    notify: tuple[Receiver, ...] = _variable(
        "METRICS_NOTIFY",
        "Who is told of alerts: Slack, Teams, e-mail, PagerDuty, webhooks and others. Unset: nobody.",
        "URLs of the library apprise, separated by white space, such as mailtos://user:password@mail.example?to=ops@a.example",
        parse_receivers,
        default=(),
        is_secret=True,
    )
    notify_daily: tuple[Receiver, ...] = _variable(
        "METRICS_NOTIFY_DAILY",
        "Who gets a summary of each day, once it is due and stored. Unset: nobody.",
        "URLs as in METRICS_NOTIFY",
        parse_receivers,
        default=(),
        is_secret=True,
    )
    notify_weekly: tuple[Receiver, ...] = _variable(
        "METRICS_NOTIFY_WEEKLY",
        "Who gets a summary of each week from Monday to Sunday, once its Sunday is due and stored. Unset: nobody.",
        "URLs as in METRICS_NOTIFY",
        parse_receivers,
        default=(),
        is_secret=True,
    )
    alerts_to: str | None = _variable(
        "METRICS_ALERTS_TO",
        "The table of the platform into which alerts of agents are also written, as rows of an alert_type of our own. "
        "Unset: none.",
        ALERTS_TABLE,
        parse_alerts_to,
    )
    dagster_home: Path | None = _variable(
        "DAGSTER_HOME",
        "A Dagster instance of your own. Unset: one under METRICS_PIPELINE_HOME.",
        "the path of a folder with a dagster.yaml",
        Path,
    )
    api_tokens: tuple[ApiToken, ...] = _variable(
        "METRICS_API_TOKENS",
        "Who may use the API, as name:role:token with the role read or trigger, separated by commas. Unset: every user "
        "of this machine, and nobody else.",
        "entries name:role:token, separated by commas, each with a name and a token of its own: a name of letters, "
        "digits, . _ and -, the role read or trigger, and a token of at least 32 characters (letters, digits and "
        ". _ ~ + / - with = at the end), such as openssl rand -hex 32 prints",
        parse_tokens,
        default=(),
        is_secret=True,
    )
    api_database_url: str | None = _variable(
        "METRICS_API_DATABASE_URL",
        "The API's own login to the same database, for a role that may only read. Unset: METRICS_DATABASE_URL.",
        "a URL such as postgresql://user:password@host:5432/database?sslmode=require",
        is_secret=True,
    )
    dagster_webserver_url: str = _variable(
        "DAGSTER_WEBSERVER_URL",
        "Dagster's webserver, through which the API starts runs.",
        "the address at which the API reaches it, such as http://webserver:3000",
        parse_http_url,
        default="http://127.0.0.1:3000",
        is_secret=True,
    )
    dagster_url: str | None = _variable(
        "METRICS_DAGSTER_URL",
        "The Dagster UI, for links from messages, the page and the API. Unset: DAGSTER_WEBSERVER_URL.",
        "the address that the UI has in a browser, such as https://dagster.example",
        parse_http_url,
        is_secret=True,
    )
    api_url: str | None = _variable(
        "METRICS_API_URL",
        "The page and the API. Unset: the Dagster UI has no links to them, except in metrics-pipeline dev.",
        "the address that the page has in a browser, such as https://metrics.example",
        parse_http_url,
        is_secret=True,
    )
    source_url: str | None = _variable(
        "METRICS_SOURCE_URL",
        "The files of this repository at the installed version. Unset: the Dagster UI has no links to the "
        "documentation, and names the code's local files.",
        "the address of the repository's folder in a browser, such as https://git.example/metrics_pipeline/tree/main",
        parse_http_url,
        is_secret=True,
    )

    @property
    def ui_url(self) -> str:
        """The Dagster UI as a browser reaches it."""
        return self.dagster_url or self.dagster_webserver_url

    @property
    def alerting(self) -> Alerting:
        """The rules of alerts, and for how many days back somebody is told."""
        return Alerting(self.alert_rules, self.lookback_days)

    @property
    def statuses(self) -> dict[str, str]:
        """What each further status of a log counts as: SUCCESS_STATUS or FAILED_STATUS."""
        return dict.fromkeys(self.success_statuses, SUCCESS_STATUS) | dict.fromkeys(self.failed_statuses, FAILED_STATUS)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Reads the variables; an empty one counts as unset, except a database's URL, the API's tokens, the users' key
        and the receivers.

        Raises SettingsError, which names each variable that cannot be used, its value if that is not secret, and what
        would be accepted.
        """
        environment = os.environ if environment is None else environment
        given = {name: text for name, text in environment.items() if text}
        values: dict[str, Any] = {"home": _default_home()}
        refusals = [
            f"{variable.name} is set but empty. Set {variable.accepts}, or unset it."
            for variable in map(VARIABLES.__getitem__, _NEVER_EMPTY)
            if environment.get(variable.name) == ""
        ]
        for name, variable in VARIABLES.items():
            if variable.name in given:
                try:
                    values[name] = variable.parse(given[variable.name])
                except ValueError as error:
                    refusals.append(variable.refusal(given[variable.name], error))
        refusals = refusals or contradictions(values)
        # Not from the error: what a parser stumbled over may be a secret.
        if refusals:
            raise SettingsError("\n".join(refusals))
        try:
            policy = RetentionPolicy(**{name: values.pop(name) for name in RETENTION_VARIABLES if name in values})
        except PermanentError as error:
            names = ", ".join(variable.name for variable in RETENTION_VARIABLES.values())
            raise SettingsError(f"{names} contradict each other. {error}") from error
        if "database_url" not in values:
            values = _remembered(values["home"]) | values
        if values["home"] == NO_HOME and "database_url" not in values:
            raise SettingsError(no_home("the embedded server needs one"))
        return cls(**values, retention=policy)

    def child_environment(self, dagster_home: Path) -> dict[str, str]:
        """The environment of a child process: this one's, with this home and the given Dagster instance."""
        return {**os.environ, "DAGSTER_HOME": str(dagster_home), "METRICS_PIPELINE_HOME": str(self.home)}


#: Each variable by the name of its field in Settings or RetentionPolicy, in the order of documents.
VARIABLES: dict[str, Variable] = {
    name: variable
    for setting in fields(Settings)
    for name, variable in (
        RETENTION_VARIABLES if setting.name == "retention" else {setting.name: setting.metadata["variable"]}
    ).items()
}


def _remembered(home: Path) -> dict[str, Any]:
    found = {}
    for name in REMEMBERED:
        path, variable = home / name, VARIABLES[name]
        try:
            if path.is_file():
                found[name] = variable.parse(path.read_text(encoding="utf-8").strip())
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be read: {error.strerror}. Remove it, or name another folder in METRICS_PIPELINE_HOME."
            ) from error
        except ValueError as error:
            raise SettingsError(
                f"{path} does not hold {variable.accepts}. Remove it, or set {variable.name}."
            ) from error
    return found


def remember(home: Path, name: str, value: str) -> None:
    """Makes `value` the default of one of REMEMBERED for the embedded database under `home`. Raises OSError."""
    (home / name).write_text(f"{value}\n", encoding="utf-8")


def read_env_file() -> None:
    """Sets the variables of the file `.env` in the working directory, as `dagster dev` does: they win over others.

    Raises SettingsError if the file cannot be read.
    """
    try:
        os.environ.update({name: text for name, text in dotenv_values(".env").items() if text is not None})
    except (OSError, ValueError) as error:
        # ValueError: bytes that are not UTF-8, or characters that no variable can hold under this locale.
        raise SettingsError(f"{Path('.env').absolute()} cannot be read: {error}. Correct or remove it.") from error


def forget_database_url() -> bool:
    """Removes METRICS_DATABASE_URL from the environment of this process and of children. Returns whether it was set."""
    return bool(os.environ.pop("METRICS_DATABASE_URL", None))
