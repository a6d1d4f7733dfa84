"""The user's own modules: files of the user's that are sent with calls."""

from __future__ import annotations

import ast
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from condorpool.values.exceptions import PayloadError

#: The file of a module, whether it is a package, and its source: None when it is
#: compiled, or only a folder.
Module = tuple[str, bool, "bytes | None"]

#: Bytes of source that are sent, at most.
MAX_BYTES = 20 << 20

#: All modules below these are installed; the job's Python has its own, or lacks them.
_INSTALLED = tuple(
    f"{folder}/"
    for folder in {
        os.path.dirname(os.__file__),
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        str(Path(__file__).parents[1]),
    }
)
_SITE = re.compile(r"/(?:site|dist)-packages/")

#: A short string in a pickle that is a name, maybe a dotted one.
_NAME = re.compile(rb"\x8c.([^\W\d][\w.]*)\x94", re.DOTALL)


class LocalModules:
    """Finds the modules that are the user's own, and reads them when they change.

    These are the modules that were imported from folders that the user may write to, or
    from beside the script or notebook, and are not installed; and the modules that these
    or the function import inside of functions.
    """

    def __init__(self) -> None:
        self._foreign = {"__main__"}
        self._seen: set[str] = set()
        self._current: dict[str, Module] = {}

    def used_by(self, pickled: bytes) -> Mapping[str, Module]:
        """Return the modules that a function may need, as their files are now.

        It is the same object as last time if nothing has changed.

        Raises
        ------
        PayloadError
            They are too large.
        """
        # The names that a function imports in its body are among its code's names, which
        # are strings in its pickle, however deep in it the function is.
        words = {word.decode() for word in _NAME.findall(pickled)}
        here = _here()
        folders = [path or os.getcwd() for path in sys.path]
        folders = [path for path in folders if _is_own(f"{path}/", here)]
        beside = set().union(*map(_names_in, folders))
        found: dict[str, Module] = {}
        todo = sorted(self._seen)
        todo += [name for name in list(sys.modules) if name not in self._foreign]
        todo += _with_parents(word for word in words if word.partition(".")[0] in beside)
        for name in todo:  # grows
            if name in found or name in self._foreign:
                continue
            if name in sys.modules:
                place = _imported(sys.modules[name], here)
                if place is None:
                    self._foreign.add(name)
            else:
                place = _importable(name, found, folders)
            try:
                if place:
                    found[name], imports = _read(name, *place)
                    todo.extend(imports)
            except OSError:
                continue  # deleted since it was imported; the job will report that
            file, is_package, source = found.get(name, ("", False, None))
            if name in words and is_package and source is not None:
                inside = words & _names_in(os.path.dirname(file))  # "from package import part"
                todo.extend(f"{name}.{word}" for word in inside)
        self._seen.update(found)
        if found != self._current:
            _check_size(found)
            self._current = found
        return self._current


def is_own(name: str | None) -> bool:
    """Return whether a module is the user's: the script or notebook, or one that is sent."""
    module = sys.modules.get(name or "")
    return name == "__main__" or (module is not None and _imported(module, _here()) is not None)


def _check_size(found: Mapping[str, Module]) -> None:
    sizes = {name: len(source or b"") for name, (_, _, source) in found.items()}
    if sum(sizes.values()) > MAX_BYTES:
        biggest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
        named = ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in biggest)
        raise PayloadError(
            f"your own modules are {sum(sizes.values()) / 1e6:.0f} MB, too much to send with "
            f"calls; the largest are {named}. Install modules that seldom change, here and where "
            "the jobs run, and read data from files that are not modules."
        )


def _here() -> tuple[str, str]:
    """Return the folders of the notebook and of the script."""
    script = getattr(sys.modules["__main__"], "__file__", None) or ""
    return f"{os.getcwd()}/", f"{os.path.abspath(os.path.dirname(script))}/"


@lru_cache(maxsize=4096)
def _is_own(path: str, here: tuple[str, str]) -> bool:
    if path.startswith(_INSTALLED) or _SITE.search(path):
        return False
    # What a site offers on the PYTHONPATH (from /cvmfs, say) does not look installed,
    # but jobs find it where we do.
    return path.startswith(here) or os.access(os.path.dirname(path), os.W_OK)


def _names_in(folder: str) -> frozenset[str]:
    try:
        return _listed(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return frozenset()


@lru_cache(maxsize=256)
def _listed(folder: str, _changed: int) -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in os.listdir(folder)) - {"__init__"}


def _imported(module: Any, here: tuple[str, str]) -> tuple[str, bool] | None:
    """Return the file of an imported module, and whether it is a package; None if not own."""
    try:
        # Without its own getattr: a lazily imported module must not be imported by this look.
        attributes = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return None
    file, folders = attributes.get("__file__"), attributes.get("__path__")
    if not file and folders:
        file = f"{next(iter(folders))}/"
    is_own = isinstance(file, str) and _is_own(file, here)
    return (file, folders is not None) if is_own else None


def _importable(
    name: str, found: Mapping[str, Module], folders: Iterable[str]
) -> tuple[str, bool] | None:
    """Return the same for a module that could be imported, but has not been."""
    parent, _, last = name.rpartition(".")
    if parent:
        file, is_package, _ = found.get(parent, ("", False, None))
        folders = [os.path.dirname(file)] if is_package else []
    for folder in folders:
        path = f"{folder}/{last}"
        if os.path.isfile(f"{path}/__init__.py"):
            return f"{path}/__init__.py", True
        if os.path.isfile(f"{path}.py"):
            return f"{path}.py", False
        if os.path.isdir(path):
            return f"{path}/", True
    return None


def _read(name: str, file: str, package: bool) -> tuple[Module, list[str]]:
    """Return a module, and the names in its import statements."""
    if not file.endswith(".py"):
        return (file, package, None), []
    about = os.stat(file)
    base = name if package else name.rpartition(".")[0]
    source, imports = _parsed(file, base, about.st_mtime_ns, about.st_size)
    return (file, package, source), imports


@lru_cache(maxsize=4096)
def _parsed(file: str, base: str, _changed: int, _size: int) -> tuple[bytes, list[str]]:
    source = Path(file).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were shown when it was imported
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return source, []  # the job will report it
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base.split(".")[: 1 - node.level or None] if node.level else []
            origin = ".".join([*above, node.module or ""]).rstrip(".")
            names.update(f"{origin}.{alias.name}" for alias in node.names if origin)
    return source, _with_parents(names)


def _with_parents(names: Iterable[str]) -> list[str]:
    """Return dotted names and their beginnings, parents first."""
    parts = [name.split(".") for name in names]
    every = {tuple(words[:n]) for words in parts for n in range(1, len(words) + 1)}
    return [".".join(words) for words in sorted(every, key=len)]
