"""PostgreSQL that is stopped hard at any message of a backfill, or while nobody uses it, and comes back."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from metrics_pipeline.embedded import server_pid
from metrics_pipeline.orchestration.instance import open_instance
from metrics_pipeline.pipeline.opening import open_database
from metrics_pipeline.settings import Settings
from metrics_pipeline_tests.api.serving import serving
from metrics_pipeline_tests.days import query
from metrics_pipeline_tests.processes import is_gone, wait_until

from .days import BACKFILL, CORRECTED, DAYS, assert_healed, heal, store_days
from .judge import SERVER_IS_AWAY, assert_exact_or_not_done, assert_no_run_looks_alive, assert_operator_is_told
from .private_server import private_database, stopped
from .stage import Play, Stage


@pytest.mark.half_the_seeds
def test_a_backfill_whose_server_is_stopped_anywhere_heals_by_itself_or_by_what_comes_next(
    stage: Stage, private_home: Path
) -> None:
    play = Play(BACKFILL, store_days)
    with private_database(private_home, play) as (url, database):
        ended = stopped(stage, play, private_home, url)
        assert_operator_is_told(ended, *SERVER_IS_AWAY)
        assert_exact_or_not_done(database, DAYS, before=[CORRECTED])
        assert_no_run_looks_alive(stage.instance)
        if ended.exit_code:
            heal(stage, database, url)
        assert_healed(stage, database)
        assert query(database, "SELECT agent_id FROM metric_restatements GROUP BY 1 HAVING count(*) > 1") == []


@pytest.mark.half_the_seeds
def test_an_embedded_server_that_is_killed_while_idle_is_back_with_the_next_connection_of_whoever_needs_it(
    stage: Stage, private_home: Path
) -> None:
    """The seed chooses who needs it: Dagster's storage, the API, or both at about the same time."""
    settings = Settings(private_home)
    with open_instance(settings) as instance, serving(open_database(settings)) as serve:
        api = serve()

        def use_storage() -> None:
            assert instance.get_runs(limit=1) == []

        def use_api() -> None:
            assert api.get("/api/v1/restatements").json() == []

        for _ in range(2):
            users = stage.random.sample([use_storage, use_api], 2)
            pauses = [0.0, stage.random.choice([0.0, 0.05, 0.5])]
            # Idle sessions outlive their server by a moment, in which one may still begin a statement.
            killed = psutil.Process(server_pid(private_home))
            sessions = killed.children()
            os.kill(killed.pid, stage.random.choice([signal.SIGKILL, signal.SIGQUIT]))
            wait_until(lambda ended=[killed, *sessions]: all(is_gone(each.pid) for each in ended))
            with ThreadPoolExecutor() as threads:
                used = [
                    threads.submit(lambda pause=pause, use=use: (time.sleep(pause), use()))
                    for pause, use in zip(pauses, users, strict=True)
                ]
            for each in used:
                each.result()
            assert server_pid(private_home) not in (None, killed.pid)
