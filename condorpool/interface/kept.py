"""The results that users may ask a pool for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from condorpool.engine.calls import GatheredCalls
from condorpool.interface.results import Result

#: Results of blocking verbs that raised, whose other values can still be asked for, at most.
MOST_RAISED = 5


class KeptResults:
    """The results that users may ask a pool for, the latest last.

    A result leaves when the pool need not keep it: its values were returned and all is well,
    or it was dropped.  One with a name can be found by that until it is forgotten.
    """

    def __init__(self) -> None:
        self._listed: dict[GatheredCalls, Result[Any]] = {}
        self._named: dict[str, Result[Any]] = {}
        self._raised: deque[Result[Any]] = deque()

    @property
    def listed(self) -> list[Result[Any]]:
        """All but those that are kept for their name alone."""
        return list(self._listed.values())

    def add(self, calls: GatheredCalls, result: Result[Any]) -> None:
        """Keep a result of these calls."""
        calls.keeper = self
        self._listed[calls] = result

    def add_name(self, calls: GatheredCalls, result: Result[Any]) -> None:
        """Find a result by its name from now on."""
        self._named[calls.name] = result

    def named(self, name: str) -> Result[Any] | None:
        """Return the result with this name."""
        return self._named.get(name)

    def note_raised(self, result: Result[Any]) -> None:
        """Drop the earliest of many results that raised.

        What is raised has all frames that it comes through, with the values in them.
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
        """Return those with failed calls of which the user does not know, and their first errors."""
        return [
            (result, calls.errors[min(calls.errors)])
            for calls, result in list(self._listed.items())
            if calls.errors and not calls.is_reported
        ]

    def mark_reported(self) -> None:
        """Note that the user need not hear how the calls of any end."""
        for calls in list(self._listed):
            calls.mark_reported()

    def drop(self, unwanted: Callable[[GatheredCalls], object]) -> None:
        """List those no longer whose calls are like this."""
        for calls in [calls for calls in list(self._listed) if unwanted(calls)]:
            self._listed.pop(calls, None)

    def clear(self) -> None:
        """Keep nothing."""
        self._listed.clear()
        self._named.clear()
        self._raised.clear()

    # -- what calls say ------------------------------------------------------------
    def release(self, calls: GatheredCalls) -> None:
        """List the result no longer: its user has the values."""
        self._listed.pop(calls, None)

    def forget(self, calls: GatheredCalls) -> None:
        """Do not find the result by its name any more."""
        self._named.pop(calls.name, None)
