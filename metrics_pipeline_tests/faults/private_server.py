"""A server for one scenario only, which may therefore stop it or fill its disk."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from metrics_pipeline.embedded import acquire, server_pid
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.postgres.upgrading import create_upstream_tables, upgrade
from metrics_pipeline.postgres.urls import DatabaseUrl
from metrics_pipeline_tests.databases import scratch_database
from metrics_pipeline_tests.processes import is_gone, wait_until

from .proxy import Action, Proxy
from .stage import Ended, Play, Stage

#: Immediately; after some attempts of a step; or only after all of them.
_DOWN_SECONDS = (0.0, 1.0, 8.0)


@contextmanager
def private_database(
    home: Path, play: Play, place: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, Database]]:
    """A database on the private server, as the command is to find it. `place` gets the URL of the empty one."""
    with scratch_database(acquire(home), "template0") as url:
        place(url)
        database = Database(DatabaseUrl.parse(url))
        if play.template is None:
            create_upstream_tables(database)
            upgrade(database)
        play.prepare(database)
        yield url, database


def stopped(stage: Stage, play: Play, home: Path, url: str) -> Ended:
    """Stops the server hard at a seeded message of the command, and starts it again a moment later."""
    messages = stage.rehearsed(play)
    how = stage.random.choice([signal.SIGKILL, signal.SIGQUIT])  # the latter is pg_ctl's immediate stop
    restarts: list[threading.Timer] = []
    with Proxy(url) as proxy:
        process = stage.start(proxy.url, *play.command)
        proxy.serve({stage.draw(messages): _stop(home, how, stage.random.choice(_DOWN_SECONDS), proxy, restarts)})
        ended = stage.end(process, proxy)
    assert ended.struck
    for restart in restarts:
        restart.join()
    acquire(home)
    return ended


def _stop(home: Path, how: signal.Signals, seconds: float, proxy: Proxy, restarts: list[threading.Timer]) -> Action:
    def stop() -> None:
        server = server_pid(home)
        os.kill(server, how)
        wait_until(lambda: is_gone(server))
        # Connections of killed servers end with their backends, a moment later.
        proxy.cut_all()
        restarts.append(threading.Timer(seconds, acquire, [home]))
        restarts[-1].start()

    return stop
