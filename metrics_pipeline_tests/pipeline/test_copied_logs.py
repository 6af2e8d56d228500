"""Logs that no client of this database wrote: replicated, restored from a dump, or copied with the whole database."""

import os
import subprocess
import uuid
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from metrics_pipeline.embedded import acquire, release
from metrics_pipeline.embedded.installation import binaries, let_through
from metrics_pipeline.embedded.keeper import PORT, data_folder, running, socket_folder
from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.reconciliation import DayVerdict
from metrics_pipeline.metrics.verification import JudgedBy
from metrics_pipeline.pipeline.opening import open_logs
from metrics_pipeline.pipeline.watching import USUAL_EFFORT
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import create_upstream_tables, upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.days import Log, aggregate, execute, judged, query, store_agents, store_logs
from metrics_pipeline_tests.homes import scratch_home
from metrics_pipeline_tests.pipeline.test_watching import (
    DAYS,
    PARTITIONED,
    WINDOWS,
    WRITERS,
    evidence,
    partitioned,
    said,
    truth,
    write,
)
from metrics_pipeline_tests.pipeline.test_watching_by_feed import watch_with_a_feed
from metrics_pipeline_tests.processes import HANGING_SECONDS, wait_until

__all__ = ["partitioned"]
#: With ids of the same type as in PARTITIONED.
PLAIN = (
    *PARTITIONED,
    "ALTER TABLE agent_execution_logs RENAME TO old",
    "CREATE TABLE agent_execution_logs (LIKE old INCLUDING ALL)",
    "DROP TABLE old",
)
# More than 64 kB, so it is sent before it has ended, and applied by a parallel worker.
CHANGES = (
    """UPDATE agent_execution_logs SET latency_ms = coalesce(latency_ms, 0) + 1 WHERE "timestamp" < '2025-03-05Z'""",
    """INSERT INTO agent_execution_logs (agent_id, "timestamp", status)
       SELECT 'a', '2025-03-05 23:00Z', 'success' FROM generate_series(1, 3000)""",
    """UPDATE agent_execution_logs SET cost_usd = coalesce(cost_usd, 0) + 1 WHERE "timestamp" = '2025-03-06Z'""",
)


@pytest.fixture(scope="module")
def replicating_uri() -> Iterator[str]:
    """A server that replicates, which the embedded one does not."""
    with scratch_home() as home:
        folder = home / "embedded"
        data, sockets = data_folder(folder), socket_folder(folder)
        owner = data.stat()
        let_through(owner.st_uid, data, binaries())
        sockets.mkdir(mode=0o700)
        os.chown(sockets, owner.st_uid, owner.st_gid)
        settings = ["listen_addresses=", f"unix_socket_directories={sockets}", f"port={PORT}", "wal_level=logical"]
        settings += ["logical_decoding_work_mem=64kB", "fsync=off"]
        account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [str(binaries() / "postgres"), "-D", str(data), *(f"--{setting}" for setting in settings)]
        with (folder / "replicating.log").open("wb") as log, subprocess.Popen(command, stderr=log, **account) as server:
            wait_until(lambda: running(folder) or server.poll() is not None)
            # A keeper adopts the server, and stops it in the end.
            yield acquire(home)
            release(home)
            server.wait(HANGING_SECONDS)


@contextmanager
def replicated(publisher_url: str, subscriber_url: str) -> Iterator[None]:
    """The agents and logs of the first database are replicated to the second, large transactions by several workers."""
    name = f"subscription_{uuid.uuid4().hex}"
    with (
        psycopg.connect(publisher_url, autocommit=True) as publisher,
        psycopg.connect(subscriber_url, autocommit=True) as subscriber,
    ):
        publisher.execute("ALTER TABLE agent_execution_logs REPLICA IDENTITY FULL")
        publisher.execute("CREATE PUBLICATION everything FOR TABLE agent_execution_logs, agent_registry")
        publisher.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
        subscriber.execute(
            f"CREATE SUBSCRIPTION {name} CONNECTION '{publisher_url}' PUBLICATION everything "
            "WITH (create_slot = false, copy_data = false, streaming = parallel)"
        )
        try:
            yield
        finally:
            subscriber.execute(f"DROP SUBSCRIPTION {name}")


