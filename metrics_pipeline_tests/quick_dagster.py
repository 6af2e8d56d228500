"""Dagster in the process of the tests, without the work that it repeats at each statement, run and check."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from types import SimpleNamespace
from typing import Any

import alembic.command
import dagster._core.storage.sql
import pytest
from alembic.script import ScriptDirectory
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.partitions.definition import TimeWindowPartitionsDefinition
from dagster._core.storage.event_log import in_memory as events_in_memory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs import in_memory as runs_in_memory
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

#: More than the tests of one worker have open at once: each run of an instance on disk has a file of its own.
_ENGINES = 30


@contextmanager
def quick_dagster() -> Iterator[None]:
    """Keeps engines, connections, lists of migrations and lists of partitions, which are always the same.

    Without it, each statement on SQLite opens a connection and reads the schema, or compiles the statement; each
    instance reads 60 migrations; and each check lists every day since the first one. It was 60 % of a run's statements.
    """
    engines: dict[str, Engine] = {}

    def engine(url: str, **options: Any) -> Engine:
        if url not in engines:
            if len(engines) == _ENGINES:
                engines.pop(next(iter(engines))).dispose()
            options["connect_args"] = {**options.get("connect_args", {}), "check_same_thread": False}
            engines[url] = create_engine(url, **options | {"poolclass": QueuePool})
        return engines[url]

    def engine_in_memory(url: str, **options: Any) -> Engine:
        made = engine(url, **options)
        event.listen(made, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
        return made

    @contextmanager
    def connect(storage: Any) -> Iterator[Connection]:
        with storage._engine.begin() as connection:
            yield connection

    @contextmanager
    def connect_locked(storage: Any) -> Iterator[Connection]:
        with storage._db_lock, storage._engine.begin() as connection:
            yield connection

    keys: dict[object, Any] = {}
    list_keys = TimeWindowPartitionsDefinition.get_partition_keys

    def get_partition_keys(
        partitions: TimeWindowPartitionsDefinition, current_time: datetime | None = None, store: Any = None
    ) -> Any:
        with partition_loading_context(current_time, store):
            last = partitions._get_last_partition_window(partitions._get_current_timestamp())
            if (partitions, last) not in keys:
                keys[partitions, last] = list_keys(partitions)
            return keys[partitions, last]

    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
            patch.setattr(module, "create_engine", engine)
        for module in (events_in_memory, runs_in_memory):
            patch.setattr(module, "create_engine", engine_in_memory)
        patch.setattr(events_in_memory.InMemoryEventLogStorage, "_connect", connect_locked)
        patch.setattr(runs_in_memory.InMemoryRunStorage, "connect", connect)
        patch.setattr(TimeWindowPartitionsDefinition, "get_partition_keys", get_partition_keys)
        for module in (alembic.command, dagster._core.storage.sql):
            patch.setattr(module, "ScriptDirectory", SimpleNamespace(from_config=cache(ScriptDirectory.from_config)))
        yield
    for made in engines.values():
        made.dispose()
