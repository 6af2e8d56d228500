"""What must hold of every day before it is written. A day that breaks one of these rules is wrong, so it is refused."""

import polars as pl

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.calculator import DayMetrics
from metrics_pipeline.metrics.windows import DayWindow

_MAX_NAMED_AGENTS = 5

_ERRORS_COUNTED = pl.col("error_distribution").list.eval(pl.element().struct.field("executions")).list.sum()

#: Each rule of a single row, and how it reads when it is broken.
_ROW_RULES = {
    "the error distribution does not sum to failed_executions": pl.col("failed_executions") == _ERRORS_COUNTED,
    "successful and failed executions exceed the total": (
        pl.col("successful_executions") + pl.col("failed_executions") <= pl.col("total_executions")
    ),
    "the percentiles are not in order": (
        (pl.col("p50_latency_ms") <= pl.col("p95_latency_ms")) & (pl.col("p95_latency_ms") <= pl.col("p99_latency_ms"))
    ),
    "success_rate is not between 0 and 1": pl.col("success_rate").is_between(0, 1),
    "more unique users or human interventions than executions": (
        pl.max_horizontal("unique_users", "human_interventions") <= pl.col("total_executions")
    ),
}


def validate_day(day: DayMetrics, window: DayWindow, logs_read: int) -> None:
    """Checks the conservation of logs and the rules of each row.

    `logs_read` comes from the reader, not from the aggregation, so a lost batch cannot hide.
    Raises InvariantError, which names the day, the rule and the first agents that break it.
    """
    broken = []
    if logs_read != day.aggregated_logs + day.skipped_logs:
        broken.append(
            f"{logs_read} logs were read, but {day.aggregated_logs} aggregated and {day.skipped_logs} skipped"
        )
    holds = day.metrics.select(rule.fill_null(False).alias(name) for name, rule in _ROW_RULES.items())
    for rule in holds:
        if not rule.all():
            agents = day.metrics["agent_id"].filter(~rule).head(_MAX_NAMED_AGENTS)
            broken.append(f"{rule.name}: agents {', '.join(map(repr, agents))}")
    if broken:
        raise InvariantError(
            f"The metrics of {window} contradict their logs, so nothing was written: {'; '.join(broken)}. "
            "This is a defect of metrics_pipeline: report it with this message."
        )
