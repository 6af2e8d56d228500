"""Which values of a day are unusual for their agent, by hand."""

from collections.abc import Mapping
from datetime import date, timedelta

import polars as pl
import pytest

from metrics_pipeline.metrics.anomalies import HISTORY_SCHEMA, days_of_interest, unusual_values

#: A Tuesday.
DAY = date(2025, 7, 15)
#: Of so many executions that chance moves neither the rate nor their number by as much as the smallest changes.
USUAL = {"success_rate": 0.9, "p95_latency_ms": 1000.0, "avg_cost_per_execution": 0.5, "total_executions": 10_000.0}
ONE = {"agent_id": "a"}


def history(today: Mapping[str, object], *past: Mapping[str, object], days: int = 56, agent: str = "a") -> pl.DataFrame:
    """The row of DAY, and those of the `days` before it, yesterday first: USUAL, but where `past` says otherwise."""
    rows = [USUAL | dict(today), *(USUAL | dict(past[n] if n < len(past) else {}) for n in range(days))]
    return pl.DataFrame(
        [{"agent_id": agent, "metric_date": DAY - timedelta(days=n), **row} for n, row in enumerate(rows)],
        schema=HISTORY_SCHEMA,
    )


def unusual(frame: pl.DataFrame) -> list[str]:
    return sorted(unusual_values(frame, DAY).values["metric"])


def test_the_rows_that_are_needed_are_those_of_the_trailing_days_and_of_the_same_weekdays() -> None:
    days = days_of_interest(DAY)
    assert days[0] == DAY - timedelta(weeks=8)
    assert days[-29:] == [DAY - timedelta(days=n) for n in range(28, -1, -1)]
    assert len(days) == 29 + 4
    assert {day.weekday() for day in days[:4]} == {DAY.weekday()}


@pytest.mark.parametrize(
    ("metric", "usual", "too_much"),
    [
        # More successes, and less time and money, are no alarm.
        ("success_rate", (0.85, 1.0), (0.849,)),
        ("p95_latency_ms", (1.0, 1500.0), (1501.0,)),
        ("avg_cost_per_execution", (0.001, 0.75), (0.751,)),
        ("total_executions", (5000.0, 15_000.0), (4999.0, 15_001.0)),
    ],
)
def test_where_nothing_ever_varied_the_smallest_change_worth_a_look_decides(
    metric: str, usual: tuple[float, float], too_much: tuple[float, ...]
) -> None:
    for value in usual:
        # A hair inside, as 0.95 - 0.9 is more than 0.05 in double precision.
        assert unusual(history({metric: value + (1e-9 if value < USUAL[metric] else -1e-9)})) == []
    for value in too_much:
        assert unusual(history({metric: value})) == [metric]


def test_otherwise_five_robust_standard_deviations_decide() -> None:
    # 900 and 1100 in turn: median 1000 (even number of days), each 100 away. 5 * 100 / 1000 = 0.5, and as a factor
    # e ** 0.5 = 1.6487. The same weekdays, 7, 14 … days ago, alternate as well: eight of them, four of each.
    past = [{"p95_latency_ms": 900.0 if n % 2 else 1100.0} for n in range(56)]
    assert unusual(history({"p95_latency_ms": 1648.0}, *past)) == []
    assert unusual(history({"p95_latency_ms": 1649.0}, *past)) == ["p95_latency_ms"]
    # Of a quarter of the executions it varies twice as much: e ** 1 = 2.7183.
    few = {"total_executions": 2500.0}
    assert "p95_latency_ms" not in unusual(history({"p95_latency_ms": 2718.0, **few}, *past))
    assert "p95_latency_ms" in unusual(history({"p95_latency_ms": 2719.0, **few}, *past))
    # Two outliers count as three times 148.26 away: sqrt((26 * 100 ** 2 + 2 * 444.78 ** 2) / 28) = 153.024, and
    # e ** (5 * 0.153024) = 2.1493.
    past[2] = past[4] = {"p95_latency_ms": 90_000.0}
    assert unusual(history({"p95_latency_ms": 2149.0}, *past)) == []
    assert unusual(history({"p95_latency_ms": 2150.0}, *past)) == ["p95_latency_ms"]


# By hand. The angle of a rate is 2 * asin(sqrt(rate)), and that of 1 is pi. Of 240 executions on eight weekdays none
# failed. 3.25 * sqrt(1 / 30 + 1 / 240) = 0.62936, and the rate of the angle pi - 0.62936 is 0.904202.
@pytest.mark.parametrize(("failures", "found"), [(2, []), (3, ["success_rate"])])
def test_of_few_executions_two_failures_are_no_news_even_if_there_were_none_before(
    failures: int, found: list[str]
) -> None:
    never = {"success_rate": 1.0, "total_executions": 30.0}
    assert unusual(history(never | {"success_rate": 1 - failures / 30}, *[never] * 56)) == found


