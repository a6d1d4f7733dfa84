"""Single jobs, a page at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from condorpool.display.groups import LONGEST, key_of
from condorpool.display.progress import IN_QUEUE
from condorpool.engine.batches import Cluster
from condorpool.values.events import JobState

if TYPE_CHECKING:
    from condorpool.display.source import Source

Place = tuple[Cluster, int]

_STATE_OF = {state.word: state for state in IN_QUEUE}


@dataclass(frozen=True)
class Row:
    """One job of a page; times in seconds, memory in MiB."""

    id: str
    state: str
    host: str
    seconds: float | None
    memory: int | None
    attempts: int
    reason: str


def places(
    source: Source, state: str | None = None, group: str | None = None, ids: Sequence[str] = ()
) -> Iterator[Place]:
    """Yield the jobs in one state, those of a group of held ones, or those with these ids."""
    batch = source.batch
    wanted = JobState.HELD if group else _STATE_OF.get(state or "")
    chosen = set(ids)
    for cluster in list(batch.crew.clusters) if batch else ():
        for proc, job in enumerate(cluster.jobs):
            if (
                (job.state is wanted if wanted else not job.state.is_final)
                and (not group or key_of(job.reason, job.code, job.subcode) == group)
                and (not chosen or cluster.job_id(proc) in chosen)
            ):
                yield cluster, proc


def page(
    source: Source, state: str | None, offset: int, count: int, now: float
) -> tuple[int, list[Row]]:
    """Return how many jobs are in a state, and some of them; ``now`` in seconds since 1970."""
    with source.session.changed:
        chosen = list(places(source, state))
        some = itertools.islice(chosen, offset, offset + count)
        return len(chosen), [_row(cluster, proc, now) for cluster, proc in some]


def _row(cluster: Cluster, proc: int, now: float) -> Row:
    job = cluster.jobs[proc]
    return Row(
        id=cluster.job_id(proc),
        state="transferring" if proc in cluster.transferring else job.state.word,
        host=job.host,
        seconds=(job.ended or now) - job.began if job.began else None,
        memory=job.memory or None,
        attempts=job.attempts,
        reason=job.reason[:LONGEST] if job.state is JobState.HELD else "",
    )
