"""What a log looks like on its way into agent_execution_logs."""

import polars as pl

#: The columns of agent_execution_logs that we fill. cost_usd is text, because a Polars decimal ends at 38 digits;
#: where that is enough, a frame may hold a Decimal instead. `timestamp` is in UTC, `metadata` is JSON text.
LOG_SCHEMA = pl.Schema(
    {
        "id": pl.String(),
        "agent_id": pl.String(),
        "timestamp": pl.Datetime("us", "UTC"),
        "status": pl.String(),
        "latency_ms": pl.Int32(),
        "token_count": pl.Int32(),
        "cost_usd": pl.String(),
        "error_type": pl.String(),
        "metadata": pl.String(),
    }
)

REQUIRED_COLUMNS = ("agent_id", "timestamp", "status")
