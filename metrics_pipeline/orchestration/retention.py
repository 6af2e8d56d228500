"""The asset data_retention: which old rows were deleted, which were held back and why."""

import time
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.metrics.retention import FIRST_DAY, NEVER, RetentionPolicy, cutoffs
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import ALERTS_TABLE, SCHEDULED_AT_TAG
from metrics_pipeline.orchestration.asset_keys import METRICS_ASSET_KEY, RETENTION_ASSET_KEY
from metrics_pipeline.orchestration.failures import step_outcome
from metrics_pipeline.orchestration.links import documentation
from metrics_pipeline.orchestration.reports import expired_materialization
from metrics_pipeline.orchestration.upstream import agent_execution_logs, alert_history, kept
from metrics_pipeline.pipeline.opening import require_ready_to_prune
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.retention.pace import Pace
from metrics_pipeline.retention.report import RetentionReport
from metrics_pipeline.retention.run import apply_retention
from metrics_pipeline.settings import Settings

_DESCRIPTION = """
Deletes raw logs, metrics and resolved alerts that are older than the policy keeps: raw logs are {raw_logs}, metrics
{metrics}, resolved alerts {alerts}.

Raw logs of a day are deleted only if its metrics are stored and equal exactly these logs. The day is then
sealed: nobody aggregates it again. Every other day is held back, with the reason in the check `no_logs_held_back`.

A run deletes only if its config says `dry_run: false`, as that of `data_retention_schedule` does. Otherwise, also when
you click *Materialize*, it reports what would be deleted.

**When the check is yellow**, its description says what to do.
"""

_NO_LOGS_HELD_BACK = """
Every raw log that is old enough to go is in the metrics. Each run of `data_retention` evaluates it, a dry run too.

**When it is yellow**, backfill the named days. Logs that came after their day was sealed are in no metric, and stay
until you delete them yourself.
"""

_DONE = {"deleted": "delete", "sealed": "seal", "expired": "expire", "dropped": "drop"}

# Each takes a hundred bytes of the event, and the first night after years without retention has many.
_MAX_LISTED_DAYS = 1000


def build_retention_asset(settings: Settings) -> dg.AssetsDefinition:
    """The asset, with the policy of the settings as the launchpad's defaults."""
    page = documentation(settings, "reference/checks.md#no_logs_held_back")
    dry_run = dg.Field(bool, default_value=True, description="Delete nothing; report what would be deleted and why.")
    limits = {
        limit.name: dg.Field(
            dg.Noneable(int),
            default_value=getattr(settings.retention, limit.name),
            description=f"{limit.metadata['description']} null: keep them forever.",
        )
        for limit in fields(RetentionPolicy)
    }
    pace = {
        limit.name: dg.Field(int, default_value=limit.default, description=limit.metadata["description"])
        for limit in fields(Pace)
    }

    @dg.asset(
        key=RETENTION_ASSET_KEY,
        deps=[METRICS_ASSET_KEY, agent_execution_logs, alert_history],
        group_name="metrics",
        kinds={"postgres"},
        owners=settings.owners,
        tags={"written_by": "metrics_pipeline"},
        description=_DESCRIPTION.format(
            raw_logs=kept(settings.retention.raw_log_days),
            metrics=kept(settings.retention.metric_days),
            alerts=kept(settings.retention.alert_days),
        ),
        output_required=False,
        config_schema={"dry_run": dry_run, **limits, **pace},
        check_specs=[
            dg.AssetCheckSpec(
                "no_logs_held_back",
                asset=RETENTION_ASSET_KEY,
                description=_NO_LOGS_HELD_BACK + (f"\n[Documentation]({page})\n" if page else ""),
            )
        ],
    )
    def data_retention(
        context: dg.AssetExecutionContext, database: dg.ResourceParam[Database]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckResult]:
        started = time.perf_counter()
        config = context.op_execution_context.op_config
        with step_outcome(context):
            report = apply_retention(
                database,
                require_ready_to_prune(database, settings),
                cutoffs(
                    RetentionPolicy(**{limit.name: config[limit.name] for limit in fields(RetentionPolicy)}),
                    _scheduled_at(context),
                    settings.time_zone,
                ),
                Pace(**{limit.name: config[limit.name] for limit in fields(Pace)}),
                run_id=context.run.run_id,
                is_dry_run=config["dry_run"],
                on_progress=context.log.info,
                alert_rules=settings.alert_rules,
            )
        metadata = retention_metadata(report, time.perf_counter() - started)
        if report.is_dry_run:
            context.log.warning("Nothing was deleted: this was a dry run. To delete, launch it with dry_run: false.")
            # An observation, because nothing was changed: the asset's last materialisation stays the last real run.
            yield dg.AssetObservation(RETENTION_ASSET_KEY, description="Dry run", metadata=_as_dry_run(metadata))
        else:
            for day, rows in report.expired_metrics.items():
                yield expired_materialization(METRICS_ASSET_KEY, day.isoformat(), rows)
            yield dg.MaterializeResult(asset_key=RETENTION_ASSET_KEY, metadata=metadata)
        yield dg.AssetCheckResult(
            check_name="no_logs_held_back",
            asset_key=RETENTION_ASSET_KEY,
            passed=not report.held_back,
            severity=dg.AssetCheckSeverity.WARN,
            description=(
                "Old enough to go, but not in the metrics, so kept: "
                f"{counted(metadata['logs_held_back'].value, 'log')} of "
                f"{counted(metadata['days_held_back'].value, 'day')}."
                if report.held_back
                else "Every raw log that is old enough to go is in the metrics."
            ),
            metadata={key: metadata[key] for key in ("days_held_back", "logs_held_back", "held_back")},
        )

    return data_retention


