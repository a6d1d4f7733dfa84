"""The results that users may ask a pool for."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from condorpool.engine.gathered import GatheredCalls
from condorpool.interface.handle import Handle
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.results import Result

#: The most results of blocking verbs that raised to keep, so that their other values can be read.
MOST_RAISED = 5


def _none() -> None:
    """Return None: there was no call."""


class KeptResults:
    """The results that users may ask a pool for, the latest last.

    A result is dropped when all its calls have returned and its user has the values, or on
    request.  One with a name can be found by the name until it is forgotten.
    """

    def __init__(self) -> None:
        self._listed: dict[GatheredCalls, Result[Any]] = {}
        self._named: dict[GatheredCalls, Result[Any]] = {}
        self._raised: deque[Result[Any]] = deque()
        self._last: Callable[[], Handle | None] = _none

    @property
    def last(self) -> Handle | None:
        """The result of the last call, or its iterator."""
        return self._last()

    def set_last(self, handle: Handle) -> None:
        """Keep the result of the last call until the next one."""
        self._last = lambda: handle

    def release_last(self) -> None:
        """Keep the iterator of the last call no longer than its user does.

        As long as there is an iterator, a pool that closes makes its calls to the end.
        """
        if isinstance(last := self._last(), ResultIterator):
            self._last = weakref.ref(last)

    @property
    def listed(self) -> list[Result[Any]]:
        """All results except those that are kept for their name alone."""
        return list(self._listed.values())

    def add(self, calls: GatheredCalls, result: Result[Any]) -> None:
        """Keep the result of these calls."""
        calls.keeper = self
        self._listed[calls] = result

    def add_name(self, calls: GatheredCalls, result: Result[Any]) -> None:
        """Find a result by its name from now on."""
        self._named[calls] = result

    def named(self, name: str | None = None) -> list[Result[Any]]:
        """Return the results with this name, or with any, the latest last."""
        named = list(self._named.items())
        return [result for calls, result in named if name is None or calls.name == name]

    def note_raised(self, result: Result[Any]) -> None:
        """Note that a blocking verb raised; drop the earliest such result if there are many.

        An exception refers to all frames that it passed, and to the values in them.
        """
        self._raised.append(result)
        if len(self._raised) > MOST_RAISED:
            earliest = self._raised.popleft()
            self.drop(lambda calls: self._listed.get(calls) is earliest)

    @property
    def unsettled(self) -> dict[GatheredCalls, Result[Any]]:
        """Those that have not ended, or have errors, by their calls."""
        listed = list(self._listed.items())
        return {calls: result for calls, result in listed if not calls.is_ready or calls.errors}

    def unreported(self) -> list[tuple[Result[Any], BaseException]]:
        """Return the results with failures that were not reported, and the first error of each."""
        return [
            (result, calls.errors[min(calls.errors)])
            for calls, result in list(self._listed.items())
            if calls.errors and not calls.is_reported
        ]

    def mark_reported(self) -> None:
        """Note that no failure needs to be reported to the user."""
        for calls in list(self._listed):
            calls.mark_reported()

    def drop(self, unwanted: Callable[[GatheredCalls], object]) -> None:
        """Drop the results whose calls are unwanted."""
        for calls in [calls for calls in list(self._listed) if unwanted(calls)]:
            self._listed.pop(calls, None)

    def clear(self) -> None:
        """Drop all results."""
        self._listed.clear()
        self._named.clear()
        self._raised.clear()

    # -- called by calls -----------------------------------------------------------
    def release(self, calls: GatheredCalls) -> None:
        """Drop the result: its user has the values."""
        self._listed.pop(calls, None)

    def forget(self, calls: GatheredCalls) -> None:
        """Stop finding the result by its name."""
        self._named.pop(calls, None)
