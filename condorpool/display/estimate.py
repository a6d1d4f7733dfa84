"""How many calls end in a second, and when the last one will: estimates from what is known."""

from __future__ import annotations

import collections
import heapq
import math
import operator
from typing import NamedTuple

from condorpool.engine.counts import CallCounts
from condorpool.engine.pace import Pace, RunningCall

#: Seconds, at most and at least, over which the rate is taken.
WINDOW, LEAST = 60.0, 1.0

#: Nothing is estimated when no call has ended for so many times what calls took, and some seconds.
OVERDUE, GRACE = 3.0, 5.0

#: An end that is later by this part of the remaining time, for so many seconds, is shown at once.
MUCH_LATER, PATIENCE = 0.5, 5.0

#: So many calls for each job show reliably what jobs do besides making calls.
FIRM = 10

#: Seconds from the end of a job to the begin of another in its place, at most.
PAUSE = 5.0

#: Chunks, at most, for which it is worked out which job makes each of them.
MOST_CHUNKS = 1000


class Point(NamedTuple):
    """What was known at some time.

    Attributes
    ----------
    ended
        How many calls had ended.
    busy
        How many seconds of work the running calls had behind them.
    capacity
        The seconds that all jobs together have been running calls.
    """

    time: float
    ended: int = 0
    busy: float = 0.0
    capacity: float = 0.0

    def work(self, each: float) -> float:
        """How many calls had been made, with parts of those that ran, if each takes so long."""
        return self.ended + self.busy / each


class Estimator:
    """Estimates from what is known now and then.

    Running calls count in part, by how long others took: so the rate is the same before and
    after some calls end at a time.  A call that takes longer than others counts once.  When it
    is silent, nothing is inferred: the rate is that of the last news.
    """

    def __init__(self) -> None:
        self._points: collections.deque[Point] = collections.deque()
        self._capacity = 0.0  # as in points, by now
        self._running: collections.deque[tuple[float, int]] = collections.deque()  # lately
        self._slots, self._time = 0, -math.inf  # the most of them, and when that was asked
        self._ended, self._news_at = 0, -math.inf  # ended calls, and when that was news
        self._end: float | None = None  # when the last call is expected to end
        self._later_since: float | None = None

    def update(
        self, now: float, counts: CallCounts, pace: Pace, *, is_whole: bool = True
    ) -> tuple[float | None, float | None]:
        """Return the calls per second, and the seconds until the last one ends; None if unknown.

        Parameters
        ----------
        now
            The time, by any clock.
        is_whole
            Whether no more calls will come.
        """
        self._running.append((now, counts.running))
        while self._running[0][0] < now - PAUSE:
            self._running.popleft()
        passed, before, self._time = now - self._time, self._slots, now
        self._slots = max(running for _, running in self._running)
        self._capacity += before * passed if before else 0.0
        if not self._slots:
            self._points.clear()
            self._end = None
            return None, None
        self._note(now, counts, pace)
        each = pace.seconds or 0.0
        if not each or self._is_overdue(now, pace, each):
            self._end = None
            return None, None
        first, last = self._points[0], self._points[-1]
        seconds, capacity = last.time - first.time, last.capacity - first.capacity
        running: float = self._slots
        if seconds >= LEAST and (work := last.work(each) - first.work(each)) > 0.0:
            running = capacity / seconds
            # What jobs do besides making calls takes time, too.  Some calls have ended of which
            # the news is on its way: they matter less, the more are known.
            other = min(each, max(0.0, capacity / work - each))
            each += other * work / (work + FIRM * running)
        rest = _time_left(counts, pace, self._slots, each) if is_whole else None
        return running / each, self._count_down(now, passed, rest)

    def _is_overdue(self, now: float, pace: Pace, each: float) -> bool:
        """Return whether all running calls, or all news, take much longer than calls took so far."""
        limits = [OVERDUE * _limit(call, pace) + GRACE for call in pace.running]
        ages = (pace.time - call.began for call in pace.running)
        is_silent = now - self._news_at > max(limits, default=OVERDUE * each + GRACE)
        return is_silent or (bool(limits) and all(map(operator.gt, ages, limits)))

    def _note(self, now: float, counts: CallCounts, pace: Pace) -> None:
        """Add a point if there is news."""
        ages = [max(0.0, pace.time - call.began) for call in pace.running]
        last = self._points[-1] if self._points else None
        if counts.ended != self._ended or last is None:
            self._news_at = now
        if last is None or counts.ended < self._ended:
            self._points.clear()
            if counts.ended:
                last, self._capacity = Point(now, counts.ended, sum(ages)), 0.0
            else:  # the first call began before this was asked
                last, self._capacity = Point(now - max(ages, default=0.0)), sum(ages)
            self._points.append(last)
        self._ended = counts.ended
        each = pace.seconds or math.inf
        busy = sum(
            min(age, _limit(call, pace)) for age, call in zip(ages, pace.running, strict=True)
        )
        point = Point(now, counts.ended, busy, self._capacity)
        if point.work(each) > last.work(each):
            self._points.append(point)
        while len(self._points) > 2 and self._points[1].time < now - WINDOW:
            self._points.popleft()

    def _count_down(self, now: float, passed: float, rest: float | None) -> float | None:
        """Return the seconds to the expected end; they rise only if it is much later for a while."""
        end = None if rest is None else now + rest
        if end is None or self._end is None or end <= self._end:
            self._end, self._later_since = end, None
        else:
            # If it is a little later, the seconds count down at half speed until they are right.
            self._end = min(end, self._end + passed / 2)
            if end - self._end < max(PATIENCE, MUCH_LATER * (self._end - now)):
                self._later_since = None
            elif self._later_since is None:
                self._later_since = now
            elif now - self._later_since >= PATIENCE:
                self._end, self._later_since = end, None
        return self._end - now if self._end is not None and self._end > now else None


def _limit(call: RunningCall, pace: Pace) -> float:
    """Return the seconds after which a job must have made a call, or reported that it has."""
    each = pace.seconds or math.inf
    return min(each * call.left, max(each, pace.silence))


def _time_left(counts: CallCounts, pace: Pace, slots: int, each: float) -> float:
    """Return the seconds until all calls have ended, if each takes as long as others took."""
    free = []  # when each job is
    for call in pace.running:
        age = min(max(0.0, pace.time - call.began), _limit(call, pace))
        free.append(max(0.0, call.left * each - age))
    free += [0.0] * (slots - len(free))
    calls = max(0, counts.waiting - sum(call.left - 1 for call in pace.running))
    if not pace.chunks or not calls:
        return max(free)
    size = calls / pace.chunks * each
    if pace.chunks > MOST_CHUNKS:
        return (sum(free) + calls * each) / len(free) + size / 2
    heapq.heapify(free)
    for _ in range(pace.chunks):
        heapq.heapreplace(free, free[0] + size)
    return max(free)
