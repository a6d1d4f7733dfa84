"""Payload: what goes to a job, as files: crews, calls, chunks, and shared objects."""

from __future__ import annotations

import importlib.util
import io
import linecache
import marshal
import os
import pickle
import platform
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import cloudpickle

from condorpool import runner
from condorpool.engine import blame, copies
from condorpool.engine.modules import LocalModules, Module
from condorpool.engine.pickling import Pickled, pickled, shipped
from condorpool.engine.records import Style
from condorpool.runner import container
from condorpool.runner.names import PROGRAM
from condorpool.runner.outcomes import words_of
from condorpool.values import plain
from condorpool.values.exceptions import (
    PayloadError,
    in_place_of,
)
from condorpool.values.text import one_line, short

T = TypeVar("T")

#: Bytes of notebook cells that are sent, at most; the latest come first.
MAX_SOURCES = 200_000

#: Bytes of the largest file of arguments that is read to name the item of a failed call.
MAX_ITEMS_READ = 1 << 24

# Characters of an error's text that are quoted.
_MAX_WHY = 500


@dataclass(frozen=True)
class Call:
    """What all chunks of one call of map share.

    Parameters
    ----------
    splits
        Whether jobs may leave a part of a chunk to others.
    name, digest
        The user's name for the results, which are kept then; and the calls'
        `fingerprint`.
    """

    func: Callable[..., Any]
    style: Style
    splits: bool = False
    name: str = ""
    digest: str = ""


def name_of(func: Callable[..., Any]) -> str:
    """Return a function's name for people: one line that can be shown anywhere."""
    try:
        func = getattr(func, "func", func)  # a partial has the name of what it wraps
        name = getattr(func, "__name__", None)
    except Exception:  # noqa: BLE001 - it may run any code
        name = None
    shown = one_line(name) if isinstance(name, str) else ""
    return shown or one_line(type(func).__name__)


def _pickled(value: Any, what: str, name: Callable[[str], str] = str) -> Pickled:
    """Return a pickled value; say which part cannot be pickled, or repeats random numbers.

    Parameters
    ----------
    name
        Returns the user's name for a path into the value.
    """
    try:
        done = pickled(value)
    except Exception as error:
        # Pickling runs code of the object's class, which may raise anything.
        if isinstance(error, pickle.PicklingError) and type(error.__cause__) is RecursionError:
            error = error.__cause__  # cloudpickle's own error says less
        raise _refusal(value, what, name, error) from error
    if done.generators:
        copies.warn(done.generators, lambda one: _named(value, one, name), what)
    return done


def _named(value: Any, part: Any, name: Callable[[str], str]) -> str | None:
    path = blame.path_to(value, part)
    return None if path is None else name(path).removeprefix(".")


def _refusal(value: Any, what: str, name: Callable[[str], str], error: Exception) -> PayloadError:
    """Return the error that says what cannot be pickled, and which part is to blame."""
    found = blame.blamed(value, error)
    path = name(found[0]).removeprefix(".") if found else ""
    culprit = f"`{path}` is of type {found[1]}. " if found and path else ""
    return in_place_of(
        PayloadError,
        error,
        f"{what} cannot be pickled, so it cannot be sent to a job: {culprit}{words_of(error)[:_MAX_WHY]}. "
        "Nothing was submitted. Create open files, locks, connections, pools and generators "
        "inside the function.",
    )


@dataclass(frozen=True)
class RecordedInitializer:
    """The initializer, and its arguments, in the file of another crew: nothing here needs them."""

    path: os.PathLike[str]


