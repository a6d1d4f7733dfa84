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
from _io import BytesIO
from itertools import repeat

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
EX_SOFTWARE = 70
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

#: Set in children that a call forks and that come back from it.
_is_child = False

# A call may have replaced or deleted these.
_exit = os._exit
Anything = BaseException

#: Seconds that a call which is out of time gets to end by itself.
GRACE = 5.0

#: The first calls of a chunk are looked after one by one, however short they are.
FIRST = 8

#: Then short ones go on for so many seconds, several times what a look takes;
#: after one that took ``LONGER``, the look is a thorough one.
SHORT, LONGER = 100e-6, 1e-3

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


# -- code that is sent by value -------------------------------------------------------


def code_in(file: str, make: Any, arguments: tuple[Any, ...]) -> Any:
    """Make code that tells that it stands in this file."""
    return make(*arguments).replace(co_filename=file)


def reduce_code(code: Any) -> tuple[Any, ...]:
    """Pickle code as cloudpickle does, but with its file, by which tracebacks find its lines.

    From cloudpickle 3.1.3 on all code would come from ``<dynamic-code>``.
    """
    import cloudpickle

    make, arguments = cloudpickle.Pickler.dispatch_table[type(code)](code)
    return code_in, (code.co_filename, make, arguments)


# The name under which the notebook's pickles know these, and a job imports them.
shared.__module__ = code_in.__module__ = "_condorpool_program"


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


class WithChildren(SourceFileLoader):
    """Loads what pickles for the processes that a call starts."""

    def exec_module(self, module: Any) -> None:
        """Load it, then change it."""
        super().exec_module(module)
        from _condorpool_children import adopt

        adopt(module.ForkingPickler)


class Modules:
    """The importer of what came with calls, before all others; see engine/modules.py."""

    def __init__(self) -> None:
        self.here: dict[str, tuple[str, bool, bytes | None]] = {}

    def find_spec(self, name: str, path: Any = None, _target: Any = None) -> Any:
        """Find a module, as importers do."""
        if name == "multiprocessing.reduction":
            file = os.path.join(path[0], "reduction.py")
            return spec_from_file_location(name, file, loader=WithChildren(name, file))
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
        if type(error) is not ModuleNotFoundError:
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
    # The first frame of the traceback is this program's own; users look for theirs.
    trace = _traceback_of(error)
    trace = trace.tb_next if trace else None
    try:
        import linecache  # 8 ms that a call which returns need not pay
        import traceback

        modules.explain(error)
        for name, text in sources.items():
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        modules.show()
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as another:  # the exception's class may be anything
        lines = ["Traceback (most recent call last):\n"]
        while trace:
            code = trace.tb_frame.f_code
            lines.append(
                f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n'
            )
            trace = trace.tb_next
        return "".join(lines) + f"{type_of(error)} (which cannot be shown: {type_of(another)})\n"


#: Reads an exception's traceback, whatever its class makes of the attribute.
_traceback_of = BaseException.__dict__["__traceback__"].__get__


def type_of(value: Any) -> str:
    """Name the type of a value, whatever its metaclass makes of that."""
    return type.__repr__(type(value)).partition("'")[2].rpartition("'")[0]


