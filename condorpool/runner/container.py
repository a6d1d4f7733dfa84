"""The format of every file that goes to a job or comes back: a container.

A container is one line of plain text, as

    condorpool-payload-1 python=3.11 frames=52,1024,8000000

then the frames, whose lengths it gives.  The first frame is a pickled dict of
plain values (what the file is about), the second a pickle, the others are its
out-of-band buffers (pickle protocol 5), written and read without a copy.
"""

from __future__ import annotations

import os
import sys

try:
    import _pickle as pickle  # pickle.py itself, which adds nothing here, costs each job 6 ms
except ImportError:
    import pickle  # type: ignore[no-redef]

TYPE_CHECKING = False  # importing typing for this constant costs each job 6 ms
if TYPE_CHECKING:
    from typing import Any

MAGIC = b"condorpool-payload-1 "
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


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
    frames = [pickle.dumps(about, 4), *frames]
    lengths = ",".join(str(len(frame)) for frame in frames)
    return [MAGIC + f"python={PYTHON} frames={lengths}\n".encode(), *frames]


def _header(line: Any, path: str) -> tuple[str, list[int]]:
    """Return the Python that wrote a container, and the lengths of its frames."""
    if line[: len(MAGIC)] != MAGIC or line[-1:] != b"\n":
        raise ValueError(f"{path} is not a payload")
    words = dict(word.split("=") for word in line[len(MAGIC) :].decode().split())
    return words["python"], list(map(int, words["frames"].split(",")))


def unpacked(data: Any, path: str) -> tuple[dict[str, Any], list[Any]]:
    """Return what a container is about, with the ``python`` that wrote it, and its frames.

    Raises ValueError if it is truncated, or not a container.
    """
    position = data.find(b"\n") + 1
    python, lengths = _header(data[:position], path)
    whole = memoryview(data)
    frames = []
    for length in lengths:
        frames.append(whole[position : position + length])
        position += length
    if position != len(data):
        raise ValueError(f"{path} has {len(data)} bytes instead of {position}")
    return {**pickle.loads(frames[0]), "python": python}, frames[1:]


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
    """Read what a container is about, without reading the rest."""
    with open(path, "rb") as file:
        line = file.readline()
        python, lengths = _header(line, path)
        if os.fstat(file.fileno()).st_size != len(line) + sum(lengths):
            raise ValueError(f"{path} is truncated")
        about: dict[str, Any] = pickle.loads(file.read(lengths[0]))
    return {**about, "python": python}


def read(path: str) -> tuple[dict[str, Any], list[Any]]:
    """Read a container."""
    with open(path, "rb", buffering=0) as file:
        data = new_buffer(os.fstat(file.fileno()).st_size)
        fill(data, file)
    return unpacked(data, path)


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
