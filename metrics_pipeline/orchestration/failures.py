"""How our errors end a step: transient ones are retried with growing pauses, permanent ones fail at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from metrics_pipeline.errors import PermanentError, TransientError
from metrics_pipeline.orchestration.runs import FAILED_PERMANENTLY_TAG

#: 10, 20, 40, 80 and 160 seconds: five minutes, which a restart or failover of a database takes.
MAX_RETRIES = 5
_FIRST_PAUSE_SECONDS = 10


@contextmanager
def step_outcome(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Turns our errors into Dagster's.

    A TransientError becomes RetryRequested, a PermanentError a Failure that Dagster does not retry. Any other
    exception passes unchanged: it is a defect, and it is not retried either.
    """
    try:
        yield
    except TransientError as error:
        pause_seconds = _FIRST_PAUSE_SECONDS * 2**context.retry_number
        if context.retry_number < MAX_RETRIES:
            context.log.warning(f"{error} Trying again in {pause_seconds} s.")
        raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=pause_seconds) from error
    except PermanentError as error:
        context.instance.add_run_tags(context.run_id, {FAILED_PERMANENTLY_TAG: "true"})
        raise dg.Failure(description=str(error), allow_retries=False) from error


def raise_failed_days(failures: Mapping[str, PermanentError]) -> None:
    """Raises one PermanentError that names the days of the run that failed, in their order, each with its reason."""
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        reasons = "\n".join(f"{partition_key}: {error}" for partition_key, error in failures.items())
        raise PermanentError(f"{len(failures)} days failed and stay as they were; the others are stored.\n{reasons}")
