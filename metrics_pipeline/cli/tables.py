"""How the commands print tables and foreign text: complete at any width, also into a file."""

from collections.abc import Collection, Iterable, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str] | None = None
) -> None:
    """Prints the rows under their headings. The columns in `left` are aligned left (default: the first), others right.

    The terminal wraps a table that is wider than itself; nothing is truncated, because a number without its last
    digits is a wrong number. Unprintable characters are escaped, and no value is read as markup.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        is_left = heading in (headings[:1] if left is None else left)
        table.add_column(heading, justify="left" if is_left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(printable, row))
    # An agent may be called [bold] or :smile:. One console measures and prints, otherwise a cell would be truncated.
    console = Console(highlight=False, markup=False, emoji=False)
    needed = Measurement.get(console, console.options.update(max_width=100_000), table).maximum
    console.width = max(console.width, needed)
    console.print(table)


def printable(text: str) -> str:
    """The text on one line, with every unprintable character escaped.

    A line break would look like another row, an escape sequence would control the terminal, and a byte of a file name
    that is not UTF-8 cannot be encoded.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
