"""What several commands demand of the values they are given, and how they name days."""

import socket
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import typer
from sqlalchemy import Connection

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.windows import day_of
from metrics_pipeline.store.answers.metrics import is_known

_MAX_NAMED = 5


def storable(value: str | None) -> str | None:
    """The text, if PostgreSQL can hold it. Raises BadParameter for bytes of the shell that are not UTF-8."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{value!r} is not text in UTF-8.") from None
    return value


def storable_each(values: list[str] | None) -> list[str] | None:
    """The texts of an option that may be repeated, if PostgreSQL can hold each. Raises BadParameter."""
    return None if values is None else [str(storable(value)) for value in values]


def listen(what: str, host: str, port: int) -> socket.socket:
    """A socket for `what`, such as "The API". Raises PermanentError if nobody can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        # UnicodeError: a name that DNS cannot hold.
        reason = error.strerror if isinstance(error, OSError) else "it is not the name of a host"
        raise PermanentError(
            f"{what} cannot listen on {host}:{port}: {reason}. Choose another with --port or --host."
        ) from error


def require_order(first: date, last: date) -> None:
    """Raises PermanentError for a range that ends before it begins."""
    if first > last:
        raise PermanentError(f"The first day, {first}, comes after the last, {last}. Correct --from or --to.")


def require_known(connection: Connection, agent_id: str | None) -> None:
    """Raises PermanentError for an agent that neither the registry nor the stored metrics know."""
    if agent_id is not None and not is_known(connection, agent_id):
        raise PermanentError(
            f"--agent {agent_id!r}: neither agent_registry nor the stored metrics know this id. "
            "metrics-pipeline db shell -c 'SELECT id, name FROM agent_registry' lists those that are registered."
        )


def day(text: str) -> date:
    """The date that a text means. Raises BadParameter, which names the accepted form."""
    try:
        return day_of(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date; use YYYY-MM-DD.") from None


def day_option(*names: str, help: str) -> Any:  # noqa: A002 - as Typer calls it
    """An option whose value is a day."""
    return typer.Option(*names, metavar="YYYY-MM-DD", parser=day, help=help)


def named(days: Iterable[date]) -> str:
    """The sorted days, consecutive ones as a span, at most five of these."""
    found: list[tuple[date, date]] = []
    for each in days:
        if found and each - found[-1][1] == timedelta(days=1):
            found[-1] = (found[-1][0], each)
        else:
            found.append((each, each))
    said = [f"{first} to {last}" if first < last else f"{first}" for first, last in found[:_MAX_NAMED]]
    return ", ".join(said) + (f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else "")
