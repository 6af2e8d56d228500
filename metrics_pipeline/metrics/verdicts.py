"""Verdicts: which days the rules call unusual, of an agent, of the fleet or of the pipeline, and the evidence.

They follow from the stored metrics of the days. What becomes of an alert is in alerts.
"""

from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from json import loads
from math import sqrt
from statistics import fmean, median
from typing import Any, NamedTuple

from metrics_pipeline.metrics.alert_rules import (
    BUDGET,
    NEW_ERROR_TYPE,
    SILENCE,
    SKIPPED_LOGS,
    THRESHOLD_METRICS,
    AlertRules,
    Scope,
    Severity,
    threshold,
    unusual,
)
from metrics_pipeline.metrics.anomalies import (
    JUDGED,
    MAD_TO_SIGMA,
    MIN_TRAILING_DAYS,
    SAME_WEEKDAYS,
    TRAILING_DAYS,
    Judged,
    Kind,
    days_of_interest,
    usual_range,
)
from metrics_pipeline.metrics.catalog import NANO_USD_PER_USD

#: The verdict of a day depends on this many days before it, and on none after it.
LOOK_BACK_DAYS = 7 * SAME_WEEKDAYS

# A success rate that is this many times as far from usual as it must be to be told.
_CRITICAL_TIMES = 2.0
# Of a normally distributed value, 80 % are within so many standard deviations.
_OF_80_PERCENT = 1.2816
_ID_CHARACTERS = 200

# Of the fleet, the numerator, what it is of one USD or success, and the value of a day without executions.
_QUOTIENTS = {
    "success_rate": ("successful_executions", 1, 1.0),
    "avg_cost_per_execution": ("total_cost_usd", NANO_USD_PER_USD, 0.0),
}

_SKIPPED_LOGS = Judged(0.5, is_relative=True, needs_executions=False, kind=Kind.COUNT, is_news_below=False)


class Series(NamedTuple):
    """What has at most one open alert."""

    rule: str
    scope: Scope
    agent_id: str


class Verdict(NamedTuple):
    """What a rule says of a day. evidence: of an unusual day; None of a usual one."""

    metric_date: date
    evidence: dict[str, Any] | None = None
    is_critical: bool = False


@dataclass(frozen=True)
class History:
    """The consecutive days of an agent, of the fleet or of the pipeline, from `first` on; None for a day without row.

    values: of each metric, as numbers; total costs are whole nano-dollars. errors: the error distributions, as JSON.
    """

    scope: Scope
    agent_id: str
    first: date
    values: Mapping[str, Sequence[float | None]]
    errors: Sequence[str | None] = field(default=(), repr=False)


def needed_days(first: date, last: date) -> list[date]:
    """The days whose rows verdicts() needs for the days from `first` to `last`."""
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    # A month to date begins at most 30 days before.
    months = {first.replace(day=1) + timedelta(days=n) for n in range((first - first.replace(day=1)).days)}
    return sorted({*days_of_interest(*days), *months})


def fleet_of(agents: Sequence[History]) -> History:
    """The fleet's days, from those of its agents, of which there is one at least, all of the same days."""
    values: dict[str, list[float | None]] = {
        name: [_sum(day) for day in zip(*(agent.values[name] for agent in agents), strict=True)]
        # What does not add up is in no rule of the fleet.
        for name in agents[0].values
        if name not in _QUOTIENTS
    }
    for name, (of, scale, without) in _QUOTIENTS.items():
        values[name] = [
            None if n is None or part is None else part / (scale * n) if n else without
            for part, n in zip(values[of], values["executions"], strict=True)
        ]
    return History(Scope.FLEET, "", agents[0].first, values)


def _sum(values: Iterable[float | None]) -> float | None:
    # Whole numbers, so that the sum is exact.
    present = [value for value in values if value is not None]
    return sum(present) if present else None


