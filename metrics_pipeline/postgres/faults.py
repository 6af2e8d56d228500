"""Translates a driver's exceptions into what the operator must do: try again, or change something, and what."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError, PermanentError, PipelineError, TransientError

_RETRY = "Trying again may help"
_LOGIN = "Check user, password and database in METRICS_DATABASE_URL, and the server's pg_hba.conf"
_CHECK = "Run `metrics-pipeline db check`: it names what is missing and what to do"
_PRIMARY = "It may be failing over. If it is a standby for good, point METRICS_DATABASE_URL at the primary server"
_RAISE = "Raise the limit for this role (ALTER ROLE … SET), or aggregate at a quieter hour"

#: By SQLSTATE or its prefix: the type to raise, what happened, and what to do.
_BY_SQLSTATE: dict[str, tuple[type[PipelineError], str, str]] = {
    "08": (TransientError, "The connection was lost", "Check that the server runs and is reachable from here"),
    "25006": (TransientError, "The database is read-only", _PRIMARY),
    "25P03": (TransientError, "The server ended an idle transaction", _RETRY),
    "25P04": (PermanentError, "The server's transaction_timeout ended a transaction", _RAISE),
    "28": (PermanentError, "The server refused the login", _LOGIN),
    "3D000": (PermanentError, "The server refused the login", _LOGIN),
    "3F000": (
        ContractError,
        "No schema of search_path exists, or the role may use none of them",
        "Have one granted (GRANT USAGE, CREATE ON SCHEMA …) and named: ALTER ROLE … SET search_path = …",
    ),
    "40": (TransientError, "Another transaction got in the way", _RETRY),
    "42501": (
        PermanentError,
        "A privilege is missing",
        "Have it granted: `metrics-pipeline db check` names what we read",
    ),
    "42703": (ContractError, "A column is missing", _CHECK),
    "42P01": (ContractError, "A table is missing", _CHECK),
    "53": (TransientError, "The server lacks a resource", "Free connections, memory or disk space there"),
    "55P03": (TransientError, "A lock was not free in time", _RETRY),
    "57014": (TransientError, "A statement was cancelled, by hand or by a time limit", _RETRY),
    "57P": (TransientError, "The server ended the session", "It may be restarting; trying again may help"),
}
_OTHERWISE = (PermanentError, "PostgreSQL refused a statement", "The data, the database or the code has to change")

# Functions of the server that refuse to begin a transaction that writes, during recovery: SQLSTATE 0A000, which means
# that a feature is not supported. The second name is that of PostgreSQL 16 and older.
_READ_ONLY_CHECKS = ("check_transaction_read_only", "check_XactReadOnly")

_DENIED = re.compile(r"permission denied for (?P<kind>[a-z ]+) (?P<name>.+)")
_OWNER = re.compile("must be owner of ")

# libpq renders a message of the server as `SEVERITY:  words`, in the server's language.
_SERVER_WORDS = re.compile(r"(?:^|: )[^:\n]{1,40}:  (.+)", re.MULTILINE)
_DRIVER_PREFIX = re.compile(r"^(?:connection (?:failed|is bad): )?(?:connection to server .* failed: )?")

# The driver gives no SQLSTATE for a failed login, and the server's reason is in its language. Passing reasons
# (starting, stopping, no free connection) quote no name; lasting reasons quote a user or a database. The words in these
# patterns are the exceptions to that rule, including PgBouncer's.
_LOGIN_REFUSED = re.compile(r"failed: [^:\n]{1,40}:  (.+)")
_PASSING_REFUSAL = re.compile("too many connections|not currently accepting connections")
# What the server lacks to start a session. With a full disk, it cannot write pg_internal.init.
_LACK = re.compile(
    "No space left on device|Disk quota exceeded|Cannot allocate memory|out of memory|Too many open files"
    "|too many clients|connection slots"
)
_LASTING_REFUSAL = re.compile('["«»“”„]|no such|authentication failed')
# PgBouncer's words, always English, that no repetition changes, and the remedy.
_POOLER = {
    "unsupported startup parameter: options": (
        "PgBouncer does not pass on the parameter `options`. Leave it out of METRICS_DATABASE_URL, and set the same "
        "for the role: ALTER ROLE … SET search_path = …"
    ),
    "transaction blocks not allowed": "Set PgBouncer's pool_mode to session or transaction for this database",
}
# libpq's own messages are English, because nothing in a Python process sets LC_MESSAGES for it.
_LASTING_FAULT_ON_OUR_SIDE = re.compile(
    r"no password supplied|SSL was required|certificate|GSSAPI|SCRAM|authentication method|channel binding"
    r"|: Permission denied|invalid (?:\w+ value|port number|integer value)"
    r"|local user with ID|definition of service .* not found|service file .* not found"
)


@dataclass
class Login:
    """What a session found at its start.

    role: as an identifier. statement_timeout: one that is not ours, or 0. connection_limit: how many connections the
    role may have, -1 for any number.
    """

    role: str = "…"
    statement_timeout: str = "0"
    connection_limit: int = -1


@contextmanager
def database_faults(description: str, login: Login | None = None) -> Iterator[None]:
    """Turns the exceptions of psycopg and SQLAlchemy into TransientError, PermanentError or ContractError.

    `description` names the database without its password, as Database.description does. The message says what happened,
    where, in the server's words, and what to do; the driver's exception is its cause. Other exceptions pass unchanged.
    """
    login = login or Login()
    try:
        yield
    except DBAPIError as error:
        # SQLAlchemy's own exception adds only the statement to the driver's.
        raise _translate(error.orig or error, description, login, error.statement or "") from error.orig
    except psycopg.Error as error:
        raise _translate(error, description, login, "") from error


def _translate(error: BaseException, description: str, login: Login, statement: str) -> PipelineError:
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is None:
        return _translate_words(error, description)
    words = _words(error)
    matches = (_BY_SQLSTATE.get(sqlstate[:length]) for length in (5, 3, 2))
    kind, what, remedy = next(filter(None, matches), _OTHERWISE)
    if sqlstate == "0A000" and isinstance(error, psycopg.Error) and error.diag.source_function in _READ_ONLY_CHECKS:
        kind, what, remedy = _BY_SQLSTATE["25006"]
    elif sqlstate == "57014" and login.statement_timeout != "0" and "user request" not in words:
        kind = PermanentError
        remedy = (
            f"Role {login.role} has a statement_timeout of {login.statement_timeout} here, from the role, the database "
            f"or the server. Raise it for this role: ALTER ROLE {login.role} SET statement_timeout = 0"
        )
    elif sqlstate == "42501":
        remedy = _grant(words, login, statement) or remedy
    elif pooler := _pooler_remedy(words):
        kind, what, remedy = PermanentError, "The pooler refused a statement", pooler
    return kind(f"{what} in {description}: {words} (SQLSTATE {sqlstate}). {remedy}.")


def _grant(words: str, login: Login, statement: str) -> str | None:
    """The GRANT that the refused statement needs, or None where the server's language hides the object."""
    if _OWNER.search(words):
        return "Run the command as the owner, or as a member of the owner's role"
    denied = _DENIED.fullmatch(words)
    if denied is None:
        return None
    kind, name = denied["kind"], denied["name"]
    if kind == "schema":
        privileges = "CREATE" if re.match(r"\s*(?:CREATE|ALTER)\b", statement, re.IGNORECASE) else "USAGE"
    elif kind == "sequence":
        privileges = "USAGE"
    else:
        # A statement that changes rows also reads them.
        written = [verb for verb in ("INSERT", "UPDATE", "DELETE") if re.search(rf"\b{verb}\b", statement)]
        kind, privileges = "table", ", ".join(["SELECT", *written])
    return f"Have its owner run: GRANT {privileges} ON {kind.upper()} {name} TO {login.role}"


