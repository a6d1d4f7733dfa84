"""What goes to a job and what comes back: calls, chunks and outcomes as files."""

from __future__ import annotations

import io
import linecache
import os
import platform
import py_compile
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, Generic, Literal, TypeVar

import cloudpickle

from condorpool.engine.modules import LocalModules, Module
from condorpool.runner import program
from condorpool.values.exceptions import (
    EnvironmentMismatchError,
    PayloadError,
    ResultPicklingError,
    TaskTimeoutError,
)

#: How a chunk's item becomes arguments: ``f(item)``, ``f(*item)``, ``f(*item[0], **item[1])``.
Style = Literal["map", "starmap", "apply"]

#: The name of the shipped program as a module; no module of the user's has it.
PROGRAM = program.shared.__module__

# Pickles that name a function of it are written here as jobs will read them.  In a
# call that has a pool of its own it is the program of the job.
_shipped: Any = sys.modules.setdefault(PROGRAM, program)

T = TypeVar("T")

#: Bytes of notebook cells that go along, the latest first.
MAX_SOURCES = 200_000

# The kernel's own business, wrong in a job.
_KERNELS_OWN = ("JPY_", "_CONDOR_", "MPLBACKEND")


@dataclass(frozen=True)
class Call:
    """What all chunks of one call of map share.

    Parameters
    ----------
    splits
        Whether jobs may leave a part of a chunk to others.
    name, digest
        What the user calls the results, which are kept then; and the calls'
        `fingerprint`.
    """

    func: Callable[..., Any]
    style: Style
    splits: bool = False
    name: str = ""
    digest: str = ""


class RemoteTraceback(Exception):  # noqa: N818 - the name that multiprocessing gave it
    """The traceback on the execution point, shown as the cause of an exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.tb = text

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


@dataclass(frozen=True)
class Outcome:
    """What the calls of one chunk came to, in order, and where they were made."""

    values: Sequence[Any]
    errors: Mapping[int, BaseException]
    host: str
    python: str
    job: str = ""
    started: float = 0.0
    seconds: float = 0.0
    stdout: str = ""
    stderr: str = ""


def name_of(func: Callable[..., Any]) -> str:
    """Return the name by which people know a function."""
    func = getattr(func, "func", func)  # a partial is known by what it wraps
    return str(getattr(func, "__name__", None) or type(func).__name__)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what a job cannot import, and notes which files its code stands in."""

    def __init__(self, file: io.BytesIO, **options: Any) -> None:
        super().__init__(file, **options)
        self.files: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        if type(value) is CodeType:
            self.files.add(value.co_filename)
            return _shipped.reduce_code(value)
        return super().reducer_override(value)


def _pickled(value: Any) -> tuple[list[Any], set[str]]:
    """Return the frames of a value, and the files of the code in them."""
    buffers: list[Any] = []
    data = io.BytesIO()
    pickler = _Pickler(data, protocol=5, buffer_callback=buffers.append)
    pickler.dump(value)
    return [data.getvalue(), *(buffer.raw() for buffer in buffers)], pickler.files


def _frames(value: Any, what: str) -> list[Any]:
    return _frames_and_files(value, what)[0]


def _frames_and_files(value: Any, what: str) -> tuple[list[Any], set[str]]:
    try:
        return _pickled(value)
    except Exception as error:
        # Pickling runs code of the object's class, which may raise anything.
        raise PayloadError(
            f"{what} cannot be pickled, so it cannot be sent to a job: "
            f"{type(error).__name__}: {error}. Nothing was submitted. "
            "Open files, locks, connections and generators must be made inside the function."
        ) from error


def write_crew(
    path: Path,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    environment: Mapping[str, str],
    directory: Path,
) -> None:
    """Write what all jobs of a crew share.

    Parameters
    ----------
    environment
        Goes here and not into the job ad, which every user of the access point
        can read; the file is private.
    directory
        Where calls are made when the file system is shared.
    """
    about = {
        "cloudpickle": cloudpickle.__version__,
        "platform": platform.platform(),
        "host": platform.node(),
        "environment": dict(environment),
        "directory": str(directory),
    }
    frames = _frames((initializer, initargs), "the initializer or its arguments")
    program.write(str(path), about, frames)


def write_shared(path: Path, value: Any) -> None:
    """Write an object that calls share."""
    program.write(
        str(path), {}, _frames(value, f"the shared object of type {type(value).__name__}")
    )


class Shared(Generic[T]):
    """An object that many calls use and each job reads once; see `Pool.share`.

    A call that gets it, as an argument or from the function's surroundings, gets
    the object itself.

    Attributes
    ----------
    value
        The object, here.
    """

    def __init__(self, name: str, value: T) -> None:
        self._name = name
        self.value = value

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return _shipped.shared, (self._name,)

    def __repr__(self) -> str:
        return f"<Shared {type(self.value).__name__} as {self._name}>"


_modules = LocalModules()


def write_call(
    path: Path,
    call: Call,
    share: Callable[[Mapping[str, Module]], Shared[Mapping[str, Module]]],
    task_timeout: float | None = None,
) -> None:
    """Write what all chunks of a batch share; ``share`` is for the user's own modules."""
    frames, files = _frames_and_files(call.func, f"the function {name_of(call.func)!r}")
    modules = _modules.used_by(frames[0])
    about = {
        "style": call.style,
        "splits": call.splits,
        "sources": {**sources_of_cells(), **_sources_of(files)},
        "task_timeout": task_timeout,
        "modules": share(modules) if modules else {},
    }
    program.write(str(path), about, frames)


