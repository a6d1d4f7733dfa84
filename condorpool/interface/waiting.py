"""Waiting for calls; a wait also handles held jobs and clicks in the widget."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import cast

from condorpool.display import Display
from condorpool.engine.calls import Calls
from condorpool.engine.tracker import tracker
from condorpool.interface.holding import Decisions
from condorpool.interface.options import checks
from condorpool.interface.options.keywords import OnHold
from condorpool.values.exceptions import ResultTimeoutError

#: Seconds after which a wait checks that the thread that would wake it, the tracker's, is alive.
LOOK = 1.0


class Waiting:
    """Waits for some calls, in any thread.

    Attributes
    ----------
    display
        The open display of the calls, if any.
    """

    def __init__(self, calls: Calls, on_hold: OnHold | None) -> None:
        self.calls = calls
        self.on_hold = on_hold
        self.display: Display | None = None

    @functools.cached_property
    def _decisions(self) -> Decisions:
        return Decisions(self.calls.session)

    def until(
        self, over: Callable[[], bool], timeout: float | None, on_hold: OnHold | None = None
    ) -> None:
        """Wait until ``over()`` is true; it is called under the lock.

        Raises
        ------
        ResultTimeoutError
            It is still false after ``timeout`` seconds.
        JobHeldError
            Only held jobs remain (``on_hold="raise"``).
        """
        on_hold, timeout = checks.on_hold(on_hold or self.on_hold), checks.timeout(timeout)
        begun = time.monotonic()
        end = math.inf if timeout is None else begun + timeout
        while True:
            with self.calls.session.changed:
                if over():
                    return
                if not self.is_stuck(on_hold, begun):
                    if time.monotonic() >= end:
                        raise ResultTimeoutError(cast("float", timeout))
                    self.pause(end)
                    continue
            on_hold = self.resolve(on_hold)

    def is_stuck(self, on_hold: OnHold | None, since: float) -> bool:
        """Return, under the lock, whether `resolve` must handle held jobs, or raise `JobHeldError`.

        ``since`` is when the wait began.
        """
        calls = self.calls
        calls.session.state.check_reach(since)
        if not calls.is_ready:
            tracker().check(calls.session)
        if on_hold is None:
            has_viewer = self.display is not None and self.display.has_viewer()
            on_hold = "wait" if has_viewer else "raise"
        if calls.batch is None:
            return False
        if callable(on_hold):
            return bool(self._decisions.due(calls.batch))
        if on_hold == "wait" or not calls.batch.is_stuck:
            return False
        if on_hold == "raise":
            calls.mark_reported()
            raise calls.batch.held_error()
        return True

    def resolve(self, on_hold: OnHold | None) -> OnHold:
        """Handle held jobs; return the ``on_hold`` that applies from now on."""
        if not callable(on_hold):
            self.calls.act("remove")
            return "wait"
        batch = self.calls.batch
        error = self._decisions.make(on_hold, batch) if batch else None
        if error:
            self.calls.mark_reported()
            raise error
        return on_hold

    def pause(self, end: float) -> None:
        """Wait for a change, at most until ``end``; the lock is held before and after."""
        if self.display:
            # There may be clicks that only this thread can read.
            end = min(end, time.monotonic() + self.display.poll_interval)
        self.calls.session.changed.wait(max(0.0, min(LOOK, end - time.monotonic())))
        if self.display:
            self.display.poll_clicks()

    def close_display(self) -> None:
        """Have the display show the final state."""
        if self.display:
            self.display.close()
