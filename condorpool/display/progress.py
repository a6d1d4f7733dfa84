"""The progress of calls, as plain values."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from condorpool.access.capacity import INTERVAL, Capacity, probe
from condorpool.access.lookout import fit_of
from condorpool.display.estimate import Estimator
from condorpool.display.groups import Failed, FailedGroups, Held, HeldGroups
from condorpool.engine.counts import CallCounts
from condorpool.engine.jobs import Cluster
from condorpool.engine.pace import Pace
from condorpool.engine.staffing import Staffing
from condorpool.engine.why import why_never
from condorpool.values.events import JobState
from condorpool.values.text import duration, plural

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls

#: The states of jobs that are in the queue, in the order of a job's life.
IN_QUEUE = tuple(state for state in JobState if not state.is_final)

# The states of jobs that can be seen from their calls.
_SEEN = {"running", "held", "queued"}

#: Seconds after which a running call is shown.
LONG = 1.0

# Remaining times, at most, and the seconds to which they are rounded up.
_STEPS = ((60, 1), (600, 10), (3600, 60), (math.inf, 600))

#: Seconds before the pool's capacity is looked up: most jobs start by then.
LOOKUP_DELAY = 3.0


@dataclass(frozen=True)
class Longest:
    """The call that has been running longest.

    Parameters
    ----------
    seconds
        For how long; not part of comparisons.
    is_exact
        Whether the number is certain: calls are not so short that jobs report only some of them.
    """

    call: int
    seconds: float = field(compare=False)
    is_exact: bool = True

    def __str__(self) -> str:
        call = f"call {self.call:,}" if self.is_exact else f"about call {self.call:,}"
        return f"{duration(self.seconds)}: {call}"


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
        Calls per second lately, and the seconds until the last call ends; None if not known.
    longest
        The call that has been running longest; None if not known, or if that is not long.
    note
        What the calls are waiting for, in a sentence for users.
    never
        Why no slot of the pool can run the jobs, in a sentence; empty if one can, or if that is
        not known.
    """

    name: str
    counts: CallCounts
    jobs: dict[str, int]
    hosts: int
    limit: int
    rate: float | None
    eta: float | None
    longest: Longest | None
    held: tuple[Held, ...]
    failures: tuple[Failed, ...]
    note: str
    ended: bool
    elapsed: float = field(compare=False)
    never: str = ""

    @property
    def shares(self) -> dict[str, int]:
        """The parts of a bar: how many calls are in each state in which there are any."""
        return {word: count for word, count in self.counts.shown.items() if count}

    @property
    def summary(self) -> str:
        """One line on how far the calls are."""
        parts = self.counts.parts
        if self.longest:
            running = f"{self.counts.running:,} running"
            most = "the longest " if self.counts.running > 1 else ""
            parts[parts.index(running)] = f"{running} ({most}{self.longest})"
        if not self.ended:
            others = (each for each in self.jobs.items() if each[0] not in _SEEN)
            parts += [f"{plural(n, 'job')} {word}" for word, n in others]
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
        self._estimator = Estimator()
        self._held = HeldGroups()
        self._failures = FailedGroups()

    def read(self) -> Progress:
        """Return the current progress."""
        calls, session = self._calls, self._calls.session
        calls.refresh()
        failures = self._failures.update(calls.errors)
        with session.changed:
            counts, pace = calls.counts(), calls.pace()
            is_over = calls.is_ready or session.is_closed
            troubles, gone = dict(session.state.troubles), session.state.ended
            batch = calls.batch
            is_open = batch is not None and batch.is_open
            crew = batch.crew if batch else None
            clusters = list(crew.clusters) if crew and not is_over else []
            jobs = _count_jobs(clusters)
            away = sum(len(cluster.away) for cluster in clusters)
            stuck = bool(batch and crew and crew.count(JobState.HELD) and batch.is_stuck)
            hosts, reasons = _survey(clusters)
            waiting = crew.waiting_job if crew and not is_over else None
        now = self._clock()
        rate, eta = self._estimator.update(now, counts, pace, is_whole=not is_open)
        capacity, never = None, ""
        if "idle" in jobs and now - self._begun > LOOKUP_DELAY and not is_over:
            capacity = probe(session.access_point.collector_address).read()
            fit = fit_of(session.access_point, waiting.id) if waiting else None
            never = f"These calls cannot run: {why}." if fit and (why := why_never(fit)) else ""
        return Progress(
            name=calls.name,
            counts=counts,
            jobs=jobs,
            hosts=len(hosts),
            limit=crew.limit if crew else 0,
            # Rounded, as each change is sent to the front end.
            rate=float(f"{rate:.2g}") if rate and not is_over else None,
            eta=_round_time(eta) if eta and not is_over else None,
            longest=_longest(counts, pace) if not is_over else None,
            held=self._held.update(reasons),
            failures=failures,
            note=""
            if is_over or never
            else _note_of_end(gone)
            if gone
            else _note(
                jobs,
                away,
                stuck=stuck,
                ended=counts.ended,
                trouble=_words_of(troubles, now),
                capacity=capacity,
                has_made_room=Staffing.made_room(INTERVAL),
            ),
            ended=is_over,
            elapsed=calls.elapsed,
            never=never,
        )


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


