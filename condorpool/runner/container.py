"""The format of every file that goes to a job or comes back: a container.

A container is one line of plain text, as

    condorpool-payload-2 python=3.11 frames=52,1024,8000000 rest=1b4f02c9 head=90ad3c71

then the frames, whose lengths it gives.  The first frame is a JSON object (what the file is
about), the second a pickle, the others are its out-of-band buffers (pickle protocol 5), written
and read without a copy.  Some files have several pickles, each with its buffers.

Two checksums (CRC-32) cover every byte: ``rest`` the frames after the first, ``head`` the line
up to itself and the first frame, which is also read alone.  Nothing is unpickled before it is
checked: a flipped bit in an array would be another number.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from binascii import crc32  # zlib's, which takes longer to import

try:
    import _pickle as pickle  # pickle.py itself, which adds nothing here, costs each job 6 ms
except ImportError:
    import pickle  # type: ignore[no-redef]

try:
    # json.py, with what it imports, costs each job 15 ms; these are the functions below it.
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    class _Options:
        """What becomes of JSON, for the scanner; nothing else becomes JSON."""

        strict, object_hook, object_pairs_hook = True, None, None
        parse_float, parse_int, parse_constant = float, int, float

    _options: Any = _Options
    _json: Any = make_encoder(
        None, _options, encode_basestring_ascii, None, ":", ",", False, False, True
    )
    _from_json: Any = make_scanner(_options)
except (AttributeError, ImportError, TypeError):  # another interpreter has none, or others
    import json

    def _json(value: Any, _indent: int) -> str:
        return json.dumps(value)

    _from_json = json.JSONDecoder().raw_decode

TYPE_CHECKING = False  # importing typing for this constant costs each job 6 ms
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

FORMAT = b"condorpool-payload-"
MAGIC = FORMAT + b"2 "

#: Bytes of the longest first line that is read alone; each frame takes some ten.
MAX_LINE = 1 << 26

#: Whose files are read.  A job on a shared file system finds them by their path, where others
#: may have put theirs.  The client holds the folder open, so there it does not matter.
owners: Any = ()

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class DamagedError(ValueError):
    """A file is not what was written: it is damaged, or no container at all.

    ``what`` says how, without the path.
    """

    def __init__(self, path: Any, what: str) -> None:
        super().__init__(path, what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.args[0]} {self.what}"


def dumps(value: Any, pickler: Any = pickle) -> list[Any]:
    """Pickle a value into frames: one pickle and its out-of-band buffers."""
    buffers: list[Any] = []
    data = pickler.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [data] + [buffer.raw() for buffer in buffers]


def loads(frames: list[Any]) -> Any:
    """Rebuild the value of these frames."""
    return pickle.loads(frames[0], buffers=frames[1:])


def packed(about: dict[str, Any], frames: list[Any]) -> list[Any]:
    """Return the parts of a container, in order."""
    first = "".join(_json(about, 0)).encode("ascii")
    lengths = ",".join(str(len(frame)) for frame in [first, *frames])
    line = MAGIC + f"python={PYTHON} frames={lengths} rest={_sum(frames):08x}".encode()
    return [line + b" head=%08x\n" % _sum([line, first]), first, *frames]


def _sum(parts: Iterable[Any]) -> int:
    """Return the checksum of these parts together."""
    value = 0
    for part in parts:
        value = crc32(part, value)
    return value


class _Header:
    """The first line of a container: the ``python`` that wrote it, the ``lengths`` of its frames."""

    def __init__(self, line: Any, size: int, path: str) -> None:
        if line[: len(MAGIC)] != MAGIC:
            if line[: len(FORMAT)] == FORMAT and b" " in line:
                raise DamagedError(path, "was written by another version of condorpool")
            why = "its beginning is lost" if size else "it is empty"
            raise DamagedError(path, f"is damaged: {why}")
        self.path = path
        self.checked, _, self.head = bytes(line).rpartition(b" head=")
        try:
            words = dict(word.split("=") for word in self.checked[len(MAGIC) :].decode().split())
            self.python, self.rest = words["python"], words["rest"]
            self.lengths = [int(length) for length in words["frames"].split(",")]
        except (KeyError, ValueError):
            raise DamagedError(path, "is damaged: its first line cannot be read") from None
        expected = len(line) + sum(self.lengths)
        if size != expected:
            raise DamagedError(path, f"is damaged: it has {size} bytes instead of {expected}")

    def about(self, first: Any) -> dict[str, Any]:
        """Return what the container is about, from its first frame."""
        self._check(self.head, b"%08x\n" % _sum([self.checked, first]))
        try:
            about, _ = _from_json(str(first, "ascii"), 0)
            return {**about, "python": self.python}
        except Exception:  # the functions in C raise four kinds
            raise DamagedError(self.path, "is damaged: its first part is no JSON object") from None

    def check(self, frames: Iterable[Any]) -> None:
        """Raise an error if the other frames are not what was written."""
        self._check(self.rest, f"{_sum(frames):08x}")

    def _check(self, written: Any, found: Any) -> None:
        if written != found:
            raise DamagedError(self.path, "is damaged: its contents do not fit their checksum")


def unpacked(data: Any, path: str) -> tuple[dict[str, Any], list[Any]]:
    """Return what a container is about, with the ``python`` that wrote it, and its frames.

    Raises `DamagedError` if it is not whole, or not a container.
    """
    position = data.find(b"\n") + 1
    header = _Header(data[:position], len(data), path)
    whole = memoryview(data)
    frames = []
    for length in header.lengths:
        frames.append(whole[position : position + length])
        position += length
    about = header.about(frames[0])
    header.check(frames[1:])
    return about, frames[1:]


def write(path: str, about: dict[str, Any], frames: list[Any]) -> None:
    """Write a container under a temporary name and move it into place."""
    # An evicted job starts again, maybe before its first run has ended: each run
    # writes a file of its own, and the last move wins.
    scratch = f"{path}.{_process()}.tmp"
    try:
        # A file with this name is from a process that was killed: no living one has the name.
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb") as file:
            for part in packed(about, frames):
                file.write(part)
        os.replace(scratch, path)
    except BaseException:
        if os.path.exists(scratch):
            os.unlink(scratch)
        raise


def _process() -> str:
    """Return a name of this process that no other living one has, on any machine."""
    try:
        # Each container of a machine numbers its own processes.
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        space = ""
    return f"{os.getpid()}-{space}@{os.uname()[1]}"


def read_about(path: str) -> dict[str, Any]:
    """Read what a container is about, without reading or checking the rest."""
    with opened(path) as file:
        header = _Header(file.readline(MAX_LINE), os.fstat(file.fileno()).st_size, path)
        return header.about(file.read(header.lengths[0]))


def read(path: str) -> tuple[dict[str, Any], list[Any]]:
    """Read a container."""
    with opened(path) as file:
        data = new_buffer(os.fstat(file.fileno()).st_size)
        fill(data, file)
    return unpacked(data, path)


def opened(path: str) -> Any:
    """Open a file to read; raise `DamagedError` if it is a folder, a link, or not to be trusted."""
    try:
        # Not blocking: to open a named pipe would wait for a process that writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise DamagedError(path, "is damaged: it is not a file") from None
        raise
    about, why = os.fstat(handle), ""
    if not stat.S_ISREG(about.st_mode):
        why = "it is not a file"
    elif owners and about.st_uid not in owners:
        why = f"it belongs to user {about.st_uid}"
    if why:
        os.close(handle)
        raise DamagedError(path, f"is damaged: {why}")
    return open(handle, "rb")


def new_buffer(size: int) -> Any:
    """Return a buffer of this size, whose memory returns to the system once it is unused.

    A large one is mapped: malloc may take it from a heap, which keeps the memory.
    """
    if size < 1 << 20:
        return bytearray(size)
    import mmap

    return mmap.mmap(-1, size)


def fill(data: Any, file: Any) -> bool:
    """Read until the buffer is full or the file ends; return whether it is full."""
    rest = memoryview(data)
    while rest:
        count = file.readinto(rest)
        if not count:
            return False
        rest = rest[count:]
    return True
