"""The program of a job: make the calls of chunks and leave their outcomes.

    main(["serve", CREW, POSTED, TAKEN, JOB, PEERS, LINGER, RETIRE_AFTER, CHUNKS])
    main(["once", CREW, CALL, CHUNK, OUTCOME, ORIGIN, FIRST, END])

The first is a resident runner: it takes chunks from the submit directory until
none is left, and waits a little for more (PROTOCOL.md says who may do what).
The second makes one chunk, for sites that forbid chirp.

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
from _frozen_importlib import ModuleSpec  # importlib costs each job half a millisecond
from _frozen_importlib_external import PathFinder, SourceFileLoader, spec_from_file_location

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

#: Exit codes of the program (72 is launch.sh's); a job that made its calls exits with 0.
EX_CANNOT_WRITE = 73
EX_NO_CHIRP = 74

#: In the folder of posted chunks this name tells runners to leave.
CLOSED = "CLOSED"

#: The event that announces an outcome has this word, then the chunk's name.
ANNOUNCES = "condorpool-outcome"

#: Seconds after which a chunk that can be split is, also when others have enough to do.
LONG = 1.0

NEVER = float("inf")

#: Values of these types are always rebuilt.
PLAIN = {int, float, complex, bool, str, bytes, type(None)}

getpid = os.getpid

#: Seconds that a call which is out of time gets to end by itself.
GRACE = 5.0

#: The most that is kept of what the calls of a chunk print, in bytes.
MAX_PRINTED = 1 << 20


# -- containers ---------------------------------------------------------------------


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


def unpacked(data: Any, path: str) -> tuple[dict[str, Any], list[Any]]:
    """Return what a container is about, with the ``python`` that wrote it, and its frames.

    Raises ValueError when it is not whole, or no container at all.
    """
    end = data.find(b"\n")
    if data[: len(MAGIC)] != MAGIC or end < 0:
        raise ValueError(f"{path} is not a payload")
    words = dict(word.split("=") for word in data[len(MAGIC) : end].decode().split())
    whole = memoryview(data)
    frames, position = [], end + 1
    for length in map(int, words["frames"].split(",")):
        frames.append(whole[position : position + length])
        position += length
    if position != len(data):
        raise ValueError(f"{path} has {len(data)} bytes instead of {position}")
    return {**pickle.loads(frames[0]), "python": words["python"]}, frames[1:]


def write(path: str, about: dict[str, Any], frames: list[Any]) -> None:
    """Write a container beside its name and move it into place."""
    # A job that is evicted half-way starts again, maybe before its first run has
    # ended: each writes a file of its own, and the last move wins.
    scratch = f"{path}.{os.getpid()}.tmp"
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as file:
            for part in packed(about, frames):
                file.write(part)
        os.replace(scratch, path)
    except BaseException:
        if os.path.exists(scratch):
            os.unlink(scratch)
        raise


def read_about(path: str) -> dict[str, Any]:
    """Read what a container is about, whatever size the rest has."""
    with open(path, "rb") as file:
        line = file.readline()
        if not (line.startswith(MAGIC) and line.endswith(b"\n")):
            raise ValueError(f"{path} is not a payload")
        words = dict(word.split("=") for word in line[len(MAGIC) :].decode().split())
        lengths = list(map(int, words["frames"].split(",")))
        if os.fstat(file.fileno()).st_size != len(line) + sum(lengths):
            raise ValueError(f"{path} is not whole")
        about: dict[str, Any] = pickle.loads(file.read(lengths[0]))
    return {**about, "python": words["python"]}


def read(path: str) -> tuple[dict[str, Any], list[Any]]:
    """Read a container."""
    with open(path, "rb", buffering=0) as file:
        data = room(os.fstat(file.fileno()).st_size)
        fill(file, data)
    return unpacked(data, path)


def room(size: int) -> Any:
    """Return a buffer of this size; a big one is given back when nobody has a part of it.

    From the allocator of C it may come out of a heap that later keeps it.
    """
    if size < 1 << 20:
        return bytearray(size)
    import mmap

    return mmap.mmap(-1, size)


def fill(file: Any, data: Any) -> bool:
    """Read until the buffer is full or the file ends; tell whether it is full."""
    rest = memoryview(data)
    while rest:
        count = file.readinto(rest)
        if not count:
            return False
        rest = rest[count:]
    return True


# -- shared objects -------------------------------------------------------------------

_shared: dict[str, Any] = {}
_read_shared: Any = None


def shared(name: str) -> Any:
    """Return an object that the pool has shared; each job reads it once."""
    if name not in _shared:
        try:
            _shared[name] = loads(_read_shared(name)[1])
        except (FileNotFoundError, TypeError):
            raise LookupError(
                f"the shared object {name} is not one of this pool: share it with the pool "
                "that makes the call"
            ) from None
    return _shared[name]


# The name under which the notebook's pickles know it, and a job imports it.
shared.__module__ = "_condorpool_program"


# -- the user's own modules -----------------------------------------------------------


class Sent(SourceFileLoader):
    """Loads a module from the source that came with a call."""

    def __init__(self, name: str, file: str, source: bytes) -> None:
        super().__init__(name, file)
        self.source = source

    def get_data(self, path: str) -> bytes:
        """Return the source; other files of a package are where the job can see them."""
        return self.source if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> Any:
        """Keep away from compiled files."""
        raise OSError(path)


class Modules:
    """The importer of what came with calls, before all others; see engine/modules.py."""

    def __init__(self) -> None:
        self.here: dict[str, tuple[str, bool, bytes | None]] = {}

    def find_spec(self, name: str, path: Any = None, _target: Any = None) -> Any:
        """Find a module, as importers do."""
        if name not in self.here:
            return None
        file, is_package, source = self.here[name]
        folder = os.path.dirname(file)
        if source is not None:
            places = [folder] if is_package else None
            loader = Sent(name, file, source)
            return spec_from_file_location(
                name, file, loader=loader, submodule_search_locations=places
            )
        if not is_package:
            return PathFinder.find_spec(name, [folder])
        return PathFinder.find_spec(name, path) or ModuleSpec(name, None, is_package=True)

    def bring(self, modules: dict[str, tuple[str, bool, bytes | None]]) -> bool:
        """Serve these; tell whether others were loaded, which are all forgotten then."""
        loaded = [
            name
            for name in self.here
            if isinstance(getattr(sys.modules.get(name), "__loader__", None), Sent)
        ]
        changed = any(modules.get(name) != self.here[name] for name in loaded)
        if changed:
            import linecache

            for name in loaded:
                del sys.modules[name]
            linecache.clearcache()
            if "cloudpickle" in sys.modules:
                # Classes of the notebook would be known still, with their old bases.
                known = sys.modules["cloudpickle"].cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID  # noqa: SLF001
                known.clear()
        self.here = modules
        return changed

    def show(self) -> None:
        """Have tracebacks show the lines that were sent, whatever the files are now."""
        import linecache

        for name, (file, _, source) in self.here.items():
            if source is not None and file not in linecache.cache:
                text = Sent(name, file, source).get_source(name) or ""
                linecache.cache[file] = (len(text), None, text.splitlines(True), file)

    def explain(self, error: BaseException) -> None:
        """Add to the interpreter's own words where a module is missing."""
        if not isinstance(error, ModuleNotFoundError):
            return
        if error.msg != f"No module named {error.name!r}":
            return
        file = self.here.get(str(error.name), ("",))[0]
        advice = (
            f"it is compiled ({file}) and only sources go along, so name it in transfer_input_files"
            if file
            else "install it there, or give the jobs another python= or a container_image"
        )
        where = f"{os.uname().nodename} (Python {PYTHON} at {sys.executable})"
        error.msg += f" on {where}: {advice}"
        error.args = (error.msg,)


