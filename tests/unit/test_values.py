"""Events, states and exceptions are plain values."""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import pickle

import pytest

import condorpool
from condorpool import JobState
from condorpool.values import exceptions
from condorpool.values.events import state_after


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(["SUBMIT"], JobState.IDLE, id="submitted"),
        pytest.param(["SUBMIT", "EXECUTE"], JobState.RUNNING, id="running"),
        pytest.param(["SUBMIT", "EXECUTE", "JOB_EVICTED"], JobState.IDLE, id="evicted"),
        pytest.param(["SUBMIT", "EXECUTE", "SHADOW_EXCEPTION"], JobState.IDLE, id="shadow-died"),
        pytest.param(["SUBMIT", "JOB_HELD"], JobState.HELD, id="held"),
        pytest.param(["SUBMIT", "JOB_HELD", "JOB_EVICTED"], JobState.HELD, id="evicted-by-hold"),
        pytest.param(["SUBMIT", "JOB_HELD", "JOB_RELEASED"], JobState.IDLE, id="released"),
        pytest.param(["SUBMIT", "EXECUTE", "JOB_SUSPENDED"], JobState.SUSPENDED, id="suspended"),
        pytest.param(["SUBMIT", "EXECUTE", "IMAGE_SIZE"], JobState.RUNNING, id="no-news"),
        pytest.param(["EXECUTE", "JOB_TERMINATED", "EXECUTE"], JobState.COMPLETED, id="twice"),
        pytest.param(["JOB_ABORTED", "JOB_TERMINATED"], JobState.REMOVED, id="removed"),
    ],
)
def test_state_follows_the_event_log(events, expected):
    """A job's state is decided by its events alone."""
    assert functools.reduce(state_after, events, JobState.UNMATERIALIZED) is expected


ERRORS = [e for _, e in inspect.getmembers(exceptions, inspect.isclass) if e.__module__ == exceptions.__name__]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_public_and_ours(error):
    """Users can name it and catch all with one class."""
    assert getattr(condorpool, error.__name__) is error
    assert issubclass(error, condorpool.CondorPoolError)


def test_errors_are_the_standard_ones_too():
    """Code that was written for multiprocessing catches them."""
    assert issubclass(condorpool.PoolClosedError, ValueError)
    assert issubclass(condorpool.PayloadError, pickle.PicklingError)
    assert issubclass(condorpool.TimeoutError, (multiprocessing.TimeoutError, TimeoutError))
    assert issubclass(condorpool.TimeoutError, multiprocessing.TimeoutError)


def test_errors_travel():
    """A job's error keeps its facts when it is pickled."""
    error = condorpool.JobHeldError("12.3", "no disk", 34, 1, count=5, host="slot1@e", stderr="oh")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.job_id, copy.code, copy.host) == ("12.3", 34, "slot1@e")
    assert "4 more jobs" in str(copy)
