"""Suspicious values of logs in a lake, as Polars expressions; quality.py has them in SQL."""

from collections import defaultdict
from collections.abc import Mapping

import polars as pl

from metrics_pipeline.logs.lake_columns import NOT_FINITE
from metrics_pipeline.logs.source import KNOWN_STATUSES, Suspicion, SuspiciousLog


def suspicions() -> dict[str, tuple[pl.Expr, str]]:
    """What makes a value of log_frame() suspicious: {kind: (condition, column)}, as quality.suspicions()."""
    is_finite = ~pl.col("cost_usd").str.contains(NOT_FINITE)
    cost = pl.when(is_finite).then(pl.col("cost_usd")).cast(pl.Float64)
    return {
        "negative_latency": (pl.col("latency_ms") < 0, "latency_ms"),
        "negative_tokens": (pl.col("token_count") < 0, "token_count"),
        "negative_cost": (cost < 0, "cost_usd"),
        "cost_not_a_number": (~is_finite, "cost_usd"),
        "cost_of_12_digits_or_more": (cost.abs() >= 1e11, "cost_usd"),
        "unknown_status": (pl.col("status").is_null() | ~pl.col("status").is_in(KNOWN_STATUSES), "status"),
    }


class LogsLookedAt:
    """The suspicious logs of the frames that were looked at, the newest frame first.

    Attributes:
        logs: how many logs were looked at.
    """

    def __init__(self, examples: int) -> None:
        self.logs = 0
        self._examples = examples
        self._counts: dict[str, int] = {}
        self._shown: dict[str, list[SuspiciousLog]] = defaultdict(list)

    def look(self, logs: pl.LazyFrame, kinds: Mapping[str, tuple[pl.Expr, str]]) -> None:
        """Looks at the logs of a log_frame() for these kinds of suspicious values."""
        sums = (condition.sum().alias(kind) for kind, (condition, _) in kinds.items())
        found = logs.select(pl.len(), *sums).collect(engine="streaming").row(0, named=True)
        self.logs += found["len"]
        for kind, (condition, value) in kinds.items():
            self._counts[kind] = self._counts.get(kind, 0) + found[kind]
            missing = self._examples - len(self._shown[kind])
            if found[kind] and missing > 0:
                texts = (pl.col("timestamp").cast(pl.String), pl.col(value).cast(pl.String).alias("value"))
                newest = logs.filter(condition).top_k(missing, by="timestamp").select("log_id", "agent_id", *texts)
                self._shown[kind] += [SuspiciousLog(*row) for row in newest.collect(engine="streaming").iter_rows()]

    def suspicions(self) -> dict[str, Suspicion]:
        """What was found, by kind."""
        return {kind: Suspicion(count, self._shown[kind]) for kind, count in self._counts.items()}
