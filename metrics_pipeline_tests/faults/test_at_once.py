"""Several commands for the same days at once, while logs arrive late and are corrected, under locks and time limits."""

import threading
import time

import psycopg
import pytest
from psycopg import sql

from .days import BACKFILL, CORRECTED, LAST, assert_healed, correct, evaluate_schedule_and_sensor, store_days
from .judge import assert_nothing_half_published, assert_operator_is_told
from .proxy import Proxy
from .stage import Play, Stage

_BUSY = ("Trying again may help", "SET statement_timeout = 0", "was published by another run")


@pytest.mark.half_the_seeds
def test_two_backfills_at_once_under_late_logs_and_locks_end_with_the_oracles_numbers(stage: Stage) -> None:
    url, database = stage.prepared(Play(BACKFILL, store_days))
    limit_ms = stage.random.choice([0, 20, 100])
    table = stage.random.choice(["agent_performance_metrics", "metric_day_ledger", "agent_execution_logs"])
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    setting = stage.random.choice(["lock_timeout", "statement_timeout"])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                sql.Identifier(str(name)), sql.Identifier(setting), sql.Literal(limit_ms)
            )
        )
    # The test's own sessions have no limit.
    holds = [stage.random.uniform(0.02, 0.3) for _ in range(8)]
    ends = threading.Event()

    def disturb() -> None:
        for number, seconds in enumerate(holds):
            # What is corrected in place in an older day of a plain table is found by the checks at night only.
            day = (CORRECTED, LAST)[number % 2]
            with psycopg.connect(url, options="-c statement_timeout=0 -c lock_timeout=0") as connection:
                connection.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(table)))
                connection.execute(
                    """UPDATE agent_execution_logs SET token_count = coalesce(token_count, 0) + %s
                        WHERE "timestamp" >= %s AND "timestamp" < %s::date + 1""",
                    [number, day, day],
                )
                time.sleep(seconds)
            if ends.wait(0.3):
                return

    with Proxy(url) as proxy:
        proxy.serve()
        both = [stage.start(proxy.url, *BACKFILL) for _ in range(2)]
        disturber = threading.Thread(target=disturb)
        disturber.start()
        ended = [stage.end(process, proxy) for process in both]
        ends.set()
        disturber.join()
    for each in ended:
        assert_operator_is_told(each, *_BUSY)
    with psycopg.connect(url, autocommit=True, options="-c statement_timeout=0 -c lock_timeout=0") as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} RESET {}").format(sql.Identifier(str(name)), sql.Identifier(setting))
        )
    assert_nothing_half_published(database)
    correct(database, CORRECTED, number=2)
    evaluate_schedule_and_sensor(stage, database)
    assert_healed(stage, database)
