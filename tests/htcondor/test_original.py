"""Code written for the original CondorPool works unchanged."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time

import cloudpickle
import pytest

import condorpool
from condorpool import personal

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def scale(a, b, factor=1):
    """Multiply both."""
    return a * factor, b * factor


def nap(seconds):
    """Sleep, and return how long."""
    time.sleep(seconds)
    return seconds


def fail(word):
    """Raise."""
    raise LookupError(f"no {word} here")


def comes_to(job, *states):
    """Wait until a job is in one of these states; return which."""
    end = time.monotonic() + 30
    while (status := job.status()) not in states:
        assert time.monotonic() < end, f"{job!r} is {status}"
        time.sleep(0.02)
    return status


@pytest.fixture
def make_job(make_pool):
    """Make jobs that are submitted to the personal HTCondor, as ``Pool()`` would find it."""
    pool = make_pool()

    def make(*args, **kwargs):
        if len(args) < 5:
            kwargs.setdefault("submitdir", pool.jobkwargs["submitdir"])
        return condorpool.Job(*args, pool=pool, **kwargs)

    return make


def test_the_scenario(make_pool, tmp_path):  # noqa: PLR0915 - one story
    """Calls end in every way, one after the other, then all at once when the pool closes."""
    pool = make_pool(submitkwargs={"request_memory": "64MB"}, jobkwargs={"polltime": 1})
    with pool:
        # A call with keywords, and one that raises.
        assert pool.apply(scale, (1, "x"), {"factor": 3}) == (3, "xxx")
        failing = pool.apply_async(fail, ("cat",))
        failing.wait(timeout=60, timeouterror=True)
        assert (failing.completed(), failing.successful(), failing.output_exists()) == (
            True, False, False,
        )  # fmt: skip
        with pytest.raises(LookupError, match="no cat here"):
            failing.get()

        # What cannot be pickled: there, and back.
        known = len(pool.jobs)
        with pytest.raises(pickle.PicklingError, match=r"_thread\.lock"):
            pool.apply_async(nap, (threading.Lock(),))
        assert len(pool.jobs) == known
        with pytest.raises(pickle.PicklingError, match="cannot be pickled"):
            pool.apply(threading.Lock)

        # A running job is removed; its log says so.
        removed = pool.apply_async(nap, (600,))
        removed.wait_to_start()
        assert removed.status() == "Running"
        removed.remove()
        removed.wait()
        assert "aborted" in removed.log()
        assert removed.status() == "Completed"
        assert not removed.successful()

        # A timeout ends neither one call nor many.
        slow = pool.apply_async(nap, (1,))
        with pytest.raises(condorpool.TimeoutError, match=r"Timeout after 0\.1 s!"):
            slow.get(timeout=0.1)
        slow.wait(timeout=0.1)
        assert slow.get() == slow.get() == 1
        assert pool.map(nap, [0.2, 0.1, 0]) == [0.2, 0.1, 0]
        naps = pool.map_async(nap, [1, 0.5])
        with pytest.raises(condorpool.TimeoutError):
            naps.wait(timeout=0.1, timeouterror=True)
        assert not naps.ready()
        assert naps.get() == [1, 0.5]

        # What has ended can be forgotten.
        active = pool.apply_async(nap, (2,))
        assert active in pool.jobs
        assert failing in pool.jobs
        assert slow not in pool.jobs
        pool.clear_successful()
        assert failing in pool.jobs
        pool.clear_completed()
        assert pool.jobs == [active]
        assert active.get() == 2

        # All at once when the pool closes.
        suspended = pool.apply_async(nap, (600,))
        comes_to(suspended, "Running")
        assert suspended.suspend() == 1
        assert comes_to(suspended, "Suspended") == "Suspended"
        failed = pool.apply_async(fail, ("dog",))
        failed.wait()
        missing = {"transfer_input_files": tmp_path / "missing", "should_transfer_files": "YES"}
        held = pool.apply_async(nap, (0,), submitkwargs=missing)
        assert comes_to(held, "Held") == "Held"
        assert "missing" in held.analyze()
        active = pool.apply_async(nap, (1,))
        assert active.status() in ("Idle", "Running")
        with pytest.raises(condorpool.JobFailedError) as caught:
            pool.close()
    told = str(caught.value)
    assert "Pool.close - failed jobs:" in told
    assert told.count("==========") == 2
    assert "no dog here" in told
    assert "missing" in told
    assert active.get() == 1
    assert (pool.jobs, pool.closed()) == ([], True)
    with pytest.raises(condorpool.PoolClosedError, match="Can't submit to a closed Pool!"):
        pool.apply_async(nap, (1,))


def test_terminate_keeps_what_it_removed(make_pool):
    """The jobs are gone, but listed until they are cleared."""
    pool = make_pool()
    results = [pool.apply_async(nap, (600,)) for _ in range(3)]
    pool.terminate()
    for result in results:
        result.wait(timeout=30, timeouterror=True)
    assert pool.jobs == results
    pool.clear_completed()
    assert pool.jobs == []
    pool.close()


class TestJob:
    """A job needs no pool of its own."""

    def test_it_is_made_submitted_and_got(self, make_job, tmp_path):
        """It is one HTCondor job, whose files may stay, and whose value can be read again."""
        job = make_job(scale, (1, 2), {"factor": 2}, {"My.Colour": '"blue"'}, cleanup=False)
        cluster = job.submit(maxtries=2, wait=1)
        assert (job.clusterid, job.constraint()) == (
            cluster, f"ClusterId == {cluster} && ProcId == 0",
        )  # fmt: skip
        assert job.submitted()
        assert job.get(60, 1, ("Held",)) == job.get() == (2, 4)
        assert job.successful()
        assert job.output_exists()
        job.wait_to_start()
        assert list(tmp_path.glob(f".condorpool-*/job-{cluster}.0.out"))
        with pytest.raises(ValueError, match="was submitted already"):
            job.submit()

    def test_what_an_unsubmitted_one_says(self, make_job, tmp_path):
        """It has no state, cannot be waited for, and leaves nothing behind."""
        job = make_job(nap, (1,))
        assert not job.submitted()
        assert not job.ready()
        assert (job.status(), job.successful(), job.query(), job.clusterid) == (None,) * 4
        assert [job.get_text_output(which) for which in ("output", "error", "log")] == [None] * 3
        for ask in (job.wait, job.get, job.wait_to_start, job.hold):
            with pytest.raises(condorpool.UnsubmittedError, match="submit"):
                ask()
        assert not list(tmp_path.iterdir())

    def test_what_a_failed_one_says(self, make_job, tmp_path):
        """Every failure raises one error, with a report, and with the exception as its cause."""

        def speak():
            sys.stdout.write("to stdout\n")
            sys.stderr.write("to stderr\n")
            raise LookupError("nothing")

        job = make_job(speak)
        assert job.successful() is None
        cluster = job.submit()
        with pytest.raises(condorpool.JobFailedError, match="LookupError: nothing") as caught:
            job.get()
        assert isinstance(caught.value.__cause__, LookupError)
        told = str(caught.value)
        for part in (
            f"job {cluster}.0",
            "output exists: False",
            "to stdout",
            "to stderr",
            "Job executing",
        ):
            assert part in told
        assert job.successful() is False
        assert (job.stdout(), job.get_text_output("error")) == ("to stdout\n", "to stderr\n")
        with pytest.raises(ValueError, match="get_text_output"):
            job.get_text_output("input")

    @pytest.mark.parametrize(
        "end", [threading.Lock, lambda: os._exit(3)], ids=["unpicklable", "exit"]
    )
    def test_every_failure_is_a_failed_job(self, make_job, end):
        """So is a result that cannot be pickled, and a job that crashes."""
        job = make_job(end)
        job.submit()
        with pytest.raises(condorpool.JobFailedError):
            job.get()

    def test_what_cannot_be_sent_is_not_submitted(self, make_job, access_point):
        """`submit` raises the pickling error."""
        job = make_job(nap, (threading.Lock(),))
        with pytest.raises(pickle.PicklingError, match=r"_thread\.lock"):
            job.submit()
        assert not job.submitted()
        with pytest.raises(condorpool.UnsubmittedError):
            job.wait()
        assert not access_point.query("true", [])

    @pytest.mark.parametrize(
        ("arguments", "submit", "error", "named"),
        [
            ((3,), {}, TypeError, "target"),
            ((nap, 3), {}, TypeError, "args"),
            ((nap, (), [1]), {}, TypeError, "kwargs"),
            ((nap, (1,), None, {"executable": "x"}), {}, ValueError, "executable"),
            ((nap, (1,), None, None, ".", 1), {}, TypeError, "cleanup"),
            ((nap,), {"maxtries": 0}, ValueError, "maxtries"),
            ((nap,), {"wait": -1}, ValueError, "wait"),
        ],
    )
    def test_bad_arguments(self, make_job, access_point, arguments, submit, error, named):
        """The error names them, before anything is submitted."""
        with pytest.raises(error, match=named):
            make_job(*arguments).submit(**submit)
        assert not access_point.query("true", [])

    def test_the_actions(self, make_job):
        """Each does what HTCondor's action of that name does."""
        job = make_job(nap, (600,))
        job.submit()
        job.wait_to_start(timeout=30)
        assert job.suspend() == 1
        comes_to(job, "Suspended")
        assert job.Continue() == 1
        comes_to(job, "Running")
        assert job.vacatefast() == 1
        comes_to(job, "Idle")
        comes_to(job, "Running")
        assert job.act("vacate") == 1
        comes_to(job, "Idle")
        assert job.act(1) == 1
        comes_to(job, "Held")
        assert [job.status_from_code(ad["JobStatus"]) for ad in job.query()] == ["Held"]
        assert job.release() == 1
        comes_to(job, "Idle", "Running")
        assert job.removex() == 0
        (remove,) = [a for number, a in job.actions.items() if number == 3]
        assert job.act(remove) == 1
        comes_to(job, "Completed")
        assert (job.act("remove"), job.query(checkhistory=False)) == (0, [])
        (ad,) = job.query("JobStatus", "ClusterId")
        assert (job.statuscodes[ad["JobStatus"]], ad["ClusterId"]) == ("Removing", job.clusterid)
        with pytest.raises(ValueError, match="the actions are hold"):
            job.act("kill")

    @pytest.mark.parametrize(("action", "status"), [("hold", "Held"), ("suspend", "Suspended")])
    def test_waiting_kills_in_killstats(self, make_job, action, status):
        """`wait` does so by default, and `get` if it gets killstats."""
        for by_default in (True, False):
            job = make_job(nap, (600,))
            job.submit()
            job.wait_to_start(timeout=30)
            job.act(action)
            comes_to(job, status)
            with pytest.raises(
                condorpool.JobFailedError, match=f"Status '{status}' caused it to be killed"
            ) as e:
                job.wait() if by_default else job.get(killstats=(status,))
            assert "*** Analysis:\nJob" in str(e.value)
            assert comes_to(job, "Completed")

    def test_getting_does_not_kill(self, make_job):
        """It raises for a held job or waits for it, and the job stays."""
        job = make_job(nap, (600,))
        job.submit()
        job.hold()
        with pytest.raises(condorpool.JobHeldError):
            job.get(timeout=30)
        with pytest.raises(condorpool.TimeoutError):
            job.get(timeout=0.2, on_hold="wait")
        assert job.status() == "Held"


