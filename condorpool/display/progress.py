"""The progress of calls, as plain values."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from condorpool.access.capacity import Capacity, probe
from condorpool.display.groups import Failed, FailedGroups, Held, HeldGroups
from condorpool.engine.counts import CallCounts
from condorpool.engine.jobs import Cluster
from condorpool.values.events import JobState
from condorpool.values.text import duration, plural

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls

#: The states of jobs that are in the queue, in the order of a job's life.
IN_QUEUE = tuple(state for state in JobState if not state.is_final)

#: Seconds over which the rate is measured.
WINDOW = 60.0

#: Seconds before the pool's capacity is looked up: most jobs start by then.
LOOKUP_DELAY = 3.0


@dataclass(frozen=True)
class Progress:
    """The progress of some calls.

    Parameters
    ----------
    counts
        How many calls are in each state.
    jobs
        The number of jobs by the word for their state.  Jobs that have ended are not
        counted; HTCondor will create those "queued" later.
    hosts
        The number of machines that run jobs now.
    limit
        At most this many jobs run at once.
    elapsed
        Seconds since the calls were posted, until the last one ended; they do not count when two
        of these are compared.
    rate, eta
        Calls per second in the last minute, and the remaining seconds at that rate; None if
        not known.
    note
        What the calls are waiting for, in a sentence for users.
    """

    name: str
    counts: CallCounts
    jobs: dict[str, int]
    hosts: int
    limit: int
    rate: float | None
    eta: float | None
    held: tuple[Held, ...]
    failures: tuple[Failed, ...]
    note: str
    ended: bool
    elapsed: float = field(compare=False)

    @property
    def shares(self) -> dict[str, int]:
        """The parts of a bar: how many calls are in each state in which there are any."""
        return {word: count for word, count in self.counts.shown.items() if count}

    @property
    def summary(self) -> str:
        """One line on how far the calls are."""
        parts = [self.counts.summary]
        if not self.ended:
            # What the others do can be seen from their calls.
            waiting = (
                (n, word) for word, n in self.jobs.items() if word not in ("running", "held")
            )
            parts += [f"{plural(n, 'job')} {word}" for n, word in waiting]
        return ", ".join([*parts, duration(self.elapsed)])


class Meter:
    """Reads the progress of calls repeatedly, to measure its rate; not thread-safe.

    Does not ask the access point: it reports what the event log and the runners said last, and
    what the HTCondor pool looked like a moment ago.
    """

    def __init__(self, calls: Calls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._clock = clock
        self._begun = clock()
        self._past = collections.deque([(self._begun, calls.ended)])
        self._held = HeldGroups()
        self._failures = FailedGroups()

    def read(self) -> Progress:
        """Return the current progress."""
        calls, session = self._calls, self._calls.session
        calls.refresh()
        failures = self._failures.update(calls.errors)
        with session.changed:
            counts = calls.counts()
            is_over = calls.is_ready or session.is_closed
            unreachable = session.state.unreachable
            unreachable_since = unreachable[1] if unreachable else None
            batch = calls.batch
            crew = batch.crew if batch else None
            clusters = list(crew.clusters) if crew and not is_over else []
            jobs = _count_jobs(clusters)
            away = sum(len(cluster.away) for cluster in clusters)
            stuck = bool(batch and crew and crew.count(JobState.HELD) and batch.is_stuck)
            hosts, reasons = _survey(clusters)
        ended, now = counts.ended, self._clock()
        rate, eta = self._speed(ended, counts.total, is_moving="running" in jobs)
        capacity = None
        if "idle" in jobs and now - self._begun > LOOKUP_DELAY and not is_over:
            capacity = probe(session.access_point.collector_address).read()
        return Progress(
            name=calls.name,
            counts=counts,
            jobs=jobs,
            hosts=len(hosts),
            limit=crew.limit if crew else 0,
            rate=None if is_over else rate,
            eta=None if is_over else eta,
            held=self._held.update(reasons),
            failures=failures,
            note=""
            if is_over
            else _note(
                jobs,
                away,
                stuck=stuck,
                ended=ended,
                unreachable=unreachable_since and now - unreachable_since,
                capacity=capacity,
            ),
            ended=is_over,
            elapsed=calls.elapsed,
        )

    def _speed(
        self, ended: int, calls: int, *, is_moving: bool
    ) -> tuple[float | None, float | None]:
        now = self._clock()
        self._past.append((now, ended))
        while len(self._past) > 2 and self._past[1][0] < now - WINDOW:
            self._past.popleft()
        since, before = self._past[0]
        rate = (ended - before) / (now - since) if now > since else 0.0
        if not rate or not is_moving:
            return None, None
        # Rounded, as each change is sent to the front end.
        return float(f"{rate:.2g}"), _round_time((calls - ended) / rate)


def _count_jobs(clusters: Sequence[Cluster]) -> dict[str, int]:
    """Count jobs by the words for their states; idle ones in file transfer apart."""
    transferring = sum(len(cluster.transferring) for cluster in clusters)
    jobs: dict[str, int] = {}
    for state in IN_QUEUE:
        jobs[state.word] = sum(cluster.counts[state] for cluster in clusters)
        if state is JobState.IDLE:
            jobs["idle"] -= transferring
            jobs["transferring"] = transferring
    return {word: count for word, count in jobs.items() if count > 0}


def _survey(
    clusters: Sequence[Cluster],
) -> tuple[set[str], collections.Counter[tuple[str, int, int, int]]]:
    """Return the machines where jobs run, and how many jobs are held for each reason."""
    hosts, reasons = set(), collections.Counter[tuple[str, int, int, int]]()
    for cluster in clusters:
        if cluster.counts[JobState.RUNNING]:
            running = {job.host for job in cluster.jobs if job.state is JobState.RUNNING}
            hosts |= {host.partition("@")[2] or host for host in running}
        if cluster.counts[JobState.HELD]:
            held = (job for job in cluster.jobs if job.state is JobState.HELD)
            reasons.update((job.reason, job.code, job.subcode, job.holds) for job in held)
    return hosts, reasons


def _round_time(seconds: float) -> float:
    step = 10 ** max(0, math.floor(math.log10(max(1, seconds))) - 1)
    return float(math.ceil(seconds / step) * step)


#: What calls are waiting for, by the most advanced state of their jobs.
_WAITS = {
    "running": "Jobs are running; no call has ended yet.",
    "transferring": "Files are being transferred to the jobs' machines.",
    "idle": "HTCondor matches idle jobs with slots at its next negotiation.",
    "suspended": "The jobs are suspended while their machines do other work.",
}


def _note(
    jobs: dict[str, int],
    away: int,
    *,
    stuck: bool,
    ended: int,
    unreachable: float | None,
    capacity: Capacity | None,
) -> str:
    if unreachable is not None:
        return f"The access point has not answered for {unreachable:.0f} s; its jobs continue."
    if stuck:
        return "Only held jobs remain: release or remove them."
    if away:
        are = "1 job is" if away == 1 else f"{away:,} jobs are"
        return f"{are} disconnected; HTCondor is trying to reconnect."
    if capacity and "transferring" not in jobs:
        return _wait_for_slots(jobs["idle"], capacity)
    if ended and "running" in jobs:
        return ""
    waits = (text for word, text in _WAITS.items() if word in jobs)
    return next(waits, "Jobs are being submitted.")


def _wait_for_slots(idle: int, capacity: Capacity) -> str:
    jobs = "1 job is waiting" if idle == 1 else f"{idle:,} jobs are waiting"
    is_full = capacity.cpus > 0 and not capacity.free
    free = f"{capacity.free:,} of the pool's {capacity.cpus:,} CPUs are free"
    if is_full:
        free = f"all {capacity.cpus:,} CPUs of the pool are in use"
    seconds = capacity.until_negotiation(time.time())
    then = "" if is_full else "; a job's analyze() says why it gets none of them"
    if seconds is not None:
        then = f"; the next negotiation is in about {seconds:.0f} s"
    return f"{jobs} for slots: {free}{then}."