# By hand, in angles: that of 0.8 is 2.214297.
@pytest.mark.parametrize(
    ("varies_by", "worst", "lowest"),
    [
        # 2.214297 - 3.25 * sqrt(1 / 500 + 1 / 4000) = 2.060136, whose rate is 0.735022.
        (0.0, 0.8, 0.735022),
        # The variance of the angles is 0.002494, and chance may explain 0.002 * (1 + sqrt(2 / 28)) = 0.002535.
        (0.02, 0.8, 0.735022),
        # The variance is 0.010044, which is 0.007509 more, and
        # 2.214297 - sqrt(3.25 ** 2 * (1 / 500 + 1 / 4000) + 5 ** 2 * 0.007509 * 9 / 8) = 1.729554: a rate of 0.579056.
        (0.04, 0.8, 0.579056),
        # A week ago all failed. That counts as 2.214297 - 3.25 * sqrt(1 / 500) = 2.068953: a rate of 0.738904. So the
        # rate of the weekdays was (7 * 0.8 + 0.738904) / 8 = 0.792363, and its lowest is 0.726613.
        (0.0, 0.0, 0.726613),
    ],
)
def test_a_rate_is_unusual_below_what_chance_and_its_own_variation_explain(
    varies_by: float, worst: float, lowest: float
) -> None:
    past = [{"success_rate": 0.8 + varies_by * (-1) ** n, "total_executions": 500.0} for n in range(56)]
    if worst < 0.8:
        past[6] = past[6] | {"success_rate": worst}
    day = {"total_executions": 500.0}
    assert unusual(history(day | {"success_rate": lowest + 1e-6}, *past)) == []
    assert unusual(history(day | {"success_rate": lowest - 1e-6}, *past)) == ["success_rate"]


def test_bad_days_that_come_again_and_again_are_no_news() -> None:
    # Eight failures of forty: a rate of 0.8, where chance alone explains 0.86.
    bad = {"success_rate": 0.8, "total_executions": 40.0}
    good = {"success_rate": 1.0, "total_executions": 40.0}
    assert unusual(history(bad, *[bad if n % 5 == 4 else good for n in range(56)])) == []
    assert unusual(history(bad, *[bad if n % 28 == 4 else good for n in range(56)])) == ["success_rate"]


def test_of_few_executions_some_more_or_fewer_are_no_news() -> None:
    # Of 35 executions, half would be 17.5, and five standard deviations of chance are 5 * sqrt(35 + 1) = 30.
    few = [{"total_executions": 35.0}] * 56
    assert unusual(history({"total_executions": 65.0}, *few)) == []
    assert unusual(history({"total_executions": 66.0}, *few)) == ["total_executions"]
    assert unusual(history({"total_executions": 5.0}, *few)) == []
    assert unusual(history({"total_executions": 4.0}, *few)) == ["total_executions"]


def test_a_range_is_told_that_holds_for_both_pasts() -> None:
    past = [{"total_executions": 6000.0} if n % 7 == 6 else {} for n in range(56)]
    (row,) = unusual_values(history({"total_executions": 2000.0}, *past), DAY).values.rows(named=True)
    # Half of 6000 to one and a half of 10000.
    assert (row["usual_low"], row["usual_high"]) == (3000.0, 15_000.0)


def test_outliers_in_the_past_move_nothing() -> None:
    past = [{"p95_latency_ms": 90_000.0} if n in (3, 7, 9, 14) else {} for n in range(56)]
    assert unusual(history({"p95_latency_ms": 1501.0}, *past)) == ["p95_latency_ms"]
    assert unusual(history({}, *past)) == []


def test_a_quiet_weekday_is_no_surprise_on_that_weekday_and_one_on_another() -> None:
    # Every seventh day before DAY, and only those, has a tenth of the executions.
    past = [{"total_executions": 6000.0} if n % 7 == 6 else {"total_executions": 60_000.0} for n in range(56)]
    assert unusual(history({"total_executions": 6000.0}, *past)) == []
    assert unusual(history({"total_executions": 60_000.0}, *past)) == []
    assert unusual(history({"total_executions": 2000.0}, *past)) == ["total_executions"]
    # Between both, which neither the days nor the weekdays before had, is nothing that somebody must know of.
    assert unusual(history({"total_executions": 20_000.0}, *past)) == []