modules = Modules()


# -- calls --------------------------------------------------------------------------


def describe(error: BaseException, sources: dict[str, str]) -> str:
    """Say what an exception is, as the interpreter would print it where the sources are."""
    import linecache  # 8 ms that a call which returns need not pay
    import traceback

    for name, text in sources.items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    modules.show()
    # The first frame of the traceback is this program's own; users look for theirs.
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, trace))


def pickled(value: Any) -> list[Any]:
    """Pickle a value by reference if that works, else by value."""
    try:
        return dumps(value)
    except Exception:  # a __reduce__ may raise anything
        import cloudpickle

        return dumps(value, cloudpickle)


class OvertimeError(BaseException):
    """Raised in a call that takes too long; no call catches it by accident."""


def arm(seconds: float, stderr: int) -> None:
    """Raise in the call that begins now when its time is over.

    What cannot be interrupted, or catches even this, ends with its job, which leaves
    on standard error where it was.
    """
    import faulthandler
    import signal

    def ring(*_: Any) -> None:
        raise OvertimeError

    # Each time anew: a call may have set a handler of its own.
    signal.signal(signal.SIGALRM, ring)
    # This one is a thread in C, and needs no interpreter.
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stderr)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def disarm() -> None:
    """Stop both clocks; the first may still ring until it is stopped."""
    import faulthandler
    import signal

    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        faulthandler.cancel_dump_traceback_later()


