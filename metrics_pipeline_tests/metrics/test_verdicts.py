"""Verdicts of the rules, by hand."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from hashlib import sha256
from typing import Any

import pytest

from metrics_pipeline.metrics.alert_rules import DEFAULT_RULES, AlertRules, Scope
from metrics_pipeline.metrics.verdicts import History, Series, Verdict, verdicts

#: A Sunday: 56 days before it are the past, and the month has 16 days left.
DAY = date(2025, 6, 15)
FIRST = DAY - timedelta(days=56)


def history(today: dict[str, Any], past: Sequence[dict[str, Any]] = ({},), **usual: Any) -> History:
    """56 days, which repeat `past`, and today. A usual day: 1,000 executions, of which 20 failed, for 2 USD."""
    rows = [usual | past[n % len(past)] for n in range(56)] + [usual | today]
    executions = [row.get("n", 1000) for row in rows]
    failed = [row.get("failed", 20) for row in rows]
    costs = [row.get("usd", 2) * 10**9 for row in rows]
    pairs = list(zip(executions, failed, costs, strict=True))
    values = {
        "executions": executions,
        "total_executions": executions,
        "successful_executions": [None if n is None else n - each for n, each, _ in pairs],
        "success_rate": [None if n is None else (n - each) / n if n else 1.0 for n, each, _ in pairs],
        "p95_latency_ms": [None if n is None else 800 for n in executions],
        "avg_cost_per_execution": [None if n is None else cost / n / 10**9 if n else 0.0 for n, _, cost in pairs],
        "total_cost_usd": [None if n is None else cost for n, _, cost in pairs],
    }
    errors = [None if row.get("n", 1000) is None else row.get("errors", '{"timeout": 20}') for row in rows]
    return History(Scope.AGENT, "a", FIRST, values, errors)


def told(given: History, rules: AlertRules = DEFAULT_RULES) -> dict[str, dict[str, Any]]:
    """The evidence of each rule that calls DAY unusual."""
    found = verdicts([given], rules, [DAY])
    return {series.rule: each.evidence for series, (each,) in found.items() if each.evidence is not None}


def test_a_usual_day_is_told_by_no_rule() -> None:
    assert told(history({})) == {}
    assert told(history({"n": None})) == {}


def test_silence_is_one_alert_and_says_how_much_is_missing() -> None:
    assert told(history({"n": 0, "failed": 0, "errors": "{}"})) == {
        "silence": {
            "metric": "total_executions",
            "value": 0,
            "usual_low": 1,
            "usual_high": 1000,
            "executions": 0,
            "silent_days": 1,
            "expected_executions": 1000,
        }
    }


@pytest.mark.parametrize(
    ("past", "is_silent"),
    [
        # Today and yesterday are a weekend, or the day after it is silent too.
        ([{"n": 0}] + [{"n": 100}] * 5 + [{"n": 0}], False),
        ([{"n": 100}] * 5 + [{"n": 0}] * 2, True),
        # 10 a day: two days, of which today is one, would have 20.
        ([{"n": 10}] * 55 + [{"n": 0}], True),
        ([{"n": 9}] * 55 + [{"n": 0}], False),
        # A Sunday has 19 or 20 of the week's hundreds.
        ([{"n": 19}] + [{"n": 100}] * 6, False),
        ([{"n": 20}] + [{"n": 100}] * 6, True),
        # Nine days with executions are not enough to say what is usual.
        ([{"n": 0}] * 18 + [{"n": 1000}] * 9 + [{"n": 0}], False),
    ],
)
def test_silence_is_longer_than_before_and_needs_many_missing_executions(
    past: list[dict[str, Any]], is_silent: bool
) -> None:
    assert ("silence" in told(history({"n": 0, "failed": 0}, past, failed=0))) is is_silent


@pytest.mark.parametrize(
    ("today", "past", "found"),
    [
        ('{"timeout": 20, "new \\u00e9": 5, "rare": 4}', '{"timeout": 20}', "new é"),
        ('{"timeout": 20, "rare": 4}', '{"timeout": 20}', None),
        # One failure each week adds up to four in 28 days, and one on every fourth day to seven.
        ('{"rare": 9}', "7", "rare"),
        ('{"rare": 9}', "4", None),
    ],
)
def test_a_new_error_type_is_one_that_hardly_ever_occurred(today: str, past: str, found: str | None) -> None:
    days = [{"errors": past}]
    if past.isdigit():
        days = [{"errors": '{"rare": 1}' if n % int(past) == 0 else "{}"} for n in range(56)]
    evidence = told(history({"errors": today}, days)).get("new_error_type")
    assert (evidence and evidence["error_type"]) == found


def test_a_threshold_is_told_below_and_above_and_of_enough_executions() -> None:
    limits = {"below": 0.9, "above": None, "min_executions": 100.0, "severity": "critical"}
    cost = {"below": None, "above": 1.5, "min_executions": 1.0, "severity": "warning"}
    rules = AlertRules({Scope.AGENT: {"threshold_success_rate": limits, "threshold_total_cost_usd": cost}})
    found = told(history({"failed": 101, "usd": 2}, usd=1), rules)
    assert found["threshold_success_rate"] == {
        "metric": "success_rate", "value": 0.899, "usual_low": 0.9, "usual_high": None, "executions": 1000
    }  # fmt: skip
    assert found["threshold_total_cost_usd"]["value"] == "2.000000000"
    assert found["threshold_total_cost_usd"]["usual_high"] == "1.500000000"
    assert "threshold_success_rate" not in told(history({"n": 1000, "failed": 100}, usd=1), rules)
    assert "threshold_success_rate" not in told(history({"n": 99, "failed": 99}, usd=1), rules)


def test_a_budget_is_told_when_it_will_be_spent_and_is_critical_when_it_is() -> None:
    def budget(usd: float, past: Sequence[dict[str, Any]]) -> Any:
        rules = AlertRules({Scope.AGENT: {"budget": {"usd_per_month": usd}}})
        (verdict,) = verdicts([history({}, past)], rules, [DAY], [Series("budget", Scope.AGENT, "a")])[
            Series("budget", Scope.AGENT, "a")
        ]
        return verdict

    # 15 of 30 days at 2 USD, always the same: 30 USD to date, 60 at the end of the month.
    assert budget(60, [{}]).evidence is None
    assert budget(59, [{}]) == Verdict(
        DAY,
        {
            "metric": "total_cost_usd",
            "value": "30.000000000",
            "usual_low": "0.000000000",
            "usual_high": "59.000000000",
            "executions": 1000,
            "projected_usd": "60.000000000",
            "projected_low": "60.000000000",
            "projected_high": "60.000000000",
        },
        is_critical=False,
    )
    assert budget(29, [{}]).is_critical
    # 1 and 3 USD in turn, and 2 today. To date 7 of 1, 7 of 3 and 2: 30. The last 28 days: 13 of 1, 14 of 3, 2: 57.
    # 30 + 15 * 57 / 28 = 60.536. The median is 2.5, that of distances 0.5: 1.2816 * 1.4826 * 0.5 * sqrt(15) = 3.680.
    evidence = budget(20, [{"usd": 1}, {"usd": 3}]).evidence
    assert (evidence["value"], evidence["projected_usd"][:6]) == ("30.000000000", "60.535")
    assert float(evidence["projected_high"]) - float(evidence["projected_usd"]) == pytest.approx(3.680, abs=0.001)
    assert budget(57, [{"usd": 1}, {"usd": 3}]).evidence is None
    assert budget(56, [{"usd": 1}, {"usd": 3}]).evidence is not None


def test_rules_that_say_something_else_have_another_digest() -> None:
    """If the rules judge otherwise, raise _VERSION of alert_rules.py, so that stored alerts are computed again."""
    draw = random.Random(1)
    found = []
    for _ in range(40):
        n, failing = draw.choice([0, 25, 40, 500]), draw.choice([0, 0.05, 0.2])
        past = [{"n": n, "failed": round(n * failing * draw.uniform(0.5, 1.5))} for _ in range(56)]
        today = {"n": draw.choice([0, n, 3 * n]), "usd": draw.choice([2, 9]), "errors": '{"other": 9}'}
        today["failed"] = round(today["n"] * failing * draw.choice([1, 2, 3]))
        found.append(sorted(told(history(today, past)).items()))
    assert (DEFAULT_RULES.digest[:8], sha256(repr(found).encode()).hexdigest()[:8]) == ("2fddcfb3", "19107090")
