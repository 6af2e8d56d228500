"""Episodes of alerts, and what differs from the stored ones, by hand."""

from datetime import date, timedelta

import pytest

from metrics_pipeline.metrics.alerts import Alert, Change, Scope, Severity, differences, episodes
from metrics_pipeline.metrics.verdicts import Series, Verdict

DAY = date(2025, 6, 15)
SERIES = Series("a rule", Scope.AGENT, "a")


def days(text: str, first: int = 0) -> list[Verdict]:
    """Verdicts of consecutive days: U unusual, C critical, . usual, and a space for a day that is not judged."""
    return [
        Verdict(DAY + timedelta(days=n), {"on": n} if sign in "UC" else None, sign == "C")
        for n, sign in enumerate(text, first)
        if sign != " "
    ]


@pytest.mark.parametrize(
    ("text", "newest", "found"),
    [
        ("..U", 2, [(2, 2, 1, None)]),
        ("U.U..U", 5, [(0, 2, 2, 4), (5, 5, 1, None)]),
        # The usual days need not be neighbours, but no unusual one is between them.
        ("U  .  .", 6, [(0, 0, 1, 6)]),
        ("U.             .", 15, [(0, 0, 1, 15)]),
        ("U.              .", 16, [(0, 0, 1, 15)]),
        ("U", 13, [(0, 0, 1, None)]),
        ("U", 14, [(0, 0, 1, 14)]),
        ("U             U", 14, [(0, 14, 2, None)]),
        ("U              U", 15, [(0, 0, 1, 14), (15, 15, 1, None)]),
    ],
)
def test_an_episode_ends_after_two_usual_days_or_fourteen_that_were_not_judged(
    text: str, newest: int, found: list[tuple[int, int, int, int | None]]
) -> None:
    alerts = episodes(SERIES, days(text), None, DAY + timedelta(days=newest))
    assert [
        (
            (alert.opened_on - DAY).days,
            (alert.last_seen_on - DAY).days,
            alert.days,
            alert.resolved_on and (alert.resolved_on - DAY).days,
        )
        for alert in alerts
    ] == found
    assert [alert.evidence for alert in alerts] == [{"on": last_seen} for _, last_seen, *_ in found]


def test_an_episode_is_as_bad_as_its_worst_day_and_goes_on_from_what_is_stored() -> None:
    (alert,) = episodes(SERIES, days("UCU"), None, DAY + timedelta(days=2))
    assert (alert.severity, alert.days, alert.evidence) == (Severity.CRITICAL, 3, {"on": 2})
    whole = episodes(SERIES, days("UCU.U.."), None, DAY + timedelta(days=6))
    assert episodes(SERIES, days(".U..", first=3), alert, DAY + timedelta(days=6)) == whole


def test_differences_are_what_somebody_must_know() -> None:
    def alert(opened: int, resolved: int | None, severity: Severity = Severity.WARNING, on: int = 0) -> Alert:
        end = None if resolved is None else DAY + timedelta(days=resolved)
        return Alert(*SERIES, DAY + timedelta(days=opened), severity, DAY, 1, end, {"on": on})

    def changes(before: list[Alert], after: list[Alert]) -> list[Change]:
        return [change for change, _ in differences(before, after)]

    assert changes([], [alert(0, None)]) == [Change.OPENED]
    assert changes([], [alert(0, 3)]) == [Change.OPENED, Change.RESOLVED]
    assert changes([alert(0, None)], []) == [Change.WITHDRAWN]
    assert changes([alert(0, None)], [alert(0, 3)]) == [Change.RESOLVED]
    assert changes([alert(0, None)], [alert(0, 3, Severity.CRITICAL)]) == [Change.CHANGED, Change.RESOLVED]
    assert changes([alert(0, 3)], [alert(0, None)]) == [Change.OPENED]
    assert changes([alert(0, 3)], [alert(0, 4, on=1)]) == []
    assert changes([alert(1, None)], [alert(0, None)]) == [Change.OPENED, Change.WITHDRAWN]
