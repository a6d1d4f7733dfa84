"""The rate and the remaining time of calls that all take equally long."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field

import pytest

from condorpool.display.estimate import GRACE, OVERDUE, Estimator
from condorpool.engine.counts import CallCounts
from condorpool.engine.pace import Pace, RunningCall


@dataclass
class Chunk:
    """A chunk, and when its calls are made and known to be."""

    first: int
    size: int
    begun: float = math.inf
    over: float = math.inf  # when its job takes the next one
    ends: list[float] = field(default_factory=list)
    news: list[float] = field(default_factory=list)  # when the client knows of each


@dataclass
class Work:
    """Calls that take ``seconds`` each on some CPUs, and what the client knows of them at a time."""

    calls: int
    seconds: float
    cpus: int
    size: int
    delay: float = 0.0  # of news, at most
    reports: float = 0.5  # seconds between two reports; infinite for none
    overhead: float = 0.01  # seconds for each chunk
    start: float = 0.3  # seconds within which jobs begin
    stuck: int = -1  # a call that never ends

    def __post_init__(self):
        chance = random.Random(str(self))
        self.chunks = []
        free = [chance.uniform(0, self.start) for _ in range(self.cpus)]
        for first in range(0, self.calls, self.size):
            chunk = Chunk(first, min(self.size, self.calls - first))
            cpu = min(range(self.cpus), key=free.__getitem__)
            time = chunk.begun = free[cpu]
            reported = time
            for number in range(first, first + chunk.size):
                time += math.inf if number == self.stuck else self.seconds
                chunk.ends.append(time)
                is_last = number == first + chunk.size - 1
                if is_last or time >= reported + self.reports:
                    reported = time
                    chunk.news.append(time + chance.uniform(0, self.delay))
                else:
                    chunk.news.append(math.inf)  # with a later one
            for i in reversed(range(chunk.size - 1)):
                chunk.news[i] = min(chunk.news[i], chunk.news[i + 1])
            free[cpu] = chunk.over = time + self.overhead
            self.chunks.append(chunk)
        self.end = max(free)

    def known(self, now):
        """Return what the client knows."""
        done, seconds, running, untaken, waiting = 0, 0.0, [], 0, 0
        for chunk in self.chunks:
            made = sum(news <= now for news in chunk.news)
            done += made
            seconds += chunk.ends[made - 1] - chunk.begun if made else 0.0
            if now < chunk.begun:
                untaken += 1
                waiting += chunk.size
            elif now >= chunk.over:
                waiting += chunk.size - made  # for their outcome to be read
            elif made < chunk.size:
                began = chunk.begun
                if made and self.reports < math.inf:
                    began = chunk.ends[made - 1]
                running.append(RunningCall(chunk.first + made, began, chunk.size - made))
                waiting += chunk.size - made - 1
        counts = CallCounts(done, running=len(running), waiting=waiting)
        assert counts.total == self.calls
        return counts, Pace(seconds / done if done else None, running, untaken, self.reports, now)

    def watch(self, until=math.inf, every=0.25):
        """Yield the time and what is estimated, as often as a display asks."""
        estimator, now = Estimator(), 0.0
        while now < min(self.end, until):
            yield now, *estimator.update(now, *self.known(now))
            now += every


CASES = [
    # calls, seconds, CPUs, chunk size, delay of news
    *itertools.product([40], [3.0], [1, 2, 3, 8], [1, 5], [0.0, 0.75]),
    *itertools.product([60], [0.7, 1.3, 20.0], [2, 5], [1, 4, 15], [0.5]),
    *itertools.product([600], [0.1, 0.25], [2, 16], [10, 25], [0.0, 0.75]),
    (12, 300.0, 2, 3, 1.0),
    (1000, 30.0, 100, 5, 1.0),
]


@pytest.mark.parametrize(("calls", "seconds", "cpus", "size", "delay"), CASES)
def test_the_estimate_of_equal_calls_never_rises(calls, seconds, cpus, size, delay):
    """It counts down to the end, and the rate stays what it is."""
    work = Work(calls, seconds, cpus, size, delay)
    shown = list(work.watch())
    etas = [(now, eta) for now, _, eta in shown if eta is not None]
    assert etas
    for (_, before), (_, after) in itertools.pairwise(etas):
        assert after <= before + 1e-6
    # Nothing is known before calls have ended, which is in part seen later.
    known_after = seconds * (1 + work.reports // seconds) + delay + 1.0
    assert etas[0][0] <= known_after + 0.3
    for now, eta in etas:
        assert abs(now + eta - work.end) <= 0.2 * (work.end - now) + 3.0
    # As long as there is work for all CPUs.
    busy_until = max(chunk.begun for chunk in work.chunks)
    for now, rate, _ in shown:
        if rate is not None and known_after < now < busy_until:
            assert rate == pytest.approx(cpus / seconds, rel=0.2)


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("overhead", [0.3, 1.0])
def test_jobs_that_report_nothing(cpus, overhead):
    """Where each chunk has a job of its own, the time between jobs counts."""
    work = Work(30, 3.0, cpus, 1, 0.5, reports=math.inf, overhead=overhead)
    etas = [eta for _, _, eta in work.watch() if eta is not None]
    assert etas
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(etas))


@pytest.mark.parametrize("size", [1, 5])
def test_an_endless_call_has_no_estimate(size):
    """When the others have ended there is none, and no rate."""
    work = Work(20, 3.0, 2, size, 0.5, stuck=7)
    others = max(end for chunk in work.chunks for end in chunk.ends if end < math.inf)
    shown = {now: seen for now, *seen in work.watch(until=others + 60)}
    assert any(eta is not None for _, eta in shown.values())
    late = [seen for now, seen in shown.items() if now > others + OVERDUE * 3.0 + GRACE + 1.0]
    assert late
    assert set(map(tuple, late)) == {(None, None)}


def test_a_first_endless_call_has_no_estimate():
    """Nothing has ended yet."""
    work = Work(4, 3.0, 1, 4, stuck=0)
    assert {tuple(seen) for _, *seen in work.watch(until=60)} == {(None, None)}


def test_fewer_jobs_mean_a_later_end():
    """When half of the jobs are gone, the estimate rises after a while."""
    estimator, shown = Estimator(), []
    work, half = Work(400, 1.0, 8, 1), Work(400, 1.0, 4, 1)
    for step in range(120):
        now = step / 4
        counts, pace = (work if now < 10 else half).known(now)
        counts = counts._replace(done=8 * int(min(now, 10)) + 4 * int(max(0, now - 10)), waiting=0)
        counts = counts._replace(waiting=400 - counts.total)
        pace = pace._replace(chunks=counts.waiting)
        shown.append(estimator.update(now, counts, pace)[1])
    assert shown[36] == pytest.approx(41, abs=5)
    assert shown[-1] == pytest.approx(60, abs=12)


def test_an_iterator_that_takes_more_items_has_a_rate_only():
    """Its end is not known."""
    work, estimator = Work(40, 1.0, 2, 1), Estimator()
    for step in range(20):
        rate, eta = estimator.update(step / 2, *work.known(step / 2), is_whole=False)
    assert rate == pytest.approx(2.0, rel=0.2)
    assert eta is None
