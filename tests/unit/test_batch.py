"""What a batch makes of events."""

from __future__ import annotations

import pytest

from condorpool.engine.batch import Batch
from condorpool.values.events import JobEvent, JobState


def batch(size=3, queue_limit=10):
    """Make a batch that was submitted as cluster 7."""
    made = Batch(
        1, size, queue_limit, lambda *_: None,
        killstats=(), cleanup=True, cleanfailed=False, cleanupfiles=(),
    )  # fmt: skip
    made.cluster = 7
    return made


def feed(made, *events):
    """Apply events given as ``(kind, proc)``."""
    for kind, proc in events:
        made.apply(JobEvent(kind, 7, proc, {"HoldReason": "why", "HoldReasonCode": 34}))


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
def test_only_held_left(size, limit, events, expected):
    """Nothing goes on when only held jobs are left, also when they keep others out."""
    made = batch(size, limit)
    feed(made, *events)
    assert made.only_held_left is expected


def test_counts_follow_the_states():
    """Every job is counted once, whatever happens to it."""
    made = batch()
    feed(made, ("SUBMIT", 0), ("EXECUTE", 0), ("JOB_EVICTED", 0), ("EXECUTE", 0), ("EXECUTE", 9))
    assert made.counts[JobState.RUNNING] == 1
    assert made.counts[JobState.UNMATERIALIZED] == 2
    assert sum(made.counts.values()) == 3
    assert made.jobs[0].attempts == 2


def test_a_held_job_that_is_removed_keeps_its_reason():
    """Why it was held says more than that it was removed."""
    made = batch(1)
    feed(made, ("JOB_HELD", 0))
    made.apply(JobEvent("JOB_ABORTED", 7, 0, {"Reason": "removed by user"}))
    assert made.jobs[0].reason == "why"


def test_the_error_names_the_first_held_job():
    """With its reason, its codes, and how many more there are."""
    made = batch(3)
    feed(made, ("JOB_HELD", 2), ("JOB_HELD", 1))
    error = made.held_error()
    assert (error.job_id, error.code, error.count) == ("7.1", 34, 2)
