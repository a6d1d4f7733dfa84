"""What is done to jobs and chunks that are there: hold, release, remove, take back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from condorpool.access.accesspoint import any_cluster
from condorpool.engine.batches import Batch, Cluster, Crew
from condorpool.engine.state import Work
from condorpool.values.events import JobState
from condorpool.values.exceptions import JobRemovedError
from condorpool.values.locks import uninterrupted

#: Why a call is not made that was taken back in time.
TAKEN_BACK = "it was taken back before a job made it"

#: Why a job is acted on.
ASKED_FOR = "asked for by condorpool's user"

#: What ends or stops the calls that a job makes.
_STOPPING = ("hold", "remove", "removex", "suspend")

#: What a factory that makes jobs understands.
_FACTORY_ACTIONS = ("hold", "release", "remove")


@uninterrupted
def act(work: Work, action: str, batch: Batch) -> int:
    """Do something to the jobs that make the chunks of a batch; return to how many.

    "remove" counts chunks, and takes those back that no job has yet; the
    others count jobs.
    """
    crew = batch.crew
    if not crew.is_resident:
        return sum(_act_on_cluster(work, action, cluster) for cluster in crew.clusters)
    if action == "remove":
        return _remove_chunks(work, batch)
    work.note_takers(crew)
    with work.changed:
        jobs = [batch.holders[i] for i in batch.pending if i in batch.holders]
        jobs = jobs or [(c, p) for c in crew.clusters for p in range(len(c.jobs))]
    return act_on(work, action, jobs, batch)


def _act_on_cluster(work: Work, action: str, cluster: Cluster) -> int:
    jobs = f"ClusterId == {cluster.number}"
    done = work.access_point.act(action, f"{jobs} && ProcId >= 0", ASKED_FOR)
    if action in _FACTORY_ACTIONS:
        # The factory that makes the jobs counts as one too: it is acted on by itself.
        work.access_point.act(action, jobs, ASKED_FOR)
    if done:
        _foresee(work, action, [(cluster, proc) for proc in range(len(cluster.jobs))])
    return done


@uninterrupted
def take_back(work: Work, batch: Batch | None = None) -> int:
    """Take back the chunks that no job makes yet, of a batch or of all; return how many."""
    with work.changed:
        batches = [batch] if batch else list(work.batches.values())
        crews = dict.fromkeys(batch.crew for batch in batches if batch.pending)
    count = 0
    for crew in crews:
        if crew.is_resident:
            error = JobRemovedError("(none yet)", TAKEN_BACK)
            for token in work.recall(crew, batch):
                if whose := work.batches.get(token.batch):
                    work.finish(whose, token.first, error)
                    count += 1
        elif crew.clusters:
            count += _take_jobs_back(work, crew)
    with work.changed:
        work.changed.notify_all()
    return count


def _take_jobs_back(work: Work, crew: Crew) -> int:
    """Remove the jobs of a plain crew that have not begun; return how many."""
    clusters = any_cluster(cluster.number for cluster in crew.clusters)
    with work.changed:
        for cluster in crew.clusters:
            cluster.why_not_made = TAKEN_BACK
        waiting = {first for batch in crew.batches for first in batch.pending}
    # What is true of a factory, too: then it makes no more jobs.
    work.access_point.act("remove", f"({clusters}) && JobStatus =!= 2", TAKEN_BACK)
    running = work.access_point.query(f"({clusters}) && JobStatus == 2", ["ClusterId", "ProcId"])
    by_number = {cluster.number: cluster.chunks or () for cluster in crew.clusters}
    waiting -= {by_number[int(ad["ClusterId"])][int(ad["ProcId"])] for ad in running}
    for batch in crew.batches:
        waiting -= work.directory.outcomes(batch.number)
    return len(waiting)


def _remove_chunks(work: Work, batch: Batch) -> int:
    crew = batch.crew
    error = JobRemovedError("(none yet)", TAKEN_BACK)
    back = work.recall(crew, batch)
    with work.changed:
        stuck = batch.held if batch.only_held_left else []
    if stuck:
        cluster, proc = stuck[0]
        error = JobRemovedError(cluster.job_id(proc), cluster.jobs[proc].reason)
    for token in back:
        if stuck:
            batch.holders.setdefault(token.first, stuck[0])
        work.finish(batch, token.first, error)
    work.note_takers(crew)
    with work.changed:
        taken = [batch.holders[i] for i in batch.pending if i in batch.holders]
        unused = [] if crew.pending else [job for job in stuck if job not in taken]
        work.changed.notify_all()
    act_on(work, "remove", unused, batch)
    return len(back) + act_on(work, "remove", taken, batch)


@uninterrupted
def act_on(
    work: Work, action: str, jobs: Sequence[tuple[Cluster, int]], batch: Batch | None = None
) -> int:
    """Do something to these jobs, those that have not ended; return to how many.

    It is meant for the calls of a batch, if that is given, else for all that the jobs could
    make; what is posted later is made by others.
    """
    with work.changed:
        live = [(c, proc) for c, proc in jobs if not c.jobs[proc].state.is_final]
        if action == "hold":
            for cluster, proc in live:  # calls that are posted later are not held
                cluster.jobs[proc].parked = work.clusters[cluster.number][0].pending > 0
    if action in _STOPPING:
        _note_chunks(work, live, batch)
    ids = [cluster.job_id(proc) for cluster, proc in live]
    if not ids:
        return 0
    done = work.access_point.act(action, ids, ASKED_FOR)
    if done:
        _foresee(work, action, jobs)
    return done


def _note_chunks(
    work: Work, jobs: Iterable[tuple[Cluster, int]], batch: Batch | None = None
) -> None:
    """Note for which chunks it is meant that these jobs are acted on."""
    with work.changed:
        for cluster, proc in jobs:
            crew = work.clusters[cluster.number][0]
            meant = [batch] if batch else crew.batches
            cluster.acted_on[proc] = {b.number: dict(b.pending) for b in meant}


@uninterrupted
def release_with_memory(work: Work, jobs: Sequence[tuple[Cluster, int]]) -> tuple[int, int]:
    """Release held jobs with twice the memory; return how many, and the MiB of each."""
    ids = [c.job_id(proc) for c, proc in jobs if c.jobs[proc].state is JobState.HELD]
    # Jobs of one call ask for the same; some tell of all.
    memory = 2 * work.access_point.most_memory(ids[:50]) if ids else 0
    if not memory:
        return 0, 0
    where = any_cluster({cluster.number for cluster, _ in jobs})
    there = work.access_point.query(f"JobStatus == 5 && ({where})", ["ClusterId", "ProcId"])
    held = {f"{ad['ClusterId']}.{ad['ProcId']}" for ad in there}
    ids = [job for job in ids if job in held]
    if ids:
        work.access_point.edit(ids, "RequestMemory", str(memory))
    return act_on(work, "release", jobs), memory


def _foresee(work: Work, action: str, jobs: Iterable[tuple[Cluster, int]]) -> None:
    """Change the state of held jobs at once.

    A wait that begins now must not take jobs for held whose event is on its way.
    """
    if action not in ("release", "remove"):
        return
    with work.changed:
        for cluster, proc in jobs:
            if cluster.jobs[proc].state is JobState.HELD:
                # A removed job is REMOVED by its event, which also ends its chunk.
                cluster.set_state(proc, JobState.IDLE)
