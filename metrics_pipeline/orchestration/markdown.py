"""Texts for the UI: descriptions with the values of settings, and tables, bounded and escaped against hostile names."""

from collections.abc import Iterable, Sequence

import dagster as dg

from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.settings import Settings

_MAX_CELL_CHARACTERS = 200
_HARMLESS = " .,-…"


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str, more: int = 0
) -> dg.MetadataValue:
    """The rows under their column names, and how many `more` there are; `nothing` in place of an empty table.

    `nothing` is plain text, because the page of a check hides Markdown behind a click.
    """
    lines = ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows]
    if not lines:
        return dg.MetadataValue.text(nothing)
    head = ["| " + " | ".join(map(markdown_text, columns)) + " |", "|" + " --- |" * len(columns)]
    return dg.MetadataValue.md("\n".join([*head, *lines, *([f"\nand {more:,} more"] if more > 0 else [])]))


def markdown_text(value: object) -> str:
    """The value, NULL for None, as text that Markdown shows unchanged and on one line.

    Characters that are not letters, digits or harmless become character references, so that nothing ends the cell or is
    interpreted as Markdown, a link or HTML.
    """
    text = "NULL" if value is None else str(value)
    if len(text) > _MAX_CELL_CHARACTERS:
        text = f"{text[:_MAX_CELL_CHARACTERS]}…"
    return "".join(
        character if character.isalnum() or character in _HARMLESS else f"&#{ord(character)};" for character in text
    )


def with_values(description: str, settings: Settings) -> str:
    """The description with the values of the settings that it names."""
    days = counted(settings.lookback_days, "day")
    return description.replace("METRICS_LOOKBACK_DAYS", days).replace("METRICS_TIME_ZONE", settings.time_zone)