def write_chunk(path: Path, items: Sequence[Any], first: int) -> None:
    """Write the arguments of one chunk, whose first call is number ``first`` of its map."""
    try:
        frames = _pickled(list(items))[0]
    except Exception:  # noqa: BLE001 - as in _frames; find the item to blame
        for number, item in enumerate(items, first):
            _frames(item, f"the arguments of call {number} (type {type(item).__name__})")
        frames = _frames(list(items), f"the arguments of calls {first} and following")
    program.write(str(path), {"end": first + len(items)}, frames)


def end_of(path: Path) -> int:
    """Return where a chunk ends: the number of the call after its last."""
    return int(program.read_about(str(path))["end"])


def read_initializer(path: Path) -> tuple[Callable[..., object] | None, tuple[Any, ...]]:
    """Read the initializer that the jobs of a crew share, and its arguments."""
    loaded: tuple[Callable[..., object] | None, tuple[Any, ...]]
    loaded = program.loads(program.read(str(path))[1])
    return loaded


def read_outcome(path: Path, first: int = 0, job: str = "") -> Outcome | None:
    """Read what a job left; None while it has left nothing whole.

    A value that cannot be rebuilt here is an error of its own call alone.

    Parameters
    ----------
    first
        The number of its first call.
    job
        The id of its job, for one that does not know it.
    """
    try:
        about, frames = program.read(str(path))
    except (FileNotFoundError, ValueError):
        return None
    if "mismatch" in about:
        mismatch = EnvironmentMismatchError(
            f"the job cannot read what was sent: {about['mismatch']}. Functions travel only "
            "between the same Python versions: choose the job's with Pool(python=...), or "
            "run this notebook with the other."
        )
        errors: dict[int, BaseException] = dict.fromkeys(range(about["count"]), mismatch)
        return Outcome([None] * about["count"], errors, about["host"], about["python"])
    values, errors, position = [], {}, 0
    if about["calls"] is None:
        values = program.loads(frames)
    else:
        for number, (what, text, length) in enumerate(about["calls"]):
            if what == "overtime":
                values.append(None)
                errors[number] = _overtime(about, first + number, job, text)
                continue
            value, error = _rebuilt(what, text, frames[position : position + length])
            position += length
            values.append(value)
            if error is not None:
                errors[number] = error
    stdout, stderr = about["printed"] or ("", "")
    return Outcome(
        values,
        errors,
        about["host"],
        about["python"],
        about.get("job", job),
        about["started"],
        about["seconds"],
        stdout,
        stderr,
    )


def _overtime(about: Mapping[str, Any], number: int, job: str, text: str) -> TaskTimeoutError:
    """Say which call was out of time."""
    reason = f"call {number} took longer than {about['task_timeout']:g} s"
    error = TaskTimeoutError(about.get("job", job), reason, host=about["host"])
    error.__cause__ = RemoteTraceback(text)
    return error


def _rebuilt(what: str, text: str, frames: list[Any]) -> tuple[Any, BaseException | None]:
    """Return the value of a call, or None and its exception."""
    if what == "unpicklable":
        hint = "Return plain data (numbers, arrays, tables) or a picklable object."
        return None, ResultPicklingError(f"{text}\n{hint}")
    try:
        value = program.loads(frames)
    except Exception as error:  # noqa: BLE001 - unpickling runs code of the value's class
        lost = ResultPicklingError(
            f"the {'exception' if text else 'value'} of a call came back and cannot be rebuilt "
            f"here: {type(error).__name__}: {error}"
        )
        lost.__cause__ = RemoteTraceback(text) if text else error
        return None, lost
    if what == "raise":
        value.__cause__ = RemoteTraceback(text)
        return None, value
    return value, None


def number_of_cell() -> int:
    """Return the number of the notebook's cell that runs; 0 where there is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return int(shell.execution_count) if shell else 0


def sources_of_cells() -> dict[str, str]:
    """Return the source of notebook cells, which tracebacks on the execution point show.

    linecache knows cells, and other code that is in no file, by having no
    modification time for them.
    """
    cells, size = {}, 0
    for name, entry in reversed(list(linecache.cache.items())):
        if len(entry) == 4 and entry[1] is None:
            size += entry[0]
            if size > MAX_SOURCES:
                break
            cells[name] = "".join(entry[2])
    return cells


def _sources_of(files: Iterable[str]) -> dict[str, str]:
    """Return the source of what is sent by value from files, which a job may not see."""
    texts = {name: "".join(linecache.getlines(name)) for name in files}
    return {name: text for name, text in texts.items() if 0 < len(text) <= MAX_SOURCES}


def environment_to_send() -> dict[str, str]:
    """Return the environment that calls should find, without what is the kernel's own."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_KERNELS_OWN)}


@cache
def support_archive() -> bytes:
    """Return what a job imports, as a zip file: the program and this cloudpickle.

    Compiled for this Python, so that no job has to; with the sources for any
    other, whose program then says that it is the wrong one.
    """
    ours = Path(program.__file__)
    modules = {f"{PROGRAM}.py": ours}
    for name in ("surroundings", "children"):
        modules[f"_condorpool_{name}.py"] = ours.with_name(f"{name}.py")
    for source in sorted(Path(cloudpickle.__file__).parent.glob("*.py")):
        modules[f"cloudpickle/{source.name}"] = source
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped, tempfile.TemporaryDirectory() as scratch:
        for name, source in modules.items():
            # zipimport takes a compiled module that stands beside its source.
            compiled = Path(scratch, "compiled")
            unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(source), str(compiled), name, True, invalidation_mode=unchecked)
            zipped.write(compiled, f"{name}c")
            zipped.write(source, name)
    return archive.getvalue()
