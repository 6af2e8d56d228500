"""What several commands demand of the values they are given."""

from datetime import date, datetime
from typing import Any

import typer


def storable(value: str | None) -> str | None:
    """The text, if PostgreSQL can hold it. Raises BadParameter for bytes of the shell that are not UTF-8."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{value!r} is not text in UTF-8") from None
    return value


def day(text: str) -> date:
    """The date that a text means. Raises BadParameter, which names the accepted form."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a calendar day
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date; use YYYY-MM-DD") from None


def day_option(*names: str, help: str) -> Any:  # noqa: A002 - as Typer calls it
    """An option whose value is a day."""
    return typer.Option(*names, metavar="YYYY-MM-DD", parser=day, help=help)
