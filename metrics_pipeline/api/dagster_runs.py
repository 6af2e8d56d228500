"""Dagster's runs and backfills, through the webserver's GraphQL. Dagster itself is slow to import, so this does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import httpx2

from metrics_pipeline.api import dagster_queries
from metrics_pipeline.api.models.runs import Backfill, Run
from metrics_pipeline.metrics.windows import days_between
from metrics_pipeline.names import (
    BACKFILL_TAG,
    DAILY_METRICS_JOB,
    DATA_RETENTION_JOB,
    LOCATION,
    METRICS_ASSET,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    PARTITION_TAG,
    REASON_TAG,
    REPOSITORY,
)
from metrics_pipeline.store.publishing import Reason

_QUEUED_RUNS = ("NOT_STARTED", "QUEUED")
_UNFINISHED_RUNS = (*_QUEUED_RUNS, "MANAGED", "STARTING", "STARTED", "CANCELING")
_UNFINISHED_BACKFILLS = ("REQUESTED", "CANCELING", "FAILING")
_MAX_EVENT_PAGES = 50


class DagsterUnavailableError(Exception):
    """The webserver cannot be reached, did not answer in time, or does not serve our code location."""


@dataclass(frozen=True)
class Work:
    """A run or a backfill that has not ended, and the days that it will write."""

    id: str
    is_backfill: bool
    days: frozenset[date]
    ui_url: str


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended, as seconds since 1970."""

    has_failed: bool
    started_at: float | None
    ended_at: float


@dataclass(frozen=True)
class DagsterState:
    """What monitoring wants to know of Dagster.

    newest_success: of daily_metrics_job, as is `last_run`, however it ended. retention: the newest success of
    data_retention_job. queued, running, failed: how many runs of our code location, the failed ones in the last day.
    heartbeats: of each daemon that the instance needs, as seconds since 1970; 0 if there was none.
    """

    newest_success: EndedRun | None
    last_run: EndedRun | None
    retention: EndedRun | None
    queued: int
    running: int
    failed: int
    heartbeats: Mapping[str, float]


