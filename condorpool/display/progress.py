"""How far calls are, as plain values."""

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

#: Seconds over which the rate is taken.
WINDOW = 60.0

#: Seconds for which jobs may be idle before the pool's capacity is looked up.
SHORT = 3.0


@dataclass(frozen=True)
class Progress:
    """How far some calls are.

    Parameters
    ----------
    counts
        How many calls are in each state.
    jobs
        How many jobs are in each state, in words; those that have ended are not
        counted, and "queued" are those that HTCondor will make later.
    hosts
        On how many machines jobs run now.
    limit
        The most jobs at once.
    elapsed
        Seconds since the calls were posted, until the last one ended; they do not count when two
        of these are compared.
    rate, eta
        Calls per second in the last minute, and seconds to go at that rate; None if not known.
    note
        What the calls are waiting for.
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
    """Reads the progress of calls again and again, for its rate; one thread at a time may.

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
        """Return how far the calls are by now."""
        calls, session = self._calls, self._calls.session
        calls.refresh()
        failures = self._failures.update(calls.errors)
        with session.changed:
            counts = calls.counts()
            is_over = calls.is_ready or session.is_closed
            unreachable = session.state.unreachable
            silent = unreachable[1] if unreachable else None
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
        if "idle" in jobs and now - self._begun > SHORT and not is_over:
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
                silent=silent and now - silent,
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
        # With more digits it would change, and be sent to the front end, every time.
        return float(f"{rate:.2g}"), _round_time((calls - ended) / rate)


def _count_jobs(clusters: Sequence[Cluster]) -> dict[str, int]:
    """Count jobs by state, in words; of idle ones, those whose files are transferred apart."""
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
    """Find the machines where jobs run, and why others are held."""
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
    "idle": "Jobs are waiting for free slots until HTCondor's next negotiation.",
    "suspended": "The jobs are suspended: their machines are needed for other work now.",
}


def _note(
    jobs: dict[str, int],
    away: int,
    *,
    stuck: bool,
    ended: int,
    silent: float | None,
    capacity: Capacity | None,
) -> str:
    if silent is not None:
        return f"The access point has not answered for {silent:.0f} s; its jobs continue."
    if stuck:
        return "Only held jobs remain: release or remove them."
    if away:
        return f"{away:,} jobs are out of reach; HTCondor is waiting for their machines to return."
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
