"""How events change crews and batches."""

from __future__ import annotations

import pytest

from condorpool.engine.batches import Batch
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Cluster, Crew
from condorpool.engine.records import BatchRecord
from condorpool.values.events import JobEvent, JobState


def batch(size=3, limit=10, *, is_resident=False, jobs=None):
    """Make a batch whose jobs were submitted as cluster 7."""
    crew = Crew(1, "f", limit, JobOptions(), is_resident=is_resident)
    made = Batch(1, crew, lambda *_: None, JobOptions(), BatchRecord(calls=1))
    made.pending, made.is_open = {i: i + 1 for i in range(size)}, False
    cluster = Cluster(crew, 7, jobs or size, None if is_resident else range(size))
    crew.clusters, crew.batches = [cluster], [made]
    if not is_resident:
        made.holders = dict(enumerate(cluster.jobs))
    return made


def feed(made, *events):
    """Apply events given as ``(kind, proc)``; finish the chunks of jobs that end."""
    cluster = made.crew.clusters[0]
    for kind, proc in events:
        facts = {"HoldReason": "why", "HoldReasonCode": 34}
        ended = cluster.apply(JobEvent(kind, 7, proc, facts))
        if cluster.chunks is not None:
            for job in ended:
                del made.pending[job.proc]


@pytest.mark.parametrize(
    ("size", "limit", "events", "expected"),
    [
        pytest.param(1, 9, [("SUBMIT", 0)], False, id="idle"),
        pytest.param(1, 9, [("SUBMIT", 0), ("JOB_HELD", 0)], True, id="held"),
        pytest.param(2, 9, [("JOB_HELD", 0), ("EXECUTE", 1)], False, id="one-runs"),
        pytest.param(2, 9, [("JOB_HELD", 0), ("JOB_SUSPENDED", 1)], False, id="one-is-suspended"),
        pytest.param(2, 9, [("JOB_HELD", 0), ("JOB_TERMINATED", 1)], True, id="rest-has-ended"),
        pytest.param(2, 9, [("JOB_HELD", 0)], False, id="more-to-come"),
        pytest.param(2, 1, [("JOB_HELD", 0)], True, id="held-jobs-fill-the-queue"),
    ],
)
def test_stuck_in_a_plain_crew(size, limit, events, expected):
    """A batch is stuck when only held jobs remain, or when they keep others out of the queue."""
    made = batch(size, limit)
    feed(made, *events)
    assert made.is_stuck is expected


@pytest.mark.parametrize(
    ("taken", "events", "expected"),
    [
        pytest.param({}, [("JOB_HELD", 0), ("JOB_HELD", 1)], True, id="no-job-can-take"),
        pytest.param({}, [("JOB_HELD", 0), ("EXECUTE", 1)], False, id="another-takes-it"),
        pytest.param({0: 0}, [("JOB_HELD", 0), ("EXECUTE", 1)], True, id="a-held-job-has-it"),
        pytest.param({0: 1}, [("JOB_HELD", 0), ("EXECUTE", 1)], False, id="a-running-job-has-it"),
    ],
)
def test_stuck_in_a_resident_crew(taken, events, expected):
    """It matters which job has the chunk; any job takes a chunk that no job has."""
    made = batch(1, is_resident=True, jobs=2)
    jobs = made.crew.clusters[0].jobs
    made.holders = {chunk: jobs[proc] for chunk, proc in taken.items()}
    feed(made, *events)
    assert made.is_stuck is expected


def test_counts_follow_the_states():
    """Every job is counted once, whatever happens to it."""
    made = batch()
    feed(made, ("SUBMIT", 0), ("EXECUTE", 0), ("JOB_EVICTED", 0), ("EXECUTE", 0), ("EXECUTE", 9))
    cluster = made.crew.clusters[0]
    assert cluster.counts[JobState.RUNNING] == 1
    assert cluster.counts[JobState.UNMATERIALIZED] == 2
    assert cluster.live == 3
    assert cluster.jobs[0].attempts == 2


def test_a_removed_cluster_ends_the_jobs_that_were_never_made():
    """They have no events of their own."""
    cluster = batch(3).crew.clusters[0]
    cluster.apply(JobEvent("SUBMIT", 7, 0))
    assert cluster.apply(JobEvent("CLUSTER_REMOVE", 7)) == cluster.jobs[1:]
    assert cluster.live == 1


def test_a_held_job_that_is_removed_keeps_its_reason():
    """The hold reason says more than the removal."""
    made = batch(1)
    feed(made, ("JOB_HELD", 0))
    cluster = made.crew.clusters[0]
    cluster.apply(JobEvent("JOB_ABORTED", 7, 0, {"Reason": "removed by user"}))
    assert cluster.jobs[0].reason == "why"


def test_the_error_names_the_first_held_job():
    """It has its reason, its codes, and how many jobs are held."""
    made = batch(3)
    feed(made, ("JOB_HELD", 2), ("JOB_HELD", 1))
    error = made.held_error()
    assert (error.job_id, error.code, error.count) == ("7.1", 34, 2)


@pytest.mark.parametrize(
    ("middle", "is_known", "pending"),
    [
        pytest.param(4, True, {0: 4, 4: 9}, id="left-to-others"),
        pytest.param(0, True, {0: 9}, id="known"),
        pytest.param(9, False, {0: 9}, id="beyond"),
        pytest.param(12, False, {0: 9}, id="not-waited-for"),
    ],
)
def test_a_chunk_splits(middle, is_known, pending):
    """The part that a job leaves to others becomes a chunk of its own."""
    made = batch(0)
    made.pending = {0: 9}
    assert made.split(middle) is is_known
    assert made.pending == pending


def test_a_job_that_is_released_forgets_its_reason():
    """Later events have other reasons; a hold whose event comes twice counts once."""
    made = batch(1)
    cluster = made.crew.clusters[0]
    feed(made, ("JOB_HELD", 0), ("JOB_HELD", 0), ("JOB_RELEASED", 0), ("JOB_HELD", 0))
    assert cluster.jobs[0].holds == 2
    feed(made, ("JOB_RELEASED", 0))
    cluster.apply(JobEvent("JOB_ABORTED", 7, 0, {"Reason": "removed by user"}))
    assert cluster.jobs[0].reason == "removed by user"