SCRIPT = """
import os, time
from condorpool import Job, JobFailedError, Pool, TimeoutError

with Pool(submitkwargs={"request_memory": "64MB"}, jobkwargs={"polltime": 1, "cleanfailed": True}) as pool:
    print(pool.apply(pow, (2, 3)), pool.map(abs, range(-3, 0)))
    for n in range(3):
        pool.apply_async(os.path.join, ("a", str(n)), submitkwargs={"MY.Number": n}, maxtries=2)
    print([job.get(timeout=60) for job in pool.jobs])
    slow = pool.apply_async(time.sleep, (60,))
    try:
        slow.get(0.1)
    except TimeoutError as error:
        print(str(error).partition("!")[0], slow.status() in ("Idle", "Running"))
    slow.remove()
    while not slow.completed():
        time.sleep(0.1)
    print(slow.status(), slow.successful())
    pool.clear_completed()
print(pool.closed())

jobs = [Job(divmod, (n, 2), cleanupfiles=["more.txt"], cleanfailed=True) for n in range(3)]
print(len({job.submit() for job in jobs}), [job.get() for job in jobs])
job = Job(int, ("seven",), cleanfailed=True)
job.submit()
try:
    job.get()
except JobFailedError as error:
    print("ValueError: invalid literal" in str(error))
Job(lambda: (time.sleep(1), open("written", "w").close())).submit()
"""