@pytest.mark.parametrize("told_by", [JudgedBy.COUNTERS, JudgedBy.FEED])
def test_what_logical_replication_applies_is_noticed(replicating_uri: str, told_by: JudgedBy) -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(scratch_database(replicating_uri, "template0")) for _ in range(2)]
        publisher, subscriber = (Database(DatabaseUrl.parse(url)) for url in urls)
        for database in (publisher, subscriber):
            create_upstream_tables(database)
            upgrade(database)
        execute(publisher, *PLAIN)
        execute(subscriber, *(PLAIN if told_by is JudgedBy.FEED else PARTITIONED))
        stack.enter_context(replicated(*urls))
        store_agents(publisher, {"a": "active"})
        store_logs(publisher, [Log(timestamp=window.start) for window in WINDOWS.values() for _ in range(3)])
        wait_until(lambda: query(subscriber, "SELECT count(*) FROM agent_execution_logs") == [(12,)])
        for window in WINDOWS.values():
            aggregate(subscriber, window)
        if told_by is JudgedBy.FEED:
            watch_with_a_feed(subscriber, urls[1])
        else:
            with pytest.raises(PermanentError, match="Logical replication writes to agent_execution_logs"):
                watch_with_a_feed(subscriber, urls[1])

        def looked() -> list[DayVerdict]:
            return judged(subscriber, *DAYS, effort=USUAL_EFFORT)

        wait_until(lambda: evidence(looked()) == [told_by] * 4)
        before = said(truth(subscriber))
        write(publisher, CHANGES, DAYS[0])
        wait_until(lambda: len(said(truth(subscriber)).items() - before.items()) == 3)
        # PostgreSQL shows within 10 seconds what was counted, and a busy machine takes longer for everything.
        wait_until(lambda: said(looked()) == said(truth(subscriber)), 20)


def test_a_restored_dump_and_a_copied_database_believe_nothing_that_was_noted_in_the_original(
    partitioned: Database, database_url: str, server_uri: str, bare_database_url: str
) -> None:
    watch_closely(partitioned, database_url)
    dump = [str(binaries() / "pg_dump"), "--format=custom", database_url]
    restore = [str(binaries() / "pg_restore"), "--exit-on-error", "--dbname", bare_database_url]
    subprocess.run(restore, input=subprocess.run(dump, check=True, capture_output=True).stdout, check=True)
    restored = Database(DatabaseUrl.parse(bare_database_url))
    write(restored, WRITERS["a correction of no total"], DAYS[0])
    assert said(judged(restored, *DAYS, effort=USUAL_EFFORT)) == said(truth(restored))
    # The counters of a copy begin at 0, and its tables have the identity of the original's.
    with scratch_database(server_uri, name_of(restored)) as url:
        copy = Database(DatabaseUrl.parse(url))
        watch_closely(copy, url)
        write(copy, WRITERS["a correction of no total"], DAYS[1])
        with scratch_database(server_uri, name_of(copy)) as second_url:
            second = Database(DatabaseUrl.parse(second_url))
            assert said(judged(second, *DAYS, effort=USUAL_EFFORT)) == said(truth(second))


def watch_closely(database: Database, url: str) -> None:
    """From now on both the counters of partitions and a change feed can tell of each day that it is unchanged."""
    watch_with_a_feed(database, url)

    def marks() -> list[Set[str]]:
        with database.connect() as connection:
            return [mark.keys() for mark in open_logs(database).marks(connection, list(WINDOWS.values())).values()]

    wait_until(lambda: marks() == [{JudgedBy.COUNTERS, JudgedBy.FEED}] * 4)
    judged(database, *DAYS)
    assert evidence(judged(database, *DAYS, effort=USUAL_EFFORT)) == [JudgedBy.COUNTERS] * 4


def name_of(database: Database) -> str:
    [(name,)] = query(database, "SELECT current_database()")
    return str(name)
