"""Receivers of messages on 127.0.0.1: a web server and a mail server, which answer as a test tells them."""

import json
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from metrics_pipeline.settings import Settings
from metrics_pipeline.variables import Receiver


@dataclass
class Inbox:
    """What arrived, oldest first, and how the server answers: `code`, after `may_answer` is set."""

    port: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)
    code: int = 200
    arrived: Event = field(default_factory=Event)
    may_answer: Event = field(default_factory=Event)

    def take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.arrived.set()
        self.may_answer.wait(30)


@contextmanager
def _serving(server: socketserver.TCPServer, inbox: Inbox) -> Iterator[Inbox]:
    inbox.port = server.server_address[1]
    inbox.may_answer.set()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield inbox
    finally:
        inbox.may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def web_server() -> Iterator[Inbox]:
    """A webhook, to which apprise's json:// posts. Any other request also goes to `messages`, by its path."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = inbox.code
            inbox.take(json.loads(body) | {"path": self.path, "code": code})
            self.send_response(code)
            if code == 302:
                self.send_header("Location", f"http://127.0.0.1:{inbox.port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            inbox.take({"path": self.path, "code": 404})
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with _serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler), inbox):
        yield inbox


@contextmanager
def mail_server() -> Iterator[Inbox]:
    """An SMTP server that takes every message, or answers its text with `code`."""
    inbox = Inbox(code=250)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 test\r\n")
            for line in self.rfile:
                command = line.split(maxsplit=1)[0].upper()
                if command == b"QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                if command != b"DATA":
                    self.wfile.write(b"250 test\r\n")
                    continue
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (text := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(text)
                mail = message_from_bytes(b"".join(lines), policy=policy.default)
                plain = mail.get_body(preferencelist=("plain",))
                inbox.take({"subject": mail["Subject"], "to": mail["To"], "text": plain.get_content() if plain else ""})
                self.wfile.write(b"%d test\r\n" % inbox.code)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with _serving(Server(("127.0.0.1", 0), Handler), inbox):
        yield inbox


def receivers(*urls: str) -> tuple[Receiver, ...]:
    """As METRICS_NOTIFY names them."""
    return Settings.from_environment({"METRICS_NOTIFY": " ".join(urls)}).notify
