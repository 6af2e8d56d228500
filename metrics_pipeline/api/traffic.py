"""What the server counts of itself: requests by route, how long they take, its process and its version."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.registry import Collector

from metrics_pipeline import __version__
from metrics_pipeline.metrics.catalog import DEFINITION_VERSION

#: What a client invents must not become a time series.
_METHODS = ("GET", "HEAD", "OPTIONS", "POST")


class Traffic(Collector):
    """The counters of one server since it started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "metrics_pipeline_http_requests",
            "Answered requests. status 0: the client went away before the answer.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._durations = Histogram(
            "metrics_pipeline_http_request_duration_seconds",
            "From the request to the end of its answer.",
            ["route"],
            registry=self._registry,
        )
        # Not an Info: promtool check metrics does not know that type.
        Gauge(
            "metrics_pipeline_build_info",
            "The versions of this server.",
            ["version", "definition_version"],
            registry=self._registry,
        ).labels(__version__, DEFINITION_VERSION).set(1)
        ProcessCollector(registry=self._registry)

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Counts a request. `route` is the template of its path; None for what is not a route."""
        named = route or "other"
        self._requests.labels(method if method in _METHODS else "other", named, str(status)).inc()
        self._durations.labels(named).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Everything, for another registry."""
        return iter(self._registry.collect())
