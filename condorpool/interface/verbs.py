"""The original CondorPool's names for the state of a result."""

from __future__ import annotations

import math
import time

from condorpool.engine.calls import GatheredCalls
from condorpool.interface.options import checks
from condorpool.interface.waiting import Waiting
from condorpool.values.events import JobState

#: The states of calls; of several the first counts.
_ADVANCED_FIRST = (
    JobState.RUNNING,
    JobState.IDLE,
    JobState.UNMATERIALIZED,
    JobState.SUSPENDED,
    JobState.HELD,
    JobState.REMOVED,
    JobState.COMPLETED,
)

#: Seconds after which a wait for jobs to start looks again: no event says which job takes a call.
TICK = 0.1


class OriginalVerbs:
    """Asks calls for their state."""

    _calls: GatheredCalls
    _waiting: Waiting

    def submitted(self) -> bool:
        """Return whether the calls were submitted: those of a pool's results were."""
        return self._calls.is_posted

    def completed(self) -> bool:
        """Return the same as `ready`."""
        return self._calls.is_ready

    def output_exists(self) -> bool:
        """Return whether all calls have returned, at any time."""
        return self._calls.is_ready and not self._calls.errors

    def status(self) -> str | None:
        """Return the state of the calls: ``Idle``, ``Running``, ``Suspended``, ``Held``, ...

        ``Completed`` is for calls that have ended in any way; of several calls the most
        advanced one counts.
        """
        self._calls.holders()
        with self._calls.session.changed:
            states = self._calls.states()
        return next(state.original_word for state in _ADVANCED_FIRST if state in states)

    def _statuses(self) -> set[str]:
        """Return, under the lock, the statuses of calls that have not ended."""
        return {state.original_word for state in self._calls.states()}

    def wait_to_start(self, timeout: float | None = None, polltime: float | None = None) -> None:  # noqa: ARG002
        """Wait until no call is idle any more, at most ``timeout`` seconds."""
        timeout = checks.timeout(timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self.status() == JobState.IDLE.original_word and time.monotonic() < end:
            with self._calls.session.changed:
                self._waiting.pause(min(end, time.monotonic() + TICK))
