"""The rules of staffing crews and of ending work: pure functions.

The owner's process follows them as long as it lives, the cleaner after its end.  The one
knows the jobs by their events, the other by the queue.
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

#: Why a runner is removed that has no chunk to take.  Event logs contain it, and another
#: version of condorpool may read them.
SURPLUS = "condorpool has no chunk left for this job"

#: Jobs of a crew that are replaced when they end without a reason, or are held idle.
MAX_REPLACED = 3

#: Seconds for which a runner without a chunk may still wait for a slot: the next call may
#: want it, and a job that is removed while HTCondor gives it a slot can leave that unused.
SURPLUS_GRACE = 2.0

#: Seconds that the last event of a cluster may take after its last job's.
LAST_EVENT = 3.0

#: A chunk: the number of its batch, and its first call.
Chunk = tuple[int, int]


# -- staffing ----------------------------------------------------------------------------
def runners_missing(limit: int, chunks: int, runners: int = 0) -> int:
    """Return how many runners to submit beside those that take chunks already."""
    return max(0, min(limit, chunks) - runners)


def surplus_since(since: float, now: float, *, waiting: int, has_chunks: bool) -> float:
    """Return since when runners wait for slots and have no chunk to take; infinity if they do not."""
    return min(since, now) if waiting and not has_chunks else math.inf


def renewal_interval(lease: float) -> float:
    """Return how often to renew a lease: one renewal may fail, and the next."""
    return lease / 4


class EndedJob(Protocol):
    """What matters of a job that has ended: see `Job`."""

    state: JobState
    reason: str
    exit: str
    exit_code: int | None


class Then(enum.Enum):
    """What follows for the chunks that a runner could have taken, when the last one has ended."""

    SUBMIT = "submit the runners that are missing"
    REPLACE = "the same, but only a few times"
    FALL_BACK = "submit a job for each chunk"
    GIVE_UP = "end the chunks with an error"


def after_last_runner(job: EndedJob, *, had_chunk: bool, spares_others: bool) -> Then:
    """Return what follows after the end of a crew's last runner.

    Parameters
    ----------
    had_chunk
        It had taken a chunk, which ends with it.
    spares_others
        The user removed it for other calls than those that remain.
    """
    if job.exit_code == EX_NO_CHIRP:
        return Then.FALL_BACK
    if job.state is JobState.REMOVED:
        is_meant = not job.reason.startswith(SURPLUS) and not spares_others
        return Then.GIVE_UP if is_meant else Then.SUBMIT
    if had_chunk or job.exit_code == 0:
        return Then.SUBMIT
    # It left the queue without a reason, or failed in the runner's own code.
    return Then.REPLACE if not job.exit or job.exit_code == EX_SOFTWARE else Then.GIVE_UP


# -- ending ------------------------------------------------------------------------------
def killstats(batches: Collection[BatchRecord]) -> set[str]:
    """Return the states in which the jobs of a crew with these batches are removed."""
    if not batches:  # the jobs only linger
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
        Whether some of these are in one of the killstats: what stops them would stop others.
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
) -> CrewEnd:
    """Return what to do next for a crew whose owner has ended.

    Parameters
    ----------
    jobs
        Its jobs in the queue.
    may_submit
        Whether chunks for which no job remains get others.
    """
    takers = [token.job for token in tokens]
    posted = takers.count("")
    killed = {job for job, state in jobs.items() if state.value in killstats}
    surplus = set()
    if crew.is_resident and not posted:
        # Only an evicted job makes what it has taken.
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
    """Return the unfinished chunks whose jobs failed: not those that were removed, or never begun.

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


@dataclass(frozen=True)
class Cleaning:
    """What to delete of a submit directory whose jobs have all left the queue.

    Parameters
    ----------
    discard
        The batches to delete → the chunks whose files stay, and those of their jobs.
    why_kept
        Why the directory stays; empty if it goes as a whole.
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
        Those that are to be cleaned up.
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
