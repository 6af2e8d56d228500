"""How our errors end a step: transient ones are retried with growing pauses, permanent ones fail immediately."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from metrics_pipeline.errors import DayRefusedError, InvariantError, PermanentError, TransientError
from metrics_pipeline.names import FAILED_PERMANENTLY_TAG

#: 10, 20, 40, 80 and 160 seconds: five minutes, which a restart or failover of a database takes.
MAX_RETRIES = 5
#: The pause before the second attempt; tests shorten it.
FIRST_PAUSE_SECONDS: float = 10


@contextmanager
def step_outcome(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Iterator[None]:
    """Turns our errors into Dagster's.

    A TransientError becomes RetryRequested, a PermanentError a Failure, which is final: no asset has a RetryPolicy. Any
    other exception passes unchanged: it is a defect, and it is not retried either. A cancellation passes without the
    exceptions that it caused or interrupted, whose tracebacks say nothing to an operator.
    """
    try:
        yield
    except dg.DagsterExecutionInterruptedError as error:
        raise error.with_traceback(None) from None
    except TransientError as error:
        if context.retry_number < MAX_RETRIES:
            pause_seconds = FIRST_PAUSE_SECONDS * 2**context.retry_number
            context.log.warning(f"{error} Trying again in {pause_seconds} s.")
            # Sleep here, not by RetryRequested's seconds_to_wait: between two attempts Dagster holds signals back, so a
            # run that is told to end would do so minutes later, or be killed by then and look started forever.
            time.sleep(pause_seconds)
        raise dg.RetryRequested(max_retries=MAX_RETRIES) from error
    except PermanentError as error:
        # Not for a missing table or privilege: it is fixed without a change of the day, so the next night tries again.
        if isinstance(error, (DayRefusedError, InvariantError)):
            context.instance.add_run_tags(context.run.run_id, {FAILED_PERMANENTLY_TAG: context.run.run_id})
        raise dg.Failure(description=str(error)) from error


def raise_failed_days(failures: Mapping[str, PermanentError]) -> None:
    """Raises one PermanentError that names the failed days of the run in order, each with its reason.

    A single failure keeps its type. Several are a DayRefusedError if no day can succeed before it changes.
    """
    # The message of a database fault does not name the day.
    reasons = [str(error) if key in str(error) else f"{key}: {error}" for key, error in failures.items()]
    if len(failures) == 1:
        (error,) = failures.values()
        raise type(error)(*reasons) from error
    if failures:
        are_all_final = all(isinstance(error, (DayRefusedError, InvariantError)) for error in failures.values())
        raise (DayRefusedError if are_all_final else PermanentError)(
            "\n".join([f"{len(failures)} days failed and stay as they were; the others are stored.", *reasons])
        )
