"""Runners, client, daemons and disks fail at any point: no call is lost, none counted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import cloudpickle
import psutil
import pytest
from disks import tmpfs
from waiting import until

import condorpool
from condorpool import personal
from condorpool.engine import follower, state
from condorpool.runner import container, sharing

cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: Whether the job sees the submit directory itself, or only HTCondor's channel to it.
WAYS = pytest.mark.parametrize(
    "way", ["IF_NEEDED", "YES"], ids=["shared-file-system", "file-transfer"]
)


def note(folder, x, seconds=0.05):
    """Write a character each time that the call is begun."""
    with (folder / f"made-{x}").open("a") as file:
        file.write("x")
    time.sleep(seconds)
    return x


def made(folder):
    """Return how often each call was begun."""
    return Counter({int(f.name[5:]): len(f.read_text()) for f in folder.glob("made-*")})


def run(htcondor, *words):
    """Run one of HTCondor's tools, as users do in a terminal."""
    tool, *arguments = words
    subprocess.run(
        [htcondor.installation.bin / tool, *arguments],
        env={**os.environ, **htcondor.environment()}, check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def statuses(access_point):
    """Return the JobStatus of all jobs in the queue."""
    return [int(ad["JobStatus"]) for ad in access_point.query("true", ["JobStatus"])]


# -- what happens to a runner ----------------------------------------------------------

VACATE = pytest.param("condor_vacate_job", None, id="vacated")
HOLD = pytest.param("condor_hold", "condor_release", id="held")
SUSPEND = pytest.param("condor_suspend", "condor_continue", id="suspended")


@WAYS
@pytest.mark.parametrize(("action", "cure"), [VACATE, HOLD, SUSPEND])
def test_a_runner_with_a_chunk_is_stopped(make_pool, htcondor, tmp_path, way, action, cure):
    """In the end each of its calls is delivered once; other runners' calls are not affected."""
    pool = make_pool(processes=2, on_hold="wait", submitkwargs={"should_transfer_files": way})
    result = pool.starmap_async(note, [(tmp_path, x, 1.0) for x in range(4)], chunksize=1)
    until(lambda: len(made(tmp_path)) == 2)
    job = result.jobs[0].id
    run(htcondor, action, job)
    if cure:
        wanted = {"condor_hold": 5, "condor_suspend": 7}[action]
        until(lambda: wanted in statuses(htcondor.access_point()))
        until(lambda: result._calls.missing == 1)  # the other runner has made the rest
        run(htcondor, cure, job)
    assert result.get(timeout=90) == list(range(4))
    assert sum(made(tmp_path).values()) == (4 if action == "condor_suspend" else 5)


@WAYS
@pytest.mark.parametrize(("action", "cure"), [VACATE, HOLD, SUSPEND])
def test_a_lingering_runner_is_stopped(make_pool, htcondor, tmp_path, way, action, cure):
    """The next call is made once: by another runner, or by a suspended one when it resumes."""
    pool = make_pool(processes=1, linger=20, submitkwargs={"should_transfer_files": way})
    first = pool.apply_async(note, (tmp_path, 0))
    assert first.get(timeout=60) == 0
    job = first.job.id
    run(htcondor, action, job)
    # Until the hold reaches it, a runner may still take a chunk, which it keeps.
    until(lambda: first.job.state is not condorpool.JobState.RUNNING)
    result = pool.apply_async(note, (tmp_path, 1))
    if action == "condor_suspend":
        with pytest.raises(condorpool.ResultTimeoutError):
            result.get(timeout=1)
        run(htcondor, cure, job)
    assert result.get(timeout=60) == 1
    assert made(tmp_path) == Counter({0: 1, 1: 1})


def test_a_lingering_runner_is_held_when_a_call_is_posted_for_it(make_pool, htcondor):
    """The client does not know yet when it posts; then it submits another runner for the call."""
    pool = make_pool(processes=1)
    first = pool.apply_async(os.getpid)
    runner, job = first.get(timeout=60), first.job.id
    os.kill(runner, signal.SIGSTOP)  # it takes nothing more
    result = pool.apply_async(os.getpid)
    run(htcondor, "condor_hold", job)
    os.kill(runner, signal.SIGKILL)
    assert result.get(timeout=60) != runner


def test_a_thread_that_never_ends_does_not_block_the_runner(make_pool, access_point):
    """Neither the runner's next call nor its end waits for the thread."""
    pool = make_pool(processes=1, linger=0.2)
    pool.apply(lambda: threading.Thread(target=time.sleep, args=(3600,), daemon=False).start())
    assert pool.apply(abs, (-1,)) == 1
    until(lambda: not statuses(access_point), 10)


def test_a_call_that_ends_its_process_with_code_0(make_pool, monkeypatch):
    """Without an outcome it has failed, whatever the exit code; the other calls are made."""
    monkeypatch.setattr(state, "OUTCOME_LAG", 1.0)
    result = make_pool(processes=1).map_async(
        lambda x: x if x else os._exit(0), range(3), chunksize=1
    )
    with pytest.raises(condorpool.JobFailedError, match="exited with code 0"):
        result.get(timeout=60)
    assert result._calls.values[1:] == [1, 2]


# -- daemons ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("daemon", "end", "way"),
    [
        pytest.param("startd", signal.SIGTERM, "IF_NEEDED", id="startd-stopped"),
        pytest.param("startd", signal.SIGKILL, "YES", id="startd-killed"),
        pytest.param("schedd", signal.SIGTERM, "YES", id="schedd-stopped"),
        pytest.param("schedd", signal.SIGKILL, "YES", id="schedd-killed"),
    ],
)
def test_a_daemon_ends_while_runners_work(make_pool, tmp_path, monkeypatch, daemon, end, way):
    """The master starts it again, and the map finishes."""
    monkeypatch.setattr(follower, "CONTACT_LAG", 2.0)
    commands = {"should_transfer_files": way}
    with (
        personal.start(tmp_path / "own", cpus=2) as own,
        make_pool(personal=own, submitkwargs=commands) as pool,
    ):
        result = pool.starmap_async(note, [(tmp_path, x, 0.5) for x in range(8)], chunksize=1)
        until(lambda: made(tmp_path))
        children = psutil.Process(own.master_pid).children()
        (process,) = (child for child in children if child.name() == f"condor_{daemon}")
        process.send_signal(end)  # the master starts it again
        assert result.get(timeout=60) == list(range(8))
        assert not process.is_running()


