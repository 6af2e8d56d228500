"""Random histories: every number that was ever stored stands or was restated, and no log goes that is in no metric."""

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg.errors import CheckViolation, LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from metrics_pipeline.errors import DayRefusedError
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, empty, execute, query, store_agents, store_logs
from metrics_pipeline_tests.examples import examples

from .runs import DELETED, VERIFIED, interfering, prune

FIRST = date(2025, 3, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(4)]
PARTITIONED = (
    "DROP TABLE agent_execution_logs",
    """CREATE TABLE agent_execution_logs (
           id bigint GENERATED ALWAYS AS IDENTITY, agent_id text, "timestamp" timestamptz, status text,
           latency_ms int, token_count int, cost_usd numeric, error_type text, metadata jsonb
       ) PARTITION BY RANGE ("timestamp")""",
    "CREATE TABLE rest PARTITION OF agent_execution_logs DEFAULT",
)
#: The first two days share a partition, the third has its own, what is later goes to the default partition.
PARTITIONS = (
    """CREATE TABLE IF NOT EXISTS first_days PARTITION OF agent_execution_logs
           FOR VALUES FROM (MINVALUE) TO ('2025-03-03 00:00Z')""",
    """CREATE TABLE IF NOT EXISTS third_day PARTITION OF agent_execution_logs
           FOR VALUES FROM ('2025-03-03 00:00Z') TO ('2025-03-04 00:00Z')""",
)

#: A day's number: executions and tokens of agent a.
Number = tuple[int, int]
days = st.sampled_from(DAYS)


class CutOffError(Exception):
    """Raised where a run is killed."""


