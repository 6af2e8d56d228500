"""Translates a driver's exceptions into what the operator must do: try again, or change something, and what."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.exc import DBAPIError

from metrics_pipeline.errors import ContractError, PermanentError, PipelineError, TransientError

_RETRY = "Trying again may help"
_LOGIN = "Check user, password and database in METRICS_DATABASE_URL, and the server's pg_hba.conf"
_CHECK = "Run `metrics-pipeline db check`: it names what is missing and what to do"

#: By SQLSTATE or its prefix: the type to raise, what happened, and what to do.
_BY_SQLSTATE: dict[str, tuple[type[PipelineError], str, str]] = {
    "08": (TransientError, "The connection was lost", "Check that the server runs and is reachable from here"),
    "25006": (PermanentError, "The database is read-only", "Point METRICS_DATABASE_URL at the primary server"),
    "25P03": (TransientError, "The server ended an idle transaction", _RETRY),
    "25P04": (TransientError, "The server's time limit ended a transaction", _RETRY),
    "28": (PermanentError, "The server refused the login", _LOGIN),
    "3D000": (PermanentError, "The server refused the login", _LOGIN),
    "3F000": (ContractError, "A schema is missing", _CHECK),
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

# libpq renders a message of the server as `SEVERITY:  words`, in the server's language.
_SERVER_WORDS = re.compile(r"(?:^|: )[^:\n]{1,40}:  (.+)", re.MULTILINE)
_DRIVER_PREFIX = re.compile(r"^(?:connection (?:failed|is bad): )?(?:connection to server .* failed: )?")

# The driver gives no SQLSTATE for a failed login, and the server's reason is in its language. Passing reasons
# (starting, stopping, no free connection) quote no name; lasting reasons quote a user or a database. The words in these
# patterns are the exceptions to that rule, including PgBouncer's.
_LOGIN_REFUSED = re.compile(r"failed: [^:\n]{1,40}:  (.+)")
_PASSING_REFUSAL = re.compile("too many connections|connection slots")
_LASTING_REFUSAL = re.compile('["«»“”„]|no such|authentication failed')
# libpq's own messages are English, because nothing in a Python process sets LC_MESSAGES for it.
_LASTING_FAULT_ON_OUR_SIDE = re.compile(
    r"no password supplied|SSL was required|certificate|GSSAPI|SCRAM|authentication method|channel binding"
    r"|: Permission denied|invalid (?:\w+ value|port number|integer value)"
)


@contextmanager
def database_faults(description: str) -> Iterator[None]:
    """Turns the exceptions of psycopg and SQLAlchemy into TransientError, PermanentError or ContractError.

    `description` names the database without its password, as Database.description does. The message says what happened,
    where, in the server's words, and what to do; the driver's exception is its cause. Other exceptions pass unchanged.
    """
    try:
        yield
    except DBAPIError as error:
        # SQLAlchemy's own exception adds only the statement to the driver's.
        raise _translate(error.orig or error, description) from error.orig
    except psycopg.Error as error:
        raise _translate(error, description) from error


def _translate(error: BaseException, description: str) -> PipelineError:
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is None:
        return _translate_words(error, description)
    matches = (_BY_SQLSTATE.get(sqlstate[:length]) for length in (5, 3, 2))
    kind, what, remedy = next(filter(None, matches), _OTHERWISE)
    return kind(f"{what} in {description}: {_words(error)} (SQLSTATE {sqlstate}). {remedy}.")


def _translate_words(error: BaseException, description: str) -> PipelineError:
    if not isinstance(error, psycopg.OperationalError):
        return PermanentError(f"The database driver refused a call for {description}: {_words(error)}.")
    refusals = _LOGIN_REFUSED.findall(str(error))
    if any(_LASTING_REFUSAL.search(words) and not _PASSING_REFUSAL.search(words) for words in refusals):
        return PermanentError(f"The server refused the login to {description}: {_words(error)}. {_LOGIN}.")
    if _LASTING_FAULT_ON_OUR_SIDE.search(str(error)):
        remedy = "Check METRICS_DATABASE_URL and its options"
        return PermanentError(f"No connection to {description} is possible: {_words(error)}. {remedy}.")
    remedy = "Check that the server runs and is reachable from here"
    return TransientError(f"The connection to {description} failed: {_words(error)}. {remedy}.")


def _words(error: BaseException) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    text = str(error)
    from_server = _SERVER_WORDS.search(text)
    return from_server[1] if from_server else _DRIVER_PREFIX.sub("", text).partition("\n")[0].rstrip(".")
