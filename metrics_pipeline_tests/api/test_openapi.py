"""The OpenAPI document is true: whatever it allows and forbids, every answer is one that it describes."""

import re

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from metrics_pipeline.api.dagster_runs import DagsterRuns
from metrics_pipeline.metrics.catalog import AGENT_DAY
from metrics_pipeline.postgres.database import Database
from metrics_pipeline_tests.days import Log, aggregate, store_agents, store_logs
from metrics_pipeline_tests.examples import examples

from .alerts import store_alerts
from .serving import Serve
from .test_access import TOKENS, TRIGGER, bearer
from .webserver import Webserver, graphql_run

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
    unsupported_method,
]


@pytest.fixture
def guarded(serve: Serve, webserver: Webserver, database: Database) -> httpx2.Client:
    """A server with tokens, the documents' example agent with a restated day and alerts, and a Dagster that is busy."""
    store_agents(database, {"support-triage": "active"})
    store_logs(database, [Log("support-triage", "failed", 5, 7, "0.25", "timeout")])
    aggregate(database)
    store_logs(database, [Log("support-triage")])
    aggregate(database)
    store_alerts(database)
    webserver.answers["runOrError"] = graphql_run("new", "STARTED", partition="2025-03-04")
    webserver.answers["partitionBackfillOrError"] = {"__typename": "BackfillNotFoundError", "message": "no"}
    return serve(api_tokens=TOKENS, dagster=DagsterRuns(webserver.url, wait_seconds=0))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_no_request_is_answered_outside_the_document(guarded: httpx2.Client, mode: schemathesis.GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{guarded.base_url}/openapi.json")
    for result in document.get_all_operations():
        operation = result.ok()
        if mode.is_negative and not operation.definition.raw.get("parameters"):
            continue  # nothing of it could be wrong

        @settings(examples(10), derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=bearer(TRIGGER), checks=CHECKS)

        ask()


def test_every_example_of_the_document_is_answered_as_described(guarded: httpx2.Client) -> None:
    document = guarded.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = operation.get("parameters", [])
            example = {p["name"]: p["examples"][0] if "examples" in p else p["schema"].get("examples", [None])[0]
                       for p in parameters}  # fmt: skip
            url = path.format(**{name: example.get(name) or "x" for name in re.findall(r"{(\w+)}", path)})
            answer = guarded.request(method, url, headers=bearer(TRIGGER))
            assert answer.status_code < 500
            assert operation["summary"]
            assert operation["responses"]
            assert all(p.get("description") for p in parameters), (path, [p["name"] for p in parameters])


def test_the_metric_columns_are_described_as_the_schema_declares_them(serve: Serve) -> None:
    schemas = serve().get("/openapi.json").json()["components"]["schemas"]
    described = schemas["DayMetrics"]["properties"]
    columns = AGENT_DAY.columns
    assert list(described) == [column.name for column in columns] + ["created_at", "updated_at"]
    for column in columns:
        assert described[column.name]["description"] == column.meaning
        kind = {"text": "string", "date": "string", "bigint": "integer", "jsonb": "object"}.get(
            column.sql_type, "number"
        )
        types = [each["type"] for each in described[column.name].get("anyOf", [described[column.name]])]
        # What the logs may lack is null then.
        may_lack = ("latency_ms", "total_tokens", "cost", "human_interventions", "unique_users")
        assert types == ([kind, "null"] if any(part in column.name for part in may_lack) else [kind])
        assert described[column.name]["examples"]
    assert schemas["Problem"]["required"] == ["type", "title", "status", "detail", "request_id"]


def test_the_document_asks_for_a_token_only_where_the_server_does(serve: Serve, guarded: httpx2.Client) -> None:
    def secured(api: httpx2.Client) -> int:
        paths = api.get("/openapi.json").json()["paths"].values()
        return sum("security" in operation for operations in paths for operation in operations.values())

    assert secured(serve()) == 0
    assert secured(guarded) > 10


def test_the_example_of_each_error_has_its_status(serve: Serve) -> None:
    for operations in serve().get("/openapi.json").json()["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                for content in response.get("content", {}).values():
                    assert content.get("example", {}).get("status", int(status)) == int(status)


def test_a_generated_client_has_one_type_of_errors_and_one_of_each_enumeration(serve: Serve) -> None:
    document = serve().get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400" and path != "/readyz":
                    assert [*response["content"]] == ["application/problem+json"], (path, status)
            for parameter in operation.get("parameters", []):
                assert "anyOf" not in parameter["schema"], parameter["name"]
                if parameter["name"] in ("format", "decimals"):
                    name = parameter["name"].capitalize()
                    assert parameter["schema"]["$ref"] == f"#/components/schemas/{name}"


def test_the_documentation_needs_nothing_from_elsewhere(serve: Serve) -> None:
    api = serve()
    page = api.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    files = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)
    addresses = [first or second for first, second in files]
    assert len(addresses) == 4
    assert "://" not in page.text
    for address in addresses:
        assert api.get(str(httpx2.URL("/docs").join(address))).status_code == 200
    assert "SwaggerUIBundle" in page.text
