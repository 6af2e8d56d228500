"""How every check is evaluated: on one state of the database, and without turning an error into a verdict."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import dagster as dg
from sqlalchemy import Connection

from metrics_pipeline.errors import PermanentError
from metrics_pipeline.logs.source import LogSource
from metrics_pipeline.names import DAILY_CHECKS_JOB
from metrics_pipeline.orchestration.failures import step_outcome
from metrics_pipeline.orchestration.links import documentation
from metrics_pipeline.orchestration.markdown import with_values
from metrics_pipeline.orchestration.reconciling import may_write_metrics
from metrics_pipeline.pipeline.opening import open_source
from metrics_pipeline.postgres.database import Database
from metrics_pipeline.settings import Settings

Clock = Callable[[], datetime]


@dataclass
class Situation:
    """The arguments of a check.

    run_id: the run that evaluates the check.
    is_after_aggregation: whether that run has just aggregated days. Then the check reads no logs that the run, or a
    tick of the last hour, has read; at night, and when somebody asks for it, it reads them all.
    """

    database: Database
    settings: Settings
    instance: dg.DagsterInstance
    run_id: str
    is_after_aggregation: bool
    now: datetime
    _exit_stack: ExitStack

    @cached_property
    def logs(self) -> LogSource:
        """Opened over a connection of its own, when a check first needs it: after an aggregation most checks do not."""
        return open_source(self.database, self.settings)

    @cached_property
    def connection(self) -> Connection:
        """A read-only transaction that sees one state of the database, opened when a check first needs it.

        A check that does not need it has the only connection of a role with CONNECTION LIMIT 1 for itself.
        """
        return self._exit_stack.enter_context(self.database.snapshot())


def build_check(
    name: str,
    asset: dg.AssetKey,
    description: str,
    evaluate: Callable[[Situation], dg.AssetCheckResult],
    settings: Settings,
    now: Clock,
) -> dg.AssetChecksDefinition:
    """A non-blocking check of `asset`: what fails it stays stored and is named.

    A passing database fault is retried as in the daily run. After that, and for any other error, the step fails.
    """
    page = documentation(settings, f"reference/checks.md#{name}")
    said = with_values(description, settings) + (f"\n[Documentation]({page})\n" if page else "")

    @dg.asset_check(asset=asset, name=name, description=said, compute_kind="postgres")
    def check(context: dg.AssetCheckExecutionContext, database: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
        with step_outcome(context):
            try:
                with ExitStack() as exit_stack:
                    situation = Situation(
                        database,
                        settings,
                        context.instance,
                        context.run.run_id,
                        context.run.job_name != DAILY_CHECKS_JOB and may_write_metrics(context.run),
                        now(),
                        exit_stack,
                    )
                    if not situation.is_after_aggregation:
                        # Says what the database lacks. An aggregation has just done so.
                        _ = situation.logs
                    return evaluate(situation)
            except PermanentError as error:
                raise PermanentError(
                    f"The check {name} could not be evaluated; what is stored stays as it is. {error}"
                ) from error

    return check
