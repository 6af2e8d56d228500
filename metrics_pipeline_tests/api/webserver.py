"""A stand-in for Dagster's webserver that gives the answers that a test prepares."""

import json
import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def graphql_run(run_id: str, status: str, **tags: str) -> dict[str, Any]:
    """A run as the webserver gives it."""
    return {
        "__typename": "Run",
        "runId": run_id,
        "jobName": "daily_metrics_job",
        "status": status,
        "creationTime": 1741160000.0,
        "startTime": 1741160001.5,
        "endTime": None,
        "tags": [{"key": f"dagster/{key}", "value": value} for key, value in tags.items()],
        "assetSelection": None,
        "repositoryOrigin": {"repositoryLocationName": "metrics_pipeline"},
    }


class Webserver:
    """Answers GraphQL with what the test puts into `answers`, by the name of the field that is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {
            "runsOrError": {"__typename": "Runs", "results": []},
            "partitionBackfillsOrError": {"__typename": "PartitionBackfills", "results": []},
            "instance": {"daemonHealth": {"allDaemonStatuses": []}},
            "launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": "new"}},
            "launchPartitionBackfill": {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"},
        }
        self.raw: tuple[int, bytes] | None = None
        #: All requests for the runs in progress wait here for each other before any of them is answered.
        self.meeting: threading.Barrier | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                # A field may have an alias, for which there may be an answer of its own.
                found = re.findall(r"(?:(\w+): )?\b(\w+)(?:\(| \{)", request["query"])
                fields = [name for _, name in found if name in outer.answers]
                outer.asked.extend((name, request["variables"]) for name in fields)
                data = {
                    alias or name: outer.answers.get(alias, outer.answers[name])
                    for alias, name in found
                    if name in outer.answers
                }
                body = json.dumps({"data": data}).encode()
                status, body = outer.raw or (200, body)
                if outer.meeting is not None and "runsOrError" in fields:
                    with suppress(threading.BrokenBarrierError):
                        outer.meeting.wait(1)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def launched(self) -> list[dict[str, Any]]:
        return [variables["params"] for name, variables in self.asked if name.startswith("launch")]
