"""Jobs, clusters and crews.

A cluster is the jobs of one submission; a crew is the jobs for some batches.  The jobs of a
resident crew, called runners, take chunks of all its batches one after the other; a plain
crew has one batch and a job for each of its chunks.

The session's lock guards them all; `state` says which thread writes what.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from condorpool.engine import rules
from condorpool.engine.description import JobOptions
from condorpool.engine.records import CrewRecord
from condorpool.values.events import JobEvent, JobState, state_after
from condorpool.values.guards import guarded
from condorpool.values.locks import Monitor

if TYPE_CHECKING:
    from condorpool.engine.batches import Batch

#: States of jobs that run, or will run without the user's help.
MOVING = (JobState.IDLE, JobState.RUNNING, JobState.SUSPENDED)

#: Types of FILE_TRANSFER events: input transfer started, output transfer started.
_TRANSFERRING = (2, 5)


@guarded(by="cluster.crew.lock")
@dataclass(slots=True, eq=False)  # compared and hashed by identity: there is one for each job
class Job:
    """One HTCondor job, as the event log last described it.

    There may be 100,000 jobs: facts that are true of few of them are in sets of the cluster.
    """

    cluster: Cluster = field(repr=False)
    proc: int
    state: JobState = JobState.UNMATERIALIZED
    host: str = ""
    reason: str = ""
    code: int = 0  # of the hold, while it is held; else 0
    subcode: int = 0
    attempts: int = 0
    holds: int = 0  # how often it was held
    began: int = 0  # when its last run began and ended, in seconds since 1970
    ended: int = 0
    last_chunk_end: float = 0.0
    memory: int = 0  # MiB that it used when HTCondor last reported it
    exit: str = ""  # how it ended, in words
    exit_code: int | None = None  # None unless it has exited by itself
    was_released: bool = False  # since its last run began
    held_by_user: bool = False  # while there were calls for it to make
    times_missing: int = 0  # comparisons in a row that did not find it in the queue

    @property
    def id(self) -> str:
        """``ClusterId.ProcId``."""
        return f"{self.cluster.number}.{self.proc}"

    @property
    def crew(self) -> Crew:
        """The crew that it belongs to."""
        return self.cluster.crew

    @property
    def chunk(self) -> int | None:
        """The chunk that it makes, in a plain crew."""
        return None if self.cluster.chunks is None else self.cluster.chunks[self.proc]

    @property
    def is_away(self) -> bool:
        """Whether the access point has lost contact with it; it may come back."""
        return self in self.cluster.away

    @property
    def is_transferring(self) -> bool:
        """Whether its input or output files are being transferred."""
        return self in self.cluster.transferring

    @property
    def is_acted_on(self) -> bool:
        """Whether the user has held, suspended or removed it."""
        return self in self.cluster.acted_on

    def is_meant(self, batch: int, first: int) -> bool:
        """Return whether the user meant this chunk, or one that it was split from."""
        chunks = self.cluster.acted_on.get(self, {}).get(batch, {})
        return first in chunks or any(begin < first < end for begin, end in chunks.items())

    def set_state(self, state: JobState) -> None:
        """Change its state, and the cluster's counts with it."""
        if state is not self.state:
            self.cluster.counts[self.state] -= 1
            self.cluster.counts[state] += 1
            self.state = state

    def apply(self, event: JobEvent) -> None:
        """Update the job from one event."""
        cluster, facts = self.cluster, event.facts
        (cluster.away.add if event.kind == "JOB_DISCONNECTED" else cluster.away.discard)(self)
        moves = facts.get("Type") in _TRANSFERRING
        (cluster.transferring.add if moves else cluster.transferring.discard)(self)
        if event.kind == "EXECUTE":
            self.attempts += 1
            self.began, self.ended, self.was_released = event.time, 0, False
            self.host = str(facts.get("SlotName") or facts.get("ExecuteHost") or "")
        elif event.kind == "IMAGE_SIZE":
            self.memory = int(str(facts.get("MemoryUsage") or 0))
        elif event.kind == "JOB_HELD":
            self.note_hold(facts)
        elif event.kind == "JOB_RELEASED":
            self.code = self.subcode = 0
            self.was_released, self.held_by_user = True, False
            cluster.acted_on.pop(self, None)
        elif event.kind == "JOB_UNSUSPENDED":
            cluster.acted_on.pop(self, None)
        elif event.kind in ("JOB_ABORTED", "SHADOW_EXCEPTION"):
            reason = str(facts.get("Reason") or facts.get("Message") or "")
            # Why a job was held says more than why it was then removed.
            self.reason = self.reason if self.code else reason
        elif event.kind == "JOB_TERMINATED":
            self.note_exit(facts)
        state = state_after(self.state, event.kind)
        if self.state is JobState.RUNNING and state not in (self.state, JobState.SUSPENDED):
            self.ended = event.time
        self.set_state(state)

    def note_hold(self, facts: Mapping[str, object]) -> None:
        """Keep why it is held."""
        self.holds += self.state is not JobState.HELD
        self.reason = str(facts.get("HoldReason", ""))
        self.code = int(str(facts.get("HoldReasonCode", 0)))
        self.subcode = int(str(facts.get("HoldReasonSubCode", 0)))

    def note_exit(self, facts: Mapping[str, object]) -> None:
        """Keep how it ended."""
        if facts.get("TerminatedNormally"):
            self.exit_code = int(str(facts.get("ReturnValue", 0)))
            self.exit = f"it exited with code {self.exit_code}"
        else:
            self.exit = f"it was killed by signal {facts.get('TerminatedBySignal')}"