def words_of(error: BaseException) -> str:
    """Say what an exception is in one line, whatever its class makes of that."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # as in describe
        return type_of(error)


def pickled(value: Any) -> list[Any]:
    """Pickle a value by reference if that works, else by value."""
    try:
        return dumps(value)
    except Exception:  # a __reduce__ may raise anything
        return by_value(value)


def reduce_cached_property(value: Any) -> Any:
    """Pickle what has a lock before Python 3.12."""
    state = {name: held for name, held in vars(value).items() if name != "lock"}
    return type(value), (value.func,), state


def reduce_cached(value: Any) -> Any:
    """Pickle a function with a cache by name if it is in a module, else by value."""
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is value and value.__module__ != "__main__":
        return str(value.__qualname__)
    return parts_of_cached(value)


def parts_of_cached(value: Any) -> tuple[Any, ...]:
    """Return what a function with a cache is made of, as ``__reduce__`` does."""
    import functools

    asked = value.cache_parameters()
    made = (value.__wrapped__, asked["maxsize"], asked["typed"], functools._CacheInfo)  # noqa: SLF001
    return type(value), made, vars(value)


def by_value(value: Any) -> list[Any]:
    """Pickle a value with all that is not in a module; return its frames."""
    import functools
    from collections import ChainMap

    import cloudpickle

    own = {
        type(by_value.__code__): reduce_code,
        functools.cached_property: reduce_cached_property,
        functools._lru_cache_wrapper: reduce_cached,  # noqa: SLF001 - it has no other name
    }
    table = ChainMap(own, cloudpickle.Pickler.dispatch_table)

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = table

    buffers: list[Any] = []
    file = BytesIO()
    ByValue(file, 5, buffers.append).dump(value)
    return [file.getvalue()] + [buffer.raw() for buffer in buffers]


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
    limit: float | None = None,
    stderr: int = 2,
) -> tuple[Any, bool]:
    """Make one call; return its value and True, or its exception and False."""
    try:
        if limit is None:
            value, is_value = func(*args, **kwargs), True
        else:
            try:
                arm(limit, stderr)
                value, is_value = func(*args, **kwargs), True
            finally:
                disarm()
    except Anything as error:  # also SystemExit and KeyboardInterrupt
        value, is_value = error, False
    if _is_child:
        _exit(0)  # a child that the call forked came back with it; the outcome is its parent's
    return value, is_value


class Revived:
    """Pickles an exception as what it consists of, and comes back as the exception."""

    def __init__(self, error: BaseException, how: Any) -> None:
        self.parts = how, (type(error), error.args, dict(vars(error)))

    def __reduce__(self) -> Any:
        return self.parts


def remake(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """Make an exception as its class does, and set attributes also where it forbids that."""
    error = kind(*args)
    for name, value in attributes.items():
        BaseException.__setattr__(error, name, value)
    return error


def revive(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """Make an exception without its own ``__init__``, which wants other arguments."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def frames_of_error(error: BaseException) -> tuple[str, list[Any]]:
    """Return how an exception comes back, and its frames.

    The first is ``"raise"``, as itself, or ``"unmade"``, as what it consists of.
    """
    frames = pickled(error)
    try:
        loads(frames)
    except Exception:  # it pickles and does not come back
        for what, how in (("raise", remake), ("unmade", revive)):
            try:
                again = pickled(Revived(error, how))
                loads(again)
                return what, again
            except Exception:
                pass
        raise
    return "raise", frames


def outcome_of(value: Any, text: str) -> tuple[tuple[str, str], list[Any]]:
    """Return what a call came to, and the frames of its value or exception.

    The first is ``("value", "")``, ``("raise", traceback)``, ``("unmade", traceback)``
    for an exception that its class cannot make again, ``("unpicklable", why)`` when the
    value or exception cannot be sent, or ``("overtime", traceback)``.
    """
    if type(value) is OvertimeError:
        return ("overtime", text), []
    try:
        what, frames = frames_of_error(value) if text else ("value", pickled(value))
    except BaseException as error:
        # Our own words: the object's repr() may be what is broken.
        why = (
            f"the {'exception' if text else 'value'} of type {type_of(value)} "
            f"cannot be pickled: {words_of(error)}"
        )
        return ("unpicklable", why + ("\n" + text if text else "")), []
    return (what, text), frames


