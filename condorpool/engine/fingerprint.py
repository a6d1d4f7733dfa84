"""Fingerprints: equal for equal calls, also in another kernel.

A pickle also depends on the cell and the process in which a value was made: on the order
of a set, on which equal values are one object, on the line where a class starts.  A
fingerprint depends on the values only; for functions and classes of the user's, on their
code and on what they use of the notebook and of the user's own modules.
"""

from __future__ import annotations

import contextlib
import dis
import hashlib
import inspect
import os
import pickle
import sys
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property, reduce, singledispatchmethod
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import cloudpickle

from condorpool.engine import modules

#: What Python writes into each class; the rest is the user's.
_OF_EVERY_CLASS = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __qualname__ __firstlineno__ __annotations__ "
    "__static_attributes__ __annotate_func__ __annotate__ __annotations_cache__".split()
)

#: What a class's body stores without effect on its meaning: its line, and in Python 3.13 a
#: tuple whose order differs between processes.
_STORED_FOR_TOOLS = ("__firstlineno__", "__static_attributes__")

#: A call of ``module.function`` is compiled differently if the same cell or file imports
#: the module.
_CALLS_METHOD = {"LOAD_METHOD": "LOAD_ATTR", "CALL_METHOD": "CALL_FUNCTION"}
_FILLING = frozenset({"PUSH_NULL", "PRECALL", "NOP", "EXTENDED_ARG", "CACHE"})

_JUMPS = frozenset([*dis.hasjrel, *dis.hasjabs])

#: Types of values that are always pickled in the same way.
_PLAIN = frozenset({int, float, bool, complex, str, bytes, type(None), pickle.PickleBuffer})

#: Their contents depend on what was used before; they cannot be sent.
_WEAK = (weakref.ref, WeakKeyDictionary, WeakValueDictionary, WeakSet)

#: Longer containers are digested on their own, only once if many values share them.
_SHORT = 64

#: The flags of code that say how it is called; others depend on what its cell imported.
_CALLED_HOW = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


def fingerprint(func: Any, style: str, items: Sequence[Any]) -> str:
    """Return a text that is equal for equal calls of a function; see `differences`.

    Parameters
    ----------
    style
        How the items are passed to it.
    """
    try:
        return "-".join(_Walk().parts(func, style, items))
    except RecursionError:
        return "-".join(_Walk(by_value=False).parts(func, style, items))


def differences(one: str, other: str) -> str:
    """Return in what the calls of two fingerprints differ, in words; empty if that is not known."""
    parts = [text.split("-") for text in (one, other)]
    if any(len(part) != 3 for part in parts):
        return ""  # of another version
    own, used, items = (a != b for a, b in zip(*parts, strict=True))
    what = ["the function"] if own else ["a function, class or global that it uses"] * used
    return " and ".join([*what, *["the items"] * items])


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


