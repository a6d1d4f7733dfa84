"""What is written for joblib: the same on its own back end and on HTCondor."""

from __future__ import annotations

import os

import joblib
import pytest

import condorpool

condorpool.register_joblib()


def halve(x):
    """Divide it."""
    return 1 / x


@pytest.fixture(scope="module")
def parallel(backend, where):
    """Let calls of `joblib.Parallel` go to the back end."""
    name = "loky" if backend == "multiprocessing" else backend
    return lambda **limits: joblib.parallel_config(name, **where, **limits)


def test_in_order(parallel):
    """Results come in order, as a list and as a generator."""
    calls = [joblib.delayed(pow)(x, 2) for x in range(100)]
    with parallel(n_jobs=2):
        assert joblib.Parallel()(calls) == [x * x for x in range(100)]
        assert list(joblib.Parallel(return_as="generator")(calls)) == [x * x for x in range(100)]


def test_one_parallel_for_many(parallel):
    """The jobs stay from one use to the next."""
    with parallel(n_jobs=1), joblib.Parallel() as many:
        pids = [many([joblib.delayed(os.getpid)()]) for _ in range(3)]
    assert len({pid for (pid,) in pids}) == 1


def test_an_exception(parallel):
    """It ends the other calls."""
    with parallel(n_jobs=2):
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(halve)(x) for x in (2, 1, 0, 4))
        assert joblib.Parallel()([joblib.delayed(halve)(2)]) == [0.5]


def test_how_many(parallel):
    """-1 is all CPUs of the HTCondor pool."""
    with parallel(n_jobs=-1):
        assert joblib.effective_n_jobs() == 2 or os.cpu_count() != 2
    with parallel(), pytest.raises(ValueError, match="n_jobs"):
        joblib.effective_n_jobs(0)