def attempt(
    func: Any,
    args: Iterable[Any],
    kwargs: dict[str, Any],
    sources: dict[str, str],
    limit: float | None = None,
    stderr: int = 2,
) -> tuple[Any, str]:
    """Make one call; return its value, or its exception and the text of its traceback."""
    process = getpid()
    try:
        if limit is None:
            value, text = func(*args, **kwargs), ""
        else:
            try:
                arm(limit, stderr)
                value, text = func(*args, **kwargs), ""
            finally:
                disarm()
    except BaseException as error:  # also SystemExit and KeyboardInterrupt
        modules.explain(error)
        value, text = error, describe(error, sources)
    if getpid() != process:
        os._exit(0)  # a child that the call forked came back with it; the outcome is its parent's
    return value, text


def told(error: BaseException) -> str:
    """Return type and words of an exception, whatever code of the user's that runs."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__


class Revived:
    """Pickles an exception as what it consists of, and comes back as the exception."""

    def __init__(self, error: BaseException) -> None:
        self.parts = type(error), error.args, dict(vars(error))

    def __reduce__(self) -> Any:
        return revive, self.parts


def revive(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """Rebuild an exception without its own ``__init__``, which may want other arguments."""
    error = kind.__new__(kind, *args)
    for name, value in attributes.items():
        BaseException.__setattr__(error, name, value)
    return error


def outcome_of(value: Any, text: str) -> tuple[tuple[str, str], list[Any]]:
    """Return what a call came to, and the frames of its value or exception.

    The first is ``("value", "")``, ``("raise", traceback)``, or
    ``("unpicklable", why)`` when the value or exception cannot be sent, or
    ``("overtime", traceback)``.
    """
    if isinstance(value, OvertimeError):
        return ("overtime", text), []
    try:
        frames = pickled(value)
        if text:
            try:
                loads(frames)
            except Exception:
                # With an __init__ of its own, or attributes that nobody may set, it pickles
                # and does not come back.
                frames = pickled(Revived(value))
                loads(frames)
    except BaseException as error:
        # Our own words: the object's repr() may be what is broken.
        kind = type(value)
        why = (
            f"the {'exception' if text else 'value'} of type {kind.__module__}.{kind.__qualname__} "
            f"cannot be pickled: {told(error)}"
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


class Printed:
    """What calls write to standard output and standard error: the job's own files."""

    def __init__(self) -> None:
        # A call may close or replace descriptors 1 and 2; these stay.
        self.kept = (os.dup(1), os.dup(2))
        self.sizes = [0, 0]
        self.restore()
        self.taken()

    def restore(self) -> None:
        """Make the streams good again after calls that closed them."""
        for number, kept in zip((1, 2), self.kept):
            os.dup2(kept, number)
        if sys.stdout is None or sys.stdout.closed:
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        if sys.stderr is None or sys.stderr.closed:
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115

    def taken(self) -> tuple[str, str] | None:
        """Return what was written since the last time, None if nothing was."""
        flush()
        texts = []
        for which, kept in enumerate(self.kept):
            size, begin = os.fstat(kept).st_size, self.sizes[which]
            self.sizes[which] = size
            text = b""
            if size > begin:
                begin = max(begin, size - MAX_PRINTED)
                try:
                    with open(f"/proc/self/fd/{kept}", "rb") as file:
                        file.seek(begin)
                        text = file.read(size - begin)
                except OSError:
                    pass  # no regular file: nothing to show, and no fault of the call's
            texts.append(text.decode("utf-8", "replace"))
        return (texts[0], texts[1]) if texts[0] or texts[1] else None


