"""Requests of hostile clients, and requests that a hostile page makes a browser send."""

import hashlib
import hmac
import json
import socket
from contextlib import closing, suppress

import httpx2
import pytest

from metrics_pipeline.variables import ApiToken
from metrics_pipeline_tests.examples import variants
from metrics_pipeline_tests.processes import HANGING_SECONDS

from .serving import Serve

TRIGGER = "/api/v1/metrics/aggregate/trigger"
NO_DAGSTER = "http://127.0.0.1:9"


def connect(api: httpx2.Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.base_url.port), timeout=HANGING_SECONDS)


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"GET /"], ids=["header", "path"])
def test_a_request_whose_headers_never_end_is_cut_off_before_it_fills_the_memory(
    begin: bytes, api: httpx2.Client
) -> None:
    with closing(connect(api)) as connection:
        # None of these requests ends, so a server without a limit would wait for more.
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
        assert connection.recv(1000).startswith(b"HTTP/1.1 415")


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
    variants(
        [
            {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
            {"Origin": "https://evil.example", "Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Mode": "no-cors"},
            {"Origin": "null", "Content-Type": "multipart/form-data; boundary=x"},
            {"Origin": "http://localhost:3000", "Content-Type": "text/plain"},
            {"Origin": "http://127.0.0.1.evil.example", "Content-Type": "text/plain"},
            {"Origin": "", "Content-Type": "text/plain"},
            {"Origin": "http://[", "Content-Type": "text/plain"},
        ]
    ),
)
@pytest.mark.parametrize("path", [TRIGGER, "/api/v1/metrics/aggregate/backfill?start_date=2025-03-04"])
def test_a_page_of_another_site_starts_nothing(headers: dict[str, str], path: str, serve: Serve) -> None:
    api = serve(dagster_webserver_url=NO_DAGSTER)
    assert api.post(path, headers=headers, content=b"a=b").status_code == 403
    # Before a request that a form cannot make, a browser asks whether it may; it may not.
    asked = {**headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = api.options(path, headers=asked)
    assert preflight.status_code in (204, 403)
    assert not [name for name in preflight.headers if name.lower().startswith("access-control-")]


TOKENS = ["0" * 32, "1" * 43, "2" * 64]
Pairs = list[tuple[bytes, bytes]]


@pytest.fixture
def guarded(serve: Serve) -> httpx2.Client:
    """A server with three tokens."""
    return serve(
        api_tokens=tuple(ApiToken(token[0], False, hashlib.sha256(token.encode()).digest()) for token in TOKENS)
    )


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """Every pair that is compared in constant time."""
    pairs: Pairs = []
    compare = hmac.compare_digest

    def noting(one: bytes, other: bytes) -> bool:
        pairs.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    return pairs


@pytest.mark.parametrize(
    ("token", "status"),
    variants([*((token, 200) for token in TOKENS), ("0" * 31, 401), ("0" * 33, 401), ("x", 401), ("é" * 32, 401)]),
)
def test_a_token_is_compared_with_each_of_ours_in_constant_time_whichever_it_is(
    token: str, status: int, guarded: httpx2.Client, compared: Pairs
) -> None:
    headers = {"Authorization": f"Bearer {token}".encode("latin-1")}
    assert guarded.get("/api/v1/agents", headers=headers).status_code == status
    ours = [hashlib.sha256(each.encode()).digest() for each in TOKENS]
    assert [other for _, other in compared] == ours
    assert {one for one, _ in compared} == {hashlib.sha256(token.encode()).digest()}


@pytest.mark.parametrize(
    "value",
    variants(
        [
            b"",
            b"Bearer",
            b"Bearer \xff\xfe",
            b"Bearer " + TOKENS[0].encode() + b", Bearer " + TOKENS[0].encode(),
            b"Bearer " + TOKENS[0].encode() + b" x",
            b"Bearer " + b"0" * 50_000,
            b"Token " + TOKENS[0].encode(),
            TOKENS[0].encode(),
            b"Bearer " + hashlib.sha256(TOKENS[0].encode()).hexdigest().encode(),
        ]
    ),
)
def test_what_is_no_token_of_ours_gets_nothing(value: bytes, guarded: httpx2.Client) -> None:
    response = guarded.get("/api/v1/agents", headers={"Authorization": value})
    assert response.status_code == 401
    assert response.json()["detail"] == "Send a token that this server knows, as `Authorization: Bearer TOKEN`."


@pytest.mark.parametrize("values", [(TOKENS[0], "x"), ("x", TOKENS[0]), (TOKENS[0], TOKENS[0])])
def test_two_tokens_are_none_since_a_proxy_may_have_judged_the_other(
    values: tuple[str, str], guarded: httpx2.Client
) -> None:
    headers = [("Authorization", f"Bearer {value}") for value in values]
    assert guarded.get("/api/v1/agents", headers=headers).status_code == 401


@pytest.mark.parametrize("header", ["Host", "Content-Length", "Transfer-Encoding"])
def test_a_header_that_decides_where_a_request_goes_or_ends_may_not_come_twice(header: str, api: httpx2.Client) -> None:
    with closing(connect(api)) as connection:
        values = {"Host": ("localhost", "evil.example"), "Content-Length": ("0", "5"), "Transfer-Encoding": ("x", "y")}
        lines = [
            *(f"{header}: {value}" for value in values[header]),
            *(["Host: localhost"] if header != "Host" else []),
        ]
        connection.sendall("\r\n".join(["GET /api/v1/agents HTTP/1.1", *lines, "", ""]).encode())
        assert connection.recv(1000).split()[1] in (b"400", b"501")


def sent(api: httpx2.Client, request: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    with closing(connect(api)) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "request_begins",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX:",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
    ],
    ids=["nothing", "headers", "body"],
)
def test_a_request_that_does_not_arrive_in_whole_in_time_ends_its_connection(
    request_begins: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.api.server._REQUEST_SECONDS", 0.2)
    answer = sent(serve(), request_begins)
    assert answer.startswith(b"HTTP/1.1 200" if request_begins.endswith(b"x") else b"HTTP/1.1 408")


def test_more_connections_than_the_server_can_hold_are_closed_at_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics_pipeline.api.server._MOST_CONNECTIONS", 2)
    api = serve()
    with closing(connect(api)) as one, closing(connect(api)) as two, closing(connect(api)) as three:
        with suppress(ConnectionError):
            assert three.recv(1) == b""
        for connection in (one, two):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_lines", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \x00", b"400"),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000, b"431"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", b"400"),
    ],
    ids=["NUL", "path", "headers of 70 kB", "two lengths"],
)
def test_a_request_that_is_malformed_gets_a_problem_and_the_end_of_its_connection(
    request_lines: bytes, status: bytes, api: httpx2.Client
) -> None:
    head, _, body = sent(api, request_lines + b"\r\n\r\n" + b"0\r\n\r\n" * 2).partition(b"\r\n\r\n")
    assert head.split()[1] == status
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"
    # One problem, and nothing after it.
    assert json.loads(body)["request_id"] == headers[b"x-request-id"].decode()


def test_a_request_for_a_websocket_is_answered_as_if_it_did_not_ask(api: httpx2.Client) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}
    assert api.get("/healthz", headers=upgrade).json() == {"status": "ok"}
