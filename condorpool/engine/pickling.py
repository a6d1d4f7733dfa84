"""How objects are pickled for jobs: by value, or by a name that a job can import.

What is pickled by name must exist in the job.  A notebook does not, nor do modules without
a file, so their functions, classes and the modules themselves are pickled by value; what
cannot be is refused here, not in the job.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import importlib.machinery
import io
import pickle
import random
import sys
import typing
import weakref
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import cloudpickle
from cloudpickle import cloudpickle as theirs

from condorpool import runner
from condorpool.runner.names import PROGRAM
from condorpool.runner.pickling import (
    parts_of_cached,
    reduce_cached_property,
    reduce_partialmethod,
)

# Pickles refer to a function of the runner by its name in jobs.  In a call that uses a
# pool itself, this is the runner that makes the call.
shipped: Any = sys.modules.setdefault(PROGRAM, runner)

#: Objects that exist once in each process; a job has its own.
ONE_EACH = (
    ("os", "environ"),  # whose contents may be secret
    ("os", "environb"),
    ("random", "_inst"),
    ("numpy.random.mtrand", "_rand"),
    ("torch", "default_generator"),
    ("dataclasses", "MISSING"),
    ("dataclasses", "KW_ONLY"),
)

#: Types of random generators, whose state is sent and yields the same numbers in each job.
GENERATORS = (
    ("random", "Random"),
    ("numpy.random", "Generator"),
    ("numpy.random", "RandomState"),
    ("numpy.random", "BitGenerator"),
    ("torch", "Generator"),
)

#: Attributes of a module that belong to the import system.
_MACHINERY = ("__builtins__", "__loader__", "__spec__")

# The methods for pickling that most classes inherit.
_USUAL = (object.__reduce__, object.__reduce_ex__)

_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_SOURCE = tuple(importlib.machinery.SOURCE_SUFFIXES)

# How to pickle an object, as __reduce__ returns it; NotImplemented for the usual way.
Reduced = Any


class Reducers:
    """Decides how objects are pickled; for cloudpickle's pickler, and for that of `blame`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Random generators that were pickled by value.
        self.generators: list[Any] = []
        #: The files of code that was pickled by value.
        self.files: set[str] = set()
        self._ones = {id(one): name for name, one in _loaded(ONE_EACH)}
        self._kinds = tuple(kind for _, kind in _loaded(GENERATORS))

    def reducer_override(self, value: Any) -> Reduced:
        """Return how to pickle an object that is not plain data."""
        kind: Any = type(value)
        if kind in (FunctionType, CodeType) or issubclass(kind, type):
            return self._definition(value)
        if id(value) in self._ones:
            return self._ones[id(value)]
        if kind in REDUCERS:
            return REDUCERS[kind](value)
        if issubclass(kind, self._kinds):
            outer = self.generators[-1] if self.generators else None
            if getattr(outer, "bit_generator", None) is not value:  # numpy's contain one
                self.generators.append(value)
        if (kind.__reduce__, kind.__reduce_ex__) == _USUAL:
            return _module(value) if issubclass(kind, ModuleType) else NotImplemented
        if kind in theirs.Pickler._dispatch_table:  # noqa: SLF001 - the first of its tables
            return NotImplemented
        reduce = copyreg.dispatch_table.get(kind)
        reduced = reduce(value) if reduce else value.__reduce_ex__(5)
        return _of_name(value, reduced) if isinstance(reduced, str) else reduced

    def _definition(self, value: Any) -> Reduced:
        """Return how to pickle a function, its code, or a class."""
        if isinstance(value, CodeType):
            self.files.add(value.co_filename)
            return shipped.reduce_code(value)
        reduced = cloudpickle.Pickler.reducer_override(self, value)
        if reduced is NotImplemented and not is_importable(value.__module__):
            if not isinstance(value, type):
                return theirs.Pickler._dynamic_function_reduce(self, value)  # noqa: SLF001 - as below
            reduced = theirs._dynamic_class_reduce(value)  # noqa: SLF001 - nothing public does it
        if type(value).__name__ == "_TypedDictMeta" and reduced is not NotImplemented:
            # Before Python 3.12 one that was made by a call does not keep its original bases.
            make, (meta, name, bases, *rest), *state = reduced
            if bases == (dict,):
                bases = (vars(sys.modules[meta.__module__])["TypedDict"],)
            reduced = (make, (meta, name, bases, *rest), *state)
        return reduced