def flush() -> None:
    """Bring out what the calls printed; a call may have closed the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


class Worker:
    """What a job has for all its calls: environment, folder, the initializer's work.

    ``crew`` is the container that says so.
    """

    def __init__(self, crew: tuple[dict[str, Any], list[Any]]) -> None:
        about, self.initial = crew
        self.host = os.uname().nodename
        self.mismatch = ""
        if about["python"] != PYTHON:
            self.mismatch = (
                f"this notebook's Python is {about['python']}, "
                f"and {sys.executable} on {self.host} is Python {PYTHON}"
            )
        for name, value in about["environment"].items():
            os.environ.setdefault(name, value)  # what HTCondor has set for the job stands
        # With file transfer the job sits in a scratch folder of its own.  Where
        # HTCondor uses a shared file system it starts in the submit directory, and
        # the calls belong where the user works.
        self.submit_dir = os.getcwd()
        scratch = os.environ.get("_CONDOR_SCRATCH_DIR")
        self.shares = not (scratch and os.path.samefile(self.submit_dir, scratch))
        self.is_here = self.shares and about["host"] == self.host
        self.here = about["directory"] if self.shares else self.submit_dir
        # Imports come from where the calls are made, then from the archive.
        sys.path[0] = self.here
        sys.meta_path.insert(0, modules)
        self.printed = Printed()
        self.ready = False
        self.failure: BaseException | None = None
        self.last: tuple[str, Any, dict[str, Any]] = ("", None, {})

    def initialize(self) -> None:
        """Run the initializer, once."""
        self.ready, self.failure = True, None
        try:
            os.chdir(self.here)
            initializer, initargs = loads(self.initial)
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:  # told for every call of every chunk
            self.failure = error

    def learn(self, name: str, call: Any) -> tuple[Any, dict[str, Any]]:
        """Return the function of a call, and what else its chunks share."""
        os.chdir(self.here)
        if self.last[0] != name:
            shared, frames = call()
            if modules.bring(shared["modules"]):
                # What was made of the old modules is no use for the new ones.
                _shared.clear()
                self.ready = False
        if not self.ready:
            self.initialize()
        if self.last[0] != name:
            self.last = (name, loads(frames), shared)
        return self.last[1:]

    def make(
        self,
        name: str,
        call: Any,
        chunk: list[Any],
        first: int,
        end: int,
        shrink: Any = None,
        pause: float = NEVER,
    ) -> tuple[dict[str, Any], list[Any]]:
        """Make the calls ``first`` to ``end`` of the frames of a chunk; return the outcome.

        ``call()`` reads the container of the call called ``name``; that of the
        last chunk's call is still known.  Every ``pause`` seconds ``shrink(next, end,
        seconds)`` is told how long the rest will take, and returns where it ends now.
        """
        about: dict[str, Any] = {"host": self.host, "pid": os.getpid()}
        if self.mismatch:
            return dict(about, count=end - first, mismatch=self.mismatch), []
        failure: BaseException | None = None
        items, style = [], "map"
        started = time.time()
        try:
            func, shared = self.learn(name, call)
            started, style = time.time(), shared["style"]
            items = loads(chunk)
        except BaseException as error:
            failure = error
        failure = self.failure or failure
        if failure is not None:
            problem = failure

            def func(*_: Any) -> None:  # the calls cannot be made: each raises this
                raise problem

            items, first, end, style = [()] * (end - first), 0, end - first, "starmap"
            shared = {"sources": {}, "splits": False, "task_timeout": None}
        limit, stderr = shared["task_timeout"], self.printed.kept[1]
        self.printed.restore()
        self.printed.taken()
        calls: list[tuple[Any, str]] = []
        sources, clock = shared["sources"], time.monotonic
        begun = clock()
        ask = begun + (pause if shared["splits"] else NEVER)
        for done, (args, kwargs) in enumerate(calls_of(style, items[first:end]), first + 1):
            calls.append(attempt(func, args, kwargs, sources, limit, stderr))
            if done < end and clock() > ask:
                end = shrink(done, end, (clock() - begun) / len(calls) * (end - done))
                ask = clock() + pause
            if done >= end:
                break  # not one more: what follows is a chunk of others now
        about.update(started=started, seconds=time.time() - started, printed=self.printed.taken())
        about["task_timeout"] = limit
        values = [value for value, text in calls if not text]
        if len(values) == len(calls) and {type(value) for value in values} <= PLAIN:
            # One pickle for all: nothing in it can fail to be rebuilt.
            return dict(about, calls=None, count=len(values)), dumps(values)
        outcomes: list[Any] = []
        frames: list[Any] = []
        for value, text in calls:
            what, own = outcome_of(value, text)
            outcomes.append((*what, len(own)))
            frames.extend(own)
        return dict(about, calls=outcomes), frames


# -- the submit directory, seen from the job ------------------------------------------


class Chirp:
    """HTCondor's own channel to the submit directory: through starter and shadow.

    Raises FileNotFoundError where there is no such file, one of ``away`` when
    nobody can tell whether it was done, else OSError.
    """

    def __init__(self) -> None:
        with open(os.environ["_CONDOR_CHIRP_CONFIG"]) as file:
            self.host, self.port, self.cookie = file.read().split()
        self.connect()

    def connect(self) -> None:
        """Connect, also anew."""
        import socket

        link = socket.create_connection((self.host, int(self.port)), timeout=60)
        # Without this every round trip waits 40 ms for a delayed acknowledgement.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link, self.replies = link, link.makefile("rb")
        self.away = (ConnectionError, socket.timeout)
        self.ask("cookie", self.cookie)

    def drop(self) -> None:
        """Have the next operation find the connection closed."""
        import socket

        try:
            self.link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is

    def ask(self, *words: str) -> int:
        """Send a command and return the answer."""
        quoted = [word.replace("\\", "\\\\").replace(" ", "\\ ") for word in words]
        self.link.sendall((" ".join(quoted) + "\n").encode("utf-8", "surrogateescape"))
        return self.answer(words)

    def answer(self, words: tuple[str, ...]) -> int:
        """Read the number that ends a command."""
        line = self.replies.readline()
        if not line:
            raise ConnectionError("HTCondor's channel to the access point is closed")
        number = int(line)
        if number == -3:
            raise FileNotFoundError(words[1])
        if number == -17:
            raise ConnectionError("the job's shadow does not answer")
        if number < 0:
            raise OSError(f"chirp: {words[0]} answered {number}")
        return number

    def get(self, *words: str) -> Any:
        """Send a command and return the bytes that it is answered with."""
        data = room(self.ask(*words))
        if not fill(self.replies, data):
            raise ConnectionError("HTCondor's channel to the access point is closed")
        return data

    def names(self, folder: str) -> list[str]:
        """List a folder."""
        return bytes(self.get("getdir", folder)).decode("utf-8", "surrogateescape").split()

    def read(self, name: str) -> tuple[dict[str, Any], list[Any]]:
        """Read a container."""
        return unpacked(self.get("getfile", name), name)

    def write(self, name: str, job: str, about: dict[str, Any], frames: list[Any]) -> None:
        """Write a container beside its name and move it into place."""
        scratch = f"{name}.{job}.tmp"
        parts = packed(about, frames)
        size = str(sum(len(part) for part in parts))
        self.ask("putfile", scratch, str(0o600), size)
        for part in parts:
            self.link.sendall(part)
        self.answer(("putfile", scratch))
        self.ask("rename", scratch, name)

    def create(self, name: str) -> None:
        """Make a file whose name says all."""
        self.ask("putfile", name, str(0o600), "1")  # HTCondor never answers when it is 0
        self.link.sendall(b"\n")
        self.answer(("putfile", name))

    def patiently(self, operation: Any, *args: Any) -> Any:
        """Do what may be done twice until it works: the access point may be restarting."""
        for attempt in range(600):
            try:
                return operation(*args)
            except self.away:
                time.sleep(min(0.1 * 2**attempt, 2.0))
                try:
                    self.connect()
                except OSError:
                    continue
        raise OSError("the access point has not answered for twenty minutes")


class Watch:
    """Wait until something comes into a folder of this machine (Linux's inotify)."""

    def __init__(self, folder: str) -> None:
        import ctypes
        import select

        self.select = select.select
        libc = ctypes.CDLL(None, use_errno=True)
        self.handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        moved_to, created = 0x80, 0x100
        if libc.inotify_add_watch(self.handle, os.fsencode(folder), moved_to | created) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def wait(self, seconds: float) -> None:
        """Wait for a change, at most this long."""
        if self.select([self.handle], [], [], seconds)[0]:
            os.read(self.handle, 65536)


class Runner:
    """A resident runner: takes chunks by rename, leaves outcomes, announces them.

    Parameters
    ----------
    posted, taken
        Folders below the submit directory.
    job
        This job's ``ClusterId.ProcId``.
    peers
        How many runners there may be: they look at so many chunks, and as much more
        rarely, that together they are no burden.
    """

    def __init__(self, worker: Worker, posted: str, taken: str, job: str, peers: int) -> None:
        self.worker, self.posted, self.taken, self.job, self.peers = (
            worker,
            posted,
            taken,
            job,
            peers,
        )
        self.chirp = Chirp()
        self.tokens: list[str] = []
        self.misses = 0
        self.closed = False
        self.place = self.pick = int(job.rpartition(".")[2])
        self.seed = os.getpid()
        self.pause = max(0.05, min(5.0, 0.005 * peers))

    def own(self) -> list[str]:
        """Return the chunks that an earlier run of this job has taken."""
        names = self.chirp.patiently(self.chirp.names, self.taken)
        return [name.partition("@")[0] for name in names if name.endswith("@" + self.job)]

    def look(self) -> None:
        """List what is posted."""
        names = self.chirp.names(self.posted)
        self.closed = CLOSED in names
        tokens = [name for name in names if name[0].isdigit()]
        tokens.sort(key=lambda token: [int(part) for part in token.split("-")])
        self.tokens, self.misses, self.pick = tokens, 0, self.place

    def take(self) -> str:
        """Take a chunk; return its token, empty if there is none.

        Each runner picks among the first of its list, at first at a place of its
        own and then at random, so that runners seldom want the same one; a list
        that proves stale is read again.  So a chunk costs a few operations, however
        many there are, and the first are made first.
        """
        while True:
            if not self.tokens or self.misses > 3:
                self.chirp.patiently(self.look)
            if not self.tokens:
                return ""
            first = min(len(self.tokens), 2 * self.peers) if self.peers > 1 else 1
            token = self.tokens.pop(self.pick % first)
            self.seed = (self.seed * 1103515245 + 12345) & 0x7FFFFFFF
            self.pick = self.seed >> 8
            try:
                self.chirp.ask("rename", f"{self.posted}/{token}", self.mine(token))
                return token
            except FileNotFoundError:
                self.misses += 1  # another was quicker
            except self.chirp.away:
                if token in self.own():
                    return token

    def mine(self, token: str) -> str:
        """Name the token of a chunk that this job has."""
        return f"{self.taken}/{token}@{self.job}"

    def read(self, name: str) -> tuple[dict[str, Any], list[Any]]:
        """Read a container of the submit directory."""
        if self.worker.shares:
            return read(f"{self.worker.submit_dir}/{name}")
        data: tuple[dict[str, Any], list[Any]] = self.chirp.patiently(self.chirp.read, name)
        return data

    def work(self, token: str) -> None:
        """Make the calls of a taken chunk, leave the outcome and announce it."""
        batch, first, end, origin = map(int, token.split("-"))
        call, name = f"{batch}.call", f"{batch}-{first}"
        frames = self.read(f"{batch}-{origin}.chunk")[1]
        size, begun = sum(len(frame) for frame in frames), time.monotonic()

        def shrink(done: int, end: int, seconds: float) -> int:
            """Post the second half of the rest, if others may want it."""
            nonlocal token, begun
            # Who takes it reads the whole chunk.
            if end - done < 2 or seconds < max(self.pause, size / 1e6):
                return end
            middle, before = done + (end - done + 1) // 2, self.mine(token)
            try:
                if time.monotonic() < begun + LONG:
                    self.look()
                    if self.tokens:
                        return end
                rest = f"{batch}-{origin + middle}-{origin + end}-{origin}"
                self.chirp.create(f"{self.posted}/{rest}")
            except OSError:
                # The access point may be restarting; the calls go on, and what
                # follows asks on a new connection: this one may still be answered.
                self.chirp.drop()
                return end
            token, begun = f"{name}-{origin + middle}-{origin}", time.monotonic()
            try:
                self.chirp.ask("rename", before, self.mine(token))
            except FileNotFoundError:
                pass  # it was given to others: at worst they make these calls too
            except OSError:
                self.chirp.drop()
            return middle

        about, frames = self.worker.make(
            call,
            lambda: self.read(call),
            frames,
            first - origin,
            end - origin,
            shrink,
            self.pause,
        )
        about["job"] = self.job
        if self.worker.shares:
            write(f"{self.worker.submit_dir}/{name}.outcome", about, frames)
        else:
            outcome = f"{name}.outcome"
            self.chirp.patiently(self.chirp.write, outcome, self.job, about, frames)
        self.chirp.patiently(self.chirp.ask, "ulog", f"{ANNOUNCES} {name}")
        try:
            self.chirp.patiently(self.chirp.ask, "unlink", self.mine(token))
        except FileNotFoundError:
            pass  # the client was quicker

    def serve(self, linger: float, retire_after: float, chunks: int) -> None:
        """Take chunks until none has come for ``linger`` seconds, or it is time to retire."""
        started = idle_since = time.monotonic()
        for token in self.own():
            self.work(token)
        done, delay, watch = 0, 0.002, None
        while not (chunks and done >= chunks) and time.monotonic() - started < retire_after:
            token = self.take()
            if token:
                self.work(token)
                done, delay, idle_since = done + 1, 0.002, time.monotonic()
                continue
            left = idle_since + linger - time.monotonic()
            if self.closed or left <= 0:
                return
            if watch is None and self.worker.is_here:
                try:
                    watch = Watch(f"{self.worker.submit_dir}/{self.posted}")
                    continue  # what came before the watch is found by one more look
                except (OSError, AttributeError):
                    self.worker.is_here = False
            if watch:
                watch.wait(left)
            else:
                time.sleep(min(delay, left))
                delay = min(delay * 1.2, self.pause)


def main(arguments: list[str]) -> None:
    """Do what the arguments say and end this process at once."""
    global _read_shared  # noqa: PLW0603 - set once, before the first call
    status = 0
    try:
        worker = Worker(read(arguments[1]))
        if arguments[0] == "once":
            call, chunk, outcome = arguments[2:5]
            origin, first, end = map(int, arguments[5:])
            if not os.path.getsize(outcome):  # else an earlier run of this job left it
                folder = worker.submit_dir + "/"
                _read_shared = lambda name: read(folder + name)  # noqa: E731
                frames = read(folder + chunk)[1]
                made = worker.make(
                    call, lambda: read(folder + call), frames, first - origin, end - origin
                )
                write(folder + outcome, *made)
        else:
            posted, taken, job, peers, linger, retire_after, chunks = arguments[2:]
            try:
                runner = Runner(worker, posted, taken, job, int(peers))
            except (KeyError, OSError, ValueError) as error:
                sys.stderr.write(f"condorpool: no channel to the access point: {error!r}\n")
                status = EX_NO_CHIRP
            else:
                _read_shared = runner.read
                runner.serve(float(linger), float(retire_after), int(chunks))
    except OSError as error:
        sys.stderr.write(f"condorpool: cannot read the payload or leave the outcome: {error!r}\n")
        status = EX_CANNOT_WRITE
    flush()
    # Threads that a call left behind, and exit handlers that hang, do not keep
    # a job whose outcomes are written; multiprocessing's workers end like this too.
    os._exit(status)