def retention_metadata(report: RetentionReport, seconds: float) -> dict[str, Any]:
    """The metadata of a run, always with the same keys: rows deleted per table, what stayed, and how long it took."""
    held_back = sorted(report.held_back, key=lambda day: day.metric_date)
    logs = sum(report.pruned_logs.values())
    return {
        "agent_execution_logs_deleted": dg.MetadataValue.int(logs),
        "agent_performance_metrics_deleted": dg.MetadataValue.int(sum(report.expired_metrics.values())),
        "metric_restatements_deleted": dg.MetadataValue.int(report.expired_restatements),
        "alert_history_deleted": dg.MetadataValue.int(report.deleted_alerts),
        "alert_history_held_back": dg.MetadataValue.text(report.alerts_held_back),
        "days_sealed": dg.MetadataValue.int(len(report.sealed_days)),
        "days_expired": dg.MetadataValue.int(len(report.expired_metrics)),
        "partitions_dropped": dg.MetadataValue.json(report.dropped_partitions),
        "days_held_back": dg.MetadataValue.int(len({day.metric_date for day in held_back})),
        "logs_held_back": dg.MetadataValue.int(sum(day.logs for day in held_back)),
        "held_back": _held_back_table(report),
        "logs_left_before_cutoff": dg.MetadataValue.int(report.logs_left),
        "is_out_of_time": dg.MetadataValue.bool(report.is_out_of_time),
        "keeps_raw_logs_from": dg.MetadataValue.text(_first_kept(report.cutoffs.raw_logs)),
        "keeps_metrics_from": dg.MetadataValue.text(_first_kept(report.cutoffs.metrics)),
        "keeps_resolved_alerts_from": dg.MetadataValue.text(_first_kept(report.cutoffs.alerts)),
        "days": dg.MetadataValue.json(days_of(report)[:_MAX_LISTED_DAYS]),
        "seconds": dg.MetadataValue.float(round(seconds, 3)),
        "logs_per_second": dg.MetadataValue.float(round(logs / seconds, 1)),
    }


def _first_kept(day: date) -> str:
    return f"{NEVER} deleted" if day == FIRST_DAY else str(day)


def _as_dry_run(metadata: dict[str, Any]) -> dict[str, Any]:
    """The same under names that nobody takes for a deletion."""
    days = [{_would(name): value for name, value in day.items()} for day in metadata["days"].value]
    return {
        "dry_run": dg.MetadataValue.bool(True),
        **{_would(name): value for name, value in metadata.items()},
        "days": dg.MetadataValue.json(days),
    }


def _would(name: str) -> str:
    """`agent_execution_logs_deleted` becomes `would_delete_logs`, and `days_sealed` `would_seal_days`.

    Short, because on a screen of 1280 pixels the UI prints a longer name over its value.
    """
    what, _, done = name.rpartition("_")
    short = "alerts" if what == ALERTS_TABLE else what.rpartition("_")[2]
    return f"would_{_DONE[done]}_{short}" if done in _DONE else name


def days_of(report: RetentionReport) -> list[dict[str, Any]]:
    """What was deleted and what was held back of each day, oldest first."""
    rows: dict[date, dict[str, Any]] = {}

    def row(day: date) -> dict[str, Any]:
        empty = {"day": str(day), "logs_deleted": 0, "metrics_deleted": 0, "logs_held_back": 0, "reason": ""}
        return rows.setdefault(day, empty)

    for day, logs in report.pruned_logs.items():
        row(day)["logs_deleted"] = logs
    for day, metrics in report.expired_metrics.items():
        row(day)["metrics_deleted"] = metrics
    for held_back in report.held_back:
        row(held_back.metric_date).update(logs_held_back=held_back.logs, reason=held_back.reason)
    return [rows[day] for day in sorted(rows)]


def _held_back_table(report: RetentionReport) -> dg.MetadataValue:
    if not report.held_back:
        return dg.MetadataValue.text("Nothing is held back.")
    held_back = sorted(report.held_back, key=lambda day: day.metric_date)
    lines = ["| day | logs | reason |", "| --- | ---: | --- |"]
    lines += [f"| {day.metric_date} | {day.logs:,} | {day.reason} |" for day in held_back[:_MAX_LISTED_DAYS]]
    if len(held_back) > _MAX_LISTED_DAYS:
        lines.append(f"| … | | and {len(held_back) - _MAX_LISTED_DAYS} more |")
    return dg.MetadataValue.md("\n".join(lines))


def _scheduled_at(context: dg.AssetExecutionContext) -> datetime:
    tag = context.run.tags.get(SCHEDULED_AT_TAG)
    if tag is not None:
        try:
            # Anybody can type a tag into the launchpad.
            return datetime.fromisoformat(tag).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise PermanentError(
                f"The tag {SCHEDULED_AT_TAG} is {tag!r}, which is not an instant in ISO 8601. Start the run without it."
            ) from error
    record = context.instance.get_run_record_by_id(context.run.run_id)
    return record.create_timestamp.astimezone(UTC) if record else datetime.now(UTC)
