"""Two values of a dimension side by side: did version 1.4 help?"""

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from metrics_pipeline.api.authentication import may_read
from metrics_pipeline.api.conditions import EntityTags
from metrics_pipeline.api.formats import json_accepted, to_json
from metrics_pipeline.api.models.windows import ValueComparison
from metrics_pipeline.api.parameters import (
    MAX_WINDOW_DAYS,
    AgentId,
    IsoDate,
    Parameters,
    StoredText,
    day_range,
    require_known,
    understood,
)
from metrics_pipeline.api.problems import invalid_parameter
from metrics_pipeline.api.routes.answers import object_responses
from metrics_pipeline.api.slow_answers import SlowDatabase
from metrics_pipeline.metrics.intervals import (
    MIN_EXECUTIONS,
    MIN_LATENCIES,
    Interval,
    difference_of_percentiles,
    difference_of_rates,
)
from metrics_pipeline.store.windows import days_without_dimension, read_latencies, read_values, stored_dimensions

router = APIRouter(prefix="/api/v1/metrics", tags=["metrics"], dependencies=[Depends(may_read), Depends(understood)])


class ComparisonParameters(Parameters):
    """Which values, and which window."""

    dimension: StoredText = Field(description="A dimension that stored days have.", examples=["version"])
    a: StoredText = Field(description="The value to compare with.", examples=["1.3"])
    b: StoredText = Field(description="The value that is compared.", examples=["1.4"])
    start_date: IsoDate = Field(description="The first day.", examples=["2025-06-12"])
    end_date: IsoDate = Field(description="The last day.", examples=["2025-07-11"])


@router.get(
    "/{agent_id:path}/compare",
    summary="Two values of a dimension side by side",
    dependencies=[Depends(json_accepted)],
    response_model=ValueComparison,
    responses=object_responses(404),
)
def compare_values(
    request: Request, database: SlowDatabase, agent_id: AgentId, parameters: Annotated[ComparisonParameters, Query()]
) -> Response:
    """Success rate and p95 of two values of an agent, and whether the data show that they differ.

    Each difference has an interval that encloses the true one with a probability of 95 %. A difference is called higher
    or lower only if the interval does not contain 0; of two equal values one in twenty comparisons still says so.
    Executions of a value that is in (other) on some day are not counted: is_complete is then false.
    """
    first, last = day_range(
        parameters.start_date,
        parameters.end_date,
        default_end=parameters.end_date,
        default_days=1,
        max_days=MAX_WINDOW_DAYS,
    )
    tags = EntityTags(request, "compare", agent_id, first, last)
    dimension, values = parameters.dimension, (parameters.a, parameters.b)
    with database.snapshot() as snapshot:
        require_known(snapshot, agent_id)
        known = stored_dimensions(snapshot)
        if dimension not in known:
            raise invalid_parameter(
                "dimension", f"{dimension} is not a dimension of a stored day. Stored days have: {', '.join(known)}."
            )
        latencies = [read_latencies(snapshot, first, last, dimension, agent_id, value) for value in values]
        a, b = (
            _side(snapshot, first, last, dimension, agent_id, value, len_of)
            for value, len_of in zip(values, map(_number, latencies), strict=True)
        )
        without = days_without_dimension(snapshot, first, last, dimension)
    body = to_json(
        {
            "agent_id": agent_id,
            "dimension": dimension,
            "start_date": first,
            "end_date": last,
            "a": a,
            "b": b,
            "success_rate": _rates(a, b),
            "p95_latency_ms": _percentiles(a, b, latencies),
            "days_without_dimension": without,
        }
    )
    version = hashlib.sha256(body.encode()).hexdigest()
    if tags.holds(version):
        return tags.not_modified(version)
    return Response(body, headers=tags.headers(version), media_type="application/json")


def _number(pairs: Sequence[tuple[int, int]]) -> int:
    return sum(executions for _, executions in pairs)


def _side(
    snapshot: Connection, first: date, last: date, dimension: str, agent_id: str, value: str, latencies: int
) -> dict[str, Any]:
    nothing = {
        "total_executions": 0, "successful_executions": 0, "success_rate": None, "p95_latency_ms": None,
        "days_stored": 0, "is_exact": True, "is_complete": True,
    }  # fmt: skip
    (row,) = read_values(snapshot, first, last, dimension, agent_id=agent_id, value=value).to_dicts() or [nothing]
    shared = ("successful_executions", "success_rate", "p95_latency_ms", "days_stored", "is_exact", "is_complete")
    return {
        "value": value,
        "executions": row["total_executions"],
        "latencies": latencies,
        **{name: row[name] for name in shared},
    }


def _rates(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    executions = (a["executions"], b["executions"])
    rates = [side["successful_executions"] / side["executions"] if side["executions"] else None for side in (a, b)]
    interval = None
    if min(executions) >= MIN_EXECUTIONS:
        interval = difference_of_rates((a["successful_executions"], b["successful_executions"]), executions)
    return _figure(rates, interval, MIN_EXECUTIONS, "Newcombe 1998, method 10: Wilson intervals, square-and-add")


def _percentiles(
    a: dict[str, Any], b: dict[str, Any], latencies: Sequence[Sequence[tuple[int, int]]]
) -> dict[str, Any]:
    p95 = [a["p95_latency_ms"], b["p95_latency_ms"]]
    interval = None
    if None not in p95 and min(map(_number, latencies)) >= MIN_LATENCIES:
        interval = difference_of_percentiles((latencies[0], latencies[1]), (p95[0], p95[1]), 0.95)
    method = "order statistics: ranks by the binomial distribution, square-and-add"
    return _figure(p95, interval, MIN_LATENCIES, method)


def _figure(values: Sequence[Any], interval: Interval | None, minimum: int, method: str) -> dict[str, Any]:
    verdict = "too few"
    if interval is not None:
        verdict = "higher" if interval.low > 0 else "lower" if interval.high < 0 else "no difference shown"
    return {
        "difference": None if None in values else round(float(values[1] - values[0]), 6),
        "low": interval and round(interval.low, 6),
        "high": interval and round(interval.high, 6),
        "verdict": verdict,
        "minimum": minimum,
        "method": method,
    }
