"""Finds the part of a value that cannot, or should not, be sent, and names it for the user.

The value is pickled once more by the pickler that is written in Python, which can say
what it is inside of; the bytes are thrown away.  No code of an object is run that pickling
does not run anyway.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from types import BuiltinMethodType, FunctionType, MemberDescriptorType, MethodType
from typing import Any

import cloudpickle

from condorpool.engine.pickling import Reducers

#: Seconds that the search may take.
PATIENCE = 1.0

#: Types with nothing inside that could be to blame.
_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray))

_CONTAINERS = frozenset((tuple, list, dict, set, frozenset))

#: Stands for no key.
_NONE = object()


class _FoundError(Exception):
    """The object that was searched for is being pickled now."""


class _LateError(Exception):
    """The search takes too long."""


class _Tracer(Reducers, pickle._Pickler):  # noqa: SLF001 - the one in Python
    """Knows what it is inside of when pickling fails, or reaches ``target``."""

    dispatch_table = cloudpickle.Pickler.dispatch_table
    _function_reduce = cloudpickle.Pickler._function_reduce  # noqa: SLF001
    _function_getnewargs = cloudpickle.Pickler._function_getnewargs  # noqa: SLF001
    _dynamic_function_reduce = cloudpickle.Pickler._dynamic_function_reduce  # noqa: SLF001

    def __init__(self, target: object) -> None:
        super().__init__(io.BytesIO(), protocol=5, buffer_callback=lambda _: None)
        self.write = lambda _: None
        self.globals_ref: dict[int, Any] = {}
        self.inside: list[Any] = []
        self._target = target
        self._until = time.monotonic() + PATIENCE

    def reducer_override(self, value: Any) -> Any:
        """Return how to pickle an object; the pickler in C does not ask for containers."""
        return NotImplemented if type(value) in _CONTAINERS else super().reducer_override(value)

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        """Pickle an object inside of those that are being pickled."""
        if type(value) in _PLAIN:
            return
        if time.monotonic() > self._until:
            raise _LateError
        self.inside.append(value)
        if value is self._target:
            raise _FoundError
        super().save(value, save_persistent_id)  # type: ignore[misc]
        self.inside.pop()


def path_to(value: Any, target: object) -> str | None:
    """Return where in a value an object is; None if that cannot be found out."""
    inside = _inside(value, target, _FoundError)
    return _path(inside) if inside else None


def blamed(value: Any, error: BaseException) -> tuple[str, str] | None:
    """Return where in a value the object is that raised the error when it was pickled, and its type.

    None if that cannot be found out.
    """
    inside = _inside(value, _NONE, type(error))
    for depth, part in enumerate(inside):
        if str(type(part).__module__).startswith("condorpool."):
            del inside[depth + 1 :]  # the parts of a pool say nothing to the user
    return (_path(inside), _name(type(inside[-1]))) if inside else None


def _inside(value: Any, target: object, ends_with: type[BaseException]) -> list[Any]:
    """Return what pickling is inside of when it raises this; nothing if it ends otherwise."""
    tracer = _Tracer(target)
    try:
        tracer.dump(value)
    except Exception as error:  # noqa: BLE001 - pickling runs any code
        # Time may be over, or this pickler may fail elsewhere than the one in C.
        return tracer.inside if type(error) is ends_with else []
    return []


def _name(kind: type) -> str:
    """Return a type's name, with its module if that says something."""
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def _path(inside: list[Any]) -> str:
    """Return a path into a value, as it is written in Python after the value's name.

    The globals of a function have names of their own, which come first, or after an arrow.
    """
    path, position = "", 0
    while position < len(inside) - 1:
        try:
            word, taken = _step(inside[position], inside[position + 1 :])
        except Exception:  # noqa: BLE001 - an object may be odd, or changed by another thread
            return ""
        if word and not word.startswith((".", "[")):
            path = f"{path} -> {word}" if path else word
        else:
            path += word
        position += taken
    return path


