"""Random generators that are sent to jobs: all jobs get copies, which return the same numbers."""

from __future__ import annotations

import pickle
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from condorpool.engine.pickling import pickled
from condorpool.values.text import printable

#: How many generators are remembered.
REMEMBERED = 1_000

#: How many generators a warning names.
_NAMED = 3

_PACKAGE = f"{Path(__file__).parents[1]}/"


class RepeatedNumbersWarning(UserWarning):
    """A random generator is sent to jobs as a copy, so calls repeat each other's numbers."""


class _Facts(dict[int, tuple[Any, Any]]):
    """A fact about each of some objects, which may not be hashable, by their ids."""

    def of(self, value: object) -> Any:
        """Return the fact about an object; None if there is none."""
        return self.get(id(value), (None, None))[1]

    def add(self, value: object, fact: object) -> None:
        """Remember a fact until the object is gone, when another may get its id."""
        number = id(value)
        try:
            kept: Any = weakref.ref(value, lambda _: self.pop(number, None))
        except TypeError:
            kept = value  # numpy's allow no weak references, and are small
        self[number] = kept, fact
        if len(self) > REMEMBERED:  # a list, since other threads may change it meanwhile
            self.pop(list(self)[0], None)  # noqa: RUF015


_states = _Facts()
_warned = _Facts()


def that_repeat(generators: Sequence[Any]) -> list[Any]:
    """Return the generators that were sent with earlier calls in the state that they are in.

    One that is sent once repeats nothing, nor does one that was used since.
    """
    found = []
    for generator in generators:
        state = _state(generator)
        if _states.of(generator) == state:
            found.append(generator)
        _states.add(generator, state)
    return found


def warn(generators: Sequence[Any], name: Callable[[Any], str | None], what: str) -> None:
    """Warn the user once about copies of these, at the user's line that makes the calls.

    Parameters
    ----------
    name
        Returns where a generator is.
    what
        What they are sent with.
    """
    new = [generator for generator in generators if not _warned.of(generator)]
    names = dict.fromkeys(f"`{path}`" for path in map(name, new[:_NAMED]) if path)
    if new:
        text = (
            f"{', '.join(names) or 'a random generator'} is sent with {what}: every job gets "
            "a copy in the same state, so calls repeat each other's random numbers. Give each "
            "call a seed or a generator of its own; numpy.random.SeedSequence().spawn(n) makes "
            "n seeds."
        )
        warnings.warn(printable(text), RepeatedNumbersWarning, stacklevel=_users_level())
    for generator in new:
        _warned.add(generator, True)


def _state(generator: Any) -> list[bytes]:
    try:
        return [pickle.dumps(generator, protocol=5)]
    except Exception:  # noqa: BLE001 - its class may be the notebook's; this is ten times slower
        return [bytes(frame) for frame in pickled(generator)[0]]


def _users_level() -> int:
    """Return the ``stacklevel`` of the first frame that is not condorpool's."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the caller of `warn`
    level = 2
    while frame and frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
