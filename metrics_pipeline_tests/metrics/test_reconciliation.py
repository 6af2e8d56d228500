"""Every state of a day, which state wins if two apply, and when a state counts as new."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import (
    DayEvidence,
    DayState,
    DayVerdict,
    LedgerRow,
    is_finished,
    reconcile,
    what_is_gone,
    why_closed,
)
from metrics_pipeline.metrics.verification import JudgedBy, Unreadable, Verification
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline_tests.ledger_rows import DAY, NIGHT, PRUNED_AT, ledger_row

LOGS = SourceFingerprint(
    logs=10, successful=7, failed=2, latency_ms=900, tokens=50, cost_nano_usd=1_500_000_000, content_hash=-77
)
STORED = ledger_row(LOGS)
PRUNED = replace(STORED, raw_pruned_at=PRUNED_AT, raw_pruned_logs=10)
_BERLIN = day_window(DAY, "Europe/Berlin")
BERLIN = replace(STORED, time_zone="Europe/Berlin", window_start=_BERLIN.start, window_end=_BERLIN.end)
EXPIRED = replace(PRUNED, metrics_expired_at=PRUNED_AT + timedelta(days=335))
LATE = replace(LOGS, logs=11, tokens=51)
CORRECTED = replace(LOGS, content_hash=78)
NO_LOGS = SourceFingerprint.of_no_logs()
#: As a later version of the package, or another source, would have stored it.
OTHER_KIND = replace(LOGS, kind=("postgresql", 99))


def verified(present: SourceFingerprint | Unreadable = LOGS, gone: str | None = None) -> Verification:
    """What a reading of DAY's logs at NIGHT has found."""
    window = day_window(DAY, "UTC")
    return Verification(
        DAY, window.start, window.end, "7", present, gone, NIGHT, None, NIGHT + timedelta(hours=1), JudgedBy.COUNT
    )


def verdict(
    stored: LedgerRow | None = STORED,
    present: SourceFingerprint | Unreadable = LOGS,
    gone: str | None = None,
    **evidence: Any,
) -> DayVerdict:
    (found,) = reconcile({DAY: DayEvidence(stored, verified(present, gone), **evidence)}, "UTC")
    return found


@pytest.mark.parametrize(
    ("stored", "present", "state", "reason"),
    [
        (STORED, LOGS, DayState.AGGREGATED, "equal to its logs"),
        (None, LOGS, DayState.MISSING, "never aggregated, 10 logs"),
        (None, NO_LOGS, DayState.MISSING, "never aggregated, 0 logs"),
        (
            STORED,
            SourceFingerprint(11, 8, 2, 900, 45, 1_500_000_001, 5),
            DayState.DIRTY,
            "logs +1, successful +1, tokens -5, cost +0.000000001 USD",
        ),
        (STORED, CORRECTED, DayState.DIRTY, "values corrected without a change of any total"),
        (
            STORED,
            NO_LOGS,
            DayState.DIRTY,
            "logs -10, successful -7, failed -2, latency -900 ms, tokens -50, cost -1.50 USD",
        ),
        (ledger_row(NO_LOGS), NO_LOGS, DayState.NO_ACTIVITY, "equal to its logs"),
        (
            replace(STORED, source_fingerprint=OTHER_KIND),
            CORRECTED,
            DayState.AGGREGATED,
            "not compared: its fingerprint is version 99 of postgresql",
        ),
        (STORED, Unreadable("log 7 cannot be read"), DayState.UNREADABLE, "log 7 cannot be read"),
        (EXPIRED, NO_LOGS, DayState.EXPIRED, "metrics of 2 agents deleted 2026-03-06"),
        (PRUNED, NO_LOGS, DayState.SEALED, "raw logs pruned 2025-04-05"),
        (PRUNED, LOGS, DayState.SEALED, "raw logs pruned 2025-04-05, 10 logs have arrived since or were left"),
        (BERLIN, LOGS, DayState.OTHER_ZONE, "stored as a day of Europe/Berlin"),
    ],
)
def test_a_day_has_the_state_and_the_reason_that_ledger_and_logs_give_it(
    stored: LedgerRow | None, present: SourceFingerprint | Unreadable, state: DayState, reason: str
) -> None:
    found = verdict(stored, present)
    assert (found.metric_date, found.state, found.reason) == (DAY, state, reason)
    assert found.needs_run == (state in (DayState.MISSING, DayState.DIRTY))