class Pickler(Reducers, cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, which asks `Reducers` first."""


class Pickled(NamedTuple):
    """A value as it is sent to jobs, and what it contains by value.

    Attributes
    ----------
    frames
        One pickle and its out-of-band buffers.
    generators
        The random generators in it.
    files
        The files of the code in it.
    """

    frames: list[Any]
    generators: list[Any]
    files: set[str]


def pickled(value: Any) -> Pickled:
    """Pickle a value."""
    buffers: list[pickle.PickleBuffer] = []
    with io.BytesIO() as file:
        pickler = Pickler(file, protocol=5, buffer_callback=buffers.append)
        pickler.dump(value)
        data = file.getvalue()
    frames = [data, *(buffer.raw() for buffer in buffers)]
    return Pickled(frames, pickler.generators, pickler.files)


def is_importable(name: str | None) -> bool:
    """Return whether a job, too, can import a module that is imported here."""
    if name in ("__main__", "__mp_main__"):
        return False
    module = sys.modules.get(name or "")
    return module is None or _has_file(module, str(name))


def _has_file(module: Any, name: str) -> bool:
    """Return whether a module comes from a file or the interpreter, not just from memory."""
    try:
        attributes = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return True
    spec, file = attributes.get("__spec__"), attributes.get("__file__")
    if isinstance(file, str):
        if file.endswith(_SOURCE) and spec is None:
            return Path(file).is_file()  # the name may be made up
        return file.endswith(_SUFFIXES)
    if getattr(spec, "origin", None) in ("built-in", "frozen"):
        return True
    if getattr(spec, "submodule_search_locations", None) is not None:
        return True  # only a folder
    parent = name.rpartition(".")[0]
    return bool(parent) and is_importable(parent)  # compiled packages make modules of their own


def _loaded(names: tuple[tuple[str, str], ...]) -> list[tuple[str, Any]]:
    """Return the objects with these names whose modules are imported."""
    found = ((name, getattr(sys.modules.get(module), name, None)) for module, name in names)
    return [(name, value) for name, value in found if value is not None]


def _goes_by_name(value: Any, name: str | None = None) -> bool:
    """Return whether a job finds an object by its name."""
    found = theirs._lookup_module_and_qualname(value, name)  # noqa: SLF001 - for any kind of object
    if found is None or theirs._is_registered_pickle_by_value(found[0]):  # noqa: SLF001
        return False
    return is_importable(found[0].__name__)


def _of_name(value: Any, name: str) -> Reduced:
    """Return how to pickle an object that wants to be pickled by this name."""
    module = pickle.whichmodule(value, name)  # type: ignore[attr-defined]
    if module in sys.modules and is_importable(module):
        return name
    if isinstance(value, enum.Enum):
        return type(value), (value._value_,)
    held = getattr(value, "__dict__", {})
    if callable(value) and any(isinstance(part, FunctionType) for part in held.values()):
        # A function with a decorator around it.  Anything else may be compared by
        # identity, as None is, and a copy would be another object.
        return copyreg.__newobj__, (type(value),), held  # type: ignore[attr-defined]
    raise pickle.PicklingError(
        f"it is pickled by its name {module}.{name}, but jobs cannot import {module}; "
        "put it into a file beside the notebook, which is sent along"
    )


def _lru_cache(value: Any) -> Reduced:
    return NotImplemented if _goes_by_name(value) else parts_of_cached(value)


def _weak_dict(value: Any) -> Reduced:
    return type(value), (dict(value),)


def _new_type(value: Any) -> Reduced:
    if _goes_by_name(value):
        return NotImplemented
    return type(value), (value.__name__, value.__supertype__), vars(value)


def _param_spec(value: Any) -> Reduced:
    if _goes_by_name(value, value.__name__):
        return NotImplemented
    names = ("bound", "covariant", "contravariant")
    given = {name: getattr(value, f"__{name}__") for name in names}
    return functools.partial(typing.ParamSpec, value.__name__, **given), ()


def _type_var_tuple(value: Any) -> Reduced:
    by_name = _goes_by_name(value, value.__name__)
    return NotImplemented if by_name else (type(value), (value.__name__,))


def _type_alias(value: Any) -> Reduced:
    if _goes_by_name(value, value.__name__):
        return NotImplemented
    kind: Any = type(value)
    make = functools.partial(kind, type_params=value.__type_params__)
    return make, (value.__name__, value.__value__)


def _module(value: ModuleType) -> Reduced:
    # Without its own getattr: a lazily imported module must not be imported by this look.
    attributes = object.__getattribute__(value, "__dict__")
    name = attributes["__name__"]
    if name in ("__main__", "__mp_main__"):
        raise pickle.PicklingError("jobs have another __main__; use its contents by their names")
    if name in theirs.list_registry_pickle_by_value():
        return NotImplemented
    if name in sys.modules and _has_file(value, name):
        return theirs.subimport, (name,)
    return ModuleType, (name,), {k: held for k, held in attributes.items() if k not in _MACHINERY}


#: How to pickle objects of these types.
REDUCERS: dict[type, Callable[[Any], Reduced]] = {
    ModuleType: _module,
    functools._lru_cache_wrapper: _lru_cache,  # noqa: SLF001 - it has no other name
    functools.cached_property: reduce_cached_property,
    functools.partialmethod: reduce_partialmethod,
    random.SystemRandom: lambda _: (random.SystemRandom, ()),  # it has no state
    typing.NewType: _new_type,
    weakref.WeakKeyDictionary: _weak_dict,
    weakref.WeakValueDictionary: _weak_dict,
}
for _name, _reduce in (
    ("ParamSpec", _param_spec),
    ("TypeVarTuple", _type_var_tuple),  # since Python 3.11
    ("TypeAliasType", _type_alias),  # since Python 3.12
):
    if hasattr(typing, _name):
        REDUCERS[getattr(typing, _name)] = _reduce
