"""Errors say which job failed, why, and what to do; nothing hangs."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cloudpickle
import psutil
import pytest
from disks import tmpfs

import condorpool
from condorpool import personal
from condorpool.engine import description, follower

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TestPayload:
    """Objects that cannot be sent, or cannot be returned."""

    def test_an_unpicklable_function(self, pool, access_point):
        """The error names it before anything is submitted."""
        lock = threading.Lock()

        def guarded(x):
            with lock:
                return x

        with pytest.raises(condorpool.PayloadError, match="'guarded' cannot be pickled"):
            pool.map(guarded, [1, 2])
        assert not access_point.query("true", ["ClusterId"])

    def test_an_unpicklable_argument(self, pool, access_point, tmp_path):
        """The error names the call, and no file of the map remains."""
        with pytest.raises(condorpool.PayloadError, match=r"arguments of call 2 \(type lock\)"):
            pool.map(str, [1, 2, threading.Lock()], chunksize=1)
        assert not access_point.query("true", ["ClusterId"])
        assert not list(tmp_path.glob(".condorpool-*/*.chunk"))

    def test_an_unpicklable_result(self, pool):
        """The error names its type."""
        with pytest.raises(condorpool.ResultPicklingError, match=r"of type _thread\.lock"):
            pool.apply(threading.Lock)

    def test_an_exception_that_cannot_be_rebuilt(self, pool):
        """The remote traceback still says what happened."""

        class Stubborn(Exception):
            def __init__(self, one, two):
                super().__init__(f"{one} and {two}")

        def fail():
            raise Stubborn(1, 2)

        with pytest.raises(condorpool.ResultPicklingError, match="1 and 2"):
            pool.apply(fail)

    def test_an_initializer_that_raises(self, make_pool):
        """Every call raises its exception."""
        pool = make_pool(initializer=int, initargs=("not a number",))
        with pytest.raises(ValueError, match="not a number"):
            pool.map(abs, [1, 2])

    def test_50_mb_there_and_back(self, pool):
        """Big arguments and results arrive whole."""
        data = os.urandom(1 << 20) * 50
        assert pool.apply(bytes.swapcase, (data,)) == data.swapcase()


class TestCrash:
    """A job that ends without an outcome."""

    def test_exit(self, pool):
        """The error has the exit code and the last lines of standard error."""

        def leave():
            os.write(2, b"going now\n")
            os._exit(7)

        with pytest.raises(condorpool.JobFailedError, match="exited with code 7") as caught:
            pool.apply(leave)
        assert "going now" in str(caught.value)

    def test_signal(self, pool):
        """The error names the signal."""
        with pytest.raises(condorpool.JobFailedError, match="killed by signal 11") as caught:
            pool.apply(lambda: os.kill(os.getpid(), signal.SIGSEGV))
        assert "slot1" in caught.value.host

    def test_out_of_memory(self, pool):
        """A call that finds no memory raises MemoryError like any exception."""

        def greedy():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            return len(bytearray(1 << 32))

        with pytest.raises(MemoryError):
            pool.apply(greedy)

    def test_the_files_of_a_failed_job_are_kept(self, make_pool, tmp_path):
        """No others are kept, and the error says where they are."""
        pool = make_pool()
        with pytest.raises(condorpool.JobFailedError, match=str(tmp_path)):
            pool.map(lambda x: x or os._exit(1), [0, 1], chunksize=1)
        pool.close()
        kept = {f.name for f in tmp_path.glob(".condorpool-*/*")}
        assert "1-0.chunk" in kept
        assert any(name.startswith("job-") and name.endswith(".err") for name in kept)
        assert not [name for name in kept if name.startswith("1-1")]

    def test_cleanfailed_deletes_them(self, make_pool, gone):
        """With ``cleanfailed`` they are not kept."""
        pool = make_pool(jobkwargs={"cleanfailed": True})
        with pytest.raises(condorpool.JobFailedError):
            pool.apply(os._exit, (1,))
        pool.close()
        assert gone()


class TestQueue:
    """What happens to jobs in the queue."""

    def test_a_missing_input_file_holds_the_job(self, pool):
        """The error has HTCondor's reason and says what to do."""
        commands = {"transfer_input_files": "/no/such/file", "should_transfer_files": "YES"}
        with pytest.raises(condorpool.JobHeldError, match="/no/such/file") as caught:
            pool.apply_async(abs, (1,), submitkwargs=commands).get(timeout=60)
        assert "release()" in str(caught.value)

    def test_removed_from_outside(self, pool, htcondor):
        """condor_rm in a terminal ends the wait."""
        result = pool.apply_async(time.sleep, (60,))
        while result.job is None:
            time.sleep(0.02)
        rm = htcondor.installation.bin / "condor_rm"
        subprocess.run(
            [rm, result.job.id], env={**os.environ, **htcondor.environment()}, check=True,
            capture_output=True,
        )  # fmt: skip
        with pytest.raises(condorpool.JobRemovedError, match=r"condor_rm|removed"):
            result.get(timeout=30)

    def test_file_transfer_where_nothing_is_shared(self, make_pool):
        """With HTCondor's file transfer the job sees nothing of the submit side's files."""
        pool = make_pool(submitkwargs={"should_transfer_files": "YES"})
        scratch = pool.map(lambda _: (os.environ["_CONDOR_SCRATCH_DIR"], os.getcwd()), [1, 2])
        assert all(where == cwd for where, cwd in scratch)

    def test_a_crash_with_file_transfer_is_not_held(self, make_pool):
        """A job that leaves no outcome fails; it does not wait for its missing file."""
        pool = make_pool(submitkwargs={"should_transfer_files": "YES"})
        with pytest.raises(condorpool.JobFailedError, match="exited with code 7"):
            pool.apply_async(os._exit, (7,)).get(timeout=60)

    def test_python_missing_on_the_execution_point(self, make_pool):
        """The error names the interpreter."""
        pool = make_pool(python="/no/such/python")
        with pytest.raises(condorpool.JobFailedError, match="no Python '/no/such/python'"):
            pool.apply(abs, (1,))

    def test_another_python_on_the_execution_point(self, make_pool, tmp_path):
        """The error names both versions."""
        # The same Python, with a copy of the program that reports another version.
        other = tmp_path / "python-of-old"
        other.write_text(
            "#!/bin/sh\n"
            'code=$(echo "$2" | sed "s/program.main/program.container.PYTHON = \\"3.7\\"; program.main/")\n'
            "shift 2\n"
            f'exec {sys.executable} -c "$code" "$@"\n'
        )
        other.chmod(0o755)
        pool = make_pool(python=str(other))
        with pytest.raises(condorpool.EnvironmentMismatchError, match=r"is Python 3\.7"):
            pool.apply(abs, (1,))