def write_crew(
    path: os.PathLike[str],
    initializer: Callable[..., object] | RecordedInitializer | None,
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
    if isinstance(initializer, RecordedInitializer):
        container.write(str(path), about, container.read(str(initializer.path))[1])
        return
    done = _pickled(
        (initializer, initargs),
        "the initializer or its arguments",
        _name_in("initializer", "initargs"),
    )
    container.write(os.fspath(path), about, done.frames)


def write_shared(path: os.PathLike[str], value: Any) -> None:
    """Write an object for many calls to use."""
    what = f"the shared object of type {type(value).__name__}"
    container.write(os.fspath(path), {}, _pickled(value, what, lambda path: f"value{path}").frames)


class Shared(Generic[T]):
    """An object that many calls use and each job reads once; see `Pool.share`.

    A call that gets it, as an argument or from the function's surroundings, gets
    the object itself.

    Attributes
    ----------
    value
        The object in this process.
    name
        That of its file.
    """

    def __init__(self, name: str, value: T) -> None:
        self.name = name
        self.value = value

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return shipped.shared, (self.name,)

    def __repr__(self) -> str:
        return f"<Shared {type(self.value).__name__} as {self.name}>"


_modules = LocalModules()


def write_call(
    path: os.PathLike[str],
    call: Call,
    share: Callable[[Mapping[str, Module]], Shared[Mapping[str, Module]]],
    task_timeout: float | None = None,
) -> None:
    """Write what all chunks of a batch share; ``share`` writes the user's own modules."""
    done = _pickled(call.func, f"the function {name_of(call.func)!r}")
    modules = _modules.used_by(done.frames[0])
    about = {
        "style": call.style,
        "splits": call.splits,
        "sources": {**sources_of_cells(), **_sources_of(done.files)},
        "task_timeout": task_timeout,
        "modules": share(modules).name if modules else "",
    }
    container.write(os.fspath(path), about, done.frames)


def write_chunk(path: os.PathLike[str], items: Sequence[Any], first: int) -> None:
    """Write the arguments of one chunk, whose first call is number ``first`` of its map."""
    items = list(items)
    kinds = [type(part) for part in items[0]] if len(items) == 1 and type(items[0]) is tuple else []
    # The user of apply gave arguments, and knows of no item.
    name = _name_in("args", "kwargs") if kinds == [tuple, dict] else "item{}".format
    try:
        done = pickled(items)
    except Exception:  # noqa: BLE001 - as in _pickled; find the item to blame
        for number, item in enumerate(items, first):
            _pickled(item, f"the arguments of call {number} (type {type(item).__name__})", name)
        done = _pickled(items, f"the arguments of calls {first} and following")
    if done.generators and (repeated := copies.that_repeat(done.generators)):
        copies.warn(repeated, lambda one: _named_in_chunk(items, one, name), "several calls")
    container.write(os.fspath(path), {"end": first + len(items)}, done.frames)


def _named_in_chunk(items: Sequence[Any], part: Any, name: Callable[[str], str]) -> str | None:
    path = blame.path_to(items, part)
    return name(path.partition("]")[2]) if path else None


def _name_in(first: str, second: str) -> Callable[[str], str]:
    """Return a function that names a path into a pair by the names of its two members."""

    def name(path: str) -> str:
        return (first if path.startswith("[0]") else second) + path[3:] if path else ""

    return name


def end_of(path: os.PathLike[str], first: int) -> int:
    """Return where a chunk ends: the number of the call after its last.

    Raises ValueError if its file does not say it.
    """
    end: int = plain.checked(container.read_about(os.fspath(path)).get("end"), int)
    # Each call's arguments take a byte and more.
    if not first < end <= first + os.stat(path).st_size:  # noqa: PTH116 - no Path
        raise ValueError(f"it does not end at call {end}")
    return end


def read_item(path: os.PathLike[str], index: int) -> Any:
    """Return one of the items in the file of a chunk; raise ValueError if the file is large."""
    if os.stat(path).st_size > MAX_ITEMS_READ:  # noqa: PTH116 - no Path
        raise ValueError("it would take long to read the file")
    return container.loads(container.read(os.fspath(path))[1])[index]


def expression(name: str, style: Style, item: Any) -> str:
    """Return a call as it could be written, with short forms of long arguments."""
    args, kwargs = item if style == "apply" else (item if style == "starmap" else (item,), {})
    given = [short(value) for value in args]
    given += [f"{key}={short(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(given)})"


def number_of_cell() -> int:
    """Return the number of the notebook cell that runs; 0 where there is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # Its execution_count is that of the next cell in some versions, not in others.
    return len(shell.history_manager.input_hist_parsed) - 1 if shell else 0


def cell_of(file: str) -> str:
    """Return the notebook's name for the cell with this file name, as ``Cell In[3]``; else empty."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    name_of_code = getattr(getattr(shell, "compile", None), "format_code_name", None)
    return " ".join(name_of_code(file) or ()) if name_of_code else ""


def sources_of_cells() -> dict[str, str]:
    """Return the source of notebook cells, which tracebacks on the execution point show.

    In linecache, cells and other code without a file have no modification time.
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
    """Return the source of files whose code is sent by value: a job may not see the files."""
    texts = {name: "".join(linecache.getlines(name)) for name in files}
    return {name: text for name, text in texts.items() if 0 < len(text) <= MAX_SOURCES}


@cache
def support_archive() -> bytes:
    """Return what a job imports, as a zip file: the runner and this cloudpickle.

    The code is compiled for this Python, so that no job has to compile it; the sources are
    for any other Python, where the runner reports the mismatch.
    """
    modules = {}
    for folder, package in ((PROGRAM, runner), ("cloudpickle", cloudpickle)):
        for source in sorted(Path(str(package.__file__)).parent.glob("*.py")):
            modules[f"{folder}/{source.name}"] = source
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, source in modules.items():
            # zipimport takes a compiled module if it is beside its source.
            zipped.writestr(f"{name}c", _compiled(source, name))
            zipped.write(source, name)
    return archive.getvalue()


def _compiled(source: Path, name: str) -> bytes:
    """Return what is in a module's ``.pyc`` file that is not compared with its source (PEP 552)."""
    text = source.read_bytes()
    code = marshal.dumps(compile(text, name, "exec", dont_inherit=True))
    unchecked = (1).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(text) + code