@pytest.mark.parametrize("stored", [None, STORED, PRUNED, BERLIN])
@pytest.mark.parametrize("present", [NO_LOGS, LOGS, CORRECTED])
def test_a_day_that_a_run_is_writing_is_left_alone_whatever_else_holds(
    stored: LedgerRow | None, present: SourceFingerprint
) -> None:
    found = verdict(stored, present, is_running=True)
    assert (found.state, found.needs_run) == (DayState.RUNNING, False)


def test_a_sealed_day_of_another_zone_is_sealed_and_a_changed_one_of_another_zone_is_not_dirty() -> None:
    assert verdict(replace(BERLIN, raw_pruned_at=PRUNED_AT), CORRECTED).state is DayState.SEALED
    assert verdict(BERLIN, CORRECTED).state is DayState.OTHER_ZONE


@pytest.mark.parametrize(
    ("present", "present_logs", "gone"),
    [
        (replace(LOGS, logs=8, tokens=40), {"a": 4, "b": 4}, "2 of 10 aggregated logs are gone: 'a' has 4 of 6 left"),
        # As many late ones of another agent came.
        (LATE, {"a": 11}, "4 of 10 aggregated logs are gone: 'b' has 0 of 4 left"),
        (NO_LOGS, {}, "10 of 10 aggregated logs are gone: 'a' has 0 of 6 left, 'b' has 0 of 4 left"),
    ],
)
@pytest.mark.parametrize("stored", [STORED, None])
def test_a_day_with_fewer_logs_of_an_agent_has_shrunk_and_waits_for_a_decision(
    stored: LedgerRow | None, present: SourceFingerprint, present_logs: dict[str, int], gone: str
) -> None:
    assert what_is_gone(stored, present, (), {"a": 6, "b": 4}, present_logs) == gone
    found = verdict(stored, present, gone)
    assert (found.state, found.reason, found.needs_run) == (DayState.SHRUNK, gone, False)


@pytest.mark.parametrize(
    ("present", "present_logs"),
    [
        (LATE, {"a": 7, "b": 4}),
        # A log moved to another agent: no total changes.
        (CORRECTED, {"a": 5, "b": 5}),
        (replace(LOGS, successful=6, failed=3), {"a": 5, "b": 5}),
        # Only logs that were skipped went.
        (replace(LOGS, logs=9), {"a": 6, "b": 4}),
    ],
)
def test_a_day_with_logs_that_came_moved_or_were_never_in_its_metrics_is_dirty(
    present: SourceFingerprint, present_logs: dict[str, int]
) -> None:
    assert what_is_gone(STORED, present, (), {"a": 6, "b": 4}, present_logs) is None
    found = verdict(STORED, present)
    assert (found.state, found.needs_run) == (DayState.DIRTY, True)


@pytest.mark.parametrize(
    ("stored", "present", "gone"),
    [
        (STORED, replace(LOGS, cost_nano_usd=0), "its logs no longer have cost_usd, user_id"),
        # No total tells it.
        (replace(STORED, unlogged=["cost_usd"]), CORRECTED, "its logs no longer have user_id"),
        (
            STORED,
            replace(LOGS, logs=8),
            "its logs no longer have cost_usd, user_id; 2 of 10 aggregated logs are gone: 'a' has 4 of 6 left",
        ),
        (replace(STORED, unlogged=["cost_usd", "user_id", "latency_ms"]), CORRECTED, None),
        # The columns were empty.
        (STORED, LOGS, None),
        # The day had no log that could have them, or was never aggregated.
        (ledger_row(NO_LOGS), LOGS, None),
        (None, CORRECTED, None),
    ],
)
def test_a_day_whose_logs_lost_a_column_that_held_something_has_shrunk(
    stored: LedgerRow | None, present: SourceFingerprint, gone: str | None
) -> None:
    left = {"a": present.logs - 4, "b": 4}
    assert what_is_gone(stored, present, ["cost_usd", "user_id"], {"a": 6, "b": 4}, left) == gone


def test_a_day_whose_stored_rows_were_altered_is_damaged_and_heals_while_its_logs_are_there() -> None:
    damage = ["rows 1, but agents in the ledger 2", "executions 4, but aggregated logs 10"]
    reason = "rows 1, but agents in the ledger 2; executions 4, but aggregated logs 10"
    for present in (LOGS, LATE):
        found = verdict(present=present, damage=damage)
        assert (found.state, found.reason, found.needs_run) == (DayState.DAMAGED, reason, True)
    sealed = verdict(PRUNED, NO_LOGS, damage=damage)
    assert (sealed.state, sealed.reason, sealed.needs_run) == (DayState.DAMAGED, reason, False)
    assert verdict(EXPIRED, NO_LOGS, damage=damage).state is DayState.EXPIRED
    assert verdict().fingerprint != verdict(damage=damage).fingerprint


