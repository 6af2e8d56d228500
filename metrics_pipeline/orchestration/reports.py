"""What a materialisation says of its day: the same keys every time, numbers that plot over partitions."""

import hashlib
from collections.abc import Mapping

import dagster as dg
import polars as pl
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.storage.tags import BACKFILL_ID_TAG

from metrics_pipeline.metrics.schema import DEFINITION_VERSION
from metrics_pipeline.orchestration.aggregation import AggregatedDay
from metrics_pipeline.orchestration.upstream import SOURCE_ASSETS

_TOP_AGENTS = 10


def day_materialization(
    asset_key: dg.AssetKey, partition_key: str, day: AggregatedDay, run_tags: Mapping[str, str]
) -> dg.AssetMaterialization:
    """The event that tells Dagster that the day is stored, as Dagster's own would for a returned asset.

    The fingerprint of the logs is the data version: the same logs give the same version.
    """
    fingerprint = hashlib.sha256(day.computed.metrics.fingerprint.to_text().encode()).hexdigest()
    tags = {
        DATA_VERSION_TAG: fingerprint,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        CODE_VERSION_TAG: DEFINITION_VERSION,
        # Nobody reports materialisations of the upstream tables. Without this, the UI calls every day unsynced.
        **{get_input_data_version_tag(spec.key): DEFAULT_DATA_VERSION.value for spec in SOURCE_ASSETS},
        **{get_input_event_pointer_tag(spec.key): NULL_EVENT_POINTER for spec in SOURCE_ASSETS},
    }
    if BACKFILL_ID_TAG in run_tags:
        tags[BACKFILL_ID_TAG] = run_tags[BACKFILL_ID_TAG]
    return dg.AssetMaterialization(asset_key, partition=partition_key, metadata=day_metadata(day), tags=tags)


def day_metadata(day: AggregatedDay) -> Mapping[str, dg.MetadataValue]:
    """The metadata of one day's materialisation."""
    metrics, window, seconds = day.computed.metrics, day.computed.window, day.timings.seconds
    frame = metrics.metrics
    totals = frame.select(pl.col(pl.Int64).sum(), pl.col("total_cost_usd").sum()).row(0, named=True)
    executions = totals["total_executions"]
    total_seconds = sum(seconds.values())
    return {
        "logs_read": dg.MetadataValue.int(metrics.fingerprint.logs),
        "logs_aggregated": dg.MetadataValue.int(metrics.aggregated_logs),
        "logs_skipped": dg.MetadataValue.int(metrics.skipped_logs),
        "logs_with_cost_not_a_number": dg.MetadataValue.int(metrics.not_finite_costs),
        "agents": dg.MetadataValue.int(frame.height),
        "executions": dg.MetadataValue.int(executions),
        "failed_executions": dg.MetadataValue.int(totals["failed_executions"]),
        "success_rate": dg.MetadataValue.float(
            round(totals["successful_executions"] / executions, 6) if executions else 1.0
        ),
        "tokens": dg.MetadataValue.int(totals["total_tokens"]),
        # A float, because Dagster plots floats only; the exact sum stands in the table.
        "cost_usd": dg.MetadataValue.float(float(totals["total_cost_usd"] or 0)),
        "human_interventions": dg.MetadataValue.int(totals["human_interventions"]),
        "rows_inserted": dg.MetadataValue.int(day.published.inserted),
        "rows_changed": dg.MetadataValue.int(day.published.changed),
        "rows_unchanged": dg.MetadataValue.int(day.published.unchanged),
        **{f"seconds_{step}": dg.MetadataValue.float(round(value, 4)) for step, value in seconds.items()},
        "logs_per_second": dg.MetadataValue.float(round(metrics.fingerprint.logs / total_seconds, 1)),
        "window": dg.MetadataValue.text(str(window)),
        "definition_version": dg.MetadataValue.text(DEFINITION_VERSION),
        "agents_with_most_failures": dg.MetadataValue.md(_worst_agents(frame)),
        "skipped_agents": dg.MetadataValue.json(metrics.skipped.head(_TOP_AGENTS).to_dicts()),
    }


def _worst_agents(frame: pl.DataFrame) -> str:
    worst = frame.filter(pl.col("failed_executions") > 0).sort("failed_executions", descending=True).head(_TOP_AGENTS)
    if worst.is_empty():
        return "No failed executions."
    columns = ("agent_id", "total_executions", "failed_executions", "success_rate", "p95_latency_ms", "total_cost_usd")
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in worst.select(columns).iter_rows()]
    return "\n".join(lines)


def _cell(value: object) -> str:
    # As character references, nothing in an agent's name ends the cell or is taken for Markdown, a link or HTML.
    return "".join(
        character if character.isalnum() or character in " .-" else f"&#{ord(character)};" for character in str(value)
    )
