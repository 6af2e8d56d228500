"""The sample's logs of one day, in batches: rhythm, latency, tokens, cost, failures and missing values."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal

import polars as pl

from metrics_pipeline.metrics.catalog import FAILED_STATUS, NANO_USD_PER_USD, SUCCESS_STATUS
from metrics_pipeline.sample.agents import SampleSpec, sample_agents
from metrics_pipeline.sample.randomness import normal, uniform, uuids

BATCH_ROWS = 50_000

#: The load in each hour after the day's start: an office, consumers in the evening, batch work at night.
RHYTHMS = (
    (1, 1, 1, 1, 1, 2, 5, 15, 40, 70, 80, 75, 50, 65, 80, 78, 65, 40, 20, 10, 6, 4, 2, 1),
    (15, 8, 5, 3, 3, 4, 8, 15, 22, 28, 32, 38, 44, 42, 40, 42, 48, 60, 75, 90, 100, 90, 60, 30),
    (60, 90, 100, 80, 50, 30, 20, 20, 22, 25, 25, 25, 25, 25, 25, 25, 25, 22, 20, 20, 20, 25, 30, 40),
)
#: The logs of a Saturday or Sunday as a share of a working day's, by rhythm.
_WEEKEND_SHARES = pl.Series([0.15, 0.8, 0.6])

_ERROR_TYPES = pl.Series(
    ["rate_limit", "tool_error", "invalid_output", "context_overflow", "auth_error", "upstream_5xx"]
)
_INCIDENT_ERRORS = pl.Series(["rate_limit", "upstream_5xx", "auth_error"])
_INCIDENTS_PER_AGENT_AND_DAY = 0.3
#: An outage: an incident of one agent, from the minute to the minute of its day, with this share of failures.
_OUTAGE_START, _OUTAGE_END, _OUTAGE_RATE = 360.0, 1080.0, 0.7

#: A release comes on a Wednesday, and takes these shares of the executions on its first days, then all of them.
_RELEASE_SHARES = (0.2, 0.6, 1.0)
#: Every second release is faster and fails less often; the one after it is as the one before.
_BETTER_LATENCY = 0.75
_BETTER_FAILURES = 0.4

# Shares of all logs.
_RUNNING = 0.002
_CANCELLED = 0.01
_SLOW = 0.01
_BLANK_LATENCY = 0.01
_BLANK_TOKENS = 0.02
_UNTAGGED = 0.05
_NO_USER = 0.1
#: Share of the failures that are not timeouts.
_UNNAMED_ERROR = 0.05


def sample_day(
    spec: SampleSpec, window_start: datetime, window_end: datetime, metric_date: date, *, has_outage: bool = False
) -> Iterator[pl.DataFrame]:
    """The logs of the day [window_start, window_end) in order of time, in frames of at most BATCH_ROWS rows.

    The frames have the LOG_SCHEMA of log_files, with cost_usd as Decimal(38, 9): exactly tokens times price per token.
    `metric_date` determines the weekday and, with `spec`, every value: the same arguments give the same logs and ids.
    `has_outage` gives the second busiest active agent an outage, and changes no id and no other agent.
    """
    agents = agents_of_day(spec, metric_date, has_outage=has_outage)
    total = round(spec.logs_per_day * float(agents["day_weight"].sum()) / (float(agents["weight"].sum()) or 1.0))
    clock = _cumulated_rhythms((window_end - window_start) // timedelta(minutes=1))
    for first in range(0, total, BATCH_ROWS):
        rows = min(BATCH_ROWS, total - first)
        yield _batch(
            agents, clock, window_start, first, rows, total, metric_date, (spec, metric_date.isoformat(), first)
        )


def agents_of_day(spec: SampleSpec, metric_date: date, *, has_outage: bool = False) -> pl.DataFrame:
    """The agents with their weight on this day and their incident: its minutes, failure rate and error type.

    Of sample_agents(), id is agent_id. day_weight, incident_start, incident_end, incident_rate: Float64, the minutes
    since the day's start, equal where there is no incident. incident_error: String. in_outage: Boolean.
    """

    def draw(label: str) -> pl.Series:
        return uniform(spec.agents, spec.seed, "incidents", metric_date.isoformat(), label)

    agents = sample_agents(spec).rename({"id": "agent_id"})
    is_weekend = metric_date.weekday() >= 5
    start = 1440.0 * draw("start")
    busiest = agents.filter(status="active").sort("weight", descending=True)["agent_id"]
    agents = agents.with_columns(in_outage=pl.lit(has_outage) & (pl.col("agent_id") == pl.lit(busiest[:2][-1])))
    return agents.with_columns(
        day_weight=agents["weight"] * (_WEEKEND_SHARES.gather(agents["rhythm"]) if is_weekend else 1.0),
        incident_start=start,
        # An incident that does not happen has the length 0.
        incident_end=start + (draw("happens") < _INCIDENTS_PER_AGENT_AND_DAY) * (5.0 + 55.0 * draw("length")),
        incident_rate=0.5 + 0.45 * draw("rate"),
        incident_error=_INCIDENT_ERRORS.gather((draw("error") * len(_INCIDENT_ERRORS)).cast(pl.UInt32)),
    ).with_columns(
        pl.when("in_outage").then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in (
            ("incident_start", _OUTAGE_START),
            ("incident_end", _OUTAGE_END),
            ("incident_rate", _OUTAGE_RATE),
            ("incident_error", "upstream_5xx"),
        )
    )


def _cumulated_rhythms(minutes: int) -> pl.DataFrame:
    """For each rhythm and minute of the day: the rhythm's number plus the share of its logs until the minute's end.

    The values increase, so one binary search in one column serves the agents of all rhythms.
    """
    hour = pl.int_range(minutes, eager=True) // 60 % 24
    cumulated = [pl.Series(rhythm, dtype=pl.Float64).gather(hour).cum_sum() for rhythm in RHYTHMS]
    return pl.DataFrame(
        {
            "position": pl.concat([number + shares / float(shares[-1]) for number, shares in enumerate(cumulated)]),
            "minute": pl.concat([pl.int_range(minutes, eager=True)] * len(RHYTHMS)),
        }
    )


def _batch(
    agents: pl.DataFrame,
    clock: pl.DataFrame,
    window_start: datetime,
    first: int,
    rows: int,
    total: int,
    metric_date: date,
    key: tuple[object, ...],
) -> pl.DataFrame:
    def draw(label: str) -> pl.Series:
        return uniform(rows, *key, label)

    weights = agents["day_weight"].cum_sum()
    agent = weights.search_sorted(draw("agent") * float(weights[-1]), side="right").clip(upper_bound=agents.height - 1)
    logs = (
        agents[agent]
        .with_columns(
            uuids(rows, *key, "id"),
            latency_noise=normal(rows, *key, "latency"),
            tokens_noise=normal(rows, *key, "tokens"),
            release=draw("release"),
            **{
                name: draw(name)
                for name in (
                    "slow",
                    "outcome",
                    "error",
                    "partial",
                    "output",
                    "user",
                    "intervention",
                    "blank",
                    "untagged",
                )
            },
        )
        .with_columns(_release(metric_date))
    )
    # Equally spaced shares of the day with jitter, so that the batches follow each other in time.
    share = (pl.int_range(first, first + rows, eager=True) + draw("jitter")) / total
    minute = clock["position"].search_sorted(logs["rhythm"] + share, side="right").clip(upper_bound=clock.height - 1)
    return (
        logs.with_columns(minute=clock["minute"].gather(minute) + draw("second"))
        .with_columns(
            latency_ms=pl.col("median_latency_ms")
            * (pl.col("latency_sigma") * pl.col("latency_noise")).exp()
            * pl.when(pl.col("slow") < _SLOW).then(8.0).otherwise(1.0)
            * pl.when("is_better").then(_BETTER_LATENCY).otherwise(1.0),
            failure_rate=pl.col("failure_rate") * pl.when("is_better").then(_BETTER_FAILURES).otherwise(1.0),
            tokens=(pl.col("median_tokens") * (0.7 * pl.col("tokens_noise")).exp()).clip(upper_bound=400_000.0),
            in_incident=pl.col("minute").is_between("incident_start", "incident_end", closed="left"),
        )
        .with_columns(_STATUS)
        .select(
            "id",
            "agent_id",
            _timestamp(window_start),
            "status",
            _LATENCY_MS,
            _TOKEN_COUNT,
            _COST_USD,
            _ERROR_TYPE,
            _METADATA,
        )
        .sort("timestamp")
    )


def _release(metric_date: date) -> list[pl.Expr]:
    """version: the release of each execution, named by year and week as 2025.38; is_better: see _BETTER_LATENCY."""
    weeks, days = divmod(metric_date.toordinal() - date(1, 1, 3).toordinal(), 7)
    share = _RELEASE_SHARES[min(days, len(_RELEASE_SHARES) - 1)]
    newest = metric_date - timedelta(days=days)
    is_newest = pl.col("release") < share
    names = [f"{year}.{week:02}" for year, week, _ in ((newest - timedelta(days=age)).isocalendar() for age in (0, 7))]
    return [
        pl.when(is_newest).then(pl.lit(names[0])).otherwise(pl.lit(names[1])).alias("version"),
        (is_newest == (weeks % 2 == 0)).alias("is_better"),
    ]


def _timestamp(window_start: datetime) -> pl.Expr:
    since_start = pl.duration(microseconds=(pl.col("minute") * 60_000_000).cast(pl.Int64))
    return (pl.lit(window_start).dt.convert_time_zone("UTC").dt.cast_time_unit("us") + since_start).alias("timestamp")


_TIMED_OUT = pl.col("latency_ms") >= pl.col("time_limit_ms")

_STATUS = (
    pl.when(pl.col("outcome") < _RUNNING)
    .then(pl.lit("running"))
    .when(pl.col("outcome") < _RUNNING + _CANCELLED)
    .then(pl.lit("cancelled"))
    .when(_TIMED_OUT & ~pl.col("fails_on_timeout"))
    .then(pl.lit("timeout"))
    .when(
        _TIMED_OUT
        | (
            pl.col("outcome")
            < _RUNNING + _CANCELLED + pl.when("in_incident").then("incident_rate").otherwise("failure_rate")
        )
    )
    .then(pl.lit(FAILED_STATUS))
    .otherwise(pl.lit(SUCCESS_STATUS))
    .alias("status")
)

#: A running execution has no result yet.
_HAS_RESULT = pl.col("status") != "running"

_LATENCY_MS = (
    pl.when(_HAS_RESULT & (pl.col("blank") >= _BLANK_LATENCY))
    .then(
        pl.min_horizontal("latency_ms", "time_limit_ms")
        * pl.when(pl.col("status") == "cancelled").then("partial").otherwise(1.0)
    )
    .cast(pl.Int32)
    .alias("latency_ms")
)

_TOKENS = (
    pl.when(_HAS_RESULT & (pl.col("blank") < 1.0 - _BLANK_TOKENS))
    .then(pl.col("tokens") * pl.when(pl.col("status") == SUCCESS_STATUS).then(1.0).otherwise("partial"))
    .cast(pl.Int64)
)
_OUTPUT_TOKENS = (_TOKENS * (0.05 + 0.4 * pl.col("output"))).cast(pl.Int64)

_TOKEN_COUNT = _TOKENS.cast(pl.Int32).alias("token_count")

# Integer nano-dollars become dollars in decimal arithmetic.
_COST_USD = (
    ((_TOKENS - _OUTPUT_TOKENS) * pl.col("input_nano_usd") + _OUTPUT_TOKENS * pl.col("output_nano_usd")).cast(
        pl.Decimal(38, 9)
    )
    * pl.lit(Decimal(1) / NANO_USD_PER_USD)
).alias("cost_usd")

_ERROR_TYPE = (
    pl.when(_TIMED_OUT)
    .then(pl.lit("timeout"))
    .when(pl.col("error") < _UNNAMED_ERROR)
    .then(None)
    .when("in_incident")
    .then("incident_error")
    # The square makes the first types the most frequent.
    .otherwise(pl.lit(_ERROR_TYPES).gather((pl.col("error") ** 2 * len(_ERROR_TYPES)).cast(pl.UInt32)))
    .pipe(lambda error: pl.when(pl.col("status").is_in([FAILED_STATUS, "timeout"])).then(error))
    .alias("error_type")
)

_METADATA = (
    pl.when(pl.col("logs_metadata") & (pl.col("untagged") >= _UNTAGGED))
    .then(
        # All parts are constants of this package and contain no character that JSON would escape.
        pl.concat_str(
            pl.lit('{"model":"'),
            "model",
            pl.lit('","version":"'),
            "version",
            pl.lit('","task":"'),
            "task",
            pl.lit('"'),
            pl.when(pl.col("untagged") < 1.0 - _NO_USER).then(
                pl.concat_str(
                    pl.lit(',"user_id":"user-'), (pl.col("users") * pl.col("user") ** 2).cast(pl.Int32), pl.lit('"')
                )
            ),
            pl.when(pl.col("intervention") < 0.03)
            .then(pl.lit(',"human_intervention":true'))
            .when(pl.col("intervention") < 0.04)
            .then(pl.lit(',"human_intervention":"true"'))
            .when(pl.col("intervention") < 0.05)
            .then(pl.lit(',"human_intervention":false')),
            pl.lit("}"),
            ignore_nulls=True,
        )
    )
    .alias("metadata")
)