def test_only_an_unreadable_day_that_is_not_stored_is_asked_for_so_that_its_failure_is_seen() -> None:
    broken = Unreadable("log 7 cannot be read")
    assert verdict(None, broken).needs_run
    assert not verdict(STORED, broken).needs_run


def test_two_names_of_a_zone_are_one_zone() -> None:
    assert verdict(replace(STORED, time_zone="Etc/UCT")).state is DayState.AGGREGATED


def test_an_older_definition_is_said_of_any_stored_day_and_asks_for_no_run() -> None:
    old = replace(STORED, definition_version="0")
    assert (verdict(old).is_outdated, verdict(old).state, verdict(old).needs_run) == (True, DayState.AGGREGATED, False)
    assert verdict(old, CORRECTED).is_outdated
    assert verdict(old, CORRECTED).state is DayState.DIRTY
    assert verdict(replace(PRUNED, definition_version="0")).is_outdated
    assert verdict(replace(STORED, source_fingerprint=OTHER_KIND)).is_outdated
    assert not verdict().is_outdated
    assert not verdict(None).is_outdated


def test_the_state_of_a_day_is_identified_by_its_logs_and_the_time_it_was_stored() -> None:
    stored_again = replace(STORED, aggregated_at=NIGHT + timedelta(microseconds=1))
    states = [
        verdict(),
        verdict(stored_again),
        verdict(None),
        verdict(None, NO_LOGS),
        verdict(STORED, CORRECTED),
        verdict(STORED, NO_LOGS),
        *(verdict(STORED, replace(LOGS, **{name: 3})) for name in ("logs", "tokens", "content_hash")),
    ]
    assert len({state.fingerprint for state in states}) == len(states)
    assert verdict(STORED, CORRECTED).fingerprint == verdict(STORED, CORRECTED).fingerprint


def test_days_are_judged_in_the_given_order_each_by_its_own_row() -> None:
    days = [DAY + timedelta(days=n) for n in (2, 0, 1, 3)]
    verdicts = reconcile(
        {
            days[0]: DayEvidence(STORED, verified()),
            days[1]: DayEvidence(PRUNED, verified()),
            days[2]: DayEvidence(STORED, verified(CORRECTED)),
            days[3]: DayEvidence(None, verified(), is_running=True),
        },
        "UTC",
    )
    assert [(found.metric_date, found.state) for found in verdicts] == [
        (days[0], DayState.AGGREGATED),
        (days[1], DayState.SEALED),
        (days[2], DayState.DIRTY),
        (days[3], DayState.RUNNING),
    ]


def test_a_sealed_day_and_one_of_another_zone_are_closed_and_the_reason_says_what_to_do() -> None:
    assert why_closed(STORED, "UTC") is None
    sealed = why_closed(replace(PRUNED, time_zone="Asia/Tokyo"), "UTC")
    assert sealed is not None
    assert sealed.state is DayState.SEALED
    assert "10 of its raw logs were pruned at 2025-04-05 03:30Z" in sealed.reason
    other = why_closed(BERLIN, "UTC")
    assert other is not None
    assert other.state is DayState.OTHER_ZONE
    assert "METRICS_TIME_ZONE is now UTC. Set METRICS_TIME_ZONE back, or" in other.reason


def test_a_day_is_finished_when_its_present_logs_would_store_it_no_better() -> None:
    assert is_finished(STORED, LOGS)
    assert not is_finished(STORED, CORRECTED)
    assert not is_finished(replace(STORED, source_fingerprint=OTHER_KIND), LOGS)
    assert not is_finished(replace(STORED, definition_version="0"), LOGS)
    assert is_finished(PRUNED, NO_LOGS)
    assert not is_finished(replace(PRUNED, definition_version="0"), NO_LOGS)


def test_a_day_of_which_no_log_counts_as_a_success_or_a_failure_says_so() -> None:
    odd = replace(LOGS, successful=0, failed=0)
    said = "equal to its logs; none of its logs (10) has the status success or failed, so every success rate is 0"
    assert verdict(ledger_row(odd), odd).reason.startswith(said)
