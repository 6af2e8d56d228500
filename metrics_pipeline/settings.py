"""The configuration: the only reader of os.environ, and one frozen object that holds what it read."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import platformdirs

from metrics_pipeline.errors import PermanentError, SettingsError
from metrics_pipeline.metrics.retention import MAX_DAYS, RetentionPolicy

DEFAULT_TIME_ZONE = "UTC"
DEFAULT_START_DATE = date(2025, 1, 1)
DEFAULT_LOOKBACK_DAYS = 14
DEFAULT_DAGSTER_WEBSERVER_URL = "http://127.0.0.1:3000"
_MAX_LOOKBACK_DAYS = 366
# Dagster counts the days one by one, and at the calendar's ends a day has no neighbour.
_FIRST_DATE = date(1900, 1, 1)
_LAST_DATE = date(9998, 12, 31)

_NO_ZONE = re.compile(r"(?:right|posix)/|(?:localtime|posixrules|Factory)$")

#: What Dagster accepts as an owner.
_OWNER = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}|team:.+")

#: 32 characters of the alphabet of RFC 6750's bearer tokens: more than 128 random bits in base64 or hexadecimal.
_TOKEN_ENTRY = re.compile(
    r"(?P<name>[\w.-]{1,64}):(?P<role>read|trigger):(?P<token>[A-Za-z0-9._~+/-]{32,}=*)", re.ASCII
)


@dataclass(frozen=True)
class ApiToken:
    """Somebody's access to the API. Of the token itself only its SHA-256 is kept."""

    name: str
    may_trigger: bool
    sha256: bytes = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """What one process was configured with.

    `database_url` may hold a password, so it stays out of repr. None means the embedded server under `home`.
    `dagster_home` is an instance that somebody else set up; None means ours under `home`.
    `owners` are email addresses and team:NAME, whom the UI names.
    `api_database_url` is the API's own way to the same database; None means `database_url`.
    """

    home: Path
    database_url: str | None = field(default=None, repr=False)
    time_zone: str = DEFAULT_TIME_ZONE
    start_date: date = DEFAULT_START_DATE
    lookback_days: int = DEFAULT_LOOKBACK_DAYS
    dagster_home: Path | None = None
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    owners: tuple[str, ...] = ()
    api_database_url: str | None = field(default=None, repr=False)
    api_tokens: tuple[ApiToken, ...] = ()
    dagster_webserver_url: str = DEFAULT_DAGSTER_WEBSERVER_URL

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Reads METRICS_* variables; an empty one counts as unset.

        Raises SettingsError, which names the variable, its value and what would be accepted.
        """
        env = os.environ if environment is None else environment
        return cls(
            home=_home(env.get("METRICS_PIPELINE_HOME")),
            database_url=env.get("METRICS_DATABASE_URL") or None,
            time_zone=_time_zone(env.get("METRICS_TIME_ZONE") or DEFAULT_TIME_ZONE),
            dagster_home=Path(env["DAGSTER_HOME"]) if env.get("DAGSTER_HOME") else None,
            lookback_days=_days(
                "METRICS_LOOKBACK_DAYS", env.get("METRICS_LOOKBACK_DAYS"), DEFAULT_LOOKBACK_DAYS, _MAX_LOOKBACK_DAYS
            ),
            retention=_retention(env),
            start_date=_date("METRICS_START_DATE", env.get("METRICS_START_DATE"), DEFAULT_START_DATE),
            owners=_owners(env.get("METRICS_OWNERS") or ""),
            api_database_url=env.get("METRICS_API_DATABASE_URL") or None,
            api_tokens=_tokens(env.get("METRICS_API_TOKENS") or ""),
            dagster_webserver_url=_http_url(
                "DAGSTER_WEBSERVER_URL", env.get("DAGSTER_WEBSERVER_URL") or DEFAULT_DAGSTER_WEBSERVER_URL
            ),
        )


def _home(value: str | None) -> Path:
    home = value or platformdirs.user_data_dir("metrics_pipeline", appauthor=False)
    try:
        return Path(home).expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(
            f"METRICS_PIPELINE_HOME is {home!r}, and there is no such user. Set it to a folder of your own."
        ) from error


def _time_zone(name: str) -> str:
    # ZoneInfo raises ValueError for a path-like key, KeyError's ZoneInfoNotFoundError for an unknown one,
    # and OSError for the name of a directory of the database, such as "America".
    # Beside the database's own zones, systems keep files whose names mean another zone on another machine, or count
    # leap seconds.
    try:
        is_zone = not _NO_ZONE.match(name) and bool(ZoneInfo(name))
    except (KeyError, ValueError, OSError):
        is_zone = False
    if not is_zone:
        raise SettingsError(
            f"METRICS_TIME_ZONE is {name!r}, which is no time zone of the IANA database. "
            "Set a name such as UTC, Europe/Berlin or America/New_York."
        )
    return name


def _days(variable: str, value: str | None, default: int, most: int) -> int:
    if not value:
        return default
    if not re.fullmatch("0*[0-9]{1,9}", value, re.ASCII) or not 1 <= int(value[-9:]) <= most:
        raise SettingsError(f"{variable} is {value!r}. Set a whole number of days from 1 to {most:,}.")
    return int(value[-9:])


def _retention(env: Mapping[str, str]) -> RetentionPolicy:
    names = {
        "raw_log_days": "METRICS_RETENTION_RAW_LOG_DAYS",
        "metric_days": "METRICS_RETENTION_METRIC_DAYS",
        "alert_days": "METRICS_RETENTION_ALERT_DAYS",
    }
    defaults = RetentionPolicy()
    days = {
        field: _days(variable, env.get(variable), getattr(defaults, field), MAX_DAYS)
        for field, variable in names.items()
    }
    try:
        return RetentionPolicy(**days)
    except PermanentError as error:
        raise SettingsError(f"{', '.join(names.values())} contradict each other. {error}") from error


def _date(variable: str, value: str | None, default: date) -> date:
    if not value:
        return default
    try:
        day = date.fromisoformat(value)
    except ValueError as error:
        raise SettingsError(f"{variable} is {value!r}, which is no date. Write it as YYYY-MM-DD.") from error
    if not _FIRST_DATE <= day <= _LAST_DATE:
        raise SettingsError(f"{variable} is {value!r}. Set a date from {_FIRST_DATE} to {_LAST_DATE}.")
    return day


def _owners(value: str) -> tuple[str, ...]:
    owners = tuple(dict.fromkeys(owner.strip() for owner in value.split(",") if owner.strip()))
    for owner in owners:
        if not _OWNER.fullmatch(owner):
            raise SettingsError(
                f"METRICS_OWNERS names {owner!r}, which is no owner. "
                "Set email addresses and team:NAME, with commas between them."
            )
    return owners


def _tokens(value: str) -> tuple[ApiToken, ...]:
    # The messages count entries and quote nothing: any part of a misspelt entry may be the token.
    tokens: dict[str, ApiToken] = {}
    digests = set()
    for number, entry in enumerate(value.split(",") if value else [], start=1):
        match = _TOKEN_ENTRY.fullmatch(entry.strip())
        if match is None:
            raise SettingsError(
                f"Entry {number} of METRICS_API_TOKENS cannot be read. Write name:role:token, separated by commas: a "
                "name of letters, digits, . _ and -, the role read or trigger, and a token of at least 32 characters "
                "(letters, digits and . _ ~ + / - with = at the end), such as openssl rand -hex 32 prints."
            )
        token = ApiToken(match["name"], match["role"] == "trigger", hashlib.sha256(match["token"].encode()).digest())
        if token.name in tokens or token.sha256 in digests:
            raise SettingsError(
                f"Entry {number} of METRICS_API_TOKENS repeats the name or the token of an earlier one. "
                "Give each user a name and a token of their own."
            )
        tokens[token.name] = token
        digests.add(token.sha256)
    return tuple(tokens.values())


def _http_url(variable: str, value: str) -> str:
    remedy = f"Set {variable} to the address that the UI has in a browser, such as {DEFAULT_DAGSTER_WEBSERVER_URL}."
    try:
        url = urlsplit(value)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or re.search(r"[\s\x00-\x1f?#]", value):
        raise SettingsError(f"{variable} is no HTTP URL. {remedy}")
    if "@" in url.netloc:
        raise SettingsError(f"{variable} holds a user or a password, which would stand in links and logs. {remedy}")
    return value.rstrip("/")
