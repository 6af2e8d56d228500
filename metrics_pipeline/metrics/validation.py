"""The rules that every day must meet before it is written. A day that breaks one is wrong, so it is refused."""

from collections.abc import Sequence

import polars as pl

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.calculator import DayMetrics
from metrics_pipeline.metrics.catalog import METRICS, OverDays
from metrics_pipeline.metrics.windows import DayWindow
from metrics_pipeline.metrics.wording import counted

_MAX_NAMED_AGENTS = 5

_SUMS = [metric.name for metric in METRICS if metric.over_days is OverDays.SUM]
_OF_VALUES = "_of_values"

#: Each rule of a single row, by the words for a row that breaks it.
_ROW_RULES = {words: rule for metric in METRICS for words, rule in metric.rules.items()}


def validate_day(day: DayMetrics, window: DayWindow, logs_read: int) -> None:
    """Checks the conservation of logs and the rules of each row.

    `logs_read` comes from the reader, not from the aggregation, so a lost batch is detected.
    Raises InvariantError, which names the day, the rule and the first agents that break it.
    """
    broken = []
    if logs_read != day.aggregated_logs + day.skipped_logs:
        broken.append(
            f"{counted(logs_read, 'log was', 'logs were')} read, but {day.aggregated_logs} aggregated and "
            f"{day.skipped_logs} skipped"
        )
    _raise_if(broken + _broken_rules(day.metrics), window)


def validate_breakdown(
    metrics: pl.DataFrame, breakdown: pl.DataFrame, dimensions: Sequence[str], window: DayWindow
) -> None:
    """Checks the rules of each row, and that the values of each dimension add up to the agent's row.

    metrics: AGENT_DAY. breakdown: AGENT_DIMENSION_DAY, by these dimensions. Raises InvariantError as validate_day()
    does.
    """
    if dimensions:
        found = not_adding_up(metrics, breakdown, dimensions)
        unequal = [f"{name} of {agent!r} by {dimension}" for agent, dimension, name in found]
        _raise_if(_broken_rules(breakdown) + unequal[:_MAX_NAMED_AGENTS], window)


def not_adding_up(
    metrics: pl.DataFrame, breakdown: pl.DataFrame, dimensions: Sequence[str]
) -> list[tuple[str, str, str]]:
    """The agent, the dimension and the metric wherever the values of a dimension do not add up to the agent's row.

    metrics: AGENT_DAY. breakdown: AGENT_DIMENSION_DAY, of the same day, by these dimensions. Every metric that adds up
    is compared, to the last digit, also an agent that a dimension leaves out.
    """
    names = pl.DataFrame({"dimension": dimensions}, schema={"dimension": pl.String})
    rows = metrics.filter(pl.col("total_executions") > 0)
    pairs = ["agent_id", "dimension"]
    sums = _sums(rows.join(names, how="cross"), pairs).join(
        _sums(breakdown, pairs), on=pairs, how="full", coalesce=True, suffix=_OF_VALUES
    )
    errors = _errors(rows.join(names, how="cross"), pairs).join(
        _errors(breakdown, pairs), on=[*pairs, "error_type"], how="full", coalesce=True, suffix=_OF_VALUES
    )
    return [
        (agent, dimension, "error_distribution" if name == "executions" else name)
        for frame, compared in ((sums, _SUMS), (errors, ["executions"]))
        for name in compared
        for agent, dimension in frame.filter(pl.col(name).ne_missing(pl.col(name + _OF_VALUES)))
        .select(pairs)
        .unique()
        .sort(pairs)
        .iter_rows()
    ]


def _sums(rows: pl.DataFrame, pairs: list[str]) -> pl.DataFrame:
    return rows.with_columns(pl.col("total_cost_usd").cast(pl.Decimal(38, 9))).group_by(pairs).agg(pl.col(_SUMS).sum())


def _errors(rows: pl.DataFrame, pairs: list[str]) -> pl.DataFrame:
    return (
        rows.select(*pairs, "error_distribution")
        .explode("error_distribution", empty_as_null=False, keep_nulls=False)
        .unnest("error_distribution")
        .group_by(*pairs, "error_type")
        .agg(pl.col("executions").sum())
    )


def _broken_rules(rows: pl.DataFrame) -> list[str]:
    broken = []
    for rule in rows.select(rule.fill_null(False).alias(name) for name, rule in _ROW_RULES.items()):
        if not rule.all():
            agents = rows["agent_id"].filter(~rule).head(_MAX_NAMED_AGENTS)
            broken.append(f"{rule.name}: agents {', '.join(map(repr, agents))}")
    return broken


def _raise_if(broken: list[str], window: DayWindow) -> None:
    if broken:
        raise InvariantError(
            f"The metrics of {window} contradict their logs, so nothing was written: {'; '.join(broken)}. "
            "This is a defect of metrics_pipeline: report it with this message."
        )
