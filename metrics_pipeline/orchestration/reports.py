"""The metadata of a day's materialisation: the same keys every time, so that numbers plot over partitions."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import dagster as dg
import polars as pl

from metrics_pipeline.metrics.alerts import Change
from metrics_pipeline.metrics.catalog import DEFINITION_VERSION
from metrics_pipeline.metrics.dimensions import names_of
from metrics_pipeline.metrics.fingerprint import SourceFingerprint
from metrics_pipeline.metrics.reconciliation import LedgerRow, none_counted
from metrics_pipeline.metrics.upstream import unknown_without
from metrics_pipeline.metrics.wording import counted
from metrics_pipeline.names import BACKFILL_TAG
from metrics_pipeline.orchestration.dagster_internals import version_tags
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.orchestration.observations import Observed, data_version_of, last_observed
from metrics_pipeline.orchestration.upstream import agent_execution_logs, agent_registry
from metrics_pipeline.pipeline.aggregation import AggregatedDay

#: The key of the metadata that says why a run left out a stored day.
LEFT_OUT = "left_out"

_TOP_AGENTS = 10
_TOP_ERRORS = 50
_TOP_ALERTS = 20
#: Dagster keeps events forever, and a text in PostgreSQL may have a gigabyte.
_MAX_TEXT_CHARACTERS = 500
#: The value of a table of agents, and the one beside it. More columns are cut on a screen of 1280 pixels.
_AGENT_COLUMNS = {
    "failed_executions": ("failed", "total_executions", "of"),
    "total_cost_usd": ("USD", "total_executions", "runs"),
    "p95_latency_ms": ("p95 ms", "total_executions", "runs"),
}
#: The entries that are null if the logs do not have the column of a metric. A plot then has a gap.
_ENTRIES_OF = {
    "total_cost_usd": ("cost_usd", "cost_per_execution_usd", "agents_with_highest_cost"),
    "total_tokens": ("tokens",),
    "p95_latency_ms": ("p95_latency_ms", "agents_with_worst_p95"),
    "unique_users": ("unique_users",),
    "human_interventions": ("human_interventions",),
}


def day_materialization(
    asset_key: dg.AssetKey,
    partition_key: str,
    day: AggregatedDay,
    run_tags: Mapping[str, str],
    observed: Observed | None,
    links: Mapping[str, dg.MetadataValue],
) -> dg.AssetMaterialization:
    """The event that tells Dagster that the day is stored, like Dagster's own for a returned asset.

    The fingerprint of the logs is the data version: the same logs give the same version.
    """
    metadata, fingerprint = day_metadata(day, links), day.computed.metrics.fingerprint
    return _materialization(asset_key, partition_key, metadata, fingerprint, DEFINITION_VERSION, run_tags, observed)


def stored_materialization(
    instance: dg.DagsterInstance,
    asset_key: dg.AssetKey,
    partition_key: str,
    stored: LedgerRow,
    why: str,
    run_tags: Mapping[str, str],
) -> dg.AssetMaterialization:
    """The event for a day that a run left out because it is stored for good: its partition stays, or becomes, green.

    It repeats the metadata of the day's last materialisation, if Dagster knows one, so that plots keep their numbers.
    """
    known = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=[partition_key]), limit=1
    ).records
    last = known[0].asset_materialization if known else None
    metadata: dict[str, Any] = {
        "day": dg.MetadataValue.text(partition_key),
        LEFT_OUT: dg.MetadataValue.text(why),
        **{name: value for name, value in (last.metadata if last is not None else {}).items() if name != LEFT_OUT},
        "logs_read": dg.MetadataValue.int(stored.source_logs),
        "logs_aggregated": dg.MetadataValue.int(stored.aggregated_logs),
        "logs_skipped": dg.MetadataValue.int(stored.skipped_logs),
        "agents": dg.MetadataValue.int(0 if stored.metrics_expired_at else stored.agents),
    }
    return _materialization(
        asset_key,
        partition_key,
        metadata,
        stored.source_fingerprint,
        stored.definition_version,
        run_tags,
        last_observed(instance, partition_key),
    )


def expired_materialization(asset_key: dg.AssetKey, partition_key: str, rows: int) -> dg.AssetMaterialization:
    """The event for a day whose metrics retention deleted: its partition does not show numbers that are gone."""
    return dg.AssetMaterialization(
        asset_key,
        partition=partition_key,
        description="Expired: its metrics were older than the retention period and were deleted.",
        metadata={
            "state": dg.MetadataValue.text("expired"),
            "agents": dg.MetadataValue.int(0),
            "dagster/partition_row_count": dg.MetadataValue.int(0),
            "rows_deleted": dg.MetadataValue.int(rows),
        },
    )


def _materialization(
    asset_key: dg.AssetKey,
    partition_key: str,
    metadata: Mapping[str, Any],
    fingerprint: SourceFingerprint,
    definition_version: str,
    run_tags: Mapping[str, str],
    observed: Observed | None,
) -> dg.AssetMaterialization:
    version = data_version_of(fingerprint)
    logs = (version, observed.pointer) if observed is not None else None
    tags = version_tags(version, definition_version, {agent_execution_logs.key: logs, agent_registry.key: None})
    if BACKFILL_TAG in run_tags:
        tags[BACKFILL_TAG] = run_tags[BACKFILL_TAG]
    return dg.AssetMaterialization(asset_key, partition=partition_key, metadata=metadata, tags=tags)


def alert_metadata(changes: Sequence[Mapping[Any, Any]]) -> Mapping[str, dg.MetadataValue]:
    """What became of alerts when the day was stored, as store.answers.alerts.alert_changes() gives it."""
    counts = Counter(change["transition"] for change in changes)
    return {
        **{f"alerts_{name}": dg.MetadataValue.int(counts[name]) for name in Change},
        "alerts": markdown_table(
            ("of", "alert", "why"),
            [
                (
                    _shortened(change["about"]),
                    f"{change['transition']}, {change['severity']}: {_words(change['rule'])}, {change['opened_on']}",
                    _evidence(change),
                )
                for change in changes[:_TOP_ALERTS]
            ],
            nothing="None changed.",
            more=len(changes) - _TOP_ALERTS,
        ),
    }


def _evidence(change: Mapping[Any, Any]) -> str:
    bounds = [f"{word} {change[name]}" for word, name in (("from", "usual_low"), ("to", "usual_high")) if change[name]]
    usual = f", usual {' '.join(bounds)}" if bounds else ""
    return _shortened(f"{_words(change['metric'] or '')} {change['value']}{usual}") if change["value"] else ""


def _words(name: str) -> str:
    # A name with underscores is one word, which no column breaks.
    return name.replace("_", " ")


def day_metadata(
    day: AggregatedDay, links: Mapping[str, dg.MetadataValue] = MappingProxyType({})
) -> Mapping[str, dg.MetadataValue]:
    """The metadata of one day's materialisation. links: where else to look at the day."""
    breakdown, unlogged = day.computed.breakdown, unknown_without(day.computed.unlogged)
    metrics, window, seconds = day.computed.metrics, day.computed.window, day.computed.timings.seconds
    frame, distributions = metrics.metrics, day.computed.distributions
    totals = frame.select(pl.col(pl.Int64).sum(), pl.col("total_cost_usd").sum()).row(0, named=True)
    errors = _error_counts(frame)
    executions = totals["total_executions"]
    total_seconds = sum(seconds.values())
    failed, cost = totals["failed_executions"], totals["total_cost_usd"] or Decimal(0)
    # Over all executions and users of the day, not a sum or a mean over the agents.
    p95_ms, users = day.computed.totals.p95_latency_ms, day.computed.totals.unique_users
    in_words = {
        "total_cost_usd": ("cost", f"${cost:,.2f}"),
        "total_tokens": ("tokens", counted(totals["total_tokens"], "token")),
        "p95_latency_ms": ("p95", f"p95 {p95_ms:,} ms"),
        "unique_users": ("users", counted(users, "user")),
    }
    metadata = {
        # For people: the UI shows the keys in this order, and numbers without separators.
        "day": dg.MetadataValue.text(f"{window.metric_date:%A}, {window.metric_date}"),
        "in_short": dg.MetadataValue.text(
            f"{counted(executions, 'execution')} of {counted(frame.height, 'agent')}, {failed:,} failed "
            f"({failed / executions if executions else 0:.2%}), "
            + ", ".join(f"{noun} unknown" if name in unlogged else said for name, (noun, said) in in_words.items())
        ),
        "warning": dg.MetadataValue.text(none_counted(metrics.fingerprint) or "none"),
        **links,
        # For plots: each number under its name, also if it is in the text above.
        "executions": dg.MetadataValue.int(executions),
        "failed_executions": dg.MetadataValue.int(failed),
        "failure_rate": dg.MetadataValue.float(round(failed / executions, 6) if executions else 0.0),
        "success_rate": dg.MetadataValue.float(
            round(totals["successful_executions"] / executions, 6) if executions else 1.0
        ),
        # Floats, because Dagster does not plot decimals; the exact sum is in the table.
        "cost_usd": dg.MetadataValue.float(float(cost)),
        "cost_per_execution_usd": dg.MetadataValue.float(round(float(cost) / executions, 9) if executions else 0.0),
        "p95_latency_ms": dg.MetadataValue.int(p95_ms),
        "unique_users": dg.MetadataValue.int(users),
        "tokens": dg.MetadataValue.int(totals["total_tokens"]),
        "human_interventions": dg.MetadataValue.int(totals["human_interventions"]),
        "agents": dg.MetadataValue.int(frame.height),
        "agents_with_most_failures": _top_agents(frame, "failed_executions"),
        "agents_with_highest_cost": _top_agents(frame, "total_cost_usd"),
        "agents_with_worst_p95": _top_agents(frame, "p95_latency_ms"),
        **{f"top_{name}": _top_values(breakdown.metrics, name, unlogged) for name in names_of(breakdown.dimensions)},
        "error_types": dg.MetadataValue.int(errors.height),
        "error_distribution": dg.MetadataValue.json(
            {_shortened(error_type): count for error_type, count in errors.head(_TOP_ERRORS).iter_rows()}
        ),
        "logs_read": dg.MetadataValue.int(metrics.fingerprint.logs),
        "logs_aggregated": dg.MetadataValue.int(metrics.aggregated_logs),
        "logs_skipped": dg.MetadataValue.int(metrics.skipped_logs),
        "skipped_agents": dg.MetadataValue.json(
            [
                {**agent, "agent_id": agent["agent_id"] and _shortened(agent["agent_id"])}
                for agent in metrics.skipped.head(_TOP_AGENTS).iter_rows(named=True)
            ]
        ),
        "logs_with_cost_not_a_number": dg.MetadataValue.int(metrics.not_finite_costs),
        "rows_inserted": dg.MetadataValue.int(day.published.inserted),
        "rows_changed": dg.MetadataValue.int(day.published.changed),
        "rows_unchanged": dg.MetadataValue.int(day.published.unchanged),
        "distributions": dg.MetadataValue.int(distributions.height),
        "distributions_not_exact": dg.MetadataValue.int(
            distributions.filter(~(pl.col("latencies_exact") & pl.col("users_exact"))).height
        ),
        "dimensions": dg.MetadataValue.text(breakdown.dimensions or "none"),
        "rows_by_value": dg.MetadataValue.int(breakdown.metrics.height),
        "window": dg.MetadataValue.text(str(window)),
        "time_zone": dg.MetadataValue.text(window.time_zone),
        "definition_version": dg.MetadataValue.text(DEFINITION_VERSION),
        "dagster/partition_row_count": dg.MetadataValue.int(frame.height),
        **{f"seconds_{step}": dg.MetadataValue.float(round(value, 4)) for step, value in seconds.items()},
        "logs_per_second": dg.MetadataValue.float(round(metrics.fingerprint.logs / total_seconds, 1)),
    }
    unknown = [name for metric, names in _ENTRIES_OF.items() if metric in unlogged for name in names]
    return metadata | dict.fromkeys(unknown, dg.MetadataValue.null())


