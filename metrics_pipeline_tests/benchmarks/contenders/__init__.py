"""What is measured. Each module of a contender has `run(url, day)`, and imports beforehand what it needs."""

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol


class Run(Protocol):
    """Aggregates and stores a day of the database at `url`; returns seconds of its steps, if it knows any."""

    def __call__(self, url: str, day: str) -> dict[str, float]: ...


@dataclass(frozen=True)
class Contender:
    """title: as in the table. module: that with `run`, or None for the Dagster run, which is a command of its own.

    stores: whether metrics can be compared with the oracle.
    """

    title: str
    module: str | None
    stores: bool = True

    def load(self) -> Run:
        """Imports the contender's module."""
        run: Run = import_module(f"{__name__}.{self.module}").run
        return run


#: In the order in which they run.
CONTENDERS = {
    "floor": Contender("binary COPY to nowhere (the floor)", "floor", stores=False),
    "ours": Contender("metrics_pipeline, the asset's steps", "ours"),
    "dagster": Contender("metrics_pipeline, the whole `dagster` process", None),
    "sql": Contender("one SQL statement", "one_statement"),
    "duckdb": Contender("DuckDB on rows from Arrow", "duckdb_arrow"),
    "pandas": Contender("pandas and SQLAlchemy", "pandas_frame"),
    "specification": Contender("three queries and an upsert per agent", "specification"),
}
