"""Resources of jobs, time limits of calls, and policies for held jobs."""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

import condorpool
from condorpool import personal
from condorpool.access.bindings import htcondor2

new_bindings = pytest.mark.skipif(
    htcondor2.version().split()[1].startswith(("24.", "25.0.")), reason="memory_max came with 25.2"
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def asked():
    """Return what the job requested, from its ad."""
    ad = Path(os.environ["_CONDOR_JOB_AD"]).read_text().splitlines()
    lines = dict(line.split(" = ", 1) for line in ad if " = " in line)
    return {k: v for k, v in lines.items() if k.startswith("Request")}


def greedy(mib, seconds=60):
    """Use this much memory, for long if the job requested less; return what it requested."""
    block = b"x" * (mib << 20)
    request = int(asked()["RequestMemory"])
    time.sleep(seconds if request < mib else 0)
    return len(block) and request


def stubborn(seconds):
    """Catch whatever is raised."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(seconds)
        except BaseException:  # noqa: BLE001
            continue


def deaf(seconds):
    """Stay in one C function that holds the interpreter's lock."""
    return sum(itertools.repeat(0, 10**12 * seconds))


class TestKeywords:
    """Keywords for the resources of jobs."""

    def test_they_reach_the_job(self, make_pool):
        """The job has them in HTCondor's units; those of a call replace the pool's."""
        pool = make_pool(memory="0.1GB", disk=50, cpus=1)
        got = pool.apply(asked, memory=64)
        assert (got["RequestMemory"], got["RequestDisk"], got["RequestCpus"]) == (
            "64",
            "51200",
            "1",
        )
        assert pool.apply(asked)["RequestMemory"] == "103"

    @new_bindings
    def test_the_description_shows_them(self, make_pool):
        """It is what HTCondor would get, for the pool and for a call."""
        pool = make_pool(
            memory="2GB", memory_max="16 GiB", gpus=1, requirements="(OpSysMajorVer == 9)",
            container_image="docker://python:3.11", submitkwargs={"Request_Disk": "1GB"},
        )  # fmt: skip
        shown = pool.submit_description(abs, cpus=4, disk="10GB", memory="3GB")
        assert {
            "request_memory": "3072MB",
            "retry_request_memory_increase": "RequestMemory * 2",
            "retry_request_memory_max": "16384MB",
            "request_disk": "10240MB",
            "request_cpus": "4",
            "request_gpus": "1",
            "requirements": "(OpSysMajorVer == 9)",
            "container_image": "docker://python:3.11",
        }.items() <= shown.items()
        raw = pool.submit_description(abs, submitkwargs={"request_memory": "5GB"})
        assert raw["request_memory"] == "5GB"

    def test_calls_with_other_needs_get_another_runner(self, make_pool):
        """Calls with the same needs share one."""
        pool = make_pool(processes=1)
        plain = pool.apply(os.getpid)
        assert pool.apply(os.getpid, memory="70MB") != plain
        same = pool.apply(os.getpid, memory=80)
        assert pool.apply(os.getpid, memory="80 MiB") == same
        assert pool.apply(os.getpid, python=sys.executable) != same


class TestMemory:
    """A call that needs more memory than its job asked for."""

    @pytest.fixture
    def fresh(self, tmp_path):
        """Start an HTCondor that has no slot left of jobs with more memory."""
        with personal.start(tmp_path / "fresh", cpus=2) as started:
            yield started

    @new_bindings
    def test_it_is_made_again_with_more(self, fresh, make_pool):
        """HTCondor runs the job again, and other jobs keep their memory."""
        pool = make_pool(personal=fresh, processes=2, memory="64MB", memory_max="1GB")
        result = pool.map_async(greedy, [200, 1, 1], chunksize=1)
        most, *others = result.get(timeout=90)
        assert most == 256
        assert set(others) == {64}
        assert sum(job.log().count("was evicted") for job in result.jobs) == 2

    def test_without_a_most_it_is_held(self, fresh, make_pool):
        """The error has HTCondor's reason and the two keywords that help."""
        pool = make_pool(personal=fresh, memory="64MB")
        with pytest.raises(condorpool.JobHeldError, match="memory usage exceeded") as caught:
            pool.apply_async(greedy, (200,)).get(timeout=60)
        assert caught.value.subcode == 102
        assert "memory_max=" in str(caught.value)

    def test_an_access_point_that_cannot(self, make_pool, monkeypatch, tmp_path):
        """An older HTCondor would ignore memory_max: it raises before anything is written."""
        pool = make_pool(memory=64)
        monkeypatch.setattr(
            pool._workload.access_point,
            "version",
            "$CondorVersion: 24.0.17 2026-01-05 BuildID: 1 $",
        )
        with pytest.raises(
            condorpool.HTCondorError, match=r"memory_max needs HTCondor 25\.2.*24\.0\.17"
        ):
            pool.apply(abs, (1,), memory_max="1GB")
        assert not list(tmp_path.iterdir())

    def test_bindings_that_cannot(self, make_pool, monkeypatch):
        """Older bindings would omit it from the job."""
        pool = make_pool(memory=64)
        monkeypatch.setattr(htcondor2, "version", lambda: "$CondorVersion: 25.0.10 2026-05-14 $")
        with pytest.raises(
            condorpool.HTCondorError, match=r"bindings are .*25\.0\.10.*pip install"
        ):
            pool.apply(abs, (1,), memory_max="1GB")


class TestTaskTimeout:
    """A call that takes longer than it may."""

    def test_it_alone_is_ended(self, make_pool):
        """The error names call and seconds; the chunk's other calls and the job continue."""
        pool = make_pool(processes=1, task_timeout=0.5)
        first = pool.apply(os.getpid)
        result = pool.map_async(time.sleep, [0, 0, 30, 0], chunksize=2)
        with pytest.raises(condorpool.TaskTimeoutError, match=r"call 2 took longer than 0\.5 s"):
            result.get(timeout=60)
        assert list(result._calls.errors) == [2]
        assert pool.apply(os.getpid) == first

    def test_the_remote_traceback_says_where(self, pool):
        """The line where the call was is in the traceback, as for any exception."""
        with pytest.raises(condorpool.TaskTimeoutError) as caught:
            pool.apply(greedy, (100,), memory=64, task_timeout=0.3)
        assert "in greedy" in str(caught.value.__cause__)
        assert pool.apply(abs, (-1,), task_timeout=30) == 1

    @pytest.mark.parametrize(("call", "maxtasksperchild"), [(deaf, None), (stubborn, 1)])
    def test_what_cannot_be_interrupted_ends_with_its_job(self, make_pool, call, maxtasksperchild):
        """The error says where the call was, and other chunks are made."""
        pool = make_pool(processes=1, task_timeout=0.5, maxtasksperchild=maxtasksperchild)
        result = pool.map_async(call, [60, 0], chunksize=1)
        with pytest.raises(condorpool.TaskTimeoutError, match=r"than 0\.5 s, and could not"):
            result.get(timeout=60)
        assert list(result._calls.errors) == [0]
        assert f"in {call.__name__}" in str(result._calls.errors[0])
        pool._workload.results.clear()


class TestOnHold:
    """A function that is asked about held jobs."""

    @pytest.fixture
    def held(self, make_pool):
        """Submit a call whose job will be held."""
        commands = {"transfer_input_files": "/no/such/file", "should_transfer_files": "YES"}
        return make_pool().apply_async(abs, (-1,), submitkwargs=commands)

    def test_it_is_asked_once_for_each_hold(self, held):
        """A job that is held again after a release is asked about again."""
        seen = []

        def decide(job):
            seen.append((job.id, job.hold_reason))
            return "release" if len(seen) == 1 else "raise"

        with pytest.raises(condorpool.JobHeldError, match=r"/no/such/file.* 2nd time") as caught:
            held.get(timeout=60, on_hold=decide)
        assert "Held again after release, 2nd time." in held.analyze()
        assert str(caught.value).count("again after release") == 1
        assert len(seen) == 2
        assert seen[0][0] == seen[1][0]
        assert "/no/such/file" in seen[0][1]
        with pytest.raises(condorpool.ResultTimeoutError):
            held.get(timeout=1, on_hold=decide)
        assert len(seen) == 2

    def test_remove(self, held):
        """The call fails with the reason why its job was held."""
        with pytest.raises(condorpool.JobRemovedError, match="/no/such/file"):
            held.get(timeout=60, on_hold=lambda job: "remove")

    def test_what_it_may_not_say(self, held):
        """Another return value raises an error that lists the valid ones."""
        with pytest.raises(ValueError, match=r"'relaese'.*'release'"):
            held.get(timeout=60, on_hold=lambda job: "relaese")


class TestBadInput:
    """The error names a wrong argument, before anything is submitted or written."""

    @pytest.mark.parametrize(
        ("arguments", "error", "named"),
        [
            ({"processes": -1}, ValueError, "processes=-1"),
            ({"processes": 2.0}, TypeError, "processes"),
            ({"processes": True}, TypeError, "processes"),
            ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild=0"),
            ({"initializer": 3}, TypeError, "initializer"),
            ({"initargs": {"a": 1}}, TypeError, "initargs"),
            ({"initargs": 3}, TypeError, "initargs"),
            ({"schedd": 3}, TypeError, "schedd"),
            ({"collector": b"x"}, TypeError, "collector"),
            ({"personal": 3}, TypeError, "personal"),
            ({"submitkwargs": "request_cpus=1"}, TypeError, "submitkwargs"),
            ({"submitkwargs": {"executable": "x"}}, ValueError, "executable"),
            ({"jobkwargs": []}, TypeError, "jobkwargs"),
            ({"jobkwargs": {"cleanup": "no"}}, TypeError, "cleanup"),
            ({"jobkwargs": {"cleanupfiles": "a.txt"}}, TypeError, "cleanupfiles"),
            ({"jobkwargs": {"submitdri": "."}}, ValueError, "submitdri"),
            ({"killstats": 3}, TypeError, "killstats"),
            ({"killstats": ["held"]}, ValueError, "'held'"),
            ({"submitdir": 3}, TypeError, "submitdir"),
            ({"on_hold": "ignore"}, ValueError, "on_hold='ignore'"),
            ({"echo": "yes"}, TypeError, "echo"),
            ({"linger": "10"}, TypeError, "linger"),
            ({"linger": -1}, ValueError, "linger=-1"),
            ({"linger": math.inf}, ValueError, "linger=inf"),
            ({"retire_after": 0}, ValueError, "retire_after=0"),
            ({"retire_after": None}, TypeError, "retire_after"),
            ({"memroy": "2GB"}, TypeError, "memroy"),
            ({"memory": "2GB", "memory_max": "1GB"}, ValueError, "memory=2048.*memory_max=1024"),
            ({"memory_max": "1GB"}, ValueError, "memory_max needs memory"),
        ],
    )
    def test_pool(self, htcondor, tmp_path, arguments, error, named):
        """Every argument of the constructor is checked."""
        with pytest.raises(error, match=named):
            condorpool.Pool(**{"personal": htcondor, "submitdir": tmp_path, **arguments})
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("call", "error", "named"),
        [
            (lambda p: p.apply(3), TypeError, "first argument"),
            (lambda p: p.apply(abs, {"x": 1}), TypeError, "args"),
            (lambda p: p.apply(abs, "x"), TypeError, r"args=\(value,\)"),
            (lambda p: p.apply(abs, 1), TypeError, "args"),
            (lambda p: p.apply(abs, (), [1]), TypeError, "kwds"),
            (lambda p: p.apply(abs, (), {1: 2}), TypeError, "kwds"),
            (lambda p: p.apply_async(abs, (1,), callback=3), TypeError, "callback"),
            (lambda p: p.apply_async(abs, (1,), error_callback=3), TypeError, "error_callback"),
            (lambda p: p.map(abs, 3), TypeError, "iterable"),
            (lambda p: p.map(abs, [1], 0), ValueError, "chunksize=0"),
            (lambda p: p.map(abs, [1], 1.5), TypeError, "chunksize"),
            (lambda p: p.map_async(abs, [1], callback=3), TypeError, "callback"),
            (lambda p: p.starmap(abs, 3), TypeError, "iterable"),
            (lambda p: p.imap(abs, 3), TypeError, "iterable"),
            (lambda p: p.imap(abs, [1], 0), ValueError, "chunksize=0"),
            (lambda p: p.imap_unordered(abs, [1], buffersize=0), ValueError, "buffersize=0"),
            (lambda p: p.imap(abs, [1], disk="x"), ValueError, "disk='x'"),
            (lambda p: p.starmap(pow, [(1, 2), 3]), TypeError, "each item"),
            (lambda p: p.map(abs, [1], memroy="2GB"), TypeError, "'memroy': did you mean memory"),
            (lambda p: p.map(abs, [1], memory="2XB"), ValueError, "memory='2XB'"),
            (lambda p: p.map(abs, [1], jobkwargs=3), TypeError, "jobkwargs"),
            (lambda p: p.map(abs, [1], submitkwargs={"log": "x"}), ValueError, "'log'"),
            (
                lambda p: p.apply(abs, (1,), cpus=2, submitkwargs={"Request_Cpus": 2}),
                ValueError,
                r"cpus= and submitkwargs\['request_cpus'\]",
            ),
            (lambda p: p.submit_description(3), TypeError, "first argument"),
            (lambda p: p.submit_description(abs, 0), ValueError, "calls=0"),
        ],
    )
    def test_verbs(self, pool, access_point, tmp_path, call, error, named):
        """Every argument of a verb is checked."""
        with pytest.raises(error, match=named):
            call(pool)
        assert not list(tmp_path.iterdir())
        assert not access_point.query("true", ["ClusterId"])

    @pytest.mark.parametrize("timeout", ["1", math.nan, [1], True])
    def test_timeouts(self, pool, timeout):
        """A wait takes a number of seconds."""
        result = pool.map_async(abs, [])
        for wait in (result.get, result.wait):
            with pytest.raises((TypeError, ValueError), match="timeout"):
                wait(timeout)
