"""What the text of an environment variable may be, and the value that it means: a parser for each kind of variable.

The ValueError of a parser continues a sentence that begins with the variable and its text. Also which values contradict
each other.
"""

import errno
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from metrics_pipeline.metrics.catalog import FAILED_STATUS, SUCCESS_STATUS
from metrics_pipeline.metrics.distributions import UserKey
from metrics_pipeline.metrics.retention import MAX_DAYS, NEVER, RetentionPolicy
from metrics_pipeline.metrics.upstream import LOG_COLUMNS, METADATA_KEYS
from metrics_pipeline.metrics.windows import day_of
from metrics_pipeline.names import ALERTS_TABLE

# Dagster counts the days one by one, and at the calendar's ends a day has no neighbour.
FIRST_DATE = date(1900, 1, 1)
LAST_DATE = date(9998, 12, 31)

_NO_ZONE = re.compile(r"(?:right|posix)/|(?:localtime|posixrules|Factory)$")

#: What Dagster accepts as an owner.
_OWNER = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}|team:.+")

#: 32 characters of the alphabet of RFC 6750's bearer tokens: more than 128 random bits in base64 or hexadecimal.
_TOKEN_ENTRY = re.compile(
    r"(?P<name>[\w.-]{1,64}):(?P<role>read|trigger):(?P<token>[A-Za-z0-9._~+/-]{32,}=*)", re.ASCII
)


#: Only what apprise, which takes a second to import, cannot read either. It judges the rest when it sends.
_RECEIVER_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")

MIN_KEY_CHARACTERS = 32

# {date} may have a format, such as {date:%Y/%m/%d}. Other braces would mean something else to a shell.
_LOGS_URL = re.compile(
    r"parquet:(//(?=/)|(?=s3://))([^{}]|\{date(:[^{}]*)?\})+|delta:(//(?=/)|(?=s3://))[^{}]+|iceberg:[^/]+/[^/]+\.[^/]+"
    r"|spark://[^\s/]+|sc://[^\s/]+(/\S*)?|spark:local(-cluster)?\[[\d,*]+\]"
)
_LOGS_TABLE = re.compile(r"(`[^`]+`|\w+)(\.(`[^`]+`|\w+))*")
STATUSES = "words of letters, digits, spaces and . _ -, separated by commas and spelled as in the logs, such as"
LOG_COLUMN_NAMES = (*(column.name for column in LOG_COLUMNS), *METADATA_KEYS)


@dataclass(frozen=True)
class Variable:
    """An environment variable, as help, documents and errors present it.

    accepts: what to set it to. parse: makes the field's value of a text; its ValueError says what is wrong.
    default: the text that means the same as an unset variable; where it is empty, the description says what happens.
    is_secret: a value may hold a password or a token, so no message and no repr shows it.
    """

    name: str
    description: str
    accepts: str
    parse: Callable[[str], Any]
    default: str
    is_secret: bool

    def refusal(self, text: str, reason: ValueError) -> str:
        """One sentence on the text that `parse` refused, and one on the remedy."""
        value = "" if self.is_secret else f" is {text!r},"
        return f"{self.name}{value} {reason}. Set {self.accepts}."


def parse_home(text: str) -> Path:
    """The absolute path of a folder, in which ~ means a user's home."""
    try:
        home = Path(text).expanduser().absolute()
        home.lstat()
    except RuntimeError as error:
        raise ValueError("and there is no such user") from error
    except OSError as error:
        # What else may be wrong with the folder, whoever uses it says.
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError("which is too long for a path") from error
    return home


def parse_time_zone(text: str) -> str:
    """The name of a zone of the IANA database."""
    # ZoneInfo raises ValueError for a path-like key, KeyError's ZoneInfoNotFoundError for an unknown one,
    # and OSError for the name of a directory of the database, such as "America".
    # Beside the database's own zones, systems keep files whose names mean another zone on another machine, or count
    # leap seconds.
    try:
        is_zone = not _NO_ZONE.match(text) and bool(ZoneInfo(text))
    except (KeyError, ValueError, OSError):
        is_zone = False
    if not is_zone:
        raise ValueError("which is not a time zone of the IANA database")
    return text


def parse_date(text: str) -> date:
    """A date as YYYY-MM-DD, from FIRST_DATE to LAST_DATE."""
    try:
        day = day_of(text)
    except ValueError as error:
        raise ValueError("which is not a date") from error
    if not FIRST_DATE <= day <= LAST_DATE:
        raise ValueError("which is too early or too late")
    return day


def parse_days(text: str, most: int) -> int:
    """A whole number from 1 to `most`."""
    if not re.fullmatch("0*[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text[-9:]) <= most:
        raise ValueError("which cannot be used")
    return int(text[-9:])


def days_or_never(text: str) -> int | None:
    """The number of days of a RetentionPolicy that a text means. Raises ValueError."""
    return None if text == NEVER else parse_days(text, MAX_DAYS)


def number_of_days(most: int) -> str:
    """What parse_days accepts, in words."""
    return f"a whole number of days from 1 to {most:,}"


#: The variable of each field of RetentionPolicy.
RETENTION_VARIABLES = {
    limit.name: Variable(
        f"METRICS_RETENTION_{limit.name.upper()}",
        limit.metadata["description"],
        f"{number_of_days(MAX_DAYS)}, or {NEVER}",
        days_or_never,
        default=str(limit.default),
        is_secret=False,
    )
    for limit in fields(RetentionPolicy)
}


def parse_owners(text: str) -> tuple[str, ...]:
    """The owners in a list with commas, each once."""
    owners = tuple(dict.fromkeys(owner.strip() for owner in text.split(",") if owner.strip()))
    for owner in owners:
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"in which {owner!r} is not an owner")
    return owners


