"""The table of jobs, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from condorpool.display.groups import LONGEST, key_of
from condorpool.display.progress import IN_QUEUE
from condorpool.engine.jobs import Job
from condorpool.values.events import JobState

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls

#: A row names at most this many parts of its calls.
MOST_CHUNKS = 3

_STATE_OF = {state.word: state for state in IN_QUEUE}


@dataclass(frozen=True)
class Row:
    """One job on a page; times in seconds, memory in MiB.

    Parameters
    ----------
    calls
        The numbers of the calls that it has taken and not finished, as ``3, 8-11``.
    """

    id: str
    state: str
    calls: str
    host: str
    seconds: float | None
    memory: int | None
    attempts: int
    reason: str


def jobs_in(
    calls: Calls, state: str | None = None, group: str | None = None, ids: Sequence[str] = ()
) -> Iterator[Job]:
    """Yield the queued jobs in a state, in a group of held jobs, or with these ids."""
    batch = calls.batch
    wanted = JobState.HELD if group else _STATE_OF.get(state or "")
    chosen = set(ids)
    for cluster in list(batch.crew.clusters) if batch else ():
        for job in cluster.jobs:
            if (
                (job.state is wanted if wanted else not job.state.is_final)
                and (not group or key_of(job.reason, job.code, job.subcode) == group)
                and (not chosen or job.id in chosen)
            ):
                yield job


def page(
    calls: Calls, state: str | None, offset: int, count: int, now: float
) -> tuple[int, list[Row]]:
    """Return how many jobs are in a state, and a page of them; ``now`` is in Unix time."""
    with calls.session.changed:
        chosen = list(jobs_in(calls, state))
        shown = chosen[offset : offset + count]
        taken = _taken(calls, shown)
        return len(chosen), [_row(job, taken[job], now) for job in shown]


def _taken(calls: Calls, jobs: Sequence[Job]) -> dict[Job, list[str]]:
    """Return the numbers of the calls that each of the jobs has, and has not finished."""
    taken: dict[Job, list[str]] = {job: [] for job in jobs}
    batch = calls.batch
    if batch is None:
        return taken
    for first in sorted(batch.pending.keys() & batch.holders.keys()):
        if (job := batch.holders[first]) in taken:
            last = batch.pending[first] - 1
            taken[job].append(f"{first}-{last}" if last > first else str(first))
    return taken


def _row(job: Job, calls: Sequence[str], now: float) -> Row:
    return Row(
        id=job.id,
        state="transferring" if job.is_transferring else job.state.word,
        calls=", ".join(calls[:MOST_CHUNKS]) + ", …" * (len(calls) > MOST_CHUNKS),
        host=job.host,
        seconds=(job.ended or now) - job.began if job.began else None,
        memory=job.memory or None,
        attempts=job.attempts,
        reason=job.reason[:LONGEST] if job.state is JobState.HELD else "",
    )
