"""Dagster's runs and backfills through the webserver's GraphQL. Dagster itself is not imported: it is slow to start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import httpx2

from metrics_pipeline.api.dagster_queries import (
    BACKFILL,
    EVENTS,
    LATEST,
    LAUNCH_BACKFILL,
    LAUNCH_RUN,
    RUN,
    UNFINISHED,
)
from metrics_pipeline.metrics.windows import days_between
from metrics_pipeline.names import (
    DAILY_METRICS_JOB,
    LOCATION,
    METRICS_ASSET,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    PARTITION_TAG,
    REASON_TAG,
    REPOSITORY,
)
from metrics_pipeline.store.publishing import Reason

_UNFINISHED_RUNS = ("NOT_STARTED", "MANAGED", "QUEUED", "STARTING", "STARTED", "CANCELING")
_UNFINISHED_BACKFILLS = ("REQUESTED", "CANCELING", "FAILING")
_MAX_EVENT_PAGES = 50


class DagsterUnavailableError(Exception):
    """The webserver cannot be reached, did not answer in time, or did not answer as one with our code location."""


@dataclass(frozen=True)
class DagsterRun:
    """A run of our code location, as Dagster tells it.

    days: the first and the last, None for a run without partitions.
    """

    run_id: str
    job: str
    status: str
    is_finished: bool
    days: tuple[date, date] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class DagsterBackfill:
    """A backfill of our asset, as Dagster tells it."""

    backfill_id: str
    status: str
    is_finished: bool
    days: tuple[date, date] | None
    created_at: datetime
    ended_at: datetime | None
    run_ids: tuple[str, ...]
    error: str | None


@dataclass(frozen=True)
class Work:
    """A run or a backfill that is about to write days. run_id is None for a backfill."""

    run_id: str | None
    backfill_id: str | None
    days: frozenset[date]


class DagsterRuns:
    """The webserver at `url`. Every method raises DagsterUnavailableError when it gives no usable answer."""

    def __init__(self, url: str, *, wait_seconds: float = 120) -> None:
        self.wait_seconds = wait_seconds
        self._url = url
        # Without the proxies of the environment: the webserver is a neighbour.
        self._client = httpx2.AsyncClient(timeout=httpx2.Timeout(30, connect=5), trust_env=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def run_url(self, run_id: str) -> str:
        """The run in the Dagster UI."""
        return f"{self._url}/runs/{run_id}"

    def backfill_url(self, backfill_id: str) -> str:
        """The backfill in the Dagster UI."""
        return f"{self._url}/runs/b/{backfill_id}"

    async def start_day(self, day: date) -> str:
        """Starts a run of the daily job for `day`, and returns its id."""
        tags = {PARTITION_TAG: day.isoformat(), REASON_TAG: Reason.MANUAL.value}
        params = {
            "selector": {
                "repositoryName": REPOSITORY,
                "repositoryLocationName": LOCATION,
                "pipelineName": DAILY_METRICS_JOB,
            },
            "runConfigData": {},
            "executionMetadata": {"tags": _tag_list(tags)},
        }
        answer = _expect((await self._ask(LAUNCH_RUN, params=params))["launchRun"], "LaunchRunSuccess")
        return str(answer["run"]["runId"])

    async def start_backfill(self, first: date, last: date) -> str:
        """Starts a backfill of the days from `first` to `last`, and returns its id."""
        days = [day.isoformat() for day in days_between(first, last)]
        params = {"assetSelection": [{"path": [METRICS_ASSET]}], "partitionNames": days}
        answer = (await self._ask(LAUNCH_BACKFILL, params=params))["launchPartitionBackfill"]
        return str(_expect(answer, "LaunchBackfillSuccess")["backfillId"])

    async def run(self, run_id: str) -> DagsterRun | None:
        """The run; None if Dagster has none of this id in our code location."""
        answer = (await self._ask(RUN, id=run_id))["runOrError"]
        if answer["__typename"] == "RunNotFoundError":
            return None
        found = _expect(answer, "Run")
        return _run(found) if _is_ours(found) else None

    async def latest_finished_run(self) -> DagsterRun | None:
        """The newest run of the daily job that succeeded; None before the first."""
        runs = {"pipelineName": DAILY_METRICS_JOB, "statuses": ["SUCCESS"]}
        answer = (await self._ask(LATEST, filter=runs))["runsOrError"]
        return next((_run(found) for found in _expect(answer, "Runs")["results"]), None)

    async def failure(self, run_id: str) -> str | None:
        """Why the run failed, in the words of the step that did; None if it did not say."""
        cursor, message = None, None
        for _ in range(_MAX_EVENT_PAGES):
            page = (await self._ask(EVENTS, id=run_id, cursor=cursor))["runOrError"]["eventConnection"]
            for event in page["events"]:
                if event["__typename"] == "ExecutionStepFailureEvent":
                    return _step_failure(event)
                if event["__typename"] == "RunFailureEvent":
                    message = event["message"]
            if not page["hasMore"]:
                break
            cursor = page["cursor"]
        return message

    async def backfill(self, backfill_id: str) -> DagsterBackfill | None:
        """The backfill; None if Dagster has none of this id for our asset."""
        answer = (await self._ask(BACKFILL, id=backfill_id))["partitionBackfillOrError"]
        if answer["__typename"] == "BackfillNotFoundError":
            return None
        found = _expect(answer, "PartitionBackfill")
        if not _selects_asset(found):
            return None
        days = sorted(map(date.fromisoformat, found["partitionNames"] or []))
        return DagsterBackfill(
            backfill_id=found["id"],
            status=found["status"].lower(),
            is_finished=found["status"] not in _UNFINISHED_BACKFILLS,
            days=(days[0], days[-1]) if days else None,
            created_at=_instant(found["creationTime"]),
            ended_at=found["endTimestamp"] and _instant(found["endTimestamp"]),
            run_ids=tuple(run["runId"] for run in found["runs"]),
            error=found["error"] and found["error"]["message"].strip(),
        )

    async def work_under_way(self) -> list[Work]:
        """The runs and backfills of our asset that have not ended, queued ones included."""
        answer = await self._ask(
            UNFINISHED, runs={"statuses": _UNFINISHED_RUNS}, backfills={"statuses": _UNFINISHED_BACKFILLS}
        )
        runs = _expect(answer["runsOrError"], "Runs")["results"]
        backfills = _expect(answer["partitionBackfillsOrError"], "PartitionBackfills")["results"]
        work = [
            Work(run["runId"], None, frozenset(_days_of(run)))
            for run in runs
            if _is_ours(run) and (run["assetSelection"] is None or _selects_asset(run))
        ]
        work += [
            Work(None, backfill["id"], frozenset(map(date.fromisoformat, backfill["partitionNames"] or [])))
            for backfill in backfills
            if _selects_asset(backfill)
        ]
        return work

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
            answer = {"errors": [{"message": f"its answer is no JSON ({error})"}]}
        if not isinstance(answer, dict) or answer.get("errors") or not isinstance(answer.get("data"), dict):
            errors = answer.get("errors") if isinstance(answer, dict) else None
            said = "; ".join(str(error["message"]) for error in errors or []) or "its answer is no answer to GraphQL"
            raise DagsterUnavailableError(
                f"What answers at {self._url} is no Dagster webserver that this version knows: {said}. "
                "Check DAGSTER_WEBSERVER_URL."
            )
        data: dict[str, Any] = answer["data"]
        return data


def _expect(answer: Mapping[str, Any], typename: str) -> Mapping[str, Any]:
    if answer["__typename"] == typename:
        return answer
    said = answer.get("message") or "; ".join(error["message"] for error in answer.get("errors", []))
    raise DagsterUnavailableError(
        f"Dagster refused: {said.strip() or answer['__typename']}. "
        f"Check in its UI that the code location {LOCATION} is loaded."
    )


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _run(found: Mapping[str, Any]) -> DagsterRun:
    days = sorted(_days_of(found))
    return DagsterRun(
        run_id=found["runId"],
        job=found["jobName"],
        status=found["status"].lower(),
        is_finished=found["status"] not in _UNFINISHED_RUNS,
        days=(days[0], days[-1]) if days else None,
        created_at=_instant(found["creationTime"]),
        started_at=found["startTime"] and _instant(found["startTime"]),
        ended_at=found["endTime"] and _instant(found["endTime"]),
    )


def _is_ours(run: Mapping[str, Any]) -> bool:
    # A run that a command started has no origin.
    origin = run["repositoryOrigin"]
    return bool(run["jobName"] == DAILY_METRICS_JOB if origin is None else origin["repositoryLocationName"] == LOCATION)


def _selects_asset(found: Mapping[str, Any]) -> bool:
    return any(key["path"] == [METRICS_ASSET] for key in found["assetSelection"] or [])


def _days_of(run: Mapping[str, Any]) -> Sequence[date]:
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    first = tags.get(PARTITION_TAG) or tags.get(PARTITION_RANGE_START_TAG, "")
    last = tags.get(PARTITION_TAG) or tags.get(PARTITION_RANGE_END_TAG, "")
    try:
        return days_between(date.fromisoformat(first), date.fromisoformat(last))
    except ValueError:
        # No tag of a partition, or one that somebody typed: the run will do no day.
        return []


def _step_failure(event: Mapping[str, Any]) -> str | None:
    if event["failureMetadata"] and event["failureMetadata"]["description"]:
        return str(event["failureMetadata"]["description"])
    if event["error"] is None:
        return None
    errors = [event["error"], *(link["error"] for link in event["error"]["errorChain"])]
    ours = [error["message"] for error in errors if error["message"].startswith("metrics_pipeline.")]
    return ours[0].partition(": ")[2].strip() if ours else str(errors[-1]["message"]).strip()


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
