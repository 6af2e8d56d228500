from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow
from metrics_pipeline.metrics.retention import RetentionPolicy, cutoffs, reason_of_difference, reason_to_hold_back
from metrics_pipeline_tests.ledger_rows import PRUNED_AT, ledger_row

NOTHING = SourceFingerprint.of_no_logs()
THREE = SourceFingerprint(
    logs=3, successful=2, failed=1, latency_ms=60, tokens=9, cost_nano_usd=500, content_hash=-(2**70)
)
ONE = SourceFingerprint(logs=1, successful=1, failed=0, latency_ms=10, tokens=2, cost_nano_usd=100, content_hash=2**63)
TWO = SourceFingerprint(
    logs=2, successful=1, failed=1, latency_ms=50, tokens=7, cost_nano_usd=400, content_hash=-(2**70) - 2**63
)
OPEN = ledger_row(THREE)
SEALED = replace(OPEN, raw_pruned_at=PRUNED_AT, raw_pruned_logs=3)


def reason(
    standing: SourceFingerprint,
    *,
    stored: LedgerRow | None = OPEN,
    pruned: SourceFingerprint | None = None,
    time_zone: str = "UTC",
    overlapping: date | None = None,
    totals: tuple[int, int] = (2, 3),
) -> str | None:
    kinds = [("postgresql", 1), ("postgresql", 2)]
    said = reason_to_hold_back(stored, pruned, totals, time_zone, overlapping, kinds)
    if said is None:
        assert stored is not None
        return reason_of_difference(stored, standing if pruned is None else pruned + standing)
    return said


@pytest.mark.parametrize(
    ("at", "zone", "today"),
    [
        ("2025-05-01T03:30:00+00:00", "UTC", date(2025, 5, 1)),
        ("2025-05-01T23:59:59+00:00", "UTC", date(2025, 5, 1)),
        ("2025-05-01T23:59:59+00:00", "Asia/Tokyo", date(2025, 5, 2)),
        ("2025-05-01T03:30:00+00:00", "America/New_York", date(2025, 4, 30)),
    ],
)
def test_days_are_counted_back_from_today_as_the_zone_has_it(at: str, zone: str, today: date) -> None:
    policy = RetentionPolicy(raw_log_days=1, metric_days=400, alert_days=30)
    found = cutoffs(policy, datetime.fromisoformat(at), zone)
    assert found.today == today
    assert (found.raw_logs - today).days == -1
    assert (found.metrics - today).days == -400
    assert (found.alerts - today).days == -30


def test_by_default_raw_logs_stay_30_days_metrics_365_and_resolved_alerts_90() -> None:
    found = cutoffs(RetentionPolicy(), datetime(2025, 5, 1, 3, 30, tzinfo=UTC), "UTC")
    assert (found.raw_logs, found.metrics, found.alerts) == (date(2025, 4, 1), date(2024, 5, 1), date(2025, 1, 31))


@pytest.mark.parametrize("field", ["raw_log_days", "metric_days", "alert_days"])
@pytest.mark.parametrize("days", [0, -1, 36_601, 800_000, 10**40])
def test_a_policy_keeps_at_least_one_day_and_at_most_a_hundred_years(field: str, days: int) -> None:
    with pytest.raises(PermanentError, match=f"^{field} is {days}[.,]"):
        RetentionPolicy(**{field: days})
    RetentionPolicy(36_600, 36_600, 36_600)


def test_raw_logs_are_not_kept_longer_than_their_metrics() -> None:
    RetentionPolicy(raw_log_days=40, metric_days=40)
    with pytest.raises(PermanentError, match="raw_log_days is 41, more than metric_days, 40"):
        RetentionPolicy(raw_log_days=41, metric_days=40)


def test_logs_that_are_as_they_were_aggregated_may_go() -> None:
    assert reason(THREE) is None


def test_logs_that_were_never_aggregated_stay() -> None:
    assert reason(THREE, stored=None) == "never aggregated: backfill the day"
    assert reason(NOTHING, stored=None) is not None


@pytest.mark.parametrize(
    ("field", "difference"),
    [
        ("logs", "logs +1"),
        ("successful", "successful +1"),
        ("failed", "failed +1"),
        ("latency_ms", "latency +1 ms"),
        ("tokens", "tokens +1"),
        ("cost_nano_usd", "cost +0.000000001 USD"),
        ("content_hash", "values corrected without a change of any total"),
    ],
)
def test_logs_that_differ_in_any_total_or_in_their_hash_only_stay(field: str, difference: str) -> None:
    said = reason(replace(THREE, **{field: getattr(THREE, field) + 1}))
    assert said == f"differs from what was aggregated ({difference}): backfill the day"


def test_a_day_of_another_zone_stays_and_so_does_one_that_shares_hours_with_it() -> None:
    assert reason(THREE, time_zone="Asia/Tokyo") == "stored as a day of UTC, not of Asia/Tokyo"
    assert reason(THREE, overlapping=date(2025, 3, 3)) == (
        "shares hours with 2025-03-03, which is stored under another time zone"
    )


def test_what_came_after_the_seal_stays() -> None:
    assert reason(ONE, stored=SEALED) == "arrived after the day was sealed on 2025-04-05: not in its metrics"
    # Not even if it looks like what was pruned.
    assert reason(THREE, stored=SEALED) is not None


def test_a_half_pruned_day_goes_on_if_pruned_and_standing_logs_add_up_to_the_aggregated_ones() -> None:
    assert reason(TWO, stored=SEALED, pruned=ONE) is None
    assert reason(THREE, stored=SEALED, pruned=NOTHING) is None
    assert reason(NOTHING, stored=SEALED, pruned=THREE) is None


def test_a_half_pruned_day_stays_if_pruned_and_standing_logs_do_not_add_up() -> None:
    said = "half pruned by an earlier version, and the rest differs from what was aggregated "
    assert reason(ONE, stored=SEALED, pruned=ONE) == (
        said + "(logs -1, failed -1, latency -40 ms, tokens -5, cost -0.0000003 USD)"
    )
    assert (reason(THREE, stored=SEALED, pruned=ONE) or "").startswith(said + "(logs +1")
    assert (reason(replace(TWO, content_hash=0), stored=SEALED, pruned=ONE) or "").startswith(said + "(values")
    assert reason(TWO, stored=SEALED, pruned=ONE, time_zone="Asia/Tokyo") == "stored as a day of UTC, not of Asia/Tokyo"


def test_a_half_pruned_day_stays_if_what_was_pruned_has_a_fingerprint_of_another_kind() -> None:
    said = reason(TWO, stored=SEALED, pruned=replace(ONE, kind=("postgresql", 2)))
    assert "cannot be verified here" in (said or "")


@pytest.mark.parametrize("totals", [(1, 3), (3, 3), (2, 2), (0, 0)])
def test_a_day_whose_stored_rows_are_not_those_of_the_ledger_stays(totals: tuple[int, int]) -> None:
    rows, executions = totals
    assert reason(THREE, totals=totals) == (
        f"the stored metrics of this day are damaged (rows {rows} of 2, executions {executions} of 3): backfill the day"
    )


def test_a_day_whose_fingerprint_cannot_be_computed_any_more_is_held_back() -> None:
    unknown = replace(OPEN, source_fingerprint=replace(THREE, kind=("postgresql", 99)))
    assert reason(THREE, stored=unknown) == (
        "its fingerprint is version 99 of postgresql, which cannot be verified here: backfill the day"
    )
