"""no_suspicious_values: values of logs are aggregated as they are, but are not always right."""

from datetime import timedelta

import dagster as dg

from metrics_pipeline.logs.source import KNOWN_STATUSES
from metrics_pipeline.metrics.windows import day_window
from metrics_pipeline.orchestration.checks.evaluation import Situation
from metrics_pipeline.orchestration.markdown import markdown_table
from metrics_pipeline.pipeline.reconciling import lookback

_EXAMPLES = 3
#: Clocks of other machines may be ahead of ours by this much.
_CLOCK_SKEW = timedelta(minutes=5)

NO_SUSPICIOUS_VALUES = f"""
No log of the last METRICS_LOOKBACK_DAYS has a negative latency, cost or number of tokens, a NaN or infinite cost, or a
status other than {", ".join(KNOWN_STATUSES)} and those that
the configuration adds; no log lies more than
{_CLOCK_SKEW // timedelta(minutes=1)} minutes in the future; and every log can be read.

Such values are aggregated as the metrics are defined: negative ones are added, NaN and infinite costs count as NULL,
and an unknown status counts in the total only. A log in the future is aggregated with its day.

**When it is yellow**, have the platform correct the named logs; the corrected days are aggregated again by themselves.
A day with a log that cannot be read is not aggregated until then.
"""


def no_suspicious_values(situation: Situation) -> dg.AssetCheckResult:
    """Counts the suspicious logs of the look-back window by kind; fails with severity WARN."""
    settings = situation.settings
    days = lookback(settings, situation.now)
    quality = situation.logs.quality(
        situation.connection,
        [day_window(day, settings.time_zone) for day in days],
        future_from=situation.now + _CLOCK_SKEW,
        examples=_EXAMPLES,
    )
    logs, found = quality.logs, quality.suspicions
    kinds = {kind: suspicion.logs for kind, suspicion in found.items() if suspicion.logs}
    said = [f"{day}: {unreadable.reason}." for day, unreadable in quality.unreadable.items()]
    if kinds:
        listed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in kinds.items())
        said.append(f"Logs with suspicious values: {listed}.")
    return dg.AssetCheckResult(
        passed=not said,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(said) or f"None of the logs holds a suspicious value ({logs:,}).",
        metadata={
            "days": f"{days[0]} to {days[-1]}" if days else "none",
            "days_unreadable": len(quality.unreadable),
            "logs": logs,
            **{f"logs_{kind}": suspicion.logs for kind, suspicion in found.items()},
            "newest_examples": markdown_table(
                ("what", "log", "agent", "timestamp (UTC)", "value"),
                [
                    (kind.replace("_", " "), log.log_id, log.agent_id, log.timestamp, log.value)
                    for kind, suspicion in found.items()
                    for log in suspicion.examples
                ],
                nothing="None.",
            ),
        },
    )
