"""The metrics of windows as the API keeps them: computed once for each state of the stored days."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from threading import Lock
from typing import Any

import polars as pl

from metrics_pipeline.postgres.database import Database
from metrics_pipeline.store.answers.windows import window_version
from metrics_pipeline.store.windows import ALL_PARTS, Grouping, Part, read_values, read_window

_KEPT_BYTES = 64_000_000


@dataclass
class Windows:
    """Reads windows for the requests of one server, and none twice while no day changes."""

    _reading: Lock = field(init=False, default_factory=Lock)
    _lock: Lock = field(init=False, default_factory=Lock)
    _kept: OrderedDict[Hashable, pl.DataFrame] = field(init=False, default_factory=OrderedDict)

    def read(
        self,
        database: Database,
        first: date,
        last: date,
        by: tuple[Grouping, ...],
        agent_id: str | None,
        dimension: str | None = None,
        value: str | None = None,
        *,
        parts: Collection[Part] = ALL_PARTS,
    ) -> pl.DataFrame:
        """What store.windows.read_window() says of these days; with a dimension what read_values() says."""
        with database.snapshot() as snapshot:
            days = (window_version(snapshot, first, last), first, last, agent_id)
            key = (*days, by, dimension, value, frozenset(parts))
            kept = self._look_up(key)
            if kept is not None:
                return kept
            if dimension is None:
                keep = partial(self._kept_or_read, days)
                frame = read_window(snapshot, first, last, by=by, agent_id=agent_id, parts=parts, keep=keep)
            else:
                frame = read_values(
                    snapshot, first, last, dimension, by=by, agent_id=agent_id, value=value, parts=parts
                )
        return self._keep(key, frame)

    def _kept_or_read(self, days: tuple[Hashable, ...], name: str, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        # A page asks for several groupings of the same days at once.
        with self._reading:
            kept = self._look_up((*days, name))
            return self._keep((*days, name), read()) if kept is None else kept

    def _look_up(self, key: Hashable) -> pl.DataFrame | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: Hashable, frame: pl.DataFrame) -> pl.DataFrame:
        with self._lock:
            self._kept[key] = frame
            while sum(each.estimated_size() for each in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return frame


def are_comparable(previous: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether the sums of two windows are over as many days."""
    return all(previous[name] == current[name] for name in ("days_stored", "days_without_column"))


def differences(previous: Mapping[str, Any], current: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Each of these numbers of `current` minus that of `previous`; None if either is None."""
    return {
        name: None if current[name] is None or previous[name] is None else current[name] - previous[name]
        for name in names
    }