@pytest.fixture
def unlucky(tmp_path):
    """Return a map of two calls that have failed, and a function that makes later calls return."""
    mark = tmp_path / "luck"

    def call(x):
        if not mark.exists():
            raise LookupError("no luck")
        return x

    def make(pool):
        result = pool.map_async(call, range(2), chunksize=1)
        with pytest.raises(LookupError):
            result.get(timeout=60)
        return result, mark.touch

    return make


class TestSubmitDir:
    """A submit directory that fails."""

    @pytest.fixture
    def small(self, tmp_path):
        """Mount a file system of two megabytes, of which the runner takes a third of one."""
        with tmpfs(tmp_path / "small", "2m") as folder:
            yield folder

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
    def test_full(self, make_pool, small, access_point):
        """The error names the folder and the next step, and nothing is submitted."""
        pool = make_pool(submitdir=small)
        with pytest.raises(condorpool.SubmitError, match="No space left") as caught:
            pool.map(len, [bytes(1 << 20)] * 2)
        assert "submitdir=" in str(caught.value)
        assert not access_point.query("true", ["ClusterId"])

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
    def test_read_only(self, make_pool, small):
        """The same holds for a read-only file system."""
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        with pytest.raises(condorpool.SubmitError, match="Read-only file system"):
            make_pool(submitdir=small).apply(abs, (1,))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
    def test_full_at_a_rerun(self, make_pool, small, unlucky):
        """The result is as before, and failed calls can be made again when there is space."""
        result, luck = unlucky(make_pool(submitdir=small))
        ballast = small / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(2 << 20))
        before = set(os.listdir(small))
        with pytest.raises(condorpool.SubmitError, match="No space left"):
            result.rerun()
        assert set(os.listdir(small)) == before
        assert result.ready()
        assert result.calls_ended == result.calls_failed == 2
        with pytest.raises(LookupError, match="no luck"):
            result.get(timeout=60)
        ballast.unlink()
        luck()
        assert result.rerun() == 2
        assert result.get(timeout=60) == [0, 1]

    def test_no_folder(self, make_pool, tmp_path):
        """There may be a file where the folder should be."""
        (tmp_path / "file").write_text("")
        with pytest.raises(condorpool.SubmitError, match=r"Not a directory|File exists"):
            make_pool(submitdir=tmp_path / "file").apply(abs, (1,))

    def test_removed_between_two_calls(self, pool, tmp_path):
        """The next call says that the folder is gone."""
        pool.apply(abs, (1,))
        (folder,) = tmp_path.glob(".condorpool-*")
        shutil.rmtree(folder, ignore_errors=True)  # the tracker deletes files there too
        with pytest.raises(condorpool.SubmitError, match=r"was deleted\. Nothing was submitted"):
            pool.apply(abs, (1,))

    def test_removed_during_a_call(self, pool, tmp_path):
        """The wait ends although no more events can be written."""
        result = pool.apply_async(time.sleep, (1,))
        (folder,) = tmp_path.glob(".condorpool-*")
        shutil.rmtree(folder, ignore_errors=True)
        with pytest.raises(condorpool.JobError):
            result.get(timeout=60)


