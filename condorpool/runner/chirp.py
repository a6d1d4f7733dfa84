"""Chirp, HTCondor's channel from a job to its submit directory: through starter and shadow."""

from __future__ import annotations

import os
import time

from .container import fill, new_buffer, packed, unpacked
from .streams import file_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Chirp:
    """A connection to the job's starter (src/condor_starter.V6.1/io_proxy_handler.cpp).

    Operations raise FileNotFoundError if there is no such file, one of `disconnected` if
    it is unknown whether the operation was done, and another OSError if it was refused.
    """

    def __init__(self) -> None:
        with open(os.environ["_CONDOR_CHIRP_CONFIG"]) as file:
            self.host, self.port, self.cookie = file.read().split()
        self.connect()

    def connect(self) -> None:
        """Connect, or connect again."""
        import socket

        link = socket.create_connection((self.host, int(self.port)), timeout=60)
        # Without this every round trip waits 40 ms for a delayed acknowledgement.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link, self.replies = link, link.makefile("rb")
        self.file = file_of(link.fileno())
        self.disconnected = (ConnectionError, socket.timeout)
        self.ask("cookie", self.cookie)

    def ensure_connected(self) -> None:
        """Connect again if a call has closed the descriptor, or opened a file in its place."""
        if file_of(self.link.fileno()) != self.file:
            self.link.detach()  # not close(): the descriptor may be the call's file now
            self.connect()

    def disconnect(self) -> None:
        """Close the connection, so that the next operation fails and connects again."""
        import socket

        try:
            self.link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed

    def ask(self, *words: str) -> int:
        """Send a command and return the answer."""
        quoted = [word.replace("\\", "\\\\").replace(" ", "\\ ") for word in words]
        self.link.sendall((" ".join(quoted) + "\n").encode("utf-8", "surrogateescape"))
        return self.answer(words)

    def answer(self, words: tuple[str, ...]) -> int:
        """Read the number that answers a command."""
        line = self.replies.readline()
        if not line:
            raise ConnectionError("HTCondor's channel to the access point is closed")
        number = int(line)
        if number == -2:  # CHIRP_ERROR_NOT_AUTHORIZED
            raise PermissionError(
                f"chirp: the access point does not let this job {' '.join(words[:2])}"
            )
        if number == -3:  # CHIRP_ERROR_DOESNT_EXIST
            raise FileNotFoundError(words[1])
        if number == -17:  # CHIRP_ERROR_OFFLINE
            raise ConnectionError("the job's shadow does not answer")
        if number < 0:
            raise OSError(f"chirp: {words[0]} answered {number}")
        return number

    def get(self, *words: str) -> Any:
        """Send a command and return the bytes of the answer."""
        data = new_buffer(self.ask(*words))
        if not fill(data, self.replies):
            raise ConnectionError("HTCondor's channel to the access point is closed")
        return data

    def names(self, folder: str) -> list[str]:
        """List a folder."""
        return bytes(self.get("getdir", folder)).decode("utf-8", "surrogateescape").split()

    def read(self, name: str) -> tuple[dict[str, Any], list[Any]]:
        """Read a container."""
        return unpacked(self.get("getfile", name), name)

    def write(self, name: str, job: str, about: dict[str, Any], frames: list[Any]) -> None:
        """Write a container under a temporary name and move it into place."""
        scratch = f"{name}.{job}.tmp"
        parts = packed(about, frames)
        size = str(sum(len(part) for part in parts))
        self.ask("putfile", scratch, str(0o600), size)
        for part in parts:
            self.link.sendall(part)
        self.answer(("putfile", scratch))
        self.ask("rename", scratch, name)

    def put(self, name: str, data: bytes = b"\n") -> None:
        """Make or overwrite a small file; another process may see it empty meanwhile."""
        # HTCondor never answers when there is no data.
        self.ask("putfile", name, str(0o600), str(len(data)))
        self.link.sendall(data)
        self.answer(("putfile", name))

    def retry(self, operation: Any, *args: Any) -> Any:
        """Repeat an operation until it is answered: the access point may be restarting.

        The operation may be done twice.
        """
        for attempt in range(600):
            try:
                return operation(*args)
            except self.disconnected:
                time.sleep(min(0.1 * 2**attempt, 2.0))
                try:
                    self.connect()
                except OSError:
                    continue
        raise OSError("the access point has not answered for twenty minutes")
