"""How far a chunk is, while its job makes it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import cloudpickle
import pytest

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def last(result, wanted, timeout=60):
    """Ask until the counts are as wanted; return them."""
    end = time.monotonic() + timeout
    while not wanted(counts := result.counts()):
        assert time.monotonic() < end, counts
        assert counts.total == result.calls
        assert min(counts) >= 0
        time.sleep(0.05)
    return counts


@pytest.mark.parametrize("way", ["YES", "IF_NEEDED"], ids=["transferred", "shared"])
def test_calls_count_before_their_chunk_has_ended(make_pool, way):
    """A job reports what it has made, by either channel; the call that runs is known."""
    pool = make_pool(processes=1, submitkwargs={"should_transfer_files": way})

    def make(x):
        time.sleep(2)
        if x == 0:
            raise ValueError
        return x

    result = pool.map_async(make, range(4), chunksize=4)
    counts = last(result, lambda counts: counts.ended == 2)
    assert counts[:4] == (1, 1, 0, 1)
    assert result.calls_ended == 0  # no outcome has arrived
    pace = result._calls.pace()
    assert pace.longest.number == 2
    assert 2 <= pace.seconds < 6
    result.remove()
    last(result, lambda counts: counts == (0, 0, 4, 0, 0, 0))  # what it had made is lost with it
    elapsed = result.elapsed
    assert elapsed > 4
    time.sleep(0.1)
    assert result.elapsed == elapsed


def test_both_halves_of_a_chunk_count(make_pool):
    """A chunk is split while it is made; both jobs report."""
    pool = make_pool(processes=2)
    result = pool.map_async(time.sleep, [2.0] * 4 + [0.0] * 28)  # chunks of 4
    seen = set()
    while not result.ready():
        seen.add(last(result, lambda counts: True))
        time.sleep(0.1)
    assert max(counts.running for counts in seen) == 2
    assert result.counts() == (32, 0, 0, 0, 0, 0)


def test_what_an_evicted_job_had_made_counts_no_more(make_pool, htcondor):
    """It begins its chunk again, and so do the numbers."""
    pool = make_pool(processes=1)
    result = pool.map_async(time.sleep, [2.0] * 3, chunksize=3)
    last(result, lambda counts: counts.done == 2)
    (job,) = result.jobs
    subprocess.run(
        [htcondor.installation.bin / "condor_vacate_job", "-fast", job.id],
        env={**os.environ, **htcondor.environment()}, check=True, capture_output=True,
    )  # fmt: skip
    last(result, lambda counts: counts.done == 0)
    last(result, lambda counts: counts.done == 1)
    result.get(timeout=100)
    assert result.counts().done == 3


def test_calls_that_were_taken_back_are_removed(make_pool):
    """They have not failed; a job that runs keeps its call."""
    pool = make_pool(processes=1)
    result = pool.map_async(time.sleep, [3.0, 0.0, 0.0], chunksize=1)
    last(result, lambda counts: counts.running == 1)
    time.sleep(0.5)
    assert result.take_back() == 2
    result.wait(60)
    assert result.counts() == (1, 0, 2, 0, 0, 0)
    assert (result.calls_failed, result.calls_removed) == (0, 2)
    assert repr(result).startswith("<MapResult: 1 of 3 calls done, 2 removed, 0:")