def _pooler_remedy(words: str) -> str | None:
    return next((remedy for refusal, remedy in _POOLER.items() if refusal in words), None)


def _translate_words(error: BaseException, description: str) -> PipelineError:
    if not isinstance(error, psycopg.OperationalError):
        return PermanentError(f"The database driver refused a call for {description}: {_words(error)}.")
    if pooler := _pooler_remedy(str(error)):
        return PermanentError(f"The pooler refused the connection to {description}: {_words(error)}. {pooler}.")
    refusals = _LOGIN_REFUSED.findall(str(error))
    if any(map(_LACK.search, refusals)):
        kind, what, remedy = _BY_SQLSTATE["53"]
        return kind(f"{what} in {description}: {_words(error)}. {remedy}.")
    if any(_LASTING_REFUSAL.search(words) and not _PASSING_REFUSAL.search(words) for words in refusals):
        return PermanentError(f"The server refused the login to {description}: {_words(error)}. {_LOGIN}.")
    if _LASTING_FAULT_ON_OUR_SIDE.search(str(error)):
        remedy = "Check METRICS_DATABASE_URL and its options"
        return PermanentError(f"No connection to {description} is possible: {_words(error)}. {remedy}.")
    remedy = (
        "Other sessions use all connections that the limit allows: let some of them end, or raise it, for a role with "
        "ALTER ROLE … CONNECTION LIMIT"
        if "too many connections" in str(error)
        else "Check that the server runs and is reachable from here"
    )
    return TransientError(f"The connection to {description} failed: {_words(error)}. {remedy}.")


def _words(error: BaseException) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    text = str(error)
    from_server = _SERVER_WORDS.search(text)
    return from_server[1] if from_server else _DRIVER_PREFIX.sub("", text).partition("\n")[0].rstrip(".")
