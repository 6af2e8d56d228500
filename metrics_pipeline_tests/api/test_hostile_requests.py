"""What a client that means harm can send, and what a page in a browser can have it send."""

import socket
from contextlib import closing, suppress

import httpx2
import pytest

from .conftest import Serve

TRIGGER = "/api/v1/metrics/aggregate/trigger"
NO_DAGSTER = "http://127.0.0.1:9"


def connect(api: httpx2.Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.base_url.port), timeout=10)


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET /"], ids=["header", "path"])
def test_a_request_whose_headers_never_end_is_cut_off_before_it_fills_the_memory(
    begin: bytes, api: httpx2.Client
) -> None:
    with closing(connect(api)) as connection:
        # Nothing of this comes to an end, so a server without a limit would wait for more of it.
        with suppress(ConnectionError):
            connection.sendall(begin + b"x" * 1_000_000)
        try:
            answer = connection.recv(1000)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert api.get("/healthz").status_code == 200


def test_a_body_that_no_endpoint_takes_is_not_waited_for(serve: Serve) -> None:
    api = serve(dagster_webserver_url=NO_DAGSTER)
    request = f"POST {TRIGGER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n".encode()
    with closing(connect(api)) as connection:
        connection.sendall(request + b"x" * 1000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 503")


def test_no_other_site_s_page_may_frame_embed_or_reinterpret_an_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_named: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("metrics_pipeline.api.routes.metrics.agent_series", broken)
    api = serve(dagster_webserver_url=NO_DAGSTER)
    answers = {
        200: [api.get("/docs"), api.get("/docs/files/swagger-ui.css"), api.get("/api/v1/agents?format=csv")],
        400: [api.get("/docs", headers={"Host": "evil.example"})],
        403: [api.post(TRIGGER, headers={"Origin": "https://evil.example"})],
        404: [api.get("/nowhere")],
        405: [api.delete("/docs")],
        422: [api.get("/api/v1/agents?x=1")],
        500: [api.get("/api/v1/metrics/a")],
        503: [api.post(TRIGGER)],
    }
    for status, responses in answers.items():
        for response in responses:
            assert response.status_code == status
            assert response.headers.get_list("Content-Security-Policy") == ["frame-ancestors 'none'"]
            assert response.headers.get_list("X-Content-Type-Options") == ["nosniff"]
            assert response.headers.get_list("Cross-Origin-Resource-Policy") == ["same-origin"]


# What browsers send of a page at https://evil.example: a form, fetch() without CORS, a sandboxed frame, and a page that
# another service on this machine serves.
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "https://evil.example", "Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Mode": "no-cors"},
        {"Origin": "null", "Content-Type": "multipart/form-data; boundary=x"},
        {"Origin": "http://localhost:3000", "Content-Type": "text/plain"},
        {"Origin": "http://127.0.0.1.evil.example", "Content-Type": "text/plain"},
        {"Origin": "", "Content-Type": "text/plain"},
        {"Origin": "http://[", "Content-Type": "text/plain"},
    ],
)
@pytest.mark.parametrize("path", [TRIGGER, "/api/v1/metrics/aggregate/backfill?start_date=2025-03-04"])
def test_a_page_of_another_site_starts_nothing(headers: dict[str, str], path: str, serve: Serve) -> None:
    api = serve(dagster_webserver_url=NO_DAGSTER)
    assert api.post(path, headers=headers, content=b"a=b").status_code == 403
    # Before a request that a form cannot make, a browser asks whether it may; it may not.
    asked = {**headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = api.options(path, headers=asked)
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.lower().startswith("access-control-")]
