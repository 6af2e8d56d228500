"""Connections that are cut at any message, rows of a COPY among them, while the server goes on."""

import pytest

from metrics_pipeline_tests.days import query

from .days import BACKFILL, CORRECTED, DAYS, assert_healed, heal, store_days
from .judge import assert_exact_or_not_done, assert_no_run_looks_alive, assert_operator_is_told
from .stage import Play, Stage, nothing


@pytest.mark.end_to_end
@pytest.mark.half_the_seeds
@pytest.mark.smoke
def test_a_backfill_whose_connections_are_cut_heals_by_itself_or_says_what_to_do(stage: Stage) -> None:
    # More tables, so more messages at which a connection can be cut.
    play = Play(BACKFILL, store_days, environment={"METRICS_DIMENSIONS": "model,version"})
    url, database = stage.prepared(play)
    ended = stage.struck(play, url, lambda _: nothing, times=3)
    assert_operator_is_told(ended, "Check that the server runs and is reachable from here")
    assert_exact_or_not_done(database, DAYS, before=[CORRECTED])
    assert_no_run_looks_alive(stage.instance)
    if ended.exit_code == 0:
        assert_healed(stage, database)
    else:
        # A fault before the run begins is not retried.
        assert "Run " not in ended.stderr
        assert query(database, "SELECT metric_date FROM metric_day_ledger") == [(CORRECTED,)]
        heal(stage, database, url)
        assert_healed(stage, database)
