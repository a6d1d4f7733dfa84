"""Batches: the chunks of one call of map, and their progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from condorpool.engine.deliveries import Lane
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import MOVING, Crew, Job
from condorpool.engine.outcomes import Outcome
from condorpool.engine.pace import RunningCall
from condorpool.engine.records import BatchRecord
from condorpool.values.events import JobState
from condorpool.values.exceptions import JobError, JobHeldError
from condorpool.values.guards import guarded
from condorpool.values.holds import cure

#: The states of jobs of a plain crew that have a chunk which other jobs need not make.
_HAS_BEGUN = {JobState.RUNNING, JobState.SUSPENDED, JobState.HELD}

#: Takes a chunk's first call, its end, its outcome and its job; returns what to run once
#: the chunk counts as delivered.
Deliver = Callable[[int, int, "Outcome | JobError", "Job | None"], "Callable[[], object] | None"]


class UnderWay(NamedTuple):
    """How many calls of chunks that have not finished are in which state; the others wait."""

    done: int = 0
    failed: int = 0
    running: int = 0
    held: int = 0


class Made(NamedTuple):
    """What a runner reported of its chunk.

    Attributes
    ----------
    job, run
        The runner, and which of its runs: what it made in an earlier one is lost.
    calls, failed
        How many calls it has made, and how many of these failed.
    seconds
        How long these calls took.
    since
        When it began the call that it is making, in seconds since 1970.
    """

    job: Job
    run: int
    calls: int
    failed: int
    seconds: float
    since: float


@guarded(by="crew.lock")
class Batch:
    """The chunks of one call of map; a chunk is known by its first call.

    The session's lock guards it; `state` says which thread writes what.

    Parameters
    ----------
    record
        Its facts, as they are in the submit directory.
    """

    def __init__(
        self,
        number: int,
        crew: Crew,
        deliver: Deliver,
        options: JobOptions,
        record: BatchRecord,
    ) -> None:
        self.number = number
        self.crew = crew
        self.deliver = deliver
        self.options = options
        self.record = record
        #: The first call of each file with arguments → its end.
        self.origins: dict[int, int] = {}
        self.size = 0  # calls, so far
        self.is_open = True  # more chunks may come
        self.is_posting = False  # the jobs for its latest chunks are not submitted yet
        #: The first call of each chunk that has not finished → its end.
        self.pending: dict[int, int] = {}
        self.delivering = 0  # chunks that have finished and are not delivered yet
        self.lane: Lane | None = None  # in which they are delivered
        #: The first calls of chunks that have files.
        self.files: set[int] = set()
        self.failed: set[int] = set()  # chunks whose jobs failed
        self.errors: set[int] = set()  # all chunks that ended without an outcome
        self.has_failures = False  # failed calls that may be made again
        self.successor: Batch | None = None  # the batch that makes them again
        #: Chunks of a plain crew whose jobs the user has removed; their events come later.
        self.removed: set[int] = set()
        #: The first call of each chunk that a job has taken → that job.
        self.holders: dict[int, Job] = {}
        #: The first call of each chunk that a job has taken → how far it was at the last look.
        self.made: dict[int, Made] = {}

    @property
    def streams(self) -> bool:
        """Whether chunks are added over time, and deleted once delivered."""
        return self.record.calls is None

    def split(self, middle: int) -> bool:
        """Split the chunk of a job that has left the calls from ``middle`` on to others.

        Return whether a chunk that begins there is pending.  A split that is known
        already changes nothing: it may be found more than once.
        """
        if middle not in self.pending:
            for first, end in self.pending.items():
                if first < middle < end:
                    self.pending[first], self.pending[middle] = middle, end
                    self.files.add(middle)
                    break
        return middle in self.pending

    @property
    def is_done(self) -> bool:
        """Whether all its chunks have finished."""
        return not self.pending and not self.is_open

    @property
    def undelivered(self) -> int:
        """How many chunks have not been delivered; one more as long as more may come."""
        return len(self.pending) + self.delivering + self.is_open

    @property
    def calls_pending(self) -> int:
        """How many calls are in chunks that have not finished."""
        return sum(end - first for first, end in self.pending.items())

    @property
    def is_good(self) -> bool:
        """Whether every call has returned, maybe in a rerun."""
        cured = self.successor is not None and self.successor.is_good
        return self.is_done and (cured or not self.has_failures)

    @property
    def is_forgettable(self) -> bool:
        """Whether neither the batch nor its files will be needed again."""
        options = self.options
        tidy = options.cleanup and not options.cleanupfiles
        return tidy and self.is_good and not self.undelivered and not self.record.name

    @property
    def held(self) -> list[Job]:
        """The held jobs that have chunks of this batch; if no job does, those that could."""
        jobs = [self.holders[i] for i in sorted(self.pending.keys() & self.holders.keys())]
        if not jobs and self.crew.is_resident and not self.crew.needs_replacement:
            jobs = [job for cluster in self.crew.clusters for job in cluster.jobs]
        return [job for job in jobs if job.state is JobState.HELD]

    @property
    def is_stuck(self) -> bool:
        """Whether only held jobs can make its chunks: they must be released or removed."""
        held = self.held
        if not held or not self.pending or self.is_posting:
            return False
        if self.crew.is_resident:
            # Any job that is not held will take the chunks that no job has.
            untaken = len(self.pending.keys() - self.holders.keys())
            return len(held) >= len(self.pending) - untaken and not (
                untaken and self.crew.count(*MOVING, JobState.UNMATERIALIZED)
            )
        # Held jobs count toward the factory's limit: when they fill it, it makes no
        # more jobs.
        waiting = self.crew.count(JobState.UNMATERIALIZED)
        return not self.crew.count(*MOVING) and (not waiting or len(held) >= self.crew.limit)

    @property
    def under_way(self) -> UnderWay:
        """How far the chunks are that have not finished."""
        if self.crew.count(JobState.HELD) and self.is_stuck:
            return UnderWay(held=self.calls_pending)
        made = failed = held = 0
        busy = (
            set()
        )  # a runner may have taken its next chunk before the outcome of the last is read
        for first in self.pending.keys() & self.holders.keys():
            job, calls = self.holders[first], self.pending[first] - first
            if job.state is JobState.HELD:
                held += calls
            elif job.state in (JobState.RUNNING, JobState.SUSPENDED):
                report = self._report(first)
                ready = min(report.calls, calls) if report else 0
                made += ready
                failed += min(report.failed, ready) if report else 0
                if job.state is JobState.RUNNING and ready < calls:
                    busy.add(job)
        running = len(busy)
        if self.crew.is_resident:
            running += min(self.untaken, self._spare_runners)
        return UnderWay(made - failed, failed, running, held)

    def _report(self, first: int) -> Made | None:
        """Return what the holder of a pending chunk has reported in its current run."""
        report, holder = self.made.get(first), self.holders.get(first)
        is_valid = report and report.job is holder and report.run == holder.attempts
        return report if is_valid else None

    @property
    def reports(self) -> list[Made]:
        """What running jobs have reported of chunks that have not finished."""
        known = (self._report(first) for first in self.pending.keys() & self.made.keys())
        return [report for report in known if report]

    @property
    def running(self) -> list[RunningCall]:
        """The calls that running jobs are making, of the jobs of which that is known."""
        calls = []
        for first in self.pending.keys() & self.holders.keys():
            job, left = self.holders[first], self.pending[first] - first
            if job.state is not JobState.RUNNING:
                continue
            if report := self._report(first):
                if report.calls < left:
                    number = first + report.calls
                    calls.append(RunningCall(number, report.since, left - report.calls))
            elif not self.crew.is_resident and job.began:
                calls.append(RunningCall(first, float(job.began), left))
        return calls

    @property
    def untaken(self) -> int:
        """How many chunks no job is known to make, or to have made in part."""
        known = self.pending.keys() & self.holders.keys()
        if not self.crew.is_resident:  # every chunk has a job, which may not run yet
            states = (self.holders[first].state for first in known)
            return len(self.pending) - sum(map(_HAS_BEGUN.__contains__, states))
        return len(self.pending) - len(known)

    @property
    def _spare_runners(self) -> int:
        """How many running jobs may be making chunks of this batch that no job is known to hold.

        No event says that a runner has taken a chunk; but runners take one as long as there are
        any, those of earlier batches first.
        """
        spare, is_earlier = self.crew.count(JobState.RUNNING), True
        for batch in self.crew.batches:
            is_earlier = is_earlier and batch is not self
            known = batch.pending.keys() & batch.holders.keys()
            spare -= sum(batch.holders[first].state is JobState.RUNNING for first in known)
            spare -= len(batch.pending) - len(known) if is_earlier else 0
        return max(0, spare)

    def held_error(self, job: Job | None = None) -> JobHeldError:
        """Return the error that says why this job, or else the first held one, is held."""
        held = self.held
        job = job or held[0]
        return JobHeldError(
            job.id,
            job.reason,
            job.code,
            job.subcode,
            len(held),
            host=job.host,
            hint=cure(job.code, job.subcode, job.holds),
        )