def verdicts(
    histories: Iterable[History], rules: AlertRules, days: Sequence[date], wanted: Iterable[Series] = ()
) -> dict[Series, list[Verdict]]:
    """What the rules say of `days`, in their order, for each series with an unusual day and for those that are wanted.

    histories: at least of needed_days().
    """
    found: dict[Series, list[Verdict]] = {series: [] for series in wanted}
    for history in histories:
        applied = rules.of(history.scope, history.agent_id)
        indexes = [(day, (day - history.first).days) for day in days]
        given = _Given(history, applied)
        for rule, setting in applied.items():
            judge = _JUDGES[rule]
            told = [
                Verdict(day, *verdict)
                for day, index in indexes
                if (verdict := judge(given, setting, index)) is not None
            ]
            series = Series(rule, history.scope, history.agent_id)
            if series in found or any(verdict.evidence is not None for verdict in told):
                found[series] = told
    return found


#: (evidence of an unusual day or None of a usual one, whether it is critical); None: the day is not judged.
_Judgement = tuple[dict[str, Any] | None, bool] | None
_Setting = Mapping[str, Any]

_USUAL: _Judgement = (None, False)


@dataclass(frozen=True)
class _Given:
    """A history, and the rules that apply to it."""

    history: History
    applied: Mapping[str, _Setting]

    @property
    def executions(self) -> Sequence[float | None]:
        return self.history.values["executions"]

    def evidence(
        self, metric: str, today: int, value: float, low: float | None, high: float | None, **more: Any
    ) -> dict[str, Any]:
        """What every alert says of its newest unusual day."""
        sides = {"value": value, "usual_low": low, "usual_high": high}
        return {
            "metric": metric,
            **{name: None if side is None else _digits(metric, side) for name, side in sides.items()},
            "executions": self.executions[today],
            **more,
        }


def _digits(metric: str, value: float) -> float | str:
    """A value with the digits that the metric is stored with. A usual range does not go below 0."""
    if metric == "success_rate":
        return round(min(max(value, 0.0), 1.0), 6)
    if metric == "avg_cost_per_execution":
        return f"{max(value, 0.0):.9f}"
    return _usd(max(value, 0)) if metric == "total_cost_usd" else round(max(value, 0))


def _usd(nano_usd: float) -> str:
    return f"{Decimal(round(nano_usd)).scaleb(-9):.9f}"


def _unusual(metric: str, given: _Given, setting: _Setting, today: int) -> _Judgement:
    values, judged = given.history.values[metric], JUDGED.get(metric, _SKIPPED_LOGS)
    usual = usual_range(judged, values, given.executions, today, setting["smallest_change"])
    value = values[today]
    if usual is None or value is None:
        return None
    if not usual.is_unusual(value):
        return _USUAL
    if metric == "total_executions" and value == 0 and SILENCE in given.applied:
        silence = _silence(given, given.applied[SILENCE], today)
        if silence is not None:
            # One alert for one fact.
            return None
    is_critical = judged.kind is Kind.RATE and usual.times_limit(value) >= _CRITICAL_TIMES
    return given.evidence(metric, today, value, usual.low, usual.high), is_critical


def _silence(given: _Given, setting: _Setting, today: int) -> _Judgement:
    """No executions for some days, more than ever in a row before, though many were to be expected in that time."""
    if given.executions[today] is None:
        return None
    if given.executions[today]:
        return _USUAL
    first = max(0, today - TRAILING_DAYS)
    window = [(day, n) for day, n in enumerate(given.executions[first : today + 1], first) if n is not None]
    days = next((age for age, (_, n) in enumerate(reversed(window)) if n), len(window))
    silent, past = window[len(window) - days :], window[: len(window) - days]
    numbers = [n for _, n in past]
    if sum(n > 0 for n in numbers) < MIN_TRAILING_DAYS:
        return None
    # On a weekday that is quieter than the others, fewer are missing.
    mean = fmean(numbers)
    same = [[n for other, n in past if (other - day) % 7 == 0] for day, _ in silent]
    missing = sum(min(mean, fmean(each)) if each else mean for each in same)
    if missing < setting["expected_executions"] or days <= _longest_silence(numbers):
        return None
    return given.evidence(
        "total_executions", today, 0, 1, max(numbers), silent_days=days, expected_executions=round(missing)
    ), True


