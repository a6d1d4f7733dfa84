"""Crews and batches: jobs, and the chunks that they make.

A batch is the chunks of one call of map.  A crew is the jobs that make them: a
resident crew's jobs take chunks of all its batches, a plain crew has one batch
and a job for each of its chunks.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from condorpool.engine.deliveries import Lane
from condorpool.engine.description import JobOptions
from condorpool.engine.payload import Outcome
from condorpool.engine.records import BatchRecord
from condorpool.values.events import JobEvent, JobState, state_after
from condorpool.values.exceptions import JobError, JobHeldError
from condorpool.values.holds import cure

#: Takes a chunk's first call, its end, what it came to and what is known of its job; returns
#: what is to be done when that counts as delivered.
Deliver = Callable[
    [int, int, "Outcome | JobError", "JobRecord | None"], "Callable[[], object] | None"
]

#: Jobs of a crew that are made up for when they leave without a word, or are held idle.
MAX_LOST = 3

#: Types of FILE_TRANSFER events: input has begun to go over, output has begun to come back.
_TRANSFERRING = (2, 5)

_MOVING = (JobState.IDLE, JobState.RUNNING, JobState.SUSPENDED)


@dataclass(slots=True)
class JobRecord:
    """What is known of one job."""

    state: JobState = JobState.UNMATERIALIZED
    host: str = ""
    reason: str = ""
    code: int = 0  # of the hold that it is in; 0 for none
    subcode: int = 0
    attempts: int = 0
    holds: int = 0  # how often it was held
    began: int = 0  # when its last run began and ended, in seconds since 1970
    ended: int = 0
    free: float = 0.0  # when the last chunk that it has made had ended
    memory: int = 0  # MiB that it was last seen to use
    exit: str = ""
    status: int | None = None  # the exit code, once it has exited with one
    released: bool = False  # since its last run began
    parked: bool = False  # the user has held it, and with it the calls that it could make
    missed: int = 0  # reconciles in a row that did not find it in the queue

    def note_exit(self, facts: Mapping[str, object]) -> None:
        """Keep how the job ended."""
        if facts.get("TerminatedNormally"):
            self.status = int(str(facts.get("ReturnValue", 0)))
            self.exit = f"it exited with code {self.status}"
        else:
            self.exit = f"it was killed by signal {facts.get('TerminatedBySignal')}"


class Cluster:
    """The jobs of one submission, as the event log tells of them.

    Parameters
    ----------
    chunks
        The chunk that each job makes, in a plain crew; None where jobs take them.
    """

    def __init__(self, number: int, size: int, chunks: Sequence[int] | None = None) -> None:
        self.number = number
        self.jobs = [JobRecord() for _ in range(size)]
        self.chunks = chunks
        #: Jobs that the access point has lost contact with; they may come back.
        self.away: set[int] = set()
        #: Why jobs are not made any more that the factory has not made yet.
        self.why_not_made = "it was removed before it was in the queue"
        #: Jobs that the user has stopped or removed → the chunks for which that is meant, by
        #: batch: not for others that they take before it reaches them.
        self.acted_on: dict[int, dict[int, dict[int, int]]] = {}
        #: The queue has nothing of it any more, and no event will come.
        self.is_gone = False
        self.counts = collections.Counter({JobState.UNMATERIALIZED: size})
        #: Jobs whose files are on their way, to or from where they run.
        self.transferring: set[int] = set()

    def job_id(self, proc: int) -> str:
        """Return ``ClusterId.ProcId``."""
        return f"{self.number}.{proc}"

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return sum(n for state, n in self.counts.items() if not state.is_final)

    def is_meant(self, proc: int, batch: int, first: int) -> bool:
        """Return whether the user meant a chunk, or one that it was split from, with a job."""
        chunks = self.acted_on.get(proc, {}).get(batch, {})
        return first in chunks or any(begin < first < end for begin, end in chunks.items())

    def set_state(self, proc: int, state: JobState) -> None:
        """Move a job to a state and keep the counts."""
        job = self.jobs[proc]
        if state is not job.state:
            self.counts[job.state] -= 1
            self.counts[state] += 1
            job.state = state

    def apply(self, event: JobEvent) -> list[int]:
        """Take in one event; return the jobs that it ended."""
        if event.kind == "CLUSTER_REMOVE":
            # The jobs that the factory had not made yet leave no event of their own.
            self.is_gone = True
            rest = [p for p, job in enumerate(self.jobs) if job.state is JobState.UNMATERIALIZED]
            for proc in rest:
                self.jobs[proc].reason = self.why_not_made
                self.set_state(proc, JobState.REMOVED)
            return rest
        proc, facts = event.proc, event.facts
        if not 0 <= proc < len(self.jobs) or self.jobs[proc].state.is_final:
            return []
        job = self.jobs[proc]
        (self.away.add if event.kind == "JOB_DISCONNECTED" else self.away.discard)(proc)
        moves = facts.get("Type") in _TRANSFERRING
        (self.transferring.add if moves else self.transferring.discard)(proc)
        if event.kind == "EXECUTE":
            job.attempts += 1
            job.began, job.ended, job.released = event.time, 0, False
            job.host = str(facts.get("SlotName") or facts.get("ExecuteHost") or "")
        elif event.kind == "IMAGE_SIZE":
            job.memory = int(str(facts.get("MemoryUsage") or 0))
        elif event.kind == "JOB_HELD":
            self.note_hold(proc, facts)
        elif event.kind == "JOB_RELEASED":
            job.code = job.subcode = 0
            job.released, job.parked = True, False
            self.acted_on.pop(proc, None)
        elif event.kind == "JOB_UNSUSPENDED":
            self.acted_on.pop(proc, None)
        elif event.kind in ("JOB_ABORTED", "SHADOW_EXCEPTION"):
            told = str(facts.get("Reason") or facts.get("Message") or "")
            # Why a job was held says more than that somebody then removed it.
            job.reason = job.reason if job.code else told
        elif event.kind == "JOB_TERMINATED":
            job.note_exit(facts)
        state = state_after(job.state, event.kind)
        if job.state is JobState.RUNNING and state not in (job.state, JobState.SUSPENDED):
            job.ended = event.time
        self.set_state(proc, state)
        return [proc] if job.state.is_final else []

    def note_hold(self, proc: int, facts: Mapping[str, object]) -> None:
        """Keep why a job is held."""
        job = self.jobs[proc]
        job.holds += job.state is not JobState.HELD
        job.reason = str(facts.get("HoldReason", ""))
        job.code = int(str(facts.get("HoldReasonCode", 0)))
        job.subcode = int(str(facts.get("HoldReasonSubCode", 0)))


class Crew:
    """The jobs that make the chunks of some batches.

    Parameters
    ----------
    name
        What its jobs are called in the queue.
    limit
        The most jobs at once.
    is_resident
        Whether jobs take chunks one after the other, or each makes just its own.
    """

    def __init__(
        self, number: int, name: str, limit: int, options: JobOptions, *, is_resident: bool
    ) -> None:
        self.number = number
        self.name = name
        self.limit = limit
        self.options = options
        self.is_resident = is_resident
        self.lost = 0  # jobs that were made up for
        self.surplus_since = math.inf  # when jobs began to wait for a slot and no chunk
        self.clusters: list[Cluster] = []
        self.batches: list[Batch] = []

    def count(self, *states: JobState) -> int:
        """How many jobs are in one of these states."""
        return sum(cluster.counts[state] for cluster in self.clusters for state in states)

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return sum(cluster.live for cluster in self.clusters)

    @property
    def reliable(self) -> int:
        """How many jobs take what is posted, as far as is known."""
        return sum(
            cluster.live
            - cluster.counts[JobState.HELD]
            - len(cluster.away)
            - sum(cluster.jobs[proc].state in _MOVING for proc in cluster.acted_on)
            for cluster in self.clusters
        )

    @property
    def is_replaceable(self) -> bool:
        """Whether another job would do what none does: a held one has begun well, and has no chunk.

        Those that are held before they begin, or for their chunk, are not made up for,
        nor those that the user has held: another job would make the call all the same.
        """
        moving = self.count(*_MOVING, JobState.UNMATERIALIZED)
        if moving or not self.count(JobState.HELD) or self.lost >= MAX_LOST:
            return False
        having = {b.holders[i] for b in self.batches for i in b.pending.keys() & b.holders.keys()}
        return any(
            job.state is JobState.HELD
            and job.attempts
            and not job.parked
            and (cluster, proc) not in having
            for cluster in self.clusters
            for proc, job in enumerate(cluster.jobs)
        )

    @property
    def jobs(self) -> list[tuple[Cluster, int]]:
        """The jobs that have not ended."""
        return [
            (cluster, proc)
            for cluster in self.clusters
            for proc, job in enumerate(cluster.jobs)
            if not job.state.is_final
        ]

    @property
    def pending(self) -> int:
        """How many chunks have not come to anything yet."""
        return sum(len(batch.pending) for batch in self.batches)

    @property
    def is_idle(self) -> bool:
        """Whether its jobs only wait for more."""
        return all(batch.is_done for batch in self.batches)


class Batch:
    """The chunks of one call of map; a chunk is known by its first call.

    Everything here changes under the session's lock, and by the events that the
    tracker's thread reads.

    Parameters
    ----------
    record
        What is written down of it.
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
        self.is_posting = False  # the jobs for its latest chunks are still to be submitted
        #: The first call of each chunk that has not come to anything → its end.
        self.pending: dict[int, int] = {}
        self.delivering = 0  # chunks that have, of which nobody has been told yet
        self.lane: Lane | None = None  # in which they are told
        #: The first calls of chunks that have files.
        self.files: set[int] = set()
        self.failed: set[int] = set()
        self.errors: set[int] = set()  # all that have no outcome
        self.is_flawed = False  # a call of it has failed, and may be made again
        self.successor: Batch | None = None  # makes them again
        #: The job that makes, or made, a chunk.
        self.holders: dict[int, tuple[Cluster, int]] = {}

    @property
    def streams(self) -> bool:
        """Whether chunks come and go."""
        return self.record.calls is None

    def split(self, middle: int) -> bool:
        """Take in that a job has left the calls from ``middle`` on to others.

        Tell whether a chunk that begins there is now waited for.
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
        """Whether all its chunks have come to something."""
        return not self.pending and not self.is_open

    @property
    def left(self) -> int:
        """How many chunks have not come to anything that whoever asked for it knows of."""
        return len(self.pending) + self.delivering + self.is_open

    @property
    def calls_left(self) -> int:
        """How many calls have not come to anything."""
        return sum(end - first for first, end in self.pending.items())

    @property
    def is_good(self) -> bool:
        """Whether every call has returned, maybe when it was made again."""
        cured = self.successor is not None and self.successor.is_good
        return self.is_done and (cured or not self.is_flawed)

    @property
    def is_forgettable(self) -> bool:
        """Whether nobody will ask for the batch, or its files, any more."""
        options = self.options
        tidy = options.cleanup and not options.cleanupfiles
        return tidy and self.is_good and not self.left and not self.record.name

    @property
    def held(self) -> list[tuple[Cluster, int]]:
        """The held jobs that keep chunks of this batch, or could take them."""
        holders = [self.holders[i] for i in sorted(self.pending.keys() & self.holders.keys())]
        if not holders and self.crew.is_resident and not self.crew.is_replaceable:
            holders = [(c, p) for c in self.crew.clusters for p in range(len(c.jobs))]
        return [(c, p) for c, p in holders if c.jobs[p].state is JobState.HELD]

    @property
    def only_held_left(self) -> bool:
        """Whether nothing goes on here until somebody releases or removes held jobs."""
        held = self.held
        if not held or not self.pending or self.is_posting:
            return False
        if self.crew.is_resident:
            # Chunks that no job has are taken by any that moves.
            untaken = len(self.pending.keys() - self.holders.keys())
            return len(held) >= len(self.pending) - untaken and not (
                untaken and self.crew.count(*_MOVING, JobState.UNMATERIALIZED)
            )
        # Held jobs take room in the queue: with enough of them the factory
        # that makes the others stands still.
        waiting = self.crew.count(JobState.UNMATERIALIZED)
        return not self.crew.count(*_MOVING) and (not waiting or len(held) >= self.crew.limit)

    def held_error(self, held: tuple[Cluster, int] | None = None) -> JobHeldError:
        """Say why nothing goes on, with the reason of this held job, or of the first."""
        cluster, proc = held or self.held[0]
        job = cluster.jobs[proc]
        return JobHeldError(
            cluster.job_id(proc),
            job.reason,
            job.code,
            job.subcode,
            len(self.held),
            host=job.host,
            hint=cure(job.code, job.subcode),
        )
