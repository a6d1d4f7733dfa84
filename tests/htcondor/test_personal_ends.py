"""The personal HTCondor ends under a pool that uses it: another one makes the remaining calls."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
import waiting
from disks import tmpfs

import condorpool
from condorpool import personal
from condorpool.personal import folders, guardian

cloudpickle.register_pickle_by_value(sys.modules[__name__])

until = functools.partial(waiting.until, seconds=30)


@pytest.fixture
def own():
    """Return a personal HTCondor for one test, which may end before the test does."""
    parent = Path(tempfile.mkdtemp(prefix="condorpool-test-")).resolve()
    started = personal.start(parent / "personal", cpus=2)
    yield started
    personal.stop(started.folder)
    assert folders.marked(started.folder) == []
    assert not started.folder.exists()
    shutil.rmtree(parent)


@pytest.fixture
def pool(own, make_pool):
    """Return a pool on it."""
    return make_pool(personal=own)


def square_later(x, gate):
    """Return the square when the gate is open; the first three calls do not wait."""
    while x > 2 and not Path(gate).exists():
        time.sleep(0.05)
    return x * x


def begin(pool, gate, **options):
    """Return calls of which some have ended, two are being made, and the others wait."""
    items = [(x, str(gate)) for x in range(8)]
    result = pool.starmap_async(square_later, items, chunksize=1, **options)
    until(lambda: result.counts().running == 2)
    time.sleep(0.3)
    until(lambda: result.counts().running == 2)
    return result


def kill(name, own, number=signal.SIGKILL):
    """Kill a process of a personal HTCondor."""
    os.kill(folders.state(own.folder)[name][0], number)


def kill_all(own):
    """Kill everything at once: no process of it can clean up or write anything."""
    guarding = folders.state(own.folder)["guardian"][0]
    os.kill(guarding, signal.SIGSTOP)
    for pid in [*guardian.descendants(guarding), guarding]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def turn_off_schedd(own):
    """End the schedd, and have condor_master not start it again."""
    off = own.installation.sbin / "condor_off"
    subprocess.run(
        [off, "-daemon", "schedd"], env={**os.environ, **own.environment()}, check=True,
        capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("end", "options"),
    [
        pytest.param(lambda own: kill("guardian", own), {}, id="guardian killed"),
        pytest.param(lambda own: kill("guardian", own, signal.SIGTERM), {}, id="guardian ended"),
        pytest.param(lambda own: kill("master", own), {}, id="master killed"),
        pytest.param(kill_all, {"maxtasksperchild": 1}, id="all killed, plain jobs"),
        pytest.param(turn_off_schedd, {}, id="schedd off"),
        pytest.param(lambda own: shutil.rmtree(own.folder, True), {}, id="folder deleted"),
        pytest.param(lambda own: shutil.rmtree(own.folder / "local/log"), {}, id="logs deleted"),
    ],
)
def test_another_one_makes_the_remaining_calls(own, make_pool, tmp_path, capfd, end, options):
    """However it has ended; finished calls are not made again, and later calls work."""
    pool, gate = make_pool(personal=own, **options), tmp_path / "gate"
    result = begin(pool, gate)
    queue = pool._workload.access_point.queue
    end(own)
    until(lambda: pool._workload.access_point.queue != queue)
    gate.touch()
    assert result.get(timeout=60) == [x * x for x in range(8)]
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"has ended and was started again; a new one makes the other \d calls$", line)
    assert pool.map(abs, [-1, -2]) == [1, 2]
    pool.close()
    assert personal.status(own.folder).running


def stop(own):
    """Stop it as a person does in a terminal."""
    command = [sys.executable, "-m", "condorpool", "personal", "stop", "--folder", own.folder]
    subprocess.run(command, check=True, capture_output=True)


def test_one_that_was_stopped_is_not_started_again(own, pool, tmp_path, capfd):
    """Every wait says so at once, and the calls continue when the user starts it again."""
    gate = tmp_path / "gate"
    result, iterator = begin(pool, gate), pool.imap(abs, [-1, -2])
    stop(own)
    stopped = r"\d calls cannot be made now: the personal HTCondor in .* was stopped"
    until(lambda: "was stopped" in capfd.readouterr().err, seconds=5)
    begun = time.monotonic()
    with pytest.raises(condorpool.PersonalError, match=r"was stopped.*condorpool personal start"):
        pool.map(abs, [-1])
    for wait in (result.get, result.wait, lambda: list(result), lambda: next(iterator), pool.close):
        with pytest.raises(condorpool.HTCondorError, match=stopped) as caught:
            wait()
    assert str(next(tmp_path.glob(".condorpool-*"))) in str(caught.value)
    assert time.monotonic() - begun < 15
    assert not own.folder.exists()
    personal.start(own.folder, cpus=2)
    gate.touch()
    assert result.get(timeout=60) == [x * x for x in range(8)]
    assert list(iterator) == [1, 2]


@pytest.mark.parametrize("processes", [None, 2])
def test_calls_after_its_end(own, make_pool, processes):
    """They have it started again, even before its end is noticed."""
    pool = make_pool(processes=processes, personal=own)
    for name in ("guardian", "master"):
        kill(name, own)
        assert pool.map(abs, [-1, -2]) == [1, 2]


def test_a_pool_whose_htcondor_was_stopped_can_be_terminated(own, pool, tmp_path, gone):
    """No call is left, nor a file."""
    result = begin(pool, tmp_path / "gate")
    stop(own)
    pool.terminate()
    pool.join()
    with pytest.raises(condorpool.JobRemovedError, match="terminated"):
        result.get(timeout=30)
    assert gone()
    personal.start(own.folder)


@pytest.fixture
def small(tmp_path):
    """Return a file system of 60 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    with tmpfs(tmp_path / "small", "60m") as folder:
        yield folder


@contextlib.contextmanager
def filling(filler):
    """Fill a file system as soon as there is room."""
    is_over = threading.Event()

    def fill():
        with filler.open("wb", buffering=0) as file:
            while not is_over.wait(0.005):
                with contextlib.suppress(OSError):
                    while file.write(bytes(1 << 16)):
                        pass

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        filler.unlink()


def test_its_disk_is_full(small, make_pool, tmp_path):
    """The error says so, and the calls continue when there is room again."""
    gate, filler = tmp_path / "gate", small / "filler"
    with personal.start(small / "personal", cpus=2) as own:
        result = begin(make_pool(personal=own, disk="1MB"), gate)
        with filling(filler):
            kill("master", own)
            with pytest.raises(condorpool.HTCondorError, match=r"\d calls .*(?s:.*)disk is full"):
                result.get(timeout=60)
        gate.touch()
        assert result.get(timeout=60) == [x * x for x in range(8)]