SAYS = """\
8 [3, 2, 1]
['a/0', 'a/1', 'a/2']
Timeout after 0.1 s True
Completed False
True
3 [(0, 0), (0, 1), (1, 0)]
True
"""


def test_a_script(htcondor, tmp_path):
    """It runs unchanged; at the end the program waits for jobs and cleans up."""
    (tmp_path / "more.txt").write_text("left by a call")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | personal.environment(htcondor.folder),
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (SAYS, "")
    assert os.listdir(tmp_path) == ["written"]


def test_an_access_point_that_does_not_answer(make_job, pool, access_point, capsys):
    """`submit` tries again, with a line that says so."""
    job = make_job(nap, (0,))
    here = job._pool._workload.access_point
    address, relocate, is_over = here.schedd_address, here.relocate, here.is_over
    here.schedd_address, here.relocate, here.is_over = "<127.0.0.1:1>", None, None
    try:
        with pytest.raises(condorpool.HTCondorError, match="cannot submit at access point"):
            job.submit(maxtries=1)
        assert not job.submitted()
        threading.Timer(0.5, setattr, (here, "schedd_address", address)).start()
        assert job.submit(maxtries=3, wait=1) == job.clusterid
    finally:
        here.schedd_address, here.relocate, here.is_over = address, relocate, is_over
    assert "Trying again in 1 s." in capsys.readouterr().err
    assert job.get() == 0


