"""Calendar days, as text and as half-open windows of instants. Nothing else turns a date into two timestamps."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

#: A day must be stored by this hour of the next day, local time of the zone.
DUE_HOUR = 3


@dataclass(frozen=True)
class DayWindow:
    """The instants [start, end) of one calendar day, in UTC: 23, 24 or 25 hours, depending on the zone."""

    metric_date: date
    time_zone: str
    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.metric_date} ({self.time_zone}: {self.start:%Y-%m-%d %H:%M}Z to {self.end:%Y-%m-%d %H:%M}Z)"


def day_of(text: str) -> date:
    """The date that YYYY-MM-DD means. Raises ValueError for any other text."""
    day = date.fromisoformat(text)
    # Python also reads 20250711 and 2025-W28-5.
    if day.isoformat() != text:
        raise ValueError(f"{text!r} is not written as YYYY-MM-DD")
    return day


def day_window(metric_date: date, time_zone: str) -> DayWindow:
    """The window of `metric_date` in the IANA zone `time_zone`.

    If clocks skip midnight, the day starts at the instant of the change; if midnight occurs twice, at the first.
    """
    return DayWindow(
        metric_date,
        time_zone,
        _midnight(metric_date, time_zone),
        _midnight(metric_date + timedelta(days=1), time_zone),
    )


def days_between(first: date, last: date) -> list[date]:
    """All days from `first` to `last`, both included; empty when `first` comes after `last`."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def last_complete_day(now: datetime, time_zone: str) -> date:
    """The newest day that has ended at the instant `now`: yesterday in `time_zone`."""
    return now.astimezone(ZoneInfo(time_zone)).date() - timedelta(days=1)


def last_due_day(now: datetime, time_zone: str) -> date:
    """The newest day that must be stored at the instant `now`: DUE_HOUR of the day after it has passed."""
    return last_complete_day(now, time_zone) - timedelta(days=now.astimezone(ZoneInfo(time_zone)).hour < DUE_HOUR)


def _midnight(day: date, time_zone: str) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
