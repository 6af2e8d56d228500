"""PostgreSQL that is stopped hard at any message of a backfill, and comes back a moment later."""

from pathlib import Path

from metrics_pipeline_tests.days import query

from .days import BACKFILL, CORRECTED, DAYS, assert_healed, heal, store_days
from .judge import SERVER_IS_AWAY, assert_exact_or_not_done, assert_no_run_looks_alive, assert_operator_is_told
from .private_server import private_database, stopped
from .stage import Play, Stage


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