@guarded(by="crew.lock")
class Cluster:
    """The jobs of one submission.

    Parameters
    ----------
    chunks
        The chunk that each job makes, in a plain crew; None where jobs take them.
    queue
        See `AccessPoint.queue`.
    """

    def __init__(
        self,
        crew: Crew,
        number: int,
        size: int,
        chunks: Sequence[int] | None = None,
        queue: str = "",
    ) -> None:
        self.queue = queue
        self.crew = crew
        self.number = number
        self.jobs = [Job(self, proc) for proc in range(size)]
        self.chunks = chunks
        self.counts = collections.Counter({JobState.UNMATERIALIZED: size})
        #: Jobs that the access point has lost contact with; they may come back.
        self.away: set[Job] = set()
        #: Jobs whose input or output files are being transferred.
        self.transferring: set[Job] = set()
        #: Jobs that the user has held, suspended or removed → the chunks that this is meant
        #: for, by batch.  A job may take others before the action reaches it.
        self.acted_on: dict[Job, dict[int, dict[int, int]]] = {}
        #: Why the factory will never make the jobs that it has not made yet.
        self.why_not_made = "it was removed before it was in the queue"
        #: Whether all of it has left the queue, so that no event will come.
        self.is_gone = False

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return sum(n for state, n in self.counts.items() if not state.is_final)

    def apply(self, event: JobEvent) -> list[Job]:
        """Update the jobs from one event; return those that it ended."""
        if event.kind == "CLUSTER_REMOVE":
            # Jobs that the factory has not made have no events of their own.
            self.is_gone = True
            rest = [job for job in self.jobs if job.state is JobState.UNMATERIALIZED]
            for job in rest:
                job.reason = self.why_not_made
                job.set_state(JobState.REMOVED)
            return rest
        # A restarted access point may write an event twice: a job must not end twice.
        if not 0 <= event.proc < len(self.jobs) or self.jobs[event.proc].state.is_final:
            return []
        job = self.jobs[event.proc]
        job.apply(event)
        return [job] if job.state.is_final else []


@guarded(by="lock")
class Crew:
    """The jobs that make the chunks of some batches.

    Parameters
    ----------
    name
        What its jobs are called in the queue.
    limit
        The most jobs at once.
    is_resident
        Whether jobs take chunks one after the other, or each makes only its own.
    lock
        The session's lock, which guards this; None where there is only one thread.
    """

    def __init__(
        self,
        number: int,
        name: str,
        limit: int,
        options: JobOptions,
        *,
        is_resident: bool,
        lock: Monitor | None = None,
    ) -> None:
        self.lock = lock
        self.number = number
        self.name = name
        self.limit = limit
        self.options = options
        self.is_resident = is_resident
        self.replaced = 0  # how many jobs, since the last outcome
        self.restarts = 0  # how often its HTCondor has ended, since the last outcome
        self.surplus_since = math.inf  # since when jobs wait for a slot without need
        self.has_worked = False  # whether one of its jobs has written an outcome
        self.looked_at = -math.inf  # when its runners' reports were last read
        self.clusters: list[Cluster] = []
        self.batches: list[Batch] = []

    @classmethod
    def restored(cls, number: int, record: CrewRecord, options: JobOptions, lock: Monitor) -> Crew:
        """Return a recorded crew, without its jobs."""
        return cls(
            number, record.name, record.limit, options, is_resident=record.is_resident, lock=lock
        )

    def count(self, *states: JobState) -> int:
        """How many jobs are in one of these states."""
        return sum(cluster.counts[state] for cluster in self.clusters for state in states)

    @property
    def live(self) -> int:
        """How many jobs have not ended."""
        return sum(cluster.live for cluster in self.clusters)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that have not ended."""
        return [job for c in self.clusters for job in c.jobs if not job.state.is_final]

    @property
    def reliable(self) -> int:
        """How many jobs can be expected to take posted chunks."""
        return sum(
            cluster.live
            - cluster.counts[JobState.HELD]
            - len(cluster.away)
            - sum(job.state in MOVING for job in cluster.acted_on)
            for cluster in self.clusters
        )

    @property
    def needs_replacement(self) -> bool:
        """Whether a new job would make chunks that no job makes: one is held without a chunk.

        Jobs that are held before they begin, or for their chunk, are not replaced; nor are
        those that the user has held: a new job would make the call that the user stopped.
        """
        moving = self.count(*MOVING, JobState.UNMATERIALIZED)
        if moving or not self.count(JobState.HELD) or self.replaced >= rules.MAX_REPLACED:
            return False
        holders = {b.holders[i] for b in self.batches for i in b.pending.keys() & b.holders.keys()}
        return any(
            job.state is JobState.HELD
            and job.attempts
            and not job.held_by_user
            and job not in holders
            for cluster in self.clusters
            for job in cluster.jobs
        )

    @property
    def waiting_job(self) -> Job | None:
        """The first idle job, if no job runs or soon will: what it waits for, the others do, too."""
        if not self.count(JobState.IDLE) or self.count(JobState.RUNNING, JobState.SUSPENDED):
            return None
        if any(cluster.transferring for cluster in self.clusters):
            return None
        jobs = (job for cluster in self.clusters for job in cluster.jobs)
        return next(job for job in jobs if job.state is JobState.IDLE)

    @property
    def has_started(self) -> bool:
        """Whether one of its jobs has run: so there was a slot that can run them."""
        jobs = (job for cluster in self.clusters for job in cluster.jobs)
        return self.has_worked or any(job.attempts for job in jobs)

    @property
    def pending(self) -> int:
        """How many chunks have not finished."""
        return sum(len(batch.pending) for batch in self.batches)

    @property
    def is_idle(self) -> bool:
        """Whether its jobs have nothing to do but wait for more chunks."""
        return all(batch.is_done for batch in self.batches)