# -- disks ----------------------------------------------------------------------------------


def errors_of(result):
    """Return the types of the calls' errors; release held jobs until all calls have ended."""
    try:
        result.get(timeout=60)
    except condorpool.JobHeldError:  # the output of the job could not be transferred
        result.release()
        result.wait(0.5)
        return errors_of(result)
    except condorpool.JobFailedError:
        pass
    return {type(error) for error in result._calls.errors.values()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
@WAYS
def test_the_disk_is_full_while_calls_run(make_pool, tmp_path, way):
    """No outcome and no event can be written; once there is space, every call ends."""
    with tmpfs(tmp_path / "small", "2m") as folder:
        commands = {"should_transfer_files": way}
        pool = make_pool(processes=2, submitdir=folder, submitkwargs=commands)
        result = pool.starmap_async(note, [(tmp_path, x, 0.5) for x in range(6)], chunksize=1)
        until(lambda: len(made(tmp_path)) >= 2)
        filler = folder / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}"], check=False, capture_output=True)
        result.wait(4)
        filler.unlink()
        assert errors_of(result) <= {condorpool.JobFailedError}
        values = [x for x in range(6) if x not in result._calls.errors]
        assert [result._calls.values[x] for x in values] == values
        assert pool.map_async(abs, range(-4, 0), chunksize=1).get(timeout=60) == [4, 3, 2, 1]
        pool.close()


# -- the client -----------------------------------------------------------------------------

# Forks a client for each step at which it is killed, until one completes all steps.
# Steps are its operations on files of the submit directory (audit events come before
# each operation), and its requests to the access point.
CLIENTS = """
import functools, os, pathlib, signal, sys
sys.path[:0] = {tests!r}
import condorpool
from condorpool.access.accesspoint import AccessPoint
from condorpool.interface import locate, pool as _
from test_runner_faults import note

def client(last):
    step = 0

    def count(event, arguments):
        nonlocal step
        ours = any(part in str(arguments[:1]) for part in ("condorpool-", "/proc/self/fd/"))
        if event == "ask" or ours and event in (
            "open", "os.rename", "os.mkdir", "os.remove", "os.truncate", "os.link"
        ):
            step += 1
            if step == last:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(ask):
        @functools.wraps(ask)
        def asks(*arguments):
            count("ask", arguments)
            value = ask(*arguments)
            count("ask", arguments)
            return value
        return asks

    AccessPoint.submit = counted(AccessPoint.submit)
    AccessPoint.nudge_cluster = counted(AccessPoint.nudge_cluster)
    sys.addaudithook(count)
    here = pathlib.Path.cwd()
    pool = condorpool.Pool(2, personal={personal!r}, linger=0.2)
    pool.starmap_async(note, [(here, 10 * last + x, 0) for x in range(3)], chunksize=1)
    os._exit(0)

for last in range(1, 1000):
    child = os.fork() or client(last)
    if os.waitpid(child, 0)[1] == 0:
        print(last)
        break
"""


def test_the_client_is_killed_at_every_step_of_a_post(
    make_pool, htcondor, access_point, tmp_path, monkeypatch
):
    """Posted chunks are complete, and made once or not at all; runners end by themselves."""
    code = CLIENTS.format(
        tests=list(map(str, Path(__file__).parents[:2])), personal=str(htcondor.folder)
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=True, stdout=subprocess.PIPE
    )
    steps = int(done.stdout)
    assert steps > 20
    until(lambda: not statuses(access_point), 30)
    for folder in tmp_path.glob(".condorpool-*"):
        names = [
            p for p in folder.rglob("*") if p.suffix in (".crew", ".call", ".chunk", ".outcome")
        ]
        monkeypatch.setattr(sharing, "_objects", {})
        monkeypatch.setattr(sharing, "_read", lambda name, f=folder: container.read(f / name))
        for file in names:
            container.read(str(file))  # raises ValueError if the file is incomplete
        assert not list(folder.glob("*.taken/*"))
        assert not (list(folder.glob("*.posted/*-*")) and list(folder.glob("*.outcome")))
    calls = made(tmp_path)
    assert set(calls.values()) == {1}
    assert {10 * steps + x for x in range(3)} < set(calls)
    assert make_pool().map(abs, range(-4, 0), chunksize=1) == [4, 3, 2, 1]
