"""What users do to jobs and chunks: hold, release, remove, take back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from condorpool.access.accesspoint import any_cluster
from condorpool.engine.batches import Batch
from condorpool.engine.jobs import Cluster, Crew, Job
from condorpool.engine.state import SessionState
from condorpool.values.events import JobState
from condorpool.values.exceptions import JobRemovedError
from condorpool.values.locks import uninterrupted

#: The reason for the error of a call that was taken back in time.
TAKEN_BACK = "it was taken back before a job made it"

#: The reason for an action that HTCondor records.
ASKED_FOR = "requested by the user of condorpool"

#: Actions that end or stop the calls that a job makes.
_STOPPING = ("hold", "remove", "removex", "suspend")

#: Actions that also work on a job factory.
_FACTORY_ACTIONS = ("hold", "release", "remove")


@uninterrupted
def act_on_batch(state: SessionState, action: str, batch: Batch) -> int:
    """Act on the jobs that make the chunks of a batch; return on how many.

    "remove" also takes back what no job has taken, and returns how many calls it removed.
    """
    crew = batch.crew
    if not crew.is_resident:
        calls = _calls_of_jobs(state, batch)  # before: the events may come at once
        done = sum(_act_on_cluster(state, action, cluster) for cluster in crew.clusters)
        return _note_removed(state, batch, calls) if action == "remove" else done
    if action == "remove":
        return _remove_chunks(state, batch)
    state.refresh_holders(crew)
    with state.changed:
        jobs = [batch.holders[i] for i in batch.pending if i in batch.holders]
        jobs = jobs or [job for cluster in crew.clusters for job in cluster.jobs]
    return act_on_jobs(state, action, jobs, batch)


def _act_on_cluster(state: SessionState, action: str, cluster: Cluster) -> int:
    constraint = f"ClusterId == {cluster.number}"
    done = state.access_point.act(action, f"{constraint} && ProcId >= 0", ASKED_FOR)
    if action in _FACTORY_ACTIONS:
        # A separate action for the factory, which would be counted as a job.
        state.access_point.act(action, constraint, ASKED_FOR)
    if done:
        _count_as_idle(state, action, cluster.jobs)
    return done


@uninterrupted
def take_back(state: SessionState, batch: Batch | None = None) -> int:
    """Take back the chunks that no job has taken, of a batch or of all; return how many calls."""
    with state.changed:
        batches = [batch] if batch else list(state.batches.values())
        crews = dict.fromkeys(batch.crew for batch in batches if batch.pending)
    count = 0
    for crew in crews:
        if crew.is_resident:
            error = JobRemovedError("", TAKEN_BACK)
            for token in state.recall(crew, batch):
                if whose := state.batches.get(token.batch):
                    count += state.finish(whose, token.first, error)
        elif crew.clusters:
            count += _remove_waiting_jobs(state, crew)
    with state.changed:
        state.changed.notify_all()
    return count


def _remove_waiting_jobs(state: SessionState, crew: Crew) -> int:
    """Remove the jobs of a plain crew that have not begun; return how many calls these had."""
    clusters = any_cluster(cluster.number for cluster in crew.clusters)
    with state.changed:
        for cluster in crew.clusters:
            cluster.why_not_made = TAKEN_BACK
    calls = {batch: _calls_of_jobs(state, batch) for batch in crew.batches}
    # This matches the factory too, which then makes no more jobs.
    state.access_point.act("remove", f"({clusters}) && JobStatus =!= 2", TAKEN_BACK)
    running = state.access_point.query(f"({clusters}) && JobStatus == 2", ["ClusterId", "ProcId"])
    by_number = {cluster.number: cluster.chunks or () for cluster in crew.clusters}
    begun = {by_number[int(ad["ClusterId"])][int(ad["ProcId"])] for ad in running}
    begun.update(*(state.directory.outcomes(batch.number) for batch in crew.batches))
    return sum(_note_removed(state, batch, known, begun) for batch, known in calls.items())


def _calls_of_jobs(state: SessionState, batch: Batch) -> dict[int, int]:
    """Return the pending chunks of a plain crew whose jobs were not removed → their calls."""
    with state.changed:
        pending = batch.pending.items()
        return {first: end - first for first, end in pending if first not in batch.removed}


def _note_removed(
    state: SessionState, batch: Batch, calls: Mapping[int, int], begun: Collection[int] = ()
) -> int:
    """Note that the jobs of these chunks were removed, but for some; return how many calls they had."""
    removed = calls.keys() - {*begun}
    with state.changed:
        batch.removed |= removed
    return sum(calls[first] for first in removed)


@uninterrupted
def remove_waiting(state: SessionState, crew: Crew, why: str) -> None:
    """End the chunks of a crew that no job has taken, and remove all its jobs."""
    for token in state.recall(crew):
        if whose := state.batches.get(token.batch):
            state.finish(whose, token.first, JobRemovedError("", why))
    with state.changed:
        clusters = [cluster for cluster in crew.clusters if cluster.live]
        for cluster in clusters:
            cluster.why_not_made = why
        state.changed.notify_all()
    if clusters:
        state.access_point.act("remove", any_cluster(c.number for c in clusters), why)


def _remove_chunks(state: SessionState, batch: Batch) -> int:
    """Remove the jobs that hold chunks of a batch, and take back the others; return how many calls."""
    crew = batch.crew
    error = JobRemovedError("", TAKEN_BACK)
    back = state.recall(crew, batch)
    with state.changed:
        stuck = batch.held if batch.is_stuck else []
        if stuck:
            error = JobRemovedError(stuck[0].id, stuck[0].reason)
            for token in back:
                batch.holders.setdefault(token.first, stuck[0])
    calls = sum(state.finish(batch, token.first, error) for token in back)
    state.refresh_holders(crew)
    with state.changed:
        taken = [batch.holders[i] for i in batch.pending if i in batch.holders]
        unused = [] if crew.pending else [job for job in stuck if job not in taken]
        state.changed.notify_all()
    act_on_jobs(state, "remove", unused, batch)
    return calls + remove_jobs(state, batch, taken)


def remove_jobs(state: SessionState, batch: Batch, jobs: Sequence[Job]) -> int:
    """Remove jobs; return how many calls of a batch these had taken."""
    holders = {*jobs}
    with state.changed:
        taken = [i for i in batch.pending if batch.holders.get(i) in holders]
        calls = sum(batch.pending[first] - first for first in taken)
    return calls if act_on_jobs(state, "remove", jobs, batch) else 0


@uninterrupted
def act_on_jobs(
    state: SessionState, action: str, jobs: Sequence[Job], batch: Batch | None = None
) -> int:
    """Act on those of the jobs that have not ended; return on how many.

    It is meant for the pending chunks of ``batch``, or else of all batches of the jobs'
    crews; other jobs make what is posted later.
    """
    with state.changed:
        live = [job for job in jobs if not job.state.is_final]
        meant = {
            crew: {b.number: dict(b.pending) for b in ([batch] if batch else crew.batches)}
            for crew in {job.crew for job in live}
        }
        # Before HTCondor acts: the tracker may see the event before act() returns.
        for job in live:
            if action == "hold":  # calls that are posted later are not held
                job.held_by_user = job.crew.pending > 0
            if action in _STOPPING:
                job.cluster.acted_on[job] = meant[job.crew]
    if not live:
        return 0
    done = state.access_point.act(action, [job.id for job in live], ASKED_FOR)
    if done:
        _count_as_idle(state, action, jobs)
    return done


@uninterrupted
def release_with_memory(state: SessionState, jobs: Sequence[Job]) -> tuple[int, int]:
    """Release held jobs with twice the memory; return how many, and the MiB of each."""
    ids = [job.id for job in jobs if job.state is JobState.HELD]
    # Jobs of one call of map ask for the same: a sample is enough.
    memory = 2 * state.access_point.most_memory(ids[:50]) if ids else 0
    if not memory:
        return 0, 0
    where = any_cluster({job.cluster.number for job in jobs})
    there = state.access_point.query(f"JobStatus == 5 && ({where})", ["ClusterId", "ProcId"])
    held = {f"{ad['ClusterId']}.{ad['ProcId']}" for ad in there}
    ids = [job_id for job_id in ids if job_id in held]
    if ids:
        state.access_point.edit(ids, "RequestMemory", str(memory))
    return act_on_jobs(state, "release", jobs), memory


def _count_as_idle(state: SessionState, action: str, jobs: Iterable[Job]) -> None:
    """Count released or removed jobs as idle, not held, until their events arrive.

    A wait that begins now must not take them for held.  A removed job becomes REMOVED by
    its event, which also ends its chunk.
    """
    if action in ("release", "remove"):
        with state.changed:
            for job in jobs:
                if job.state is JobState.HELD:
                    job.set_state(JobState.IDLE)