class TestReach:
    """No HTCondor, or one that comes and goes."""

    def test_no_such_schedd(self):
        """The error names the address."""
        with pytest.raises(condorpool.HTCondorNotFoundError, match=r"127\.0\.0\.1:9"):
            condorpool.Pool(schedd="nobody@nowhere", collector="127.0.0.1:9")

    def test_nothing_installed(self, monkeypatch, tmp_path):
        """The error names the one command to run."""
        monkeypatch.setattr(personal.daemons, "find", lambda: None)
        with pytest.raises(condorpool.HTCondorNotFoundError, match="condorpool personal install"):
            condorpool.Pool(personal=tmp_path / "nowhere")

    @pytest.mark.parametrize("maxtasksperchild", [None, 1])
    def test_an_access_point_that_does_not_answer_at_a_rerun(
        self, make_pool, unlucky, maxtasksperchild
    ):
        """The result is as before, and failed calls can be made again when it answers."""
        pool = make_pool(maxtasksperchild=maxtasksperchild, linger=0)
        result, luck = unlucky(pool)
        point = pool._workload.access_point
        while pool.queue:
            time.sleep(0.05)
        address, relocate, is_over = point.schedd_address, point.relocate, point.is_over
        point.schedd_address, point.relocate, point.is_over = "<127.0.0.1:1>", None, None
        try:
            with pytest.raises(condorpool.HTCondorError, match="cannot submit"):
                result.rerun()
        finally:
            point.schedd_address, point.relocate, point.is_over = address, relocate, is_over
        assert result.failed == [0, 1]
        with pytest.raises(LookupError, match="no luck"):
            result.get(timeout=60)
        luck()
        assert result.rerun() == 2
        assert result.get(timeout=60) == [0, 1]
        assert result.rerun() == 0

    def test_the_access_point_is_restarted_during_a_map(self, make_pool, tmp_path):
        """It keeps its queue, so the map finishes."""
        with personal.start(tmp_path / "own", cpus=2) as own:
            pool = make_pool(personal=own)
            result = pool.map_async(time.sleep, [0.7] * 6, chunksize=1)
            time.sleep(1)
            children = psutil.Process(own.master_pid).children()
            (schedd,) = (child for child in children if child.name() == "condor_schedd")
            schedd.kill()  # its master starts it again
            assert result.get(timeout=120) == [None] * 6
            pool.close()


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_the_clock_is_set(make_pool, queued, monkeypatch, jump):
    """A process that waits for jobs renews their lease all the same."""
    monkeypatch.setattr(description, "LEASE", 12.0)
    pool = make_pool(requirements="false")
    pool.apply_async(abs, (1,))
    assert queued(["CondorpoolLease"])["CondorpoolLease"] == 0
    clock = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + jump)
    for module in (description, follower):
        monkeypatch.setattr(module, "time", clock)
    end = time.monotonic() + 20
    while not (until := queued(["CondorpoolLease"])["CondorpoolLease"]):
        assert time.monotonic() < end, "the lease was not renewed"
        time.sleep(0.1)
    assert 0 < until - clock.time() <= 13
    pool.terminate()