class TestResults:
    """Results of `apply_async` and `map_async` have the methods of the original's jobs, too."""

    def test_an_action_touches_the_runner_that_has_the_call(self, pool):
        """Hold, release and the other actions work by name and number."""
        result = pool.apply_async(nap, (5,))
        result.wait_to_start(timeout=30)
        assert result.submitted()
        assert [ad["JobStatus"] for ad in result.query("JobStatus")] == [2]
        assert result.suspend() == 1
        assert comes_to(result, "Suspended") == "Suspended"
        assert result.act("continue") == 1
        comes_to(result, "Running")
        assert result.vacate() == 1
        end = time.monotonic() + 30
        while "evicted" not in result.log():  # it may run again at once
            assert time.monotonic() < end
            time.sleep(0.05)
        assert result.get(60, 5) == 5

    def test_waiting_for_a_held_job(self, pool):
        """With killstats the wait removes it; without, it raises and leaves the job."""
        result = pool.apply_async(nap, (600,))
        result.wait_to_start(timeout=30)
        result.hold()
        with pytest.raises(condorpool.JobHeldError):
            result.wait()
        with pytest.raises(ValueError, match="killstats has 'Hold'"):
            result.wait(killstats="Hold")
        with pytest.raises(condorpool.JobFailedError, match="Status 'Held' caused it to be killed"):
            result.wait(killstats=("Held", "Suspended"))
        with pytest.raises(condorpool.JobRemovedError):
            result.get(timeout=30)

    def test_a_map_in_killstats(self, make_pool):
        """The jobs in such a state are removed; the other calls continue."""
        pool = make_pool(maxtasksperchild=1)
        result = pool.map_async(nap, [600, 1], chunksize=1)
        result.jobs[0].hold()
        with pytest.raises(condorpool.JobFailedError, match=f"job {result.jobs[0].id} failed"):
            result.wait(killstats=["Held"])
        result.wait(30)
        assert result.failed == [0]


def test_kerberos_tickets(pool, access_point):
    """A job that needs the user's ticket is not submitted without it; the error says what is missing."""
    with pytest.raises(condorpool.HTCondorError, match=r"Kerberos ticket.*condor_credd"):
        pool.apply_async(nap, (1,), submitkwargs={"MY.SendCredential": True}, maxtries=1)
    assert not access_point.query("true", [])
    pool.apply(nap, (0,), submitkwargs={"MY.SendCredential": False})
