"""Messages of PostgreSQL's protocol in a stream of bytes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

#: Of these there is one per row, so a fault that is drawn from all messages would nearly always meet one.
BULK = {"client d", "server d", "server D"}

_LENGTH_BYTES = 4
_SHOWN_CHARACTERS = 60


@dataclass
class MessageReader:
    """Splits what one side of a connection sends. The first message of a client has no type."""

    sender: str
    is_untyped: bool = False
    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, received: bytes) -> Iterator[tuple[str, bytes]]:
        """The messages that are complete now: a label, such as `client Q COMMIT`, and all bytes."""
        self._rest += received
        start = 0
        while True:
            header = 0 if self.is_untyped else 1
            body = start + header + _LENGTH_BYTES
            if len(self._rest) < body:
                break
            end = start + header + int.from_bytes(self._rest[start + header : body])
            if len(self._rest) < end:
                break
            message = bytes(self._rest[start:end])
            yield f"{self.sender} {'startup' if self.is_untyped else _label(message)}", message
            self.is_untyped = False
            start = end
        del self._rest[:start]


def _label(message: bytes) -> str:
    kind = chr(message[0])
    if kind not in "QP":
        return kind
    # A Parse message begins with the name of the prepared statement.
    words = message[5:].split(b"\0")["QP".index(kind)].decode(errors="replace")
    return f"{kind} {' '.join(words.split())[:_SHOWN_CHARACTERS]}"
