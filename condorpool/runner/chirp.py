"""Chirp, HTCondor's channel from a job to its submit directory: through starter and shadow."""

from __future__ import annotations

import errno
import os
import time

from .container import fill, new_buffer, packed, unpacked
from .streams import file_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

#: Bytes of a larger file that are moved at once.  HTCondor keeps them in memory, in two of its
#: processes, and moves no whole files above 256 MiB.
PART = 1 << 22

#: What negative answers mean (chirp_protocol.h); a disk quota has no number of its own.
_ERRORS = {
    -3: errno.ENOENT,
    -4: errno.EEXIST,
    -5: errno.EFBIG,
    -6: errno.ENOSPC,
    -7: errno.ENOMEM,
    -9: errno.EMFILE,
    -13: errno.EISDIR,
    -14: errno.ENOTDIR,
    -127: errno.EIO,
}


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

    def ask(self, *words: str, data: Iterable[Any] = ()) -> int:
        """Send a command and the data that belong to it; return the answer."""
        quoted = [word.replace("\\", "\\\\").replace(" ", "\\ ") for word in words]
        self.link.sendall((" ".join(quoted) + "\n").encode("utf-8", "surrogateescape"))
        for part in data:
            self.link.sendall(part)
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
        if number == -17:  # CHIRP_ERROR_OFFLINE
            raise ConnectionError("the job's shadow does not answer")
        if number in _ERRORS:
            raise OSError(_ERRORS[number], os.strerror(_ERRORS[number]), words[1])
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
        try:
            return unpacked(self.get("getfile", name), name)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
        file, size = self.open(name, "r")
        data = new_buffer(size)
        rest = memoryview(data)
        while rest:
            count = self.ask("read", file, str(min(PART, len(rest))))
            if not fill(rest[:count], self.replies):
                raise ConnectionError("HTCondor's channel to the access point is closed")
            rest = rest[count or len(rest) :]  # it was truncated meanwhile: its sum is wrong
        self.ask("close", file)
        return unpacked(data, name)

    def open(self, name: str, how: str) -> tuple[str, int]:
        """Open a file; return its number, and its size."""
        number = self.ask("open", name, how, str(0o600))
        return str(number), int(self.replies.readline().split()[7])  # as in struct stat

    def disk(self, name: str) -> tuple[int, int]:
        """Return the bytes of the disk that a file is on, and those that are free."""
        self.ask("statfs", name)
        found = [int(word) for word in self.replies.readline().split()]  # as in struct statfs
        return found[1] * found[2], found[1] * found[4]

    def write(self, name: str, job: str, about: dict[str, Any], frames: list[Any]) -> None:
        """Write a container under a temporary name and move it into place."""
        scratch = f"{name}.{job}.tmp"
        parts = packed(about, frames)
        try:
            size = sum(len(part) for part in parts)
            if size <= PART:
                self.put(scratch, size, parts)
            else:
                self.put_in_parts(scratch, parts)
            self.ask("rename", scratch, name)
        except self.disconnected:
            raise
        except OSError:
            # Half a file would keep what room there is.
            try:
                self.ask("unlink", scratch)
            except OSError:
                pass  # nothing was written
            raise

    def put(self, name: str, size: int = 1, parts: Iterable[Any] = (b"\n",)) -> None:
        """Make or overwrite a small file; another process may see it empty meanwhile."""
        # HTCondor never answers when there is no data.
        self.ask("putfile", name, str(0o600), str(size))
        for part in parts:
            self.link.sendall(part)
        self.answer(("putfile", name))

    def put_in_parts(self, name: str, parts: Iterable[Any]) -> None:
        """Make or overwrite a file of any size."""
        file, _ = self.open(name, "wct")
        try:
            for size, data in grouped(parts):
                if self.ask("write", file, str(size), data=data) < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        finally:
            self.ask("close", file)  # a deleted file that is open keeps its room

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


def grouped(parts: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield the same data as groups of at most `PART` bytes, each with its size."""
    size, group = 0, []
    for part in parts:
        rest = memoryview(part)
        while rest:
            taken = rest[: PART - size]
            rest = rest[len(taken) :]
            group.append(taken)
            size += len(taken)
            if size == PART:
                yield size, group
                size, group = 0, []
    if group:
        yield size, group
