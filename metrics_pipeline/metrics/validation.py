"""The rules that every day must meet before it is written. A day that breaks one is wrong, so it is refused."""

from metrics_pipeline.errors import InvariantError
from metrics_pipeline.metrics.calculator import DayMetrics
from metrics_pipeline.metrics.catalog import METRICS
from metrics_pipeline.metrics.windows import DayWindow

_MAX_NAMED_AGENTS = 5

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