def _step(owner: Any, parts: list[Any]) -> tuple[str, int]:  # noqa: PLR0911 - a list of kinds
    """Return how the next object on the path is found in its owner, and how many parts that takes.

    The parts between the two are tuples and dicts, into which pickling takes the owner apart.
    """
    kind: Any = type(owner)
    if kind is FunctionType:
        return _in_function(owner, parts)
    if issubclass(kind, dict):
        key = _key(dict.items(owner), parts[0])
        if key is not _NONE:
            return f"[{_written(key)}]", 1
    for sequence in (list, tuple, deque):
        if issubclass(kind, sequence):
            index = _key(enumerate(sequence.__iter__(owner)), parts[0])
            if index is not _NONE:
                return f"[{index}]", 1
    if kind in (set, frozenset) or len(parts) < 2:
        return "", 1
    if kind in (MethodType, BuiltinMethodType):
        return "self" if parts[1] is owner.__self__ else "", 2
    if kind is partial:
        return _in_partial(owner, parts)
    if len(parts) > 2 and type(parts[0]) is tuple and type(parts[1]) is dict:
        return _attribute(parts[1].items(), parts[2]), 3  # attributes, and those in slots
    if type(parts[0]) is dict:
        return _attribute(parts[0].items(), parts[1]), 2
    if type(parts[0]) in (tuple, list):
        return _attribute(_attributes(owner), parts[1]), 2
    return "", 1


def _in_function(func: FunctionType, parts: list[Any]) -> tuple[str, int]:  # noqa: PLR0911 - same
    if len(parts) < 3 or type(parts[1]) is not dict:
        return "", min(2, len(parts))
    what, inner = _key(parts[1].items(), parts[2]), parts[2]
    if what in vars(func):
        return f".{what}", 3
    if len(parts) < 4:
        return "", 3
    value = parts[3]
    if what == "__globals__":
        return str(_key(inner.items(), value)), 4
    if what == "__kwdefaults__":
        return f"{func.__name__}({_key(inner.items(), value)}=)", 4
    code = func.__code__
    if what == "__defaults__":
        names = code.co_varnames[code.co_argcount - len(inner) : code.co_argcount]
        return f"{func.__name__}({names[_key(enumerate(inner), value)]}=)", 4
    if what == "__closure__" and len(parts) > 5:
        return code.co_freevars[_key(enumerate(inner), value)], 6  # the cell, and its content
    return "", 3


def _in_partial(owner: Any, parts: list[Any]) -> tuple[str, int]:
    if len(parts) > 2 and parts[1] is owner.args:
        return f".args[{_key(enumerate(owner.args), parts[2])}]", 3
    if len(parts) > 2 and parts[1] is owner.keywords:
        return f".keywords[{_written(_key(owner.keywords.items(), parts[2]))}]", 3
    return "", 2  # it has the name of what it wraps


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object without running its code."""
    with contextlib.suppress(AttributeError):
        yield from object.__getattribute__(owner, "__dict__").items()
    for cls in type(owner).__mro__:
        for name, slot in vars(cls).items():
            if type(slot) is MemberDescriptorType:
                try:
                    yield name, slot.__get__(owner)
                except AttributeError:
                    continue  # the slot is empty


def _attribute(named: Iterable[tuple[Any, Any]], value: Any) -> str:
    name = _key(named, value)
    return f".{name}" if type(name) is str and not name.startswith("__") else ""


def _key(named: Iterable[tuple[Any, Any]], value: Any) -> Any:
    """Return the key of a value, which is compared by identity; `_NONE` if there is none."""
    return next((key for key, other in named if other is value), _NONE)


def _written(key: Any) -> str:
    text = repr(key) if type(key) in _PLAIN else f"<{_name(type(key))}>"
    return text if len(text) < 50 else f"{text[:40]}..."
