"""The rules of staffing crews and of ending work: pure functions.

The owner's process follows them as long as it lives, and the cleaner after its end.  The
owner knows the jobs from their events, the cleaner from the queue.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from condorpool.engine.records import BatchRecord, CrewRecord
from condorpool.engine.submitdir import Token
from condorpool.runner.names import EX_NO_CHIRP, EX_SOFTWARE
from condorpool.values.events import KILLSTATS, JobState

#: The reason for removing a runner that has no chunk to take.  Never change it: event logs
#: contain it, and another version of condorpool may read them.
SURPLUS = "condorpool has no chunk left for this job"

#: How many jobs of a crew are replaced that end without a reason, or are held without a chunk.
MAX_REPLACED = 3

#: How many times in a row HTCondor may end while calls are made, and no call ends.
MAX_RESTARTS = 5

#: Seconds for which a runner without a chunk may still wait for a slot: the next call may
#: need it, and removing a job while HTCondor gives it a slot can leave that slot unused.
SURPLUS_GRACE = 2.0

#: Seconds, at most, from the last event of a cluster's jobs to the cluster's own last event.
LAST_EVENT = 3.0

#: Seconds for which jobs that no slot of the pool can run, and that never ran, stay in the
#: queue when their pool is closed, and after their owner has ended.  Slots may come back: some
#: collectors know them only minutes after a restart.
UNMATCHED_AT_CLOSE, UNMATCHED_AFTER = 15.0, 300.0

#: A chunk: the number of its batch, and its first call.
Chunk = tuple[int, int]


# -- staffing ----------------------------------------------------------------------------
def runners_missing(limit: int, chunks: int, runners: int = 0) -> int:
    """Return how many runners to submit besides those that take chunks already."""
    return max(0, min(limit, chunks) - runners)


def surplus_since(since: float, now: float, *, waiting: int, has_chunks: bool) -> float:
    """Return since when runners wait for slots without a chunk to take; infinity if none do."""
    return min(since, now) if waiting and not has_chunks else math.inf


def renewal_interval(lease: float) -> float:
    """Return the seconds between renewals of a lease: two in a row may fail."""
    return lease / 4


class EndedJob(Protocol):
    """The facts about an ended `Job` that the rules need."""

    state: JobState
    reason: str
    exit: str
    exit_code: int | None


class Then(enum.Enum):
    """What to do about the chunks that a crew's runners could have taken, when the last has ended."""

    SUBMIT = "submit the runners that are missing"
    REPLACE = "the same, but only a few times"
    FALL_BACK = "submit a job for each chunk"
    GIVE_UP = "end the chunks with an error"


def is_surplus(job: EndedJob) -> bool:
    """Return whether a job was removed because it had no chunk, so that no call ends with it."""
    return job.state is JobState.REMOVED and job.reason.startswith(SURPLUS)


def after_last_runner(job: EndedJob, *, had_chunk: bool, spares_others: bool) -> Then:
    """Return what to do after the end of a crew's last runner.

    Parameters
    ----------
    had_chunk
        Whether it had taken a chunk, which ends with it.
    spares_others
        Whether the user removed it for other calls than those that remain.
    """
    if job.exit_code == EX_NO_CHIRP:
        return Then.FALL_BACK
    if job.state is JobState.REMOVED:
        return Then.SUBMIT if is_surplus(job) or spares_others else Then.GIVE_UP
    if had_chunk or job.exit_code == 0:
        return Then.SUBMIT
    # It left the queue without a reason, or failed in the runner's own code.
    return Then.REPLACE if not job.exit or job.exit_code == EX_SOFTWARE else Then.GIVE_UP


# -- ending ------------------------------------------------------------------------------
def killstats(batches: Collection[BatchRecord]) -> set[str]:
    """Return the states in which jobs of a crew with these batches are removed."""
    if not batches:  # its jobs only linger
        return set(KILLSTATS)
    return {state for batch in batches for state in batch.killstats}


@dataclass(frozen=True)
class CrewEnd:
    """What to do next for a crew whose owner has ended.

    Parameters
    ----------
    remove
        The jobs to remove.
    kills
        Whether some of these are in one of the killstats or match no slot: new jobs would, too.
    submit
        How many runners to submit.
    has_jobs
        Whether jobs remain.
    """

    remove: frozenset[str]
    kills: bool
    submit: int
    has_jobs: bool