class DagsterRuns:
    """The webserver at `url`. Every method raises DagsterUnavailableError if it gets no usable answer."""

    def __init__(self, url: str, ui_url: str | None = None, *, wait_seconds: float = 120) -> None:
        self.wait_seconds = wait_seconds
        self._url = url
        self._ui_url = ui_url or url
        # The webserver is in the same network, so proxies of the environment are ignored.
        self._client = httpx2.AsyncClient(timeout=httpx2.Timeout(30, connect=5), trust_env=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def run_url(self, run_id: str) -> str:
        """The run in the Dagster UI."""
        return f"{self._ui_url}/runs/{run_id}"

    def backfill_url(self, backfill_id: str) -> str:
        """The backfill in the Dagster UI."""
        return f"{self._ui_url}/runs/b/{backfill_id}"

    async def start_day(self, day: date, tags: Mapping[str, str]) -> str:
        """Starts a run of the daily job for `day`, with further `tags`, and returns its id."""
        tags = {PARTITION_TAG: day.isoformat(), REASON_TAG: Reason.MANUAL.value, **tags}
        params = {
            "selector": {
                "repositoryName": REPOSITORY,
                "repositoryLocationName": LOCATION,
                "pipelineName": DAILY_METRICS_JOB,
            },
            "runConfigData": {},
            "executionMetadata": {"tags": _tag_list(tags)},
        }
        answer = (await self._ask(dagster_queries.LAUNCH_RUN, params=params))["launchRun"]
        return str(_expect(answer, "LaunchRunSuccess")["run"]["runId"])

    async def start_backfill(self, first: date, last: date, tags: Mapping[str, str]) -> str:
        """Starts a backfill of the days from `first` to `last`, whose runs get the `tags` too, and returns its id."""
        days = [day.isoformat() for day in days_between(first, last)]
        params = {"assetSelection": [{"path": [METRICS_ASSET]}], "partitionNames": days, "tags": _tag_list(tags)}
        answer = (await self._ask(dagster_queries.LAUNCH_BACKFILL, params=params))["launchPartitionBackfill"]
        return str(_expect(answer, "LaunchBackfillSuccess")["backfillId"])

    async def started_with(self, tag: str, value: str) -> tuple[str, Mapping[str, str]] | None:
        """The id and the tags of the run or backfill that was started with this tag; None if there is none.

        A backfill without runs is found among the newest hundred.
        """
        answer = await self._ask(dagster_queries.KEYED, runs={"tags": _tag_list({tag: value})})
        runs = _expect(answer["runsOrError"], "Runs")["results"]
        # Newest first. The repetitions of a run have its tags.
        for run in runs[-1:]:
            tags = _tags(run)
            return tags.get(BACKFILL_TAG, run["runId"]), tags
        for found in _expect(answer["partitionBackfillsOrError"], "PartitionBackfills")["results"]:
            tags = _tags(found)
            if tags.get(tag) == value:
                return found["id"], tags
        return None

    async def run(self, run_id: str) -> Run | None:
        """The run, without its error; None if our code location has no such run."""
        answer = (await self._ask(dagster_queries.RUN, id=run_id))["runOrError"]
        if answer["__typename"] == "RunNotFoundError":
            return None
        found = _expect(answer, "Run")
        return self._run(found) if _is_ours(found) else None

    async def state(self, now: datetime) -> DagsterState:
        """The newest runs, how many wait, run and failed, and the daemon's heartbeats."""
        answer = await self._ask(
            dagster_queries.WATCHED,
            newest={"pipelineName": DAILY_METRICS_JOB, "statuses": ["SUCCESS"]},
            ended={"pipelineName": DAILY_METRICS_JOB, "statuses": ["SUCCESS", "FAILURE", "CANCELED"]},
            retention={"pipelineName": DATA_RETENTION_JOB, "statuses": ["SUCCESS"]},
            active={"statuses": _UNFINISHED_RUNS},
            failed={"statuses": ["FAILURE"], "updatedAfter": (now - timedelta(days=1)).timestamp()},
        )

        def runs(name: str) -> list[Mapping[str, Any]]:
            return [run for run in _expect(answer[name], "Runs")["results"] if _is_of_our_location(run)]

        def newest(name: str) -> EndedRun | None:
            return next(
                (EndedRun(run["status"] != "SUCCESS", run["startTime"], run["endTime"]) for run in runs(name)), None
            )

        waiting = [run["status"] in _QUEUED_RUNS for run in runs("active")]
        daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        return DagsterState(
            newest("newest"),
            newest("ended"),
            newest("retention"),
            queued=sum(waiting),
            running=len(waiting) - sum(waiting),
            failed=len(runs("failed")),
            heartbeats={each["daemonType"]: each["lastHeartbeatTime"] or 0 for each in daemons if each["required"]},
        )

    async def failure(self, run_id: str) -> str | None:
        """Why the run failed, in the words of the step that failed; None if it did not say."""
        cursor, message = None, None
        for _ in range(_MAX_EVENT_PAGES):
            answer = await self._ask(dagster_queries.EVENTS, id=run_id, cursor=cursor)
            page = answer["runOrError"]["eventConnection"]
            for event in page["events"]:
                if event["__typename"] == "ExecutionStepFailureEvent":
                    return _step_failure(event)
                if event["__typename"] == "RunFailureEvent":
                    message = event["message"]
            if not page["hasMore"]:
                break
            cursor = page["cursor"]
        return message

    async def backfill(self, backfill_id: str) -> Backfill | None:
        """The backfill; None if our asset has no such backfill."""
        answer = (await self._ask(dagster_queries.BACKFILL, id=backfill_id))["partitionBackfillOrError"]
        if answer["__typename"] == "BackfillNotFoundError":
            return None
        found = _expect(answer, "PartitionBackfill")
        if not _selects_asset(found):
            return None
        days = _days_of_backfill(found)
        return Backfill(
            backfill_id=found["id"],
            status=found["status"].lower(),
            is_finished=found["status"] not in _UNFINISHED_BACKFILLS,
            start_date=min(days, default=None),
            end_date=max(days, default=None),
            created_at=found["creationTime"],
            ended_at=found["endTimestamp"],
            run_ids=[run["runId"] for run in found["runs"]],
            error=found["error"] and found["error"]["message"].strip(),
            ui_url=self.backfill_url(found["id"]),
        )

    async def work_under_way(self) -> list[Work]:
        """The runs and backfills of our asset that have not ended, including queued ones."""
        answer = await self._ask(
            dagster_queries.UNFINISHED,
            runs={"statuses": _UNFINISHED_RUNS},
            backfills={"statuses": _UNFINISHED_BACKFILLS},
        )
        runs = _expect(answer["runsOrError"], "Runs")["results"]
        backfills = _expect(answer["partitionBackfillsOrError"], "PartitionBackfills")["results"]
        return [
            Work(run["runId"], False, frozenset(_days_of_run(run)), self.run_url(run["runId"]))
            for run in runs
            if _is_ours(run) and (run["assetSelection"] is None or _selects_asset(run))
        ] + [
            Work(found["id"], True, frozenset(_days_of_backfill(found)), self.backfill_url(found["id"]))
            for found in backfills
            if _selects_asset(found)
        ]

    def _run(self, found: Mapping[str, Any]) -> Run:
        days = _days_of_run(found)
        return Run(
            run_id=found["runId"],
            job=found["jobName"],
            status=found["status"].lower(),
            is_finished=found["status"] not in _UNFINISHED_RUNS,
            start_date=min(days, default=None),
            end_date=max(days, default=None),
            created_at=found["creationTime"],
            started_at=found["startTime"],
            ended_at=found["endTime"],
            error=None,
            ui_url=self.run_url(found["runId"]),
        )

    async def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        try:
            response = await self._client.post(f"{self._url}/graphql", json={"query": query, "variables": variables})
            response.raise_for_status()
            answer = response.json()
        except httpx2.TimeoutException as error:
            raise DagsterUnavailableError(f"The Dagster webserver at {self._url} did not answer in time.") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise DagsterUnavailableError(
                f"The Dagster webserver at {self._url} cannot be reached: {str(error) or type(error).__name__}. "
                "Check that it runs and that DAGSTER_WEBSERVER_URL names it."
            ) from error
        except ValueError as error:
            answer = {"errors": [{"message": f"its answer is not JSON ({error})"}]}
        match answer:
            case {"errors": [_, *_] as errors}:
                said = "; ".join(str(error["message"]) for error in errors)
            case {"data": dict() as data}:
                return data
            case _:
                said = "its answer is not one to GraphQL"
        raise DagsterUnavailableError(
            f"The server at {self._url} is not a Dagster webserver that this version knows: {said}. "
            "Check DAGSTER_WEBSERVER_URL."
        )


def _expect(answer: Mapping[str, Any], typename: str) -> Mapping[str, Any]:
    if answer["__typename"] == typename:
        return answer
    said = answer.get("message") or "; ".join(error["message"] for error in answer.get("errors", []))
    raise DagsterUnavailableError(
        f"Dagster refused: {said.strip() or answer['__typename']}. "
        f"Check in its UI that the code location {LOCATION} is loaded."
    )


def _is_ours(run: Mapping[str, Any]) -> bool:
    # A run that a command started has no origin.
    return _is_of_our_location(run) and (run["repositoryOrigin"] is not None or run["jobName"] == DAILY_METRICS_JOB)


def _is_of_our_location(run: Mapping[str, Any]) -> bool:
    origin = run["repositoryOrigin"]
    return origin is None or bool(origin["repositoryLocationName"] == LOCATION)


def _selects_asset(found: Mapping[str, Any]) -> bool:
    return any(key["path"] == [METRICS_ASSET] for key in found["assetSelection"] or [])


def _tags(found: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in found["tags"]}


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _days_of_run(run: Mapping[str, Any]) -> Sequence[date]:
    tags = _tags(run)
    first = tags.get(PARTITION_TAG) or tags.get(PARTITION_RANGE_START_TAG, "")
    last = tags.get(PARTITION_TAG) or tags.get(PARTITION_RANGE_END_TAG, "")
    try:
        return days_between(date.fromisoformat(first), date.fromisoformat(last))
    except ValueError:
        # The run has no partition, or a tag that somebody typed: it will write no day.
        return []


def _days_of_backfill(backfill: Mapping[str, Any]) -> Sequence[date]:
    return [date.fromisoformat(name) for name in backfill["partitionNames"] or []]


def _step_failure(event: Mapping[str, Any]) -> str | None:
    if event["failureMetadata"] and event["failureMetadata"]["description"]:
        return str(event["failureMetadata"]["description"])
    if event["error"] is None:
        return None
    errors = [event["error"], *(link["error"] for link in event["error"]["errorChain"])]
    ours = [error["message"] for error in errors if error["message"].startswith("metrics_pipeline.")]
    return ours[0].partition(": ")[2].strip() if ours else str(errors[-1]["message"]).strip()
