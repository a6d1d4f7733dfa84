"""How quickly calls are made: what is known of the running ones, and how long others took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class RunningCall(NamedTuple):
    """A call that a running job is making.

    Attributes
    ----------
    number
        Its number.  If calls are shorter than the time between two reports of a runner, it may
        be one of the next calls.
    began
        When it began, in seconds since 1970.
    left
        How many calls of its chunk have not been made, with this one.
    """

    number: int
    began: float
    left: int


class Pace(NamedTuple):
    """How quickly calls are made.

    Attributes
    ----------
    seconds
        How long a call took, on average of those that ended lately; None if none has.
    running
        The calls that running jobs are making, of the jobs of which that is known.
    chunks
        How many chunks no job has taken yet.
    silence
        Seconds for which a job may make calls without a report; infinity for one that makes none.
    time
        The time, in seconds since 1970.
    """

    seconds: float | None
    running: Sequence[RunningCall]
    chunks: int
    silence: float
    time: float

    @property
    def longest(self) -> RunningCall | None:
        """The call that has been running longest, of those known."""
        return min(self.running, key=lambda call: call.began, default=None)

    def is_exact(self, call: RunningCall) -> bool:
        """Whether the number of a running call is certain, if it has run longer than `silence`."""
        tells = self.silence < math.inf and (not self.seconds or self.seconds >= self.silence)
        return tells or call.left == 1
