"""Make the calls of one chunk and leave their outcome.

    main([CALL, CHUNK, OUTCOME])

Runs on the execution point with the standard library alone, under any Python
from 3.7 on: the first thing it does is to tell whether this Python can read
the payload.  The notebook's own cloudpickle comes in the same archive and
serves functions that are sent by value.

Every file is a container: one line of plain text, as

    condorpool-payload-1 python=3.11 frames=52,1024,8000000

then the frames, whose lengths it gives.  The first frame is a pickled dict of
plain values (what the file is about), the second a pickle, the others are its
out-of-band buffers (pickle protocol 5), written and read uncopied.
"""

from __future__ import annotations

import os
import sys
import time

try:
    import _pickle as pickle  # pickle.py itself, which adds nothing here, costs each job 6 ms
except ImportError:
    import pickle  # type: ignore[no-redef]

TYPE_CHECKING = False  # importing typing for its own costs each job 6 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

MAGIC = b"condorpool-payload-1 "
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

#: Exit codes of the program; a job that made its calls exits with 0.
EX_NO_PYTHON = 72
EX_CANNOT_WRITE = 73


def dumps(value: Any, pickler: Any = pickle) -> list[Any]:
    """Pickle a value into frames: one pickle and its out-of-band buffers."""
    buffers: list[Any] = []
    data = pickler.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [data] + [buffer.raw() for buffer in buffers]


def loads(frames: list[Any]) -> Any:
    """Rebuild the value of these frames."""
    return pickle.loads(frames[0], buffers=frames[1:])


def write(path: str, about: dict[str, Any], frames: list[Any]) -> None:
    """Write a container beside its name and move it into place."""
    frames = [pickle.dumps(about, 4), *frames]
    lengths = ",".join(str(len(frame)) for frame in frames)
    # A job that is evicted half-way starts again, maybe before its first run has
    # ended: each writes a file of its own, and the last move wins.
    scratch = f"{path}.{os.getpid()}.tmp"
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as file:
            file.write(MAGIC + f"python={PYTHON} frames={lengths}\n".encode())
            for frame in frames:
                file.write(frame)
        os.replace(scratch, path)
    except BaseException:
        if os.path.exists(scratch):
            os.unlink(scratch)
        raise


def read(path: str) -> tuple[dict[str, Any], list[Any]]:
    """Read a container: what it is about, with the ``python`` that wrote it, and its frames.

    Raises ValueError when the file is not whole, or no container at all.
    """
    with open(path, "rb", buffering=0) as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        whole = memoryview(data)
        done = 0
        while done < len(data):
            count = file.readinto(whole[done:])
            if not count:
                break
            done += count
    end = data.find(b"\n")
    if not data.startswith(MAGIC) or end < 0:
        raise ValueError(f"{path} is not a payload")
    words = dict(word.split("=") for word in data[len(MAGIC) : end].decode().split())
    frames, position = [], end + 1
    for length in map(int, words["frames"].split(",")):
        frames.append(whole[position : position + length])
        position += length
    if position != len(data):
        raise ValueError(f"{path} has {len(data)} bytes instead of {position}")
    return {**pickle.loads(frames[0]), "python": words["python"]}, frames[1:]


def describe(error: BaseException, sources: dict[str, str]) -> str:
    """Say what an exception is, as the interpreter would print it where the sources are."""
    import linecache  # 8 ms that a call which returns need not pay
    import traceback

    for name, text in sources.items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    # The first frame of the traceback is this program's own; users look for theirs.
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, trace))


def pickled(value: Any) -> list[Any]:
    """Pickle a value by reference if that works, else by value."""
    try:
        return dumps(value)
    except Exception:
        import cloudpickle

        return dumps(value, cloudpickle)


def outcome_of(
    func: Any, args: Iterable[Any], kwargs: dict[str, Any], sources: dict[str, str]
) -> tuple[tuple[str, str], list[Any]]:
    """Make one call; return what it came to and the frames of its value.

    The first is ``("value", "")``, ``("raise", traceback)``, or
    ``("unpicklable", why)`` when the value or exception cannot be sent.
    """
    try:
        value, text = func(*args, **kwargs), ""
    except BaseException as error:
        value, text = error, describe(error, sources)
    try:
        frames = pickled(value)
        if text:
            loads(frames)  # an exception with an __init__ of its own may pickle and not come back
    except BaseException as error:
        # Our own words: the object's repr() may be what is broken.
        kind = type(value)
        why = (
            f"the {'exception' if text else 'value'} of type {kind.__module__}.{kind.__qualname__} "
            f"cannot be pickled: {type(error).__name__}: {error}"
        )
        return ("unpicklable", why + ("\n" + text if text else "")), []
    return ("raise" if text else "value", text), frames


def calls_of(style: str, items: list[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give the arguments of every call in a chunk."""
    for item in items:
        if style == "map":
            yield (item,), {}
        elif style == "starmap":
            yield item, {}
        else:
            yield item


def flush() -> None:
    """Bring out what the calls printed; a call may have closed the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def run(call_path: str, chunk_path: str, outcome_path: str) -> None:
    """Make the calls of a chunk and write their outcome."""
    call, call_frames = read(call_path)
    about: dict[str, Any] = {"host": os.uname().nodename, "pid": os.getpid()}
    if call["python"] != PYTHON:
        why = (
            f"this notebook's Python is {call['python']}, "
            f"and {sys.executable} on {about['host']} is Python {PYTHON}"
        )
        write(outcome_path, dict(about, calls=[], mismatch=why), [])
        return
    outcome_path = os.path.abspath(outcome_path)
    for name, value in call["environment"].items():
        os.environ.setdefault(name, value)  # what HTCondor has set for the job stands
    chunk, chunk_frames = read(chunk_path)
    # With file transfer the job sits in a scratch folder of its own.  Where
    # HTCondor uses a shared file system it starts in the submit directory, and
    # the calls belong where the user works.
    scratch = os.environ.get("_CONDOR_SCRATCH_DIR")
    here = os.getcwd()
    if not (scratch and os.path.samefile(here, scratch)):
        os.chdir(call["directory"])
        here = call["directory"]
    # Imports come from where the calls are made, then from the archive.
    sys.path[0] = here
    started = time.time()
    outcomes: list[Any] = []
    frames: list[Any] = []
    try:
        func, initializer, initargs = loads(call_frames)
        items = loads(chunk_frames)
        if initializer is not None:
            initializer(*initargs)
    except BaseException as error:
        failure = error

        def func(*_: Any) -> None:  # the calls cannot be made: each raises this
            raise failure

        items = [()] * chunk["calls"]
        call["style"] = "starmap"
    for args, kwargs in calls_of(call["style"], items):
        what, own = outcome_of(func, args, kwargs, call["sources"])
        outcomes.append([what[0], what[1], len(own)])
        frames.extend(own)
    about.update(started=started, seconds=time.time() - started, calls=outcomes)
    write(outcome_path, about, frames)


def main(arguments: list[str]) -> None:
    """Run the chunk that the arguments name and end this process at once."""
    call_path, chunk_path, outcome_path = arguments
    if not os.path.getsize(outcome_path):
        try:
            run(call_path, chunk_path, outcome_path)
        except OSError as error:
            sys.stderr.write(f"condorpool: cannot read the payload or leave the outcome: {error}\n")
            flush()
            os._exit(EX_CANNOT_WRITE)
    flush()
    # Threads that a call left behind, and exit handlers that hang, do not keep
    # a job whose outcome is written; multiprocessing's workers end like this too.
    os._exit(0)
