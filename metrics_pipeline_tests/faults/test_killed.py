"""kill -9 of a command that aggregates days, at any message between it and its PostgreSQL."""

import signal

from metrics_pipeline_tests.days import query

from .days import BACKFILL, CORRECTED, DAYS, assert_healed, heal, store_days
from .judge import assert_exact_or_not_done, assert_no_run_looks_alive, assert_nothing_left_behind
from .stage import Play, Stage


def test_a_backfill_that_is_killed_anywhere_is_healed_by_what_comes_next(stage: Stage) -> None:
    play = Play(BACKFILL, store_days)
    url, database = stage.prepared(play)
    ended = stage.killed(play, url)
    assert ended.exit_code == -signal.SIGKILL
    assert_exact_or_not_done(database, DAYS, before=[CORRECTED])
    assert_nothing_left_behind(database)
    assert_no_run_looks_alive(stage.instance)
    heal(stage, database, url)
    assert_healed(stage, database)
    # The corrected day's rows were replaced once, however often it was tried.
    assert query(database, "SELECT agent_id FROM metric_restatements GROUP BY 1 HAVING count(*) > 1") == []
