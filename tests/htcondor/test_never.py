"""Jobs that no slot of the pool can run: users are told at once, and the jobs do not stay."""

from __future__ import annotations

import functools
import sys
import time

import cloudpickle
import pytest
import waiting

from condorpool import JobRemovedError
from condorpool.cleaner import registry
from condorpool.cleaner.ending import Ending
from condorpool.cleaner.owner import Owner
from condorpool.display import orders
from condorpool.display.progress import Meter
from condorpool.engine import rules

cloudpickle.register_pickle_by_value(sys.modules[__name__])

until = functools.partial(waiting.until, seconds=40)

TOO_MANY = "each job has request_cpus = 99, but no slot has more than 2"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"cpus": 99}, TOO_MANY),
        ({"memory": "900TB"}, "each job has request_memory = 921,600 GiB, but no slot has more"),
        ({"gpus": 1}, "each job has request_gpus = 1, but no slot has any"),
        ({"requirements": 'TARGET.Arch == "ALPHA"'}, 'its requirement TARGET.Arch == "ALPHA"'),
        ({"cpus": 2, "memory": "100MB", "requirements": "Memory > 1"}, ""),
        ({"requirements": "MyOwnThing == 1 && Memory > MY.RequestMemory"}, ""),
    ],
)
@pytest.mark.parametrize("arguments", [{}, {"processes": 2}], ids=["all", "two"])
def test_a_line_before_submitting(request_, words, arguments, make_pool, capsys):
    """It warns once of what no slot has; slots in use count like free ones."""
    pool = make_pool(**arguments)
    busy = pool.map_async(time.sleep, [30, 30], chunksize=1)
    until(lambda: busy.counts().running == 2)
    capsys.readouterr()
    for _ in range(2):
        pool.apply_async(abs, (1,), **request_)
    said = capsys.readouterr().err
    assert said.count("\n") == bool(words), said
    assert words in said


def test_the_display_knows(make_pool):
    """It has the reason in a sentence, and its button removes the calls."""
    pool = make_pool()
    result = pool.map_async(abs, range(5), cpus=99)
    meter = Meter(result._calls)
    never = until(lambda: meter.read().never)
    assert never == f"These calls cannot run: {TOO_MANY}."
    assert meter.read().note == ""
    said = orders.perform(result._calls, {"do": "remove", "idle": True})["said"]
    assert said == "removed 5 calls"
    with pytest.raises(JobRemovedError):
        result.get(timeout=30)
    assert not meter.read().never


@pytest.mark.parametrize("size", [None, 1], ids=["runners", "plain jobs"])
def test_leaving_a_pool(size, make_pool, capsys, gone):
    """Their calls are removed after a notice, and their errors say why; others end as usual."""
    pool = make_pool(maxtasksperchild=size)
    never = pool.map_async(abs, range(3), chunksize=1, cpus=99)
    usual = pool.map_async(abs, range(3), chunksize=1)
    with pytest.raises(Exception, match=TOO_MANY):
        pool.close()
    assert "Its calls are removed in 15 s, unless such a slot appears" in capsys.readouterr().err
    with pytest.raises(JobRemovedError, match=TOO_MANY):
        never.get(timeout=1)
    assert usual.get(timeout=1) == [0, 1, 2]
    assert gone()


def test_jobs_that_ran_before_stay(make_pool):
    """There was a slot for them: it may come back."""
    pool = make_pool()
    result = pool.map_async(time.sleep, [30], requirements="true")
    until(lambda: result.counts().running)
    (job,) = result._calls.batch.crew.jobs
    assert job.crew.has_started
    assert job.crew.waiting_job is None


def test_the_cleaner(make_pool, monkeypatch, access_point):
    """It removes them in time, not after a day, and notes why."""
    monkeypatch.setattr(rules, "UNMATCHED_AFTER", 2.0)
    pool = make_pool()
    pool.map_async(abs, range(3), chunksize=1, cpus=99)
    until(lambda: access_point.query("true", ["ClusterId"]))
    (path,) = (session.directory.path for session in pool._workload.sessions)
    mine = registry.entries(registry.state() / str(Owner.this()))
    (entry,) = (entry for entry in mine if entry.path == path)
    end = Ending(entry)
    end.access_point = access_point
    wanted = ["ClusterId", "ProcId", "JobStatus", "NumJobStarts", "CondorpoolCrew"]

    def jobs():
        return access_point.query("true", wanted)

    assert not end._unmatched(jobs())
    ((_, why),) = end.unmatched.values()
    assert why == TOO_MANY
    doomed = until(lambda: end._unmatched(jobs()))
    assert len(doomed) == len(jobs())
    assert entry.note == f"removes {len(doomed)} jobs: {TOO_MANY}"
