"""Tables for the UI: bounded, and safe against whatever a platform has called its agents."""

import re
from collections.abc import Iterable, Sequence

_MAX_CELL_CHARACTERS = 200
# What Markdown could take for markup within a cell. An underscore, a dot or a hyphen inside a name means nothing.
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&!#$])")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str, more: int = 0) -> str:
    """The rows under their column names, and how many `more` there are; `nothing` in place of an empty table."""
    lines = ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows]
    if not lines:
        return nothing
    head = ["| " + " | ".join(map(markdown_text, columns)) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*head, *lines, *([f"\nand {more:,} more"] if more > 0 else [])])


def markdown_text(value: object) -> str:
    """The value, NULL for None, as text that Markdown shows as it is: one line, no markup, nothing invisible."""
    text = "NULL" if value is None else str(value)
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    if len(shown) > _MAX_CELL_CHARACTERS:
        shown = f"{shown[:_MAX_CELL_CHARACTERS]}…"
    return _MARKUP.sub(r"\\\1", shown)
