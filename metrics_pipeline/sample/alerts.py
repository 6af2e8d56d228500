"""The sample's alerts of one day: one for each incident, as a monitoring of the platform would raise them."""

from datetime import date, datetime

import polars as pl

from metrics_pipeline.sample.agents import SampleSpec
from metrics_pipeline.sample.days import agents_of_day

#: In minutes.
_NOTICED_AFTER = 5.0
_RESOLVED_AFTER = 10.0
_CRITICAL_RATE = 0.8


def sample_alerts(
    spec: SampleSpec, window_start: datetime, metric_date: date, *, has_outage: bool = False
) -> pl.DataFrame:
    """agent_id, alert_type, severity, message: String; triggered_at, resolved_at: Datetime in UTC.

    The alert of an outage is not resolved, so resolved_at is NULL. The same arguments give the same alerts.
    """
    agents = agents_of_day(spec, metric_date, has_outage=has_outage)

    def at(minute: pl.Expr) -> pl.Expr:
        start = pl.lit(window_start).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
        return start + pl.duration(seconds=(minute * 60.0).cast(pl.Int64))

    return agents.filter(pl.col("incident_end") > pl.col("incident_start"), pl.col("weight") > 0.0).select(
        "agent_id",
        alert_type=pl.lit("failure_rate"),
        severity=pl.when((pl.col("incident_rate") >= _CRITICAL_RATE) | pl.col("in_outage"))
        .then(pl.lit("critical"))
        .otherwise(pl.lit("warning")),
        message=pl.format(
            "{}% of executions fail, most of them with {}",
            (100.0 * pl.col("incident_rate")).round().cast(pl.Int32),
            "incident_error",
        ),
        triggered_at=at(pl.col("incident_start") + _NOTICED_AFTER),
        resolved_at=pl.when(~pl.col("in_outage")).then(at(pl.col("incident_end") + _RESOLVED_AFTER)),
    )
