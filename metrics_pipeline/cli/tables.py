"""How the commands print rows (a table that fits the terminal, CSV or JSON), sentences, SQL and foreign text."""

import csv
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

import simplejson
import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: Comments, names and strings in SQL; in a comment, a quotation mark begins nothing.
_QUOTED = re.compile(r"""--[^\n]*|"(?:[^"]|"")*"|E?'(?:[^']|'')*'""")

#: The narrowest column of sentences: below it, a sentence takes more lines than one can follow.
_FOLDED_WIDTH = 28


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


#: The option --format of a command that prints rows.
FormatOption = Annotated[
    Format,
    typer.Option("--format", metavar="FORM", help="table, csv or json. CSV and JSON have all columns and digits."),
]


def in_words(value: Any) -> str:
    """A value as a person reads it: separators of thousands, times without seconds."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return f"{value:,f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return "" if value is None else str(value)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    name: the rows' key. heading: default: the name. is_text: aligned left, not right. is_folded: sentences, which may
    take several lines; any other cell stays in one piece. rank: on a terminal that is too narrow, the column with the
    highest rank is left out first, one of rank 0 never. in_words: a value as the table shows it. style: its colour.
    """

    name: str
    heading: str = ""
    is_text: bool = False
    is_folded: bool = False
    rank: int = 0
    in_words: Callable[[Any], str] = in_words
    style: Callable[[Any], str] = lambda _value: ""


def show(title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], form: Format = Format.TABLE) -> None:
    """Prints the rows on stdout.

    JSON and CSV have every key of the rows, the table only `columns`. On a terminal the table is as wide as that, and
    says which columns it leaves out; into a pipe or a file goes all of it, a line for each row. No number is truncated:
    without its last digits it would be another number. Foreign text is escaped, and never read as markup.
    """
    if form is Format.JSON:
        print(simplejson.dumps(list(rows), use_decimal=False, default=_in_json, ensure_ascii=False, indent=2))
    elif form is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0] if rows else [column.name for column in columns])
        writer.writerows([_in_csv(value) for value in row.values()] for row in rows)
    else:
        _show_table(title, columns, rows)


def _show_table(title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 1_000_000
        with console.capture() as captured:
            console.print(_table(columns, rows, is_plain=True))
        print("\n".join([printable(title), *(line.rstrip() for line in captured.get().splitlines())]))
        return
    shown = list(columns)
    everything = console.options.update(max_width=1_000_000)

    def least_width() -> int:
        return Measurement.get(console, everything, _table(shown, rows)).minimum

    while least_width() > console.width and (last := max(shown, key=lambda column: column.rank)).rank:
        shown.remove(last)
    # Where even the columns of rank 0 are too wide, the terminal wraps them.
    console.width = max(console.width, least_width())
    console.print(Text(printable(title), style="bold"), _table(shown, rows), sep="\n")
    left_out = [column.heading or column.name for column in columns if column not in shown]
    if left_out:
        console.print(Text(f"Left out, because the terminal is narrow: {', '.join(left_out)}.", style="dim"))


def _table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, is_plain: bool = False) -> Table:
    column_cells: list[list[Text]] = []
    table = Table(
        box=None if is_plain else box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0) if is_plain else (0, 1)
    )
    for column in columns:
        is_folded = column.is_folded and not is_plain
        heading = Text(column.heading or column.name)
        values = [row[column.name] for row in rows]
        said = zip(values, _in_words_of(column, values), strict=True)
        cells = [Text(printable(words), column.style(value)) for value, words in said]
        table.add_column(
            heading,
            justify="left" if column.is_text or column.is_folded else "right",
            no_wrap=not is_folded,
            # Rich takes the longest word for the least width, also of what it may not wrap, and would cut the rest off.
            min_width=_FOLDED_WIDTH if is_folded else max(cell.cell_len for cell in (heading, *cells)),
            overflow="fold",
        )
        column_cells.append(cells)
    for row in zip(*column_cells, strict=True):
        table.add_row(*row)
    return table


def _in_words_of(column: Column, values: Sequence[Any]) -> list[str]:
    """The column's values; decimals with as many places as all of them need, and with two at least."""
    if column.in_words is not in_words or not any(isinstance(value, Decimal) for value in values):
        return [column.in_words(value) for value in values]
    places = max(-int(value.normalize().as_tuple().exponent) for value in values if isinstance(value, Decimal))
    return [f"{value:,.{max(places, 2)}f}" if isinstance(value, Decimal) else in_words(value) for value in values]


def say(sentence: str, command: str = "", *, is_error: bool = False) -> None:
    """Prints a sentence, and the command that does what it proposes.

    A terminal gets the sentence folded between words, and below it the command in one piece, to be copied. A pipe gets
    one line.
    """
    console = Console(stderr=is_error, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        print(printable(f"{sentence} {command}".rstrip()), file=console.file)
        return
    console.print(Text(printable(sentence)))
    if command:
        console.print(Text(f"  {printable(command)}"), soft_wrap=True)


def _in_json(value: object) -> Any:
    if isinstance(value, Decimal):
        return simplejson.RawJSON(f"{value:f}")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value)} has no form in JSON")


def _in_csv(value: object) -> str:
    if isinstance(value, Mapping | tuple):
        return simplejson.dumps(value, ensure_ascii=False, use_decimal=False, default=_in_json)
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)


def printable(text: str) -> str:
    """The text on one line, with every unprintable character escaped.

    A line break would look like another row, an escape sequence would control the terminal, and a byte of a file name
    that is not UTF-8 cannot be encoded.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def printable_sql(statements: str) -> str:
    """The statements with unprintable characters of names and strings as escapes that mean the same to PostgreSQL."""
    return _QUOTED.sub(_with_escapes, statements)


def _with_escapes(quoted: re.Match[str]) -> str:
    found = quoted[0]
    if found.isprintable() or found.startswith("--"):
        return found
    if found.startswith("E"):
        return "".join(character if character.isprintable() else f"\\U{ord(character):08X}" for character in found)
    return "U&" + "".join(
        character if character.isprintable() and character != "\\" else f"\\+{ord(character):06X}"
        for character in found
    )