def _longest_silence(executions: Iterable[float]) -> int:
    longest = current = 0
    for n in executions:
        current = 0 if n else current + 1
        longest = max(longest, current)
    return longest


def _new_error_type(given: _Given, setting: _Setting, today: int) -> _Judgement:
    """An error type of at least so many executions today that fewer had in all trailing days together."""
    text, least = given.history.errors[today], setting["executions"]
    past = [each for each in given.history.errors[max(0, today - TRAILING_DAYS) : today] if each is not None]
    if text is None or len(past) < MIN_TRAILING_DAYS:
        return None
    new = {
        error_type: n
        for error_type, n in _error_counts(text).items()
        if n >= least and not _is_known(error_type, past, least)
    }
    if not new:
        return _USUAL
    error_type, n = min(new.items(), key=lambda each: (-each[1], each[0]))
    return given.evidence(
        "error_distribution", today, n, 0, least - 1, error_type=error_type[:_ID_CHARACTERS], error_types=len(new)
    ), False


@lru_cache(maxsize=10_000)
def _error_counts(text: str) -> dict[str, int]:
    counts: dict[str, int] = loads(text)
    return counts


def _is_known(error_type: str, past: Sequence[str], least: float) -> bool:
    n = 0
    for text in reversed(past):
        n += _error_counts(text).get(error_type, 0)
        if n >= least:
            return True
    return False


def _threshold(metric: str, given: _Given, setting: _Setting, today: int) -> _Judgement:
    value, n = given.history.values[metric][today], given.executions[today]
    if value is None or n is None or n < setting["min_executions"]:
        return None
    scale = NANO_USD_PER_USD if metric == "total_cost_usd" else 1
    low, high = (None if setting[name] is None else setting[name] * scale for name in ("below", "above"))
    if (low is None or value >= low) and (high is None or value <= high):
        return _USUAL
    return given.evidence(metric, today, value, low, high), setting["severity"] == Severity.CRITICAL


def _budget(given: _Given, setting: _Setting, today: int) -> _Judgement:
    """The month to date, and its end if the days that are left cost as much as the trailing ones."""
    costs = given.history.values["total_cost_usd"]
    if costs[today] is None:
        return None
    budget, day = setting["usd_per_month"] * NANO_USD_PER_USD, given.history.first + timedelta(days=today)
    to_date = sum(cost for cost in costs[max(0, today - day.day + 1) : today + 1] if cost is not None)
    recent = [cost for cost in costs[max(0, today - TRAILING_DAYS + 1) : today + 1] if cost is not None]
    left = monthrange(day.year, day.month)[1] - day.day
    projected = to_date + left * sum(recent) / len(recent)
    middle = median(recent)
    spread = MAD_TO_SIGMA * median(abs(cost - middle) for cost in recent)
    distance = _OF_80_PERCENT * spread * sqrt(left)
    low, high = max(to_date, projected - distance), projected + distance
    if to_date <= budget and (low <= budget or len(recent) < MIN_TRAILING_DAYS):
        return _USUAL
    return given.evidence(
        "total_cost_usd",
        today,
        to_date,
        0,
        budget,
        projected_usd=_usd(projected),
        projected_low=_usd(low),
        projected_high=_usd(high),
    ), to_date > budget


_JUDGES: dict[str, Callable[[_Given, _Setting, int], _Judgement]] = {
    **{unusual(metric): partial(_unusual, metric) for metric in JUDGED},
    **{threshold(metric): partial(_threshold, metric) for metric in THRESHOLD_METRICS},
    SKIPPED_LOGS: partial(_unusual, "skipped_logs"),
    SILENCE: _silence,
    NEW_ERROR_TYPE: _new_error_type,
    BUDGET: _budget,
}