class _Walk:
    """Digests values, and functions with all that they use, each once.

    Parameters
    ----------
    by_value
        Digest every object on its own, so that it does not matter which equal values are
        one object.  Very deep values need the other way.
    """

    def __init__(self, by_value: bool = True) -> None:
        self.by_value = by_value
        self._digests: dict[int, str] = {}
        self._idle: list[_Pickler] = []  # to be used again: making one takes time
        self._kept: list[object] = []  # so that no other object gets the id of one

    def parts(self, func: Any, style: str, items: Sequence[Any]) -> tuple[str, str, str]:
        """Return digests of a function's own code, of the function with all it uses, of the items."""
        inner = getattr(func, "__wrapped__", func)
        is_plain = isinstance(inner, FunctionType)
        own = _hash(*self._code(inner.__code__)) if is_plain else self.digest(func)
        return own[:16], _hash(style, self.digest(func)), self.digest(list(items))

    def digest(self, value: object) -> str:
        """Return the digest of a value."""
        if type(value) in _PLAIN:
            return self._pickled(value)
        if id(value) not in self._digests:
            self._kept.append(value)
            self._digests[id(value)] = "itself"  # if it uses itself
            parts = self._parts(value)
            self._digests[id(value)] = self._pickled(value) if parts is None else _hash(*parts)
        return self._digests[id(value)]

    def is_apart(self, value: Any) -> bool:
        """Return whether a value inside another is digested on its own."""
        kind = type(value)
        if kind in _PLAIN:
            return False
        if not self.by_value:
            return self._parts(value) is not None
        if kind not in (list, tuple, dict) or len(value) > _SHORT:
            return True
        values = value.values() if kind is dict else ()
        return not (_PLAIN.issuperset(map(type, value)) and _PLAIN.issuperset(map(type, values)))

    def _pickled(self, value: object) -> str:
        pickler = self._idle.pop() if self._idle else _Pickler(self)
        pickler.begin(value)
        try:
            pickler.dump(value)
            self._idle.append(pickler)
        except Exception as error:
            if self.by_value and isinstance(error, RecursionError):
                raise
            pickler.write(type(error).__name__.encode())
        return pickler.end()

    def _parts(self, value: Any) -> Iterator[str] | None:
        """Return the parts of a value whose pickle differs between processes; else None."""
        if isinstance(value, set | frozenset):
            return self._set(value)
        if isinstance(value, ModuleType | TypeVar):
            return iter([value.__name__])
        if isinstance(value, (*_WEAK, type(os.environ))):  # a job has an environment of its own
            return iter([type(value).__name__])
        inner = value
        if callable(value) and not isinstance(value, type | FunctionType):
            # Functions in a cache, or compiled by numba.
            inside = (inspect.getattr_static(value, n, None) for n in ("__wrapped__", "py_func"))
            inner = next((f for f in inside if isinstance(f, FunctionType)), None)
        if not isinstance(inner, type | FunctionType) or _is_installed(inner):
            return None
        return self._class(inner) if isinstance(inner, type) else self._function(inner)

    def _set(self, value: set[Any] | frozenset[Any]) -> Iterator[str]:
        yield self.digest(type(value))
        yield from sorted(map(self.digest, value))  # their order differs between processes
        yield self.digest(getattr(value, "__dict__", None))

    def _function(self, func: FunctionType) -> Iterator[str]:
        yield func.__name__
        yield from self._code(func.__code__)
        for value in (func.__defaults__, func.__kwdefaults__):
            yield self.digest(value)
        for cell in func.__closure__ or ():
            try:
                yield self.digest(cell.cell_contents)
            except ValueError:  # nothing is in it yet
                yield ""
        names, attributes = _names_in(func.__code__)
        for name in sorted(names & func.__globals__.keys()):
            yield name
            yield from self._used(func.__globals__[name], attributes)

    def _code(self, code: CodeType) -> Iterator[str]:
        """Yield what code does, without its file and lines."""
        yield repr(
            (
                (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
                (code.co_varnames, code.co_freevars, code.co_cellvars),
                code.co_flags & _CALLED_HOW,
            )
        )
        steps = [step for step in dis.get_instructions(code) if step.opname not in _FILLING]
        offsets = [step.offset for step in steps]
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            if after is not None and after.argval in _STORED_FOR_TOOLS:
                continue  # the value that is stored
            if isinstance(step.argval, CodeType):
                yield from self._code(step.argval)
            elif step.opcode in _JUMPS:
                yield f"{step.opname} {bisect_left(offsets, step.argval)}"
            else:
                yield _CALLS_METHOD.get(step.opname, step.opname)
                yield self.digest(step.argval)
        for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
            yield repr([bisect_left(offsets, at) for at in (entry.start, entry.end, entry.target)])

    def _used(self, value: Any, attributes: set[str]) -> Iterator[str]:
        if isinstance(value, ModuleType) and modules.is_own(value.__name__):
            for name in sorted(attributes & vars(value).keys()):
                yield name
                yield from self._used(vars(value)[name], attributes - {name})
        else:
            yield self.digest(value)

    def _class(self, cls: type) -> Iterator[str]:
        yield cls.__qualname__
        yield self.digest(cls.__bases__)
        for name, value in sorted(vars(cls).items()):
            if name not in _OF_EVERY_CLASS:
                yield name
                yield self.digest(_inside(value))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles into a hash."""

    def __init__(self, walk: _Walk) -> None:
        super().__init__(self, protocol=5, buffer_callback=self._take)
        self._walk = walk
        # Without a memo an object that comes twice counts as two equal ones.
        self.fast = walk.by_value

    def begin(self, value: object) -> None:
        """Prepare for a value."""
        self.clear_memo()
        self._hashed = hashlib.sha256()
        self._buffers: list[pickle.PickleBuffer] = []
        self._value = [value]  # until it is met for the first time

    def end(self) -> str:
        """Return the digest of the value."""
        for buffer in self._buffers:
            self._hashed.update(buffer.raw())
        return self._hashed.hexdigest()

    def write(self, data: bytes) -> None:
        """Take what is pickled, as a file does."""
        self._hashed.update(data)

    def _take(self, buffer: pickle.PickleBuffer) -> None:
        self._buffers.append(buffer)

    def persistent_id(self, value: Any) -> str | None:
        """Return the digest that stands for a value, None to pickle it here."""
        if type(value) in _PLAIN:
            return None
        if self._value and value is self._value[0]:
            self._value.clear()
            return None
        return self._walk.digest(value) if self._walk.is_apart(value) else None


def _is_installed(thing: Any) -> bool:
    """Return whether a function or class is a package's, and is found there by its name."""
    if modules.is_own(thing.__module__):
        return False
    with contextlib.suppress(AttributeError):
        return thing is reduce(
            getattr, thing.__qualname__.split("."), sys.modules.get(thing.__module__)
        )
    return False


def _inside(value: Any) -> Any:
    """Return the functions inside a value of a class's dict, or the value itself."""
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    if isinstance(value, cached_property):
        return value.func
    if isinstance(value, singledispatchmethod):
        return value.dispatcher
    return getattr(value, "__func__", value)


def _names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the names of globals and of attributes that code uses."""
    names, attributes = set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(step.argval)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            inner = _names_in(const)
            names |= inner[0]
            attributes |= inner[1]
    return names, attributes
