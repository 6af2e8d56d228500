"""PostgreSQL that is stopped hard at any message of a backfill, and comes back a moment later."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metrics_pipeline.storage.database import Database
from metrics_pipeline.storage.embedded import acquire, server_pid
from metrics_pipeline.storage.migrating import create_upstream_tables, upgrade
from metrics_pipeline.storage.urls import DatabaseUrl
from metrics_pipeline_tests.cli.conftest import scratch_home
from metrics_pipeline_tests.conftest import scratch_database
from metrics_pipeline_tests.days import query
from metrics_pipeline_tests.storage.embedded.conftest import is_gone, wait_until

from .days import BACKFILL, CORRECTED, DAYS, assert_healed, heal, store_days
from .judge import assert_exact_or_not_done, assert_no_run_looks_alive, assert_operator_is_told
from .proxy import Action, Proxy
from .stage import Play, Stage

#: At once; after some attempts of a step; or only when they are used up.
_DOWN_SECONDS = (0.0, 1.0, 8.0)


@pytest.fixture(scope="module")
def private_home() -> Iterator[Path]:
    """A server that serves nobody else."""
    with scratch_home() as home:
        acquire(home)
        yield home


def _stop_for(seconds: float, home: Path, how: signal.Signals, proxy: Proxy, restarts: list[threading.Timer]) -> Action:
    def stop() -> None:
        server = server_pid(home)
        os.kill(server, how)
        wait_until(lambda: is_gone(server))
        # Connections of killed servers end with their backends, a moment later.
        proxy.cut_all()
        restarts.append(threading.Timer(seconds, acquire, [home]))
        restarts[-1].start()

    return stop


def test_a_backfill_whose_server_is_stopped_anywhere_heals_by_itself_or_by_what_comes_next(
    stage: Stage, private_home: Path
) -> None:
    play = Play(BACKFILL, store_days)
    messages = stage.rehearsed(play)
    how = stage.random.choice([signal.SIGKILL, signal.SIGQUIT])  # the latter is pg_ctl's immediate stop
    restarts: list[threading.Timer] = []
    with scratch_database(acquire(private_home), "template0") as url:
        database = Database(DatabaseUrl.parse(url))
        create_upstream_tables(database.engine)
        upgrade(database.engine)
        play.prepare(database)
        with Proxy(url) as proxy:
            process = stage.start(proxy.url, *play.command)
            stop = _stop_for(stage.random.choice(_DOWN_SECONDS), private_home, how, proxy, restarts)
            proxy.serve({stage.draw(messages): stop})
            ended = stage.end(process, proxy)
        assert ended.struck
        for restart in restarts:
            restart.join()
        acquire(private_home)

        assert_operator_is_told(ended, "Check that the server runs and is reachable from here", "It may be restarting")
        assert_exact_or_not_done(database, DAYS, before=[CORRECTED])
        assert_no_run_looks_alive(stage.instance)
        if ended.exit_code:
            heal(stage, database, url)
        assert_healed(stage, database)
        assert query(database, "SELECT agent_id FROM metric_restatements GROUP BY 1 HAVING count(*) > 1") == []
