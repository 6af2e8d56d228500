"""A network between a process and its PostgreSQL, in which a fault waits for a certain message."""

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from metrics_pipeline_tests.processes import HANGING_SECONDS

from .wire import MessageReader

Action = Callable[[], None]

_CHUNK_BYTES = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Relays TCP connections to the Unix socket of a server, message by message.

    `passed` are the labels of the messages in the order in which they came. Before a message with a fault would be
    passed on, the fault's action is called, and then the message's connection is cut: with a reset, or as if the other
    side had closed it.
    """

    def __init__(self, url: str) -> None:
        self._server = {name: str(value) for name, value in conninfo_to_dict(url).items()}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._counting = threading.Lock()
        self._faults: dict[int, Action] = {}
        self._is_resetting = False
        self.passed: list[str] = []
        self.struck: list[str] = []
        self.errors: list[BaseException] = []

    @property
    def url(self) -> str:
        """For METRICS_DATABASE_URL."""
        user, name = (quote(self._server[part], safe="") for part in ("user", "dbname"))
        host, port = self._listener.getsockname()
        return f"postgresql://{user}@{host}:{port}/{name}?sslmode=disable&gssencmode=disable"

    def serve(self, faults: Mapping[int, Action] | None = None, *, is_resetting: bool = False) -> None:
        """Begins to relay. Clients that connected before have waited."""
        self._faults, self._is_resetting = dict(faults or {}), is_resetting
        self._start(self._accept)

    def cut_all(self) -> None:
        """Ends every connection there is now."""
        for end in tuple(self._sockets):
            self._close(end)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        # close() alone would leave accept() waiting.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(timeout=HANGING_SECONDS)
        assert self.errors == []

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                try:
                    server.connect(f"{self._server['host']}/.s.PGSQL.{self._server.get('port', '5432')}")
                except OSError:
                    # The server is down and would refuse. The proxy has accepted already, so it closes.
                    self._close(client)
                    continue
                self._start(self._relay, client, server, MessageReader("client", is_untyped=True))
                self._start(self._relay, server, client, MessageReader("server"))

    def _relay(self, source: socket.socket, target: socket.socket, messages: MessageReader) -> None:
        try:
            with suppress(OSError):
                while received := source.recv(_CHUNK_BYTES):
                    ready = bytearray()
                    for label, message in messages.feed(received):
                        action = self._count(label)
                        if action is not None:
                            target.sendall(ready)
                            action()
                            return
                        ready += message
                    target.sendall(ready)
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self._close(source)
            self._close(target)

    def _count(self, label: str) -> Action | None:
        with self._counting:
            action = self._faults.get(len(self.passed))
            self.passed.append(label)
            if action is not None:
                self.struck.append(label)
            return action

    def _close(self, end: socket.socket) -> None:
        with suppress(OSError):
            is_reset = self._is_resetting and end.family == socket.AF_INET
            if is_reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            # close() alone would leave the other thread's recv() waiting. SHUT_RD says nothing to the other side.
            end.shutdown(socket.SHUT_RD if is_reset else socket.SHUT_RDWR)
        end.close()