def test_a_change_that_has_lasted_for_weeks_is_no_longer_one() -> None:
    changed = {"avg_cost_per_execution": 2.0}
    assert unusual(history(changed, *[changed] * 3)) == ["avg_cost_per_execution"]
    assert unusual(history(changed, *[changed] * 20)) == []


@pytest.mark.parametrize(("days", "found"), [(20, []), (21, ["success_rate"])])
def test_an_agent_is_judged_from_its_third_same_weekday_on(days: int, found: list[str]) -> None:
    frame = history({"success_rate": 0.1}, days=days)
    assert unusual(frame) == found
    assert unusual_values(frame, DAY).agents_with_history == len(found)
    assert unusual_values(frame, DAY).agents == 1


def test_weekdays_of_more_than_eight_weeks_ago_do_not_count() -> None:
    age = (pl.lit(DAY) - pl.col("metric_date")).dt.total_days()
    # Of the same weekdays, those of one, two and eight weeks ago are left, and then nine instead of eight.
    assert unusual(history({"success_rate": 0.1}, days=70).filter((age < 20) | (age == 56))) == ["success_rate"]
    assert unusual(history({"success_rate": 0.1}, days=70).filter((age < 20) | (age == 63))) == []


def test_too_few_trailing_days_judge_nothing() -> None:
    old = history({"success_rate": 0.1}).filter(
        (pl.col("metric_date") < DAY - timedelta(days=28))
        | (pl.col("metric_date") > DAY - timedelta(days=10))
        | ((pl.lit(DAY) - pl.col("metric_date")).dt.total_days() % 7 == 0)
    )
    # Of the last 28 days, days 1 to 9 and 14, 21, 28 are left: twelve. Without 8 and 9 and 1: nine.
    assert unusual(old) == ["success_rate"]
    fewer = old.filter(~pl.col("metric_date").is_in([DAY - timedelta(days=n) for n in (1, 8, 9)]))
    assert unusual(fewer) == []


def test_days_with_few_executions_say_nothing_of_rates_but_do_of_volume() -> None:
    few = {"total_executions": 29.0, "success_rate": 0.0, "p95_latency_ms": 9e9, "avg_cost_per_execution": 9.0}
    assert unusual(history(few)) == ["total_executions"]
    assert unusual(history({"total_executions": 30.0, "success_rate": 0.0})) == ["success_rate", "total_executions"]
    # A past of such days is none.
    assert unusual(history({"success_rate": 0.0, "total_executions": 30.0}, *[{"total_executions": 29.0}] * 56)) == []


def test_an_agent_that_is_silent_is_unusual_unless_it_was_hardly_ever_heard() -> None:
    silent = {"total_executions": 0.0, "success_rate": 1.0, "p95_latency_ms": 0.0, "avg_cost_per_execution": 0.0}
    assert unusual(history(silent)) == ["total_executions"]
    assert unusual(history(silent, *[{"total_executions": 29.0}] * 56)) == []
    assert unusual(history(silent, *[silent] * 56)) == []


def test_a_first_cost_after_none_is_unusual_and_none_after_none_is_not() -> None:
    free = {"avg_cost_per_execution": 0.0}
    assert unusual(history(free, *[free] * 56)) == []
    assert unusual(history({}, *[free] * 56)) == ["avg_cost_per_execution"]


def test_each_agent_is_judged_by_its_own_past_and_the_most_unusual_comes_first() -> None:
    frame = pl.concat(
        [
            history({"p95_latency_ms": 2000.0}, agent="a"),
            history({"p95_latency_ms": 9000.0}, agent="b"),
            history({"p95_latency_ms": 9000.0}, *[{"p95_latency_ms": 9000.0}] * 56, agent="c"),
            history({}, agent="new", days=1),
        ]
    )
    found = unusual_values(frame, DAY)
    assert found.values.select("agent_id", "value", "trailing_median", "weekday_median", "times_limit").rows() == [
        ("b", 9000.0, 1000.0, 1000.0, 16.0),
        ("a", 2000.0, 1000.0, 1000.0, 2.0),
    ]
    assert (found.agents, found.agents_with_history) == (4, 3)


def test_a_day_without_rows_has_nothing_unusual() -> None:
    empty = unusual_values(pl.DataFrame(schema=HISTORY_SCHEMA), DAY)
    assert (empty.values.height, empty.agents, empty.agents_with_history) == (0, 0, 0)
    assert empty.values.columns == [
        "agent_id", "metric", "value", "executions",
        "trailing_median", "weekday_median", "usual_low", "usual_high", "times_limit",
    ]  # fmt: skip