def _longest(counts: CallCounts, pace: Pace) -> Longest | None:
    """Return the call that has been running longest, if it is one that others do not overtake."""
    call = pace.longest
    seconds = pace.time - call.began if call else 0.0
    least = max(LONG, pace.silence) if pace.silence < math.inf else LONG
    if not call or not counts.running or seconds < least:
        return None
    return Longest(call.number, seconds, pace.is_exact(call))


def _round_time(seconds: float) -> float:
    """Round up a time: more digits than these are not known, and would change all the time."""
    step = next(step for most, step in _STEPS if seconds <= most)
    return float(math.ceil(seconds / step) * step)


#: What calls are waiting for, by the most advanced state of their jobs.
_WAITS = {
    "running": "Jobs are running; no call has ended yet.",
    "transferring": "Files are being transferred to the jobs' machines.",
    "idle": "HTCondor matches idle jobs with slots at its next negotiation.",
    "suspended": "The jobs are suspended while their machines do other work.",
}


def _words_of(troubles: Mapping[str, tuple[Exception, float]], now: float) -> str:
    """Return what keeps results from arriving, if anything does."""
    for kind, (error, since) in troubles.items():
        if kind == "queue":
            return f"The access point has not answered for {now - since:.0f} s; its jobs continue."
        return str(error)
    return ""


def _note_of_end(error: Exception) -> str:
    why = str(error).partition("\n")[0]
    return f"These calls cannot be made now: {why} They are kept, and continue then."


def _note(
    jobs: dict[str, int],
    away: int,
    *,
    stuck: bool,
    ended: int,
    trouble: str,
    capacity: Capacity | None,
    has_made_room: bool,
) -> str:
    if trouble:
        return trouble
    if stuck:
        return "Only held jobs remain: release or remove them."
    if away:
        are = "1 job is" if away == 1 else f"{away:,} jobs are"
        return f"{are} disconnected; HTCondor is trying to reconnect."
    if capacity and "transferring" not in jobs:
        return _wait_for_slots(jobs["idle"], capacity, has_made_room=has_made_room)
    if ended and "running" in jobs:
        return ""
    waits = (text for word, text in _WAITS.items() if word in jobs)
    return next(waits, "Jobs are being submitted.")


def _wait_for_slots(idle: int, capacity: Capacity, *, has_made_room: bool = False) -> str:
    jobs = "1 job is waiting" if idle == 1 else f"{idle:,} jobs are waiting"
    if not capacity.cpus:
        return f"{jobs} for slots: the HTCondor pool has none now. They start when some appear."
    is_full = not capacity.free
    free = f"{capacity.free:,} of the pool's {capacity.cpus:,} CPUs are free"
    if is_full:
        free = f"all {capacity.cpus:,} CPUs of the pool are in use"
        if has_made_room:  # the capacity may be from before
            free = "your jobs that were waiting for calls are leaving theirs"
    seconds = capacity.until_negotiation(time.time())
    then = "" if is_full else "; a job's analyze() says why it gets none of them"
    if seconds is not None:
        then = f"; the next negotiation is in about {seconds:.0f} s"
    return f"{jobs} for slots: {free}{then}."
