"""How the commands print tables: complete at any width, also into a file."""

from collections.abc import Collection, Iterable, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str] | None = None
) -> None:
    """Prints the rows under their headings. The columns in `left` are aligned left (default: the first), others right.

    A table that is wider than the terminal is wrapped by it rather than cut: a number that lost digits is a wrong one.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        is_left = heading in (headings[:1] if left is None else left)
        table.add_column(heading, justify="left" if is_left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # No markup: an agent may be called [bold].
    terminal = Console(markup=False)
    needed = Measurement.get(terminal, terminal.options.update(max_width=100_000), table).maximum
    Console(width=max(terminal.width, needed), highlight=False, markup=False, emoji=False).print(table)