def crew_end(
    crew: CrewRecord,
    jobs: Mapping[str, JobState],
    tokens: Iterable[Token],
    killstats: Collection[str],
    *,
    may_submit: bool,
    unmatched: Collection[str] = (),
) -> CrewEnd:
    """Return what to do next for a crew whose owner has ended.

    Parameters
    ----------
    jobs
        Its jobs in the queue.
    may_submit
        Whether to submit runners for chunks for which no job remains.
    unmatched
        Jobs that no slot of the pool can run.
    """
    takers = [token.job for token in tokens]
    posted = takers.count("")
    killed = {job for job, state in jobs.items() if state.value in killstats or job in unmatched}
    surplus = set()
    if crew.is_resident and not posted:
        # An idle job that has taken a chunk was evicted, and makes it when it runs again.
        surplus = {job for job, state in jobs.items() if state is JobState.IDLE} - {*takers}
    remove = frozenset(killed | surplus)
    has_jobs = len(remove) < len(jobs)
    submit = runners_missing(crew.limit, posted)
    return CrewEnd(
        remove=remove,
        kills=bool(killed),
        submit=submit if may_submit and not killed and not has_jobs else 0,
        has_jobs=has_jobs,
    )


def failed_chunks(
    crews: Mapping[int, CrewRecord],
    batches: Mapping[int, BatchRecord],
    tokens: Mapping[int, Collection[Token]],
    crashed: Collection[str],
    unfinished: Collection[Chunk],
) -> set[Chunk]:
    """Return the unfinished chunks whose jobs failed: none that were removed or never started.

    Parameters
    ----------
    tokens
        Those of each crew.
    crashed
        The jobs that failed.
    """
    spared = {
        (token.batch, token.origin)
        for known in tokens.values()
        for token in known
        if token.job not in crashed
    }
    for number, crew in crews.items():
        own = [batch for batch, record in batches.items() if record.crew == number]
        for cluster in crew.clusters:
            for proc, chunk in enumerate(cluster.chunks or ()):
                if f"{cluster.number}.{proc}" not in crashed:
                    spared |= {(batch, chunk) for batch in own}
    return {chunk for chunk in unfinished if chunk[0] in batches and chunk not in spared}


def unmade_calls(
    crews: Mapping[int, CrewRecord],
    batches: Mapping[int, BatchRecord],
    tokens: Mapping[int, Collection[Token]],
    ends: Mapping[Chunk, int],
    ended: Collection[Chunk],
    *,
    crashed: Collection[str],
    removed: Collection[str],
) -> int:
    """Return how many calls wait for a job, or were lost with an HTCondor that has ended.

    Calls of jobs that failed or were removed are not among them: those have ended.

    Parameters
    ----------
    tokens
        Those of each crew.
    ends
        The chunks with arguments → their ends.
    ended
        The chunks that have an outcome.
    crashed, removed
        The jobs that failed, and those that were removed.
    """
    over = {*crashed, *removed}
    waiting: dict[Chunk, int] = {}
    for number, crew in crews.items():
        for token in tokens[number]:
            if token.job not in over:
                waiting[token.batch, token.first] = token.end - token.first
        own = [batch for batch, record in batches.items() if record.crew == number]
        for submitted in crew.clusters:
            for proc, first in enumerate(submitted.chunks or ()):
                if f"{submitted.number}.{proc}" not in over:
                    waiting |= {
                        (batch, first): ends[batch, first] - first
                        for batch in own
                        if (batch, first) in ends
                    }
    return sum(calls for chunk, calls in waiting.items() if chunk not in ended)


@dataclass(frozen=True)
class Cleaning:
    """What to delete of a submit directory whose jobs have all left the queue.

    Parameters
    ----------
    discard
        The batches to delete → the chunks whose files, and whose jobs' files, are kept.
    why_kept
        Why the directory is kept; empty if all of it is deleted.
    """

    discard: Mapping[int, frozenset[int]]
    why_kept: str


def cleaning(
    batches: Mapping[int, BatchRecord], named: Collection[int], failed: Collection[Chunk]
) -> Cleaning:
    """Return what to delete.

    Parameters
    ----------
    batches
        The batches to clean up.
    named
        The batches whose results are kept, because they have a name.
    failed
        The chunks whose jobs failed.
    """
    discard = {
        number: frozenset(first for batch, first in failed if batch == number)
        if not record.cleanfailed
        else frozenset[int]()
        for number, record in batches.items()
        if number not in named
    }
    names = sorted({batches[number].name for number in named})
    why = f"results named {', '.join(names)}" if names else ""
    if not names and any(discard.values()):
        why = "the files of failed jobs"
    return Cleaning(discard, why)
