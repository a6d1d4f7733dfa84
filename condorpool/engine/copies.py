"""Random generators that go to jobs: each job has a copy, which gives the numbers of all others."""

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

#: How many generators are remembered.
REMEMBERED = 1_000

#: How many are named.
_NAMED = 3

_PACKAGE = f"{Path(__file__).parents[1]}/"


class RepeatedNumbersWarning(UserWarning):
    """A random generator goes to jobs as a copy, and calls repeat each other's numbers."""


class _Known(dict[int, tuple[Any, Any]]):
    """What is known of objects that cannot be hashed, by their ids."""

    def of(self, value: object) -> Any:
        """Return it, None if there is nothing."""
        return self.get(id(value), (None, None))[1]

    def add(self, value: object, fact: object) -> None:
        """Remember it; no other object gets the id meanwhile."""
        number = id(value)
        try:
            kept: Any = weakref.ref(value, lambda _: self.pop(number, None))
        except TypeError:
            kept = value  # numpy's have no weak references, and are small
        self[number] = kept, fact
        if len(self) > REMEMBERED:  # the list, since others may add and lose some meanwhile
            self.pop(list(self)[0], None)  # noqa: RUF015


_states = _Known()
_told = _Known()


def that_repeat(generators: Sequence[Any]) -> list[Any]:
    """Return those that went along with other calls before, just as they are now.

    One that goes along once repeats nothing, nor does one that has gone on since.
    """
    found = []
    for generator in generators:
        state = _state(generator)
        if _states.of(generator) == state:
            found.append(generator)
        _states.add(generator, state)
    return found


def tell(generators: Sequence[Any], name: Callable[[Any], str | None], what: str) -> None:
    """Tell the user once what copies of these do, at the line of theirs that makes the calls.

    Parameters
    ----------
    name
        Says where a generator is.
    what
        What they go along with.
    """
    new = [generator for generator in generators if not _told.of(generator)]
    names = dict.fromkeys(f"`{path}`" for path in map(name, new[:_NAMED]) if path)
    if new:
        warnings.warn(
            f"{', '.join(names) or 'a random generator'} goes along with {what}: every job gets "
            "a copy in the same state, so calls repeat each other's random numbers. Give each "
            "call a seed or a generator of its own; numpy.random.SeedSequence().spawn(n) makes "
            "n seeds.",
            RepeatedNumbersWarning,
            stacklevel=_users_level(),
        )
    for generator in new:
        _told.add(generator, True)


def _state(generator: Any) -> list[bytes]:
    try:
        return [pickle.dumps(generator, protocol=5)]
    except Exception:  # noqa: BLE001 - of a class of the notebook; this costs ten times as much
        return [bytes(frame) for frame in pickled(generator)[0]]


def _users_level() -> int:
    """Return how far up the line is that is not ours, as warnings count."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - of who calls warn()
    level = 2
    while frame and frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