def calls_of(style: str, items: list[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give the arguments of every call in a chunk.

    No generator, in which a trace function that a call has left behind could raise.
    """
    if style == "map":
        return zip(zip(items), repeat({}))
    return zip(items, repeat({})) if style == "starmap" else iter(items)


class Printed:
    """What calls write to standard output and standard error: the job's own files."""

    def __init__(self) -> None:
        # A call may close or replace descriptors 0 to 2; these stay.
        self.kept = [os.dup(number) for number in range(3)]
        self.files = [file_of(number) for number in range(3)]
        self.sizes = [0, 0, 0]
        #: Whether all that was kept is there.
        self.is_whole = True
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and stream.encoding.lower() != "utf-8":
                stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # as it is read
        self.restore()
        self.taken()

    def restore(self) -> None:
        """Make the streams good again after calls that closed them."""
        for number, file in enumerate(self.files):
            if file_of(self.kept[number]) == file:
                os.dup2(self.kept[number], number)
            elif file_of(number) == file:  # what was kept is closed, or has become another file
                self.kept[number] = os.dup(number)
            else:
                self.kept[number], self.is_whole = -1, False
        if is_closed(sys.stdin):
            sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc] # noqa: SIM115
        if is_closed(sys.stdout):
            sys.stdout = sys.__stdout__ = open(1, "w", -1, "utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115
        if is_closed(sys.stderr):
            sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115

    def taken(self) -> tuple[str, str] | None:
        """Return what was written since the last time, None if nothing was."""
        flush()
        texts = []
        for which in (1, 2):
            kept, begin, text = self.kept[which], self.sizes[which], b""
            try:
                size = self.sizes[which] = os.fstat(kept).st_size
                if size > begin:
                    begin = max(begin, size - MAX_PRINTED)
                    with open(f"/proc/self/fd/{kept}", "rb") as file:
                        file.seek(begin)
                        text = file.read(size - begin)
            except OSError:
                pass  # no regular file: nothing to show, and no fault of the call's
            texts.append(text.decode("utf-8", "replace"))
        return (texts[0], texts[1]) if texts[0] or texts[1] else None


def file_of(number: int) -> tuple[int, int] | None:
    """Tell which file a descriptor stands for; None if it is closed."""
    try:
        about = os.fstat(number)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def is_closed(stream: Any) -> bool:
    """Tell whether a standard stream is of no use any more."""
    try:
        return bool(stream.closed)
    except (AttributeError, ValueError):  # it is None, or its buffer was taken away
        return True


def flush() -> None:
    """Bring out what the calls printed; a call may have closed the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def names_of(func: Any) -> dict[str, Any]:
    """Return the names that a function uses of its module, and its own."""
    children = getattr(sys.modules.get("multiprocessing.process"), "_children", None)
    if children:
        return {}  # processes that an earlier call has left may know others by these names
    try:
        inner = getattr(func, "func", func)  # of a partial
        inner = getattr(inner, "__func__", inner)  # of a method
        return {inner.__name__: inner, **inner.__globals__}
    except Exception:  # it is no function, and may be anything
        return {}


def _note_fork() -> None:
    global _is_child  # noqa: PLW0603 - it is the process's
    _is_child = True


class Worker:
    """What a job has for all its calls: environment, folder, the initializer's work.

    ``crew`` is the container that says so.
    """

    def __init__(self, crew: tuple[dict[str, Any], list[Any]]) -> None:
        from _condorpool_surroundings import Surroundings

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
        # Functions and classes of the notebook are in a module of this name, but not in the
        # one that has started this program.
        self.names: dict[str, Any] = {}
        main = sys.modules["__main__"] = type(sys)("__main__")
        main.__getattr__ = self.find  # type: ignore[method-assign]
        self.printed = Printed()
        self.surroundings = Surroundings(self.printed.restore)
        #: Why this job makes no calls any more.
        self.spoiled = ""
        os.register_at_fork(after_in_child=_note_fork)
        self.ready = False
        self.failure: BaseException | None = None
        self.last: tuple[str, Any, dict[str, Any]] = ("", None, {})

    def find(self, name: str) -> Any:
        """Return what a call knows under a name in ``__main__``, as forked children ask for it."""
        if name in self.names and name[:2] != "__":
            return self.names[name]
        raise AttributeError(f"module '__main__' has no attribute {name!r}")

    def initialize(self) -> None:
        """Run the initializer, once."""
        self.ready, self.failure = True, None
        self.surroundings.loaded = -1
        try:
            os.chdir(self.here)
            initializer, initargs = loads(self.initial)
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:  # told for every call of every chunk
            self.failure = error

    def learn(self, name: str, call: Any) -> tuple[Any, dict[str, Any]]:
        """Return the function of a call, and what else its chunks share."""
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
            problem, trace = failure, _traceback_of(failure)

            def func(*_: Any) -> None:  # the calls cannot be made: each raises this
                raise BaseException.with_traceback(problem, trace)

            items, first, end, style = [()] * (end - first), 0, end - first, "starmap"
            shared = {"sources": {}, "splits": False, "task_timeout": None}
        self.surroundings.mark()
        self.printed.restore()
        self.printed.taken()
        self.names = names_of(func)
        calls = self.calls(
            func, shared, calls_of(style, items[first:end]), first, end, shrink, pause
        )
        about.update(started=started, seconds=time.time() - started, printed=self.printed.taken())
        about["task_timeout"] = shared["task_timeout"]
        self.names = {}  # the notebook may have others by now: outcomes go by value
        outcomes, frames = frames_of(calls)
        if outcomes is not None:
            self.tidy()  # values of other types have code of their own, which was run
        return dict(about, calls=outcomes, count=len(calls)), frames

    def calls(
        self,
        func: Any,
        shared: dict[str, Any],
        calls: Iterator[tuple[Any, dict[str, Any]]],
        first: int,
        end: int,
        shrink: Any,
        pause: float,
    ) -> list[tuple[Any, str]]:
        """Make calls; return for each its value, or its exception and the text of its traceback."""
        limit, stderr, sources = shared["task_timeout"], self.printed.kept[2], shared["sources"]
        restore, clock = self.surroundings.restore, time.monotonic
        made: list[tuple[Any, str]] = []
        begun = now = clock()
        look = 0.0
        ask = begun + (pause if shared["splits"] else NEVER)
        for done, (args, kwargs) in enumerate(calls, first + 1):
            value: Any = None
            is_value = None
            try:
                value, is_value = attempt(func, args, kwargs, limit, stderr)
                now = clock()
                if not is_value:
                    self.tidy()
                elif now > look and done < end:
                    restore(now > look + LONGER)
                    look = clock() + SHORT if len(made) > FIRST else 0.0
            except Anything as error:  # the call has left it behind: its alarm, a trace function
                if is_value is None:
                    value = error
                self.tidy()
            made.append((value, "" if is_value else describe(value, sources)))
            if done < end and now > ask:
                end = shrink(done, end, (now - begun) / len(made) * (end - done))
                ask = clock() + pause
            if done >= end:
                break  # not one more: what follows is a chunk of others now
        try:
            self.tidy()
        except Anything:  # what the last call has left behind, which is gone now
            self.tidy()
        return made

    def tidy(self) -> None:
        """Put back all that calls have changed, or note why the job must end."""
        for _ in (1, 2, 3):
            try:
                self.surroundings.restore()
            except Anything as error:  # once more: it was left behind by a call
                why = words_of(error)
            else:
                why = self.surroundings.spoiled
                break
        if not self.printed.is_whole:
            why = why or "standard output or standard error was closed"
        self.spoiled = self.spoiled or why


def frames_of(calls: list[tuple[Any, str]]) -> tuple[list[Any] | None, list[Any]]:
    """Return what each of these calls came to, None if all have plain values, and the frames."""
    values = [value for value, text in calls if not text]
    if len(values) == len(calls):
        try:
            if {type(value) for value in values} <= PLAIN:
                # One pickle for all: nothing in it can fail to be rebuilt.
                return None, dumps(values)
        except BaseException:  # a metaclass may have any hash, and memory may be short
            pass
    outcomes: list[Any] = []
    frames: list[Any] = []
    for value, text in calls:
        what, own = outcome_of(value, text)
        outcomes.append((*what, len(own)))
        frames.extend(own)
    return outcomes, frames


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
        self.file = file_of(link.fileno())
        self.away = (ConnectionError, socket.timeout)
        self.ask("cookie", self.cookie)

    def mend(self) -> None:
        """Connect anew if a call has closed the connection, or opened a file in its place."""
        if file_of(self.link.fileno()) != self.file:
            self.link.detach()
            self.connect()

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
        self.file = file_of(self.handle)
        if libc.inotify_add_watch(self.handle, os.fsencode(folder), moved_to | created) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def is_whole(self) -> bool:
        """Tell whether no call has closed it."""
        return file_of(self.handle) == self.file

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
                self.chirp.mend()
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
        self.chirp.patiently(self.chirp.mend)
        outcome = f"{name}.outcome"
        is_written = False
        if self.worker.shares:
            try:
                write(f"{self.worker.submit_dir}/{outcome}", about, frames)
                is_written = True
            except OSError:
                # A call may have lowered what this process may write, for good.
                if not self.worker.spoiled:
                    raise
        if not is_written:
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
                if self.worker.spoiled:
                    say(f"this job ends: a call has changed what stays so ({self.worker.spoiled})")
                    return
                if watch and not watch.is_whole():
                    watch = None
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


def say(line: str) -> None:
    """Write a line to the job's standard error."""
    try:
        sys.stderr.write(f"condorpool: {line}\n")
    except (AttributeError, OSError, ValueError):
        pass


def run(arguments: list[str]) -> int:
    """Do what the arguments say; return the status to exit with."""
    global _read_shared  # noqa: PLW0603 - set once, before the first call
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
        return 0
    posted, taken, job, peers, linger, retire_after, chunks = arguments[2:]
    try:
        runner = Runner(worker, posted, taken, job, int(peers))
    except (KeyError, OSError, ValueError) as error:
        say(f"no channel to the access point: {error!r}")
        return EX_NO_CHIRP
    _read_shared = runner.read
    runner.serve(float(linger), float(retire_after), int(chunks))
    return 0


def main(arguments: list[str]) -> None:
    """Do what the arguments say and end this process at once, whatever happens."""
    status = EX_SOFTWARE
    try:
        status = run(arguments)
    except OSError as error:
        say(f"cannot read the payload or leave the outcome: {error!r}")
        status = EX_CANNOT_WRITE
    except BaseException as error:
        say(f"the runner has failed: {describe(error, {})}")
    finally:
        # Threads that a call left behind, and exit handlers that hang, do not keep
        # a job that has ended; multiprocessing's workers end like this too.
        try:
            flush()
        finally:
            _exit(status)