def parse_http_url(text: str) -> str:
    """The address of a server or of a folder on it, without a slash at the end."""
    try:
        url = urlsplit(text)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or re.search(r"[\s\x00-\x1f?#]", text):
        raise ValueError("is not an HTTP URL")
    if "@" in url.netloc:
        raise ValueError("holds a user or a password, which would be shown in links and logs")
    return text.rstrip("/")


def parse_user_key(text: str) -> UserKey:
    """A secret of at least MIN_KEY_CHARACTERS characters."""
    if len(text) < MIN_KEY_CHARACTERS:
        raise ValueError("is too short")
    return UserKey(text.encode())


def parse_logs_url(text: str) -> str:
    """Where a lake or Spark is."""
    if not _LOGS_URL.fullmatch(text):
        raise ValueError("names neither a lake nor a Spark")
    return text


def parse_logs_table(text: str) -> str:
    """A table, a view or files, as Spark's SQL names them."""
    if not _LOGS_TABLE.fullmatch(text):
        raise ValueError("which is not a name in Spark's SQL")
    return text


def parse_logs_columns(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of one of LOG_COLUMN_NAMES and the lake's name for it."""
    columns: dict[str, str] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        ours, _, theirs = map(str.strip, entry.partition("="))
        if ours not in LOG_COLUMN_NAMES or not theirs or ours in columns:
            raise ValueError(f"in which {entry!r} is not a column and its name in the lake, or repeats one")
        columns[ours] = theirs
    return tuple(columns.items())


def parse_statuses(text: str) -> tuple[str, ...]:
    """The statuses in a list with commas, each once."""
    words = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    for word in words:
        if not re.fullmatch(r"[\w. -]{1,100}", word):
            raise ValueError(f"in which {word!r} has other characters")
        if word in (SUCCESS_STATUS, FAILED_STATUS):
            raise ValueError(f"in which {word!r} already has its meaning")
    return words


@dataclass(frozen=True)
class ApiToken:
    """Somebody's access to the API. Of the token itself only its SHA-256 is kept."""

    name: str
    may_trigger: bool
    sha256: bytes = field(repr=False)


def parse_tokens(text: str) -> tuple[ApiToken, ...]:
    """The tokens in a list with commas."""
    # The messages count entries and quote nothing: any part of a misspelt entry may be the token.
    tokens: dict[str, ApiToken] = {}
    digests = set()
    for number, entry in enumerate(text.split(","), start=1):
        match = _TOKEN_ENTRY.fullmatch(entry.strip())
        if match is None:
            raise ValueError(f"cannot be read in entry {number}")
        token = ApiToken(match["name"], match["role"] == "trigger", hashlib.sha256(match["token"].encode()).digest())
        if token.name in tokens or token.sha256 in digests:
            raise ValueError(f"repeats in entry {number} the name or the token of an earlier entry")
        tokens[token.name] = token
        digests.add(token.sha256)
    return tuple(tokens.values())


@dataclass(frozen=True)
class Receiver:
    """Somebody who is told of alerts.

    url: for the library apprise; it holds tokens and passwords. id: what tables and messages call the receiver.
    """

    url: str = field(repr=False)
    id: str


def parse_receivers(text: str) -> tuple[Receiver, ...]:
    """The receivers in a list with white space, each once."""
    # As for the tokens, the messages quote nothing.
    receivers: dict[str, Receiver] = {}
    for number, url in enumerate(text.split(), start=1):
        if not _RECEIVER_URL.fullmatch(url):
            raise ValueError(f"cannot be read in entry {number}")
        receivers[url] = Receiver(url, hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:12])
    return tuple(receivers.values())


def parse_alerts_to(text: str) -> str:
    """The only table of the platform that alerts can be written to."""
    if text != ALERTS_TABLE:
        raise ValueError("which is not a table that alerts can be written to")
    return text


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with these fields of Settings together, of those that are set: a sentence each, with the remedy."""
    refusals = []
    table, has_spark = values.get("logs_table"), (values.get("logs_url") or "").startswith(("sc:", "spark:"))
    if bool(table) != has_spark:
        refusals.append(
            f"METRICS_LOGS_TABLE is {table!r}, but METRICS_LOGS_URL names {'a' if has_spark else 'no'} Spark. "
            "Set both, METRICS_LOGS_URL to a URL such as sc://host:15002 or spark:local[2], or neither."
        )
    both = set(values.get("success_statuses", ())) & set(values.get("failed_statuses", ()))
    refusals += [
        f"METRICS_SUCCESS_STATUSES and METRICS_FAILED_STATUSES both name {word!r}. Leave it in one."
        for word in sorted(both)
    ]
    return refusals
