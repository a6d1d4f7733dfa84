"""Plain data from files and other machines: JSON that is checked before it is used.

Whatever the text is, reading it runs no code of others, and one error says what is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from condorpool.values.text import short

#: Numbers of larger size are not ours: no clock, counter or size needs them.
LARGEST = 2**53

#: Makes a value of some kind from what JSON has for it; raises `PlainError`.
_Check = Callable[[Any], Any]


class PlainError(ValueError):
    """A text is not JSON, or is not what it should be."""


def parse(text: str | bytes, of_object: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return what a JSON text holds; raise `PlainError` if it holds nothing, whatever it is.

    Parameters
    ----------
    of_object
        Returns what stands for each object in it.
    """
    try:
        return json.loads(text, object_hook=of_object)
    except PlainError:
        raise
    except RecursionError:
        raise PlainError("it is nested too deeply") from None
    except ValueError as error:
        raise PlainError(f"it is not JSON ({error})") from None


def checked(value: Any, kind: Any) -> Any:
    """Return a value from JSON as a kind of ours; raise `PlainError` if it is none.

    Parameters
    ----------
    kind
        A dataclass (from an object: unknown names are ignored, missing ones have their
        default), a named tuple, or an annotation made of these, `Sequence`, `Mapping`, `tuple`,
        `list`, `dict`, `Literal`, unions, `Any`, and plain types.  Sequences become tuples.
    """
    return _check_of(kind)(value)


def _fail(value: Any, wanted: str) -> PlainError:
    return PlainError(f"{short(value)} is not {wanted}")


@functools.cache
def _check_of(kind: Any) -> _Check:
    """Return the function that checks values of a kind."""
    if kind is Any:
        return _anything
    if kind is float:
        return _number
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _of_class(kind)
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _of_named_tuple(kind)
    if isinstance(kind, type) and get_origin(kind) is None:
        return _of_type(kind)
    return _of_annotation(kind)


def _anything(value: Any) -> Any:
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= LARGEST:  # nor is "not a number" one
        raise _fail(value, "a number")
    return float(value)


def _of_type(kind: type) -> _Check:
    name = "nothing" if kind is types.NoneType else f"of type {kind.__name__}"

    def check(value: Any) -> Any:
        # Exactly: True is no count of calls.
        if type(value) is not kind or (type(value) is int and abs(value) > LARGEST):
            raise _fail(value, name)
        return value

    return check


def _of_annotation(kind: Any) -> _Check:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _of_literal(parts)
    if origin in (Union, types.UnionType):
        return _of_union(kind, parts)
    if origin is tuple and parts[-1] is not Ellipsis:
        return _of_tuple([_check_of(part) for part in parts])
    if issubclass(origin, Mapping):
        return _of_mapping(_check_of(parts[1]))
    if not issubclass(origin, Sequence):
        return _of_type(origin)  # JSON has none of them
    return _of_sequence(_check_of(parts[0]), list if origin is list else tuple)


def _of_literal(words: Sequence[Any]) -> _Check:
    def check(value: Any) -> Any:
        if not isinstance(value, str) or value not in words:
            raise _fail(value, f"one of {', '.join(words)}")
        return value

    return check


def _of_union(kind: Any, parts: Sequence[Any]) -> _Check:
    # By what JSON has: no two kinds of a union are read from the same.
    checks = {found: _check_of(part) for part in parts for found in _types_in_json(part)}

    def check(value: Any) -> Any:
        if type(value) not in checks:
            raise _fail(value, str(kind))
        return checks[type(value)](value)

    return check


def _types_in_json(kind: Any) -> tuple[type, ...]:
    """Return the types that JSON may have for a kind."""
    origin = get_origin(kind) or kind
    if origin is float:
        return int, float
    if dataclasses.is_dataclass(origin) or issubclass(origin, Mapping):
        return (dict,)
    return (list,) if issubclass(origin, Sequence) and origin is not str else (origin,)


def _of_tuple(checks: Sequence[_Check]) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise _fail(value, f"a list of {len(checks)}")
        return tuple(one(each) for one, each in zip(checks, value, strict=True))

    return check


def _of_mapping(of_value: _Check) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _fail(value, "an object")
        if of_value is _anything:
            return value
        return {name: _at(name, of_value, each) for name, each in value.items()}

    return check


def _of_sequence(of_item: _Check, made: type) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not list:
            raise _fail(value, "a list")
        return made(map(of_item, value))

    return check


def _of_named_tuple(kind: Any) -> _Check:
    hints = typing.get_type_hints(kind)
    check = _of_tuple([_check_of(hints[name]) for name in kind._fields])
    return lambda value: kind(*check(value))


def _of_class(kind: Any) -> _Check:
    hints = typing.get_type_hints(kind)
    checks = {field.name: _check_of(hints[field.name]) for field in dataclasses.fields(kind)}

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _fail(value, "an object")
        facts = {name: _at(name, checks[name], value[name]) for name in value if name in checks}
        try:
            return kind(**facts)
        except TypeError as error:  # a field without a default is missing
            raise PlainError(str(error).partition(" ")[2]) from None

    return check


def _at(name: str, check: _Check, value: Any) -> Any:
    try:
        return check(value)
    except PlainError as error:
        raise PlainError(f"{short(name)}: {error}") from None
