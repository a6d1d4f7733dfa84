"""Checks of arguments, made before anything else is done; each error names the argument."""

from __future__ import annotations

import math
import numbers
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from condorpool.values.events import JobState
from condorpool.values.holds import Policy
from condorpool.values.matching import did_you_mean
from condorpool.values.text import MAX_NAME, one_line

if TYPE_CHECKING:
    from condorpool.interface.options.keywords import OnHold

#: The keys of jobkwargs: their types, and the words for those in errors.
_JOBKWARGS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "submitdir": ((str, os.PathLike), "a folder"),
    "killstats": (Iterable, "a state or several"),
    "cleanup": (bool, "True or False"),
    "cleanfailed": (bool, "True or False"),
    "cleanupfiles": ((list, tuple, set, frozenset), "a list of file names"),
    "polltime": ((int, float), "a number of seconds"),
}


def kind(name: str, value: Any, kinds: type | tuple[type, ...], what: str) -> Any:
    """Return the value if it is of one of these types; ``what`` names them in the error."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {what}, not {type(value).__name__}")
    return value


def count(name: str, value: Any) -> int:
    """Return a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}={value}: it must be at least 1")
    return int(value)


def optional_count(name: str, value: Any) -> int | None:
    """Return a whole number of 1 or more, or None."""
    return None if value is None else count(name, value)


def one_of(name: str, value: Any, alias: Any, *others: Any) -> Any:
    """Return a value that is one of a `typing.Literal`, or of ``others``."""
    known = [*typing.get_args(alias), *others]
    if value not in known:
        raise ValueError(
            f"{name}={value!r} must be one of {', '.join(map(repr, known))}.{_near(value, known)}"
        )
    return value


def _near(value: Any, known: Iterable[Any]) -> str:
    """Return a question that names the known value most like this one, if both are texts."""
    texts = [text for text in known if isinstance(text, str)]
    return did_you_mean(value, texts) if isinstance(value, str) else ""


def seconds(name: str, value: Any, *, least: float = 0.0, may_be_infinite: bool = False) -> float:
    """Return a number of seconds, ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    number = float(value)
    if not number >= least or (math.isinf(number) and not may_be_infinite):
        finite = "" if may_be_infinite else " and finite"
        raise ValueError(f"{name}={value}: seconds must be at least {least:g}{finite}")
    return number


def timeout(value: Any) -> float | None:
    """Return how long a wait may take; None for ever, as in `multiprocessing`."""
    if value is None:
        return None
    return seconds("timeout", value, least=-math.inf, may_be_infinite=True)


def function(name: str, value: Any) -> Callable[..., Any] | None:
    """Return a function, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, not {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def called(value: Any) -> Callable[..., Any]:
    """Return the function of a call."""
    if not callable(value):
        raise TypeError(f"the first argument must be a function, not {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def positional(name: str, value: Any) -> tuple[Any, ...]:
    """Return the arguments of a call.

    `multiprocessing` would take the letters of a string and the keys of a dict, which no user
    means.
    """
    if isinstance(value, (str, bytes, Mapping)) or not _is_iterable(value):
        raise TypeError(
            f"{name} must be a tuple of arguments, not {type(value).__name__}; "
            f"for one argument write {name}=(value,)"
        )
    return tuple(value)


def iterable(name: str, value: Any) -> Iterable[Any]:
    """Return an iterable, with or without a length."""
    if not _is_iterable(value):
        raise TypeError(f"{name} must be an iterable, not {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def unpacked(item: Any) -> tuple[Any, ...]:
    """Return the arguments of a call, from an item of starmap's iterable."""
    try:
        return tuple(item)
    except TypeError as error:
        raise TypeError(f"each item of starmap's iterable is unpacked: {error}") from error


def _is_iterable(value: Any) -> bool:
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def keywords(name: str, value: Any) -> dict[str, Any]:
    """Return keyword arguments."""
    given = dict(kind(name, value, Mapping, "a mapping of keyword arguments"))
    for key in given:
        kind(f"the key {key!r} of {name}", key, str, "a string")
    return given


def on_hold(value: OnHold | None) -> OnHold | None:
    """Return a policy for held jobs, or a function that decides about each."""
    if value is not None and not callable(value) and value not in typing.get_args(Policy):
        known = typing.get_args(Policy)
        words = ", ".join(map(repr, known))
        raise ValueError(
            f"on_hold={value!r} must be one of {words}, or a function.{_near(value, known)}"
        )
    return value


def killstats(states: Any) -> tuple[str, ...]:
    """Return the states in which jobs are removed."""
    known = [state.value for state in JobState]
    chosen = (states,) if isinstance(states, str) else tuple(iterable("killstats", states))
    for state in chosen:
        if state not in known:
            hint = _near(state, known)
            raise ValueError(f"killstats has {state!r}; the states are {', '.join(known)}.{hint}")
    return chosen


def jobkwargs(given: Any) -> dict[str, Any]:
    """Return the options for what happens to jobs and their files."""
    checked = dict(kind("jobkwargs", {} if given is None else given, Mapping, "a mapping"))
    for key, value in checked.items():
        if key not in _JOBKWARGS:
            hint, known = _near(key, _JOBKWARGS), ", ".join(_JOBKWARGS)
            raise ValueError(f"jobkwargs has {key!r}; the keys are {known}.{hint}")
        kind(key, value, *_JOBKWARGS[key])
    checked.pop("polltime", None)  # the event log is followed; nothing is polled
    if "killstats" in checked:
        checked["killstats"] = killstats(checked["killstats"])
    if "cleanupfiles" in checked:
        checked["cleanupfiles"] = tuple(checked["cleanupfiles"])
    return checked


def calls_name(value: Any) -> str:
    """Return a name for calls: one line that users can read and type again."""
    kind("name", value, str, "a string")
    shown = one_line(value)
    if not shown:
        raise ValueError(f"name={value!r}: it must not be empty; omit it for calls without a name")
    if len(value) > MAX_NAME:
        raise ValueError(
            f"name={shown!r}: it has {len(value):,} characters; the limit is {MAX_NAME}"
        )
    if value.startswith("-"):
        raise ValueError(
            f"name={value!r}: it must not begin with -, which commands read as an option"
        )
    if not value.isprintable() or value != value.strip():
        raise ValueError(
            f"name={value!r}: it must be one line without control characters and without blanks "
            f"around it, such as {shown!r}"
        )
    return value  # type: ignore[no-any-return]
