"""A batch: the chunks of one call of map, and the jobs that make them."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass

from condorpool.engine.payload import Outcome
from condorpool.values.events import JobEvent, JobState, state_after
from condorpool.values.exceptions import JobError, JobHeldError

#: Takes a chunk's index and what it came to.
Deliver = Callable[[int, "Outcome | JobError"], None]


@dataclass(slots=True)
class JobRecord:
    """What is known of one job."""

    state: JobState = JobState.UNMATERIALIZED
    host: str = ""
    reason: str = ""
    code: int = 0
    subcode: int = 0
    attempts: int = 0
    exit: str = ""
    missed: int = 0  # reconciles in a row that did not find it in the queue


class Batch:
    """The chunks of one call of map.

    Job ``k`` of the cluster makes chunk ``k``.  Everything here changes under the
    session's lock, and by the events that the tracker's thread reads.
    """

    def __init__(
        self,
        number: int,
        size: int,
        queue_limit: int,
        deliver: Deliver,
        *,
        killstats: tuple[str, ...],
        cleanup: bool,
        cleanfailed: bool,
        cleanupfiles: tuple[str, ...],
    ) -> None:
        self.number = number
        self.cluster = 0
        self.queue_limit = queue_limit
        self.deliver = deliver
        self.killstats = killstats
        self.cleanup = cleanup
        self.cleanfailed = cleanfailed
        self.cleanupfiles = cleanupfiles
        self.jobs = [JobRecord() for _ in range(size)]
        self.pending = set(range(size))
        self.failed: set[int] = set()
        self.counts = collections.Counter({JobState.UNMATERIALIZED: size})

    def job_id(self, index: int) -> str:
        """Return ``ClusterId.ProcId`` of the job of a chunk."""
        return f"{self.cluster}.{index}"

    @property
    def is_done(self) -> bool:
        """Whether every chunk has come to something."""
        return not self.pending

    def set_state(self, index: int, state: JobState) -> None:
        """Move a job to a state and keep the counts."""
        job = self.jobs[index]
        if state is not job.state:
            self.counts[job.state] -= 1
            self.counts[state] += 1
            job.state = state

    def apply(self, event: JobEvent) -> None:
        """Take in one event of one of the jobs."""
        index, facts = event.proc, event.facts
        if not 0 <= index < len(self.jobs):
            return
        job = self.jobs[index]
        if not job.state.is_final:
            if event.kind == "EXECUTE":
                job.attempts += 1
                job.host = str(facts.get("SlotName") or facts.get("ExecuteHost") or "")
            elif event.kind == "JOB_HELD":
                self.note_hold(index, facts)
            elif event.kind in ("JOB_ABORTED", "SHADOW_EXCEPTION"):
                told = str(facts.get("Reason") or facts.get("Message") or "")
                # Why a job was held says more than that somebody then removed it.
                job.reason = job.reason if job.state is JobState.HELD else told
            elif event.kind == "JOB_TERMINATED":
                job.exit = (
                    f"it exited with code {facts.get('ReturnValue')}"
                    if facts.get("TerminatedNormally")
                    else f"it was killed by signal {facts.get('TerminatedBySignal')}"
                )
        self.set_state(index, state_after(job.state, event.kind))

    def note_hold(self, index: int, facts: collections.abc.Mapping[str, object]) -> None:
        """Keep why a job is held."""
        job = self.jobs[index]
        job.reason = str(facts.get("HoldReason", ""))
        job.code = int(str(facts.get("HoldReasonCode", 0)))
        job.subcode = int(str(facts.get("HoldReasonSubCode", 0)))

    @property
    def only_held_left(self) -> bool:
        """Whether nothing goes on here until somebody releases or removes held jobs."""
        held = self.counts[JobState.HELD]
        waiting = self.counts[JobState.UNMATERIALIZED]
        moving = (
            self.counts[JobState.IDLE]
            + self.counts[JobState.RUNNING]
            + self.counts[JobState.SUSPENDED]
        )
        # Held jobs take room in the queue: with enough of them the factory
        # that makes the others stands still.
        return held > 0 and not moving and (not waiting or held >= self.queue_limit)

    def held(self) -> list[int]:
        """Return the chunks whose jobs are held."""
        return [i for i in self.pending if self.jobs[i].state is JobState.HELD]

    def held_error(self) -> JobHeldError:
        """Say why nothing goes on, with the first held job's reason."""
        held = sorted(self.held())
        job = self.jobs[held[0]]
        return JobHeldError(
            self.job_id(held[0]),
            job.reason,
            job.code,
            job.subcode,
            len(held),
            host=job.host,
            hint="Cure the cause and release() the result or its job, or remove() it.",
        )
