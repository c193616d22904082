"""Messages between coordinator, server and trial: one JSON object a line, over a stream socket."""

from __future__ import annotations

import json
import socket
from typing import Any

Message = dict[str, Any]
SCRATCH = "autofash-trials-"  # how the name of a server's temporary folder begins
ORDER = 8  # bytes of an order's number, which the server is sent with the trial's socket


class Channel:
    """Sends and receives messages over a connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def fileno(self) -> int:
        """The socket's descriptor, for selectors."""
        return self.sock.fileno()

    def send(self, message: Message) -> None:
        """Send a message whole. Raises OSError when the other side is gone."""
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """The messages that are complete after one read, maybe none; None when the other side is gone."""
        try:
            block = self.sock.recv(2**16)
        except ConnectionError:
            return None
        if not block:
            return None
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [json.loads(line) for line in lines]

    def wait(self) -> list[Message] | None:
        """The next messages, at least one; None when the other side is gone."""
        while (messages := self.receive()) == []:
            pass
        return messages

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