def _shortened(text: str) -> str:
    """The text, truncated to 500 characters; a hash is appended so that truncated texts stay distinct."""
    if len(text) <= _MAX_TEXT_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[:_MAX_TEXT_CHARACTERS]}… ({len(text):,} characters, SHA-256 {digest})"


def _top_values(rows: pl.DataFrame, dimension: str, unlogged: Collection[str]) -> dg.MetadataValue:
    """The values of the dimension with the most executions over all agents, with what adds up."""
    sums = ["total_executions", "failed_executions", "total_cost_usd"]
    ranked = (
        rows.lazy()
        .filter(pl.col("dimension") == dimension)
        .group_by("value", "value_kind")
        .agg(pl.col("total_cost_usd").cast(pl.Decimal(38, 9)).sum(), pl.col(sums[:-1]).sum())
        .sort("total_executions", "value", "value_kind", descending=[True, False, False])
        .select("value", "value_kind", *sums)
        .collect(engine="in-memory")
    )
    is_cost_known = "total_cost_usd" not in unlogged
    return markdown_table(
        ["value", "kind", "runs", "failed", "USD"],
        [
            (value, kind, f"{runs:,}", f"{failed:,}", f"{cost:,.2f}" if is_cost_known else "unknown")
            for value, kind, runs, failed, cost in ranked.head(_TOP_AGENTS).iter_rows()
        ],
        nothing="None.",
        more=ranked.height - _TOP_AGENTS,
    )


