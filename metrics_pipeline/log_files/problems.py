"""Collecting the problems of the files, so that one error can name many of them."""

from pathlib import Path

from metrics_pipeline.errors import LogFileError
from metrics_pipeline.log_files.schema import COLUMNS
from metrics_pipeline.metrics.wording import counted

_SHOWN = 20
_VALUE_CHARACTERS = 80


class Problems:
    """Counts all problems and keeps the text of the first ones."""

    def __init__(self) -> None:
        self.total = 0
        self._shown: list[str] = []
        self._remedies: dict[str, None] = {}

    def add(
        self, place: str, reason: str, *, column: str | None = None, value: object = None, remedy: str | None = None
    ) -> None:
        """Adds a problem at `place`, such as "logs.csv, line 7". A long `value` is cut.

        `remedy` is the option that settles a column, such as "--skip-column colour".
        """
        self.total += 1
        if len(self._shown) < _SHOWN:
            where = place if column is None else f"{place}, {column}"
            self._shown.append(f"{where}: {reason}" if value is None else f"{where}: {quoted(value)} {reason}")
            if remedy is not None and remedy.isprintable() and len(remedy) <= _VALUE_CHARACTERS:
                self._remedies[remedy] = None

    def count(self, more: int) -> None:
        """Counts `more` problems without showing them."""
        self.total += more

    @property
    def room(self) -> int:
        """How many more problems will be shown."""
        return _SHOWN - len(self._shown)

    def raise_any(self) -> None:
        """Raises LogFileError with the first problems and the number of all, unless there are none."""
        if self.total:
            first = f", of which these are the first {_SHOWN}" if self.total > _SHOWN else ""
            said = "\n  ".join(
                [f"Nothing was loaded: {counted(self.total, 'problem')} in the files{first}:", *self._shown]
            )
            if self._remedies:
                said += (
                    f"\nThe columns of a log are {', '.join(COLUMNS)}. Say which columns of the files hold them, and "
                    f"which to leave out: {' '.join(self._remedies)}"
                )
            raise LogFileError(said)


def shown(path: Path) -> str:
    """The path, or its repr if it has characters that would break the line or control the terminal."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def quoted(value: object) -> str:
    """The value's repr, which escapes unprintable characters. A long one is cut."""
    text = repr(value)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}… ({len(text):,} characters)"
