"""What several commands demand of the values they are given."""

import typer


def storable(value: str | None) -> str | None:
    """The text, if PostgreSQL can hold it. Raises BadParameter for bytes of the shell that are not UTF-8."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{value!r} is not text in UTF-8") from None
    return value
