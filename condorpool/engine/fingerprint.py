"""What makes calls the same calls, also in another kernel.

What is pickled of a notebook's functions and classes tells also in which cell and
process they were defined.  Here they count as what they are: source or code, and
whatever they use of their notebook and of the user's own modules.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import pickle
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from condorpool.engine import modules

#: What Python writes into each class; the rest is the user's.
_OF_EVERY_CLASS = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __qualname__ __firstlineno__ __annotations__ "
    "__static_attributes__ __annotate_func__ __annotations_cache__".split()
)


def fingerprint(func: Any, style: str, items: Sequence[Any]) -> str:
    """Return what is the same for the same calls of a function.

    Parameters
    ----------
    style
        How the items are given to it.
    """
    walk = _Walk()
    return _hash(style, walk.digest(func), walk.digest(list(items)))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _known(digest: str) -> str:
    """Stand for a function or class in a pickle."""
    return digest


class _Walk:
    """Digests values, and functions with all that they use, each once."""

    def __init__(self) -> None:
        self._digests: dict[int, str] = {}
        self._kept: list[object] = []  # no other object may get the id of one

    def digest(self, value: object) -> str:
        """Return the digest of a value."""
        hashed = hashlib.sha256()
        buffers: list[pickle.PickleBuffer] = []
        pickler = _Pickler(hashed, self, buffers)
        try:
            pickler.dump(value)
        except Exception as error:  # noqa: BLE001 - sending it will tell; pickling runs any code
            hashed.update(type(error).__name__.encode())
        for buffer in buffers:
            hashed.update(buffer.raw())
        return hashed.hexdigest()

    def stable(self, value: Any) -> str | None:
        """Return the digest of what pickles otherwise in each process, None for the rest."""
        if isinstance(value, ModuleType):
            return value.__name__
        inner = value
        if callable(value) and not isinstance(value, type | FunctionType):
            # Functions in a cache, or compiled by numba.
            inside = (inspect.getattr_static(value, n, None) for n in ("__wrapped__", "py_func"))
            inner = next((f for f in inside if isinstance(f, FunctionType)), None)
        if not isinstance(inner, type | FunctionType) or not modules.is_own(inner.__module__):
            return None
        if id(inner) not in self._digests:
            self._kept.append(inner)
            self._digests[id(inner)] = "itself"  # if it uses itself
            parts = self._class(inner) if isinstance(inner, type) else self._function(inner)
            self._digests[id(inner)] = _hash(*parts)
        return self._digests[id(inner)]

    def _function(self, func: FunctionType) -> Iterator[str]:
        yield func.__name__
        try:
            yield inspect.getsource(func)
        except (OSError, TypeError):
            yield from _code(func.__code__)
        for value in (func.__defaults__, func.__kwdefaults__):
            yield self.digest(value)
        for cell in func.__closure__ or ():
            try:
                yield self.digest(cell.cell_contents)
            except ValueError:  # nothing is in it yet
                yield ""
        names, attributes = _used(func.__code__)
        for name in sorted(names & func.__globals__.keys()):
            yield name
            yield from self._used(func.__globals__[name], attributes)

    def _used(self, value: Any, attributes: set[str]) -> Iterator[str]:
        if isinstance(value, set | frozenset):
            yield from sorted(map(self.digest, value))  # their order is another in each process
        elif isinstance(value, ModuleType) and modules.is_own(value.__name__):
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
                if isinstance(value, property):
                    yield self.digest((value.fget, value.fset, value.fdel))
                else:
                    yield self.digest(getattr(value, "__func__", value))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles into a hash whatever can be sent."""

    def __init__(self, hashed: Any, walk: _Walk, buffers: list[Any]) -> None:
        super().__init__(_Sink(hashed), protocol=5, buffer_callback=buffers.append)
        self._walk = walk

    def reducer_override(self, value: Any) -> Any:
        digest = self._walk.stable(value)
        return super().reducer_override(value) if digest is None else (_known, (digest,))


class _Sink:
    def __init__(self, hashed: Any) -> None:
        self.write = hashed.update


def _code(code: CodeType) -> Iterator[str]:
    """Give what code does, without where it stands."""
    yield code.co_code.hex()
    yield repr(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _code(const)
        else:
            yield repr(sorted(map(repr, const)) if isinstance(const, frozenset) else const)


def _used(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the names of globals and of attributes that code uses."""
    names, attributes = set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(step.argval)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            inner = _used(const)
            names |= inner[0]
            attributes |= inner[1]
    return names, attributes