def _top_agents(frame: pl.DataFrame, column: str) -> dg.MetadataValue:
    """The agents with the highest values of `column`, and their executions; values of 0 are left out."""
    heading, beside, heading_beside = _AGENT_COLUMNS[column]
    # Lazy, because one step less per table saves a millisecond per day.
    ranked = (
        frame.lazy()
        .filter(pl.col(column) > 0)
        .sort(column, "agent_id", descending=[True, False])
        .select("agent_id", column, beside)
        .collect(engine="in-memory")
    )
    return markdown_table(
        ["agent", heading, heading_beside],
        [
            (agent, f"{value:,.2f}" if isinstance(value, Decimal) else f"{value:,}", f"{executions:,}")
            for agent, value, executions in ranked.head(_TOP_AGENTS).iter_rows()
        ],
        nothing="None.",
        more=ranked.height - _TOP_AGENTS,
    )


def _error_counts(frame: pl.DataFrame) -> pl.DataFrame:
    """error_type, executions: over all agents, the most frequent first."""
    return (
        frame.lazy()
        .select(pl.col("error_distribution").explode())
        .unnest("error_distribution")
        .drop_nulls()
        .group_by("error_type")
        .agg(pl.col("executions").sum())
        .sort("executions", "error_type", descending=[True, False])
        .collect(engine="in-memory")
    )