class Histories(RuleBasedStateMachine):
    """The model: each log by its token count, which is its name, and what was stored of each day."""

    database: Database
    partitions: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.names = iter(range(1, 10_000))
        #: The logs that must stand: day -> names. Retention alone may take away those of `aggregated`.
        self.standing: dict[date, set[int]] = {day: set() for day in DAYS}
        self.aggregated: dict[date, set[int]] = {}
        #: The logs that somebody else deleted or corrected.
        self.taken: set[int] = set()
        self.numbers: dict[date, list[Number]] = {}
        self.today = FIRST + timedelta(days=31)

    @initialize()
    def start(self) -> None:
        empty(self.database)
        self.make_partitions()
        store_agents(self.database, {"a": "active"})

    @rule(day=days, logs=st.integers(1, 4))
    def load(self, day: date, logs: int) -> None:
        """On time, late, or after the day was sealed."""
        names = [next(self.names) for _ in range(logs)]
        self.make_partitions()
        start = day_window(day, "UTC").start
        store_logs(
            self.database,
            [Log("a", token_count=name, timestamp=start + timedelta(seconds=name % 3)) for name in names],
        )
        self.standing[day].update(names)

    def make_partitions(self) -> None:
        """Those that retention has dropped, unless a log of theirs is in the default partition since."""
        for statement in self.partitions:
            try:
                execute(self.database, statement)
            except IntegrityError as error:
                if not isinstance(error.orig, CheckViolation):
                    raise

    def load_unless_locked(self, day: date) -> None:
        """Within a transaction of the same thread, for which an insert must not wait."""
        name = next(self.names)
        moment = day_window(day, "UTC").start + timedelta(seconds=name % 3)
        insert = """INSERT INTO agent_execution_logs (agent_id, "timestamp", status, token_count)
                    VALUES ('a', :moment, 'success', :name)"""
        try:
            execute(self.database, "SET LOCAL lock_timeout = '50ms'", insert, moment=moment, name=name)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
        else:
            self.standing[day].add(name)

    @rule(day=days)
    def aggregate(self, day: date) -> None:
        is_sealed = day in self.sealed_days()
        lost_all = not self.standing[day] and self.numbers.get(day, [(0, 0)])[-1][0] > 0
        if is_sealed or lost_all:
            with pytest.raises(DayRefusedError):
                aggregate(self.database, day_window(day, "UTC"))
            return
        aggregate(self.database, day_window(day, "UTC"))
        self.aggregated[day] = set(self.standing[day])
        number = (len(self.standing[day]), sum(self.standing[day]))
        if self.numbers.get(day, [None])[-1] != number:
            self.numbers.setdefault(day, []).append(number)

    @rule(day=days, choice=st.randoms(use_true_random=False))
    def correct_in_place(self, day: date, choice) -> None:  # type: ignore[no-untyped-def]
        if self.standing[day]:
            old, new = choice.choice(sorted(self.standing[day])), next(self.names)
            execute(
                self.database,
                "UPDATE agent_execution_logs SET token_count = :new WHERE token_count = :old",
                old=old,
                new=new,
            )
            self.standing[day] ^= {old, new}
            self.taken.add(old)

    @rule(day=days, choice=st.randoms(use_true_random=False))
    def touch_in_place(self, day: date, choice) -> None:  # type: ignore[no-untyped-def]
        """An update after which every value is as before."""
        if self.standing[day]:
            name = choice.choice(sorted(self.standing[day]))
            execute(
                self.database,
                "UPDATE agent_execution_logs SET token_count = token_count WHERE token_count = :name",
                name=name,
            )

    @rule(day=days, choice=st.randoms(use_true_random=False))
    def delete_by_somebody_else(self, day: date, choice) -> None:  # type: ignore[no-untyped-def]
        if self.standing[day]:
            name = choice.choice(sorted(self.standing[day]))
            execute(self.database, "DELETE FROM agent_execution_logs WHERE token_count = :name", name=name)
            self.standing[day].remove(name)
            self.taken.add(name)

    @rule(
        passed=st.integers(0, 2),
        batch_rows=st.integers(1, 3),
        cut_off_after=st.none() | st.integers(0, 6),
        late_at=st.none() | st.tuples(days, st.integers(0, 4)),
        within=st.none()
        | st.tuples(
            st.sampled_from([VERIFIED, DELETED, "UPDATE metric_day_ledger", "DROP TABLE"]),
            st.integers(1, 4),
            st.none() | days,
        ),
    )
    def retain(
        self,
        passed: int,
        batch_rows: int,
        cut_off_after: int | None,
        late_at: tuple[date, int] | None,
        within: tuple[str, int, date | None] | None,
    ) -> None:
        """A night's run, perhaps cut off between two steps, perhaps with a log that arrives in its middle.

        within: the same inside a transaction: after this statement, at that call, a log of the day or the cut.
        """
        self.today += timedelta(days=passed)
        steps = iter(range(1000))

        def progress(_message: str) -> None:
            step = next(steps)
            if late_at is not None and step == late_at[1]:
                self.load(late_at[0], 1)
            if step == cut_off_after:
                raise CutOffError

        def disturb(call: int) -> None:
            if within is None or call != within[1]:
                return
            if within[2] is None:
                raise CutOffError
            self.load_unless_locked(within[2])

        before = {day: set(names) for day, names in self.standing.items()}
        arrived_from = next(self.names)
        try:
            with interfering(self.database, within[0] if within else "nothing of the sort", disturb):
                report = prune(
                    self.database, f"{self.today}T03:30:00+00:00", batch_rows=batch_rows, on_progress=progress
                )
        except CutOffError:
            report = None
        left = self.logs_left()
        for day in DAYS:
            gone = self.standing[day] - left[day]
            assert gone <= self.aggregated.get(day, set())
            assert not any(name >= arrived_from for name in gone)
            assert not gone or day < self.today - timedelta(days=30)
            assert not gone or day in self.sealed_days()
            if report is not None:
                assert report.pruned_logs.get(day, 0) == len(gone)
                # A log that arrives after its day was held back is the next run's to report.
                reported = sum(held.logs for held in report.held_back if held.metric_date == day)
                late = len(left[day] - before[day])
                is_due = day < self.today - timedelta(days=30)
                assert reported in (range(len(left[day]) - late, len(left[day]) + 1) if is_due else {0})
        assert all(left[day] <= before[day] | self.standing[day] for day in DAYS)
        self.standing = left

    @invariant()
    def no_number_is_lost(self) -> None:
        stored = {
            day: (executions, tokens)
            for day, executions, tokens in query(
                self.database, "SELECT metric_date, total_executions, total_tokens FROM agent_performance_metrics"
            )
        }
        assert stored == {day: numbers[-1] for day, numbers in self.numbers.items()}
        restated: dict[date, list[Number]] = {}
        for day, executions, tokens, reason in query(
            self.database,
            """SELECT metric_date, (old_row->>'total_executions')::int, (old_row->>'total_tokens')::int, reason
                 FROM metric_restatements ORDER BY replaced_at""",
        ):
            assert reason
            restated.setdefault(day, []).append((executions, tokens))
        assert restated == {day: numbers[:-1] for day, numbers in self.numbers.items() if numbers[1:]}

    @invariant()
    def the_accounts_add_up(self) -> None:
        """No log stands that should not; and what was pruned and what is left of it is what was aggregated."""
        assert self.logs_left() == self.standing
        for day, pruned, source in query(
            self.database,
            "SELECT metric_date, raw_pruned_logs, source_logs FROM metric_day_ledger WHERE raw_pruned_at IS NOT NULL",
        ):
            assert source == len(self.aggregated[day]) == self.numbers[day][-1][0]
            left_or_taken = self.aggregated[day] & (self.standing[day] | self.taken)
            assert pruned + len(left_or_taken) == source

    def logs_left(self) -> dict[date, set[int]]:
        left: dict[date, Counter[int]] = {day: Counter() for day in DAYS}
        for moment, name in query(self.database, 'SELECT "timestamp", token_count FROM agent_execution_logs'):
            left[as_day(moment)][name] += 1
        assert all(count == 1 for counter in left.values() for count in counter.values())
        return {day: set(counter) for day, counter in left.items()}

    def sealed_days(self) -> set[date]:
        with self.database.engine.connect() as connection:
            return set(
                connection.scalars(text("SELECT metric_date FROM metric_day_ledger WHERE raw_pruned_at IS NOT NULL"))
            )


def as_day(moment: datetime) -> date:
    return moment.date()


@pytest.mark.parametrize("is_partitioned", [False, True], ids=["plain", "partitioned"])
def test_no_history_loses_a_number_or_a_log(database: Database, *, is_partitioned: bool) -> None:
    if is_partitioned:
        execute(database, *PARTITIONED)
    machine: Callable[[], RuleBasedStateMachine] = type(
        "OnTable", (Histories,), {"database": database, "partitions": PARTITIONS if is_partitioned else ()}
    )
    run_state_machine_as_test(machine, settings=settings(examples(10), stateful_step_count=14))
