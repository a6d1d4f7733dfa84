"""Calls on a real HTCondor: verbs, results, callbacks, closing."""

from __future__ import annotations

import functools
import linecache
import math
import multiprocessing.pool
import os
import random
import socket
import subprocess
import sys
import threading
import time
import types
from random import random as rnd

import cloudpickle
import numpy as np
import pytest
from numpy.random import normal

import condorpool
from condorpool import JobState

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def until_there(path):
    """Wait for a file or folder."""
    while not path.exists():
        time.sleep(0.05)


def double(x):
    """Return twice the argument."""
    return 2 * x


def set_color(color):
    """Set a variable of the environment."""
    os.environ["CP_COLOR"] = color


def has_job(result):
    """Wait until a job has taken the call; return the job."""
    while result.job is None:
        time.sleep(0.02)
    return result.job


class Unlucky(Exception):
    """An exception whose ``__init__`` takes a keyword."""

    def __init__(self, number, color):
        super().__init__(number, color)
        self.number, self.color = number, color


def unlucky(number):
    """Raise for 13."""
    if number == 13:
        raise Unlucky(number, color="black")
    return number


class TestVerbs:
    """Every verb returns what multiprocessing's returns."""

    def test_apply_returns_the_value(self, pool):
        """Arguments and keywords arrive."""
        assert pool.apply(int, ("ff",), {"base": 16}) == 255

    def test_map_keeps_the_order(self, pool):
        """Results come in the order of the items, whatever the chunks."""
        assert pool.map(double, range(7), chunksize=3) == [0, 2, 4, 6, 8, 10, 12]

    def test_map_takes_closures_and_lambdas(self, pool):
        """Functions that cannot be imported are sent by value."""
        offset = 10
        assert pool.map(lambda x: x + offset, [1, 2]) == [11, 12]

    def test_starmap_unpacks(self, pool):
        """Each item is the arguments of one call."""
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]

    def test_generators_and_empty_iterables(self, pool):
        """An iterable may have no length, or no items."""
        assert pool.map(double, (x for x in [1, 2])) == [2, 4]
        assert pool.map(double, []) == []

    def test_initializer_runs_before_the_calls(self, make_pool):
        """Calls find what the initializer has set."""
        pool = make_pool(initializer=set_color, initargs=("green",))
        assert pool.map(os.getenv, ["CP_COLOR"]) == ["green"]

    def test_jobs_are_worker_processes(self, make_pool):
        """There are no more than ``processes``, and each makes many chunks."""
        pool = make_pool(processes=2)
        pids = pool.map(lambda _: (time.sleep(0.05), os.getpid())[1], range(20), chunksize=1)
        assert len(set(pids)) in (1, 2)
        assert pool.apply(os.getpid) in pids

    def test_one_job_per_chunk(self, make_pool):
        """With ``maxtasksperchild=1`` a map is one cluster with a job for each chunk."""
        pool = make_pool(maxtasksperchild=1)
        result = pool.map_async(double, range(4), chunksize=2)
        assert [job.id.partition(".")[2] for job in result.jobs] == ["0", "1"]
        assert result.get() == [0, 2, 4, 6]

    def test_a_runner_ends_after_its_chunks(self, make_pool):
        """With ``maxtasksperchild=2`` another job makes the next chunks, and nothing is lost."""
        pool = make_pool(processes=1, maxtasksperchild=2)
        pids = pool.map(lambda _: os.getpid(), range(5), chunksize=1)
        assert len(set(pids)) == 3

    def test_calls_with_other_requirements_get_other_jobs(self, make_pool):
        """A call with its own memory request is not made by a job without it."""
        pool = make_pool(processes=1)
        first = pool.apply_async(os.getpid)
        other = pool.apply_async(os.getpid, submitkwargs={"request_memory": "64MB"})
        assert first.get() != other.get()

    def test_calls_run_as_jobs_elsewhere(self, pool):
        """The process that makes the call is not this one."""
        assert pool.apply(os.getpid) != os.getpid()
        assert pool.apply(socket.gethostname) == socket.gethostname()


class TestResults:
    """Asynchronous results behave as multiprocessing's."""

    def test_a_result_is_ready_when_it_is(self, pool):
        """``successful`` raises ValueError before the end."""
        result = pool.apply_async(time.sleep, (0.5,))
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(timeout=0.01)
        assert result.get() is None
        assert result.ready()
        assert result.successful()

    def test_an_exception_is_raised_as_itself(self, pool):
        """Its class, its attributes and its remote traceback come back."""
        with pytest.raises(Unlucky) as caught:
            pool.map(unlucky, [12, 13, 14])
        assert (caught.value.number, caught.value.color) == (13, "black")
        assert "in unlucky" in str(caught.value.__cause__)

    def test_one_bad_call_does_not_hide_the_rest(self, pool):
        """The other calls of the chunk are made."""
        result = pool.map_async(unlucky, [12, 13, 14], chunksize=3)
        result.wait()
        assert not result.successful()
        assert [result._calls.values[i] for i in (0, 2)] == [12, 14]

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(1)])
    def test_exceptions_that_end_programs_are_results_too(self, pool, error):
        """A call that raises SystemExit has ended with an exception, not crashed."""

        def leave():
            raise error

        with pytest.raises(type(error)):
            pool.apply(leave)

    def test_callbacks_come_once(self, pool):
        """``callback`` gets the value, ``error_callback`` the exception."""
        got, done = [], threading.Semaphore(0)

        def note(value):
            got.append(value)
            done.release()

        pool.apply_async(double, (3,), callback=note, error_callback=pytest.fail)
        pool.apply_async(unlucky, (13,), callback=pytest.fail, error_callback=note)
        assert done.acquire(timeout=30)
        assert done.acquire(timeout=30)
        assert 6 in got
        assert any(isinstance(value, Unlucky) for value in got)

    def test_a_job_shows_what_its_calls_wrote(self, pool):
        """Its standard output, standard error and events can be read."""

        def speak():
            sys.stdout.write("to stdout\n")
            sys.stderr.write("to stderr\n")

        result = pool.apply_async(speak)
        result.get()
        assert result.stdout() == "to stdout\n"
        assert "to stderr" in result.stderr()
        assert "Job submitted" in result.job.log()
        assert result.job.state is JobState.RUNNING
        assert result.job.host


class TestHere:
    """Where calls are made, and what they find there."""

    def test_the_working_directory_is_the_submitdir(self, pool, tmp_path):
        """On a shared file system calls run where the user works."""
        assert pool.apply(os.getcwd) == str(tmp_path)

    def test_the_environment_is_sent_privately(self, pool, monkeypatch, queued):
        """Calls see the environment; the job ad, which every user can read, has none of it."""
        monkeypatch.setenv("CP_WORD", "hunter2")
        result = pool.apply_async(lambda: (time.sleep(0.5), os.environ.get("CP_WORD"))[1])
        assert "hunter2" not in str(queued([]))
        assert result.get() == "hunter2"

    def test_files_are_private(self, pool, tmp_path):
        """No other user can read the submit directory."""
        result = pool.map_async(until_there, [tmp_path, tmp_path / "go"], chunksize=1)
        while not result.calls_ended:
            result.wait(0.05)
        (folder,) = tmp_path.glob(".condorpool-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        for kind in ("call", "crew", "outcome"):
            files = list(folder.glob(f"*.{kind}"))
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}, kind
        (tmp_path / "go").touch()
        assert result.get(timeout=60) == [None, None]

    def test_this_process_is_left_alone(self, htcondor, tmp_path):
        """Neither the environment nor the working directory changes."""
        code = (
            "import os; before = dict(os.environ), os.getcwd()\n"
            "import condorpool, math\n"
            f"with condorpool.Pool(personal={str(htcondor.folder)!r}) as pool:\n"
            "    print(pool.map(math.sqrt, [4, 9]))\n"
            "assert before == (dict(os.environ), os.getcwd())\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.stdout, done.stderr, done.returncode) == ("[2.0, 3.0]\n", "", 0)
        assert not [str(path) for path in tmp_path.rglob("*")]


class TestEnd:
    """Nothing remains of a pool that is closed."""

    def test_leaving_with_waits_and_cleans_up(self, make_pool, gone):
        """The end of ``with`` waits for running jobs."""
        with make_pool() as pool:
            result = pool.map_async(time.sleep, [0.3, 0.3])
        assert result.successful()
        assert gone()

    def test_a_closed_pool_takes_nothing(self, make_pool):
        """The error is multiprocessing's and the original's."""
        pool = make_pool()
        pool.close()
        pool.close()
        pool.join()
        with pytest.raises(ValueError, match="Pool not running"):
            pool.map(double, [1])
        with pytest.raises(condorpool.PoolClosedError, match="Can't submit to a closed Pool!"):
            pool.apply(double, (1,))

    def test_an_open_pool_is_not_joined(self, pool):
        """``join`` raises before ``close``, as in multiprocessing."""
        with pytest.raises(ValueError, match="still running"):
            pool.join()

    def test_terminate_removes_what_has_not_ended(self, make_pool, gone, access_point):
        """Calls whose jobs the factory has not made yet end too."""
        pool = make_pool(processes=1)
        result = pool.map_async(time.sleep, [60] * 5, chunksize=1)
        pool.terminate()
        pool.join()
        with pytest.raises(condorpool.JobRemovedError):
            result.get(timeout=30)
        assert not access_point.query("true", ["ClusterId"])
        assert gone()

    def test_close_removes_held_jobs_and_says_so(self, make_pool, gone):
        """``killstats`` contains Held, so closing does not wait for a held job."""
        pool = make_pool()
        result = pool.apply_async(time.sleep, (60,))
        while not result.hold():
            time.sleep(0.05)
        with pytest.raises(condorpool.JobFailedError, match=r"Pool.close - failed jobs"):
            pool.close()
        with pytest.raises(condorpool.JobRemovedError, match="the user of condorpool"):
            result.get()
        assert gone()

    def test_errors_that_were_seen_are_not_raised_again(self, make_pool):
        """Closing does not raise an exception that the user has handled."""
        with make_pool() as pool, pytest.raises(Unlucky):
            pool.apply(unlucky, (13,))

    def test_cleanup_false_is_neither_waited_for_nor_deleted(self, make_pool, tmp_path):
        """Such a job stays, as the original documents it."""
        pool = make_pool()
        result = pool.apply_async(time.sleep, (600,), jobkwargs={"cleanup": False})
        job = has_job(result)
        pool.close()
        assert not result.ready()
        assert list(tmp_path.glob(".condorpool-*/*.call"))
        assert job.remove()


class TestJobs:
    """A job is held, released and removed."""

    def test_a_held_job_is_an_error_that_leaves_it(self, pool):
        """By default a wait raises when only held jobs remain; releasing them resumes the call."""
        result = pool.apply_async(time.sleep, (1,))
        assert has_job(result).hold()
        with pytest.raises(condorpool.JobHeldError) as caught:
            result.get(timeout=30)
        assert caught.value.job_id == result.job.id
        assert caught.value.code == 1
        assert result.job.state is JobState.HELD
        assert result.job.release()
        assert result.get(timeout=60) is None

    def test_a_held_job_that_the_user_removes(self, make_pool):
        """It is counted once, a new wait raises its removal, and closing raises nothing more."""
        pool = make_pool()
        result = pool.apply_async(time.sleep, (60,))
        while not result.hold():
            time.sleep(0.02)
        with pytest.raises(condorpool.JobHeldError):
            result.get(timeout=30)
        assert result.remove() == 1
        with pytest.raises(condorpool.JobRemovedError):
            result.get(timeout=30)
        pool.close()

    def test_a_call_is_held_before_a_job_has_it(self, make_pool, tmp_path):
        """No other job makes it instead of the held one."""
        go, python = tmp_path / "go", tmp_path / "python"
        python.write_text(
            f'#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.05; done\nexec {sys.executable} "$@"\n'
        )
        python.chmod(0o700)
        result = make_pool(python=str(python)).apply_async(abs, (-1,))
        (log,) = tmp_path.glob(".condorpool-*/events.log")
        while "Job executing" not in log.read_text():
            time.sleep(0.02)
        assert result.hold() == 1
        with pytest.raises(condorpool.JobHeldError):
            result.get(timeout=30)
        go.touch()
        assert result.release() == 1
        assert result.get(timeout=60) == 1

    @pytest.mark.parametrize("maxtasksperchild", [None, 1])
    def test_jobs_that_are_released_at_once(self, make_pool, tmp_path, maxtasksperchild):
        """HTCondor overlooks jobs that are released before their run has ended; they run again."""
        pool = make_pool(processes=2, maxtasksperchild=maxtasksperchild)

        def once(x):
            mark = tmp_path / f"mark-{x}"
            if not mark.exists():
                mark.touch()
                time.sleep(600)
            return x

        result = pool.map_async(once, range(2), 1)
        while len(list(tmp_path.glob("mark-*"))) < 2:
            time.sleep(0.02)
        assert result.hold() == 2
        assert result.release() == 2
        assert result.get(timeout=60) == [0, 1]

    def test_on_hold_remove(self, pool):
        """Held jobs are removed, and the wait ends."""
        result = pool.apply_async(time.sleep, (60,))
        while not result.hold():
            time.sleep(0.02)
        with pytest.raises(condorpool.JobRemovedError):
            result.get(timeout=30, on_hold="remove")

    def test_on_hold_wait(self, pool):
        """With ``on_hold="wait"`` a wait continues while its job is held."""
        result = pool.apply_async(time.sleep, (60,))
        while not result.hold():
            time.sleep(0.02)
        with pytest.raises(condorpool.ResultTimeoutError):
            result.get(timeout=0.5, on_hold="wait")


def test_two_pools_do_not_disturb_each_other(make_pool):
    """Results of both arrive promptly, although one thread follows both."""
    one, two = make_pool(), make_pool()
    results = [p.map_async(math.sqrt, [1, 4]) for p in (one, two)]
    assert [r.get() for r in results] == [[1.0, 2.0]] * 2


def test_submitkwargs_reach_the_job_and_are_not_changed(make_pool, queued):
    """A call's own commands update the pool's."""
    ours, own = {"request_memory": "64MB", "My.Color": '"red"'}, {"My.Color": '"blue"'}
    pool = make_pool(submitkwargs=ours)
    result = pool.apply_async(time.sleep, (0.5,), submitkwargs=own)
    ad = queued(["RequestMemory", "Color"])
    assert (ad["RequestMemory"], ad["Color"]) == (64, "blue")
    assert (ours["My.Color"], own) == ('"red"', {"My.Color": '"blue"'})
    result.get()


def test_the_submit_description_is_no_secret(pool):
    """The user can see it before anything is submitted."""
    shown = pool.submit_description(double, 3)
    assert shown["batch_name"] == "double"
    assert shown["executable"] == "/bin/sh"


def test_the_remote_traceback_shows_the_source_of_cells(pool):
    """It shows code that is in no file on the execution point."""
    cell = "def fail(x):\n    return 1 / x  # never by zero\n"
    name = "/tmp/ipykernel_1/123.py"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    scope = {"__name__": "__main__"}
    exec(compile(cell, name, "exec"), scope)
    with pytest.raises(ZeroDivisionError) as caught:
        pool.apply(scope["fail"], (0,))
    assert "# never by zero" in str(caught.value.__cause__)


ODD = [
    "two\nlines", "a \"b\"", "it's", "end\\", "$(ClusterId)", "$$(Memory)", "$ENV(HOME)", "größe 😀",
    "# x = y", "x" * 10_000, "\ud800", "queue",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_functions_of_any_name(pool, access_point, name):
    """HTCondor and our files take each of them literally."""

    def func(x):
        return x + 1

    func.__name__ = func.__qualname__ = name
    result = pool.map_async(func, [1], maxtries=1)
    assert result.get(timeout=60) == [2]
    (cluster,) = {job.id.partition(".")[0] for job in result.jobs}
    (ad,) = access_point.query(f"ClusterId == {cluster}", ["JobBatchName"])
    if name.isprintable() and not name.startswith(("x", "$$", "end")):
        assert ad["JobBatchName"] == name


@pytest.mark.parametrize("name", ["new\nline", "", " ", 3, "-x"])
def test_a_wrong_name_is_refused_before_anything_is_written(pool, tmp_path, name):
    """The error names the argument."""
    with pytest.raises((ValueError, TypeError), match=r"^name"):
        pool.map(double, [1], name=name)
    assert not list(tmp_path.glob(".condorpool-*"))


def test_random_numbers_of_no_two_calls_are_the_same(make_pool):
    """Each job has its own generators of random and numpy.random, also for imported functions."""
    draws = [lambda _: rnd(), lambda _, draw=normal: draw(), lambda _: random._inst.gauss(0, 1)]
    found = []
    for pool in (make_pool(processes=2), make_pool(processes=2, maxtasksperchild=1)):
        for draw in draws * 2:
            found += pool.map(draw, range(4), 1)
        found += [pool.apply(rnd), pool.apply(rnd), pool.apply(normal), pool.apply(normal)]
    assert len(set(found)) == len(found) == 2 * (2 * 3 * 4 + 4)


def test_a_generator_is_sent_as_a_copy(pool):
    """The user is warned, and the advice in the warning works."""
    rng = np.random.default_rng(1)
    with pytest.warns(condorpool.RepeatedNumbersWarning, match="`rng` is sent with"):
        pool.map(lambda _: rng.normal(), range(2))
    seeds = np.random.SeedSequence(1).spawn(8)
    values = pool.map(lambda seed: np.random.default_rng(seed).normal(), seeds, 1)
    generators = [(np.random.default_rng(seed),) for seed in seeds]
    assert pool.starmap(np.random.Generator.normal, generators, 1) == values
    assert len(set(values)) == 8


@functools.lru_cache
def cached(x):
    """Return twice the argument, through an object that is no function."""
    return double(x)


@functools.singledispatch
def dispatched(x):
    """Depend on the type of the argument."""
    return "any"


@dispatched.register
def _(x: int):
    return "whole"


class HasLock:
    """Cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()


class Full:
    """Cannot be pickled: raises as a full disk does."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


class Unreadable:
    """Can be pickled in the job, but not rebuilt here."""

    def __reduce__(self):
        return int, ("no number",)


class TestPickling:
    """Objects arrive, or are refused before anything is submitted."""

    def test_decorated_functions(self, pool):
        """Those of a notebook are pickled by value."""
        assert pool.map(cached, [1, 2]) == [2, 4]
        assert pool.map(lambda x: (cached(x), dispatched(x)), [1, ""]) == [
            (2, "whole"),
            ("", "any"),
        ]

    def test_a_module_without_a_file(self, pool, monkeypatch):
        """It is sent by value."""
        module = types.ModuleType("made_up")
        exec("def half(x): return x / 2", vars(module))
        monkeypatch.setitem(sys.modules, "made_up", module)
        assert pool.map(module.half, [1]) == [0.5]
        assert pool.apply(lambda: module.half(3)) == 1.5

    @pytest.mark.parametrize("verb", ["apply", "map", "starmap", "imap"])
    def test_nothing_remains_of_what_is_refused(self, make_pool, access_point, verb):
        """The next call works."""
        pool = make_pool()
        own = HasLock()
        with pytest.raises(condorpool.PayloadError, match=r"`own\.lock` is of type _thread\.lock"):
            list(pool.map(lambda _: own, [1]))
        items = {"apply": (1, own), "starmap": [(1, own)]}.get(verb, [own])
        with pytest.raises(TypeError, match=r"`(args|item)(\[1\])?\.lock` is of type _thread"):
            list(getattr(pool, verb)(double, items))
        with pytest.raises(OSError, match="Full") as caught:
            pool.map(double, [Full()])
        assert isinstance(caught.value, condorpool.PayloadError)
        assert not access_point.query("true", ["ClusterId"])
        assert pool.map(double, [1]) == [2]

    def test_a_result_that_cannot_be_pickled(self, pool):
        """The error is also multiprocessing's."""
        with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
            pool.apply(HasLock)
        assert isinstance(caught.value, condorpool.ResultPicklingError)
        assert caught.value.exc == "TypeError: cannot pickle '_thread.lock' object"
        assert caught.value.value.startswith("the value of type ")

    def test_a_result_that_cannot_be_rebuilt(self, pool):
        """The error is also of the class that rebuilding raised."""
        with pytest.raises(ValueError, match="cannot be rebuilt") as caught:
            pool.apply(Unreadable)
        assert isinstance(caught.value, condorpool.ResultPicklingError)
        assert caught.value.exc.startswith("ValueError: invalid literal")

    def test_the_remote_traceback_is_multiprocessings_too(self, pool):
        """Code written for multiprocessing finds its text."""
        with pytest.raises(Unlucky) as caught:
            pool.apply(unlucky, (13,))
        assert isinstance(caught.value.__cause__, condorpool.RemoteTraceback)
        assert isinstance(caught.value.__cause__, multiprocessing.pool.RemoteTraceback)
        assert "in unlucky" in caught.value.__cause__.tb


SCRIPT = """
import condorpool

def quotient(x):
    return [1 / y for y in [x]]  # in a script

class Thing:
    def method(self, x):
        return quotient(x)  # in a class

def fail(x):
    def inner():
        return (lambda: Thing().method(x))()  # in a lambda
    return inner()

if __name__ == "__main__":
    with condorpool.Pool(1, personal={personal!r}, submitkwargs={{"should_transfer_files": {way!r}}}) as pool:
        error = pool.map(fail, [0], return_exceptions=True)[0]
        print(error.__cause__)
"""


@pytest.mark.parametrize("way", ["IF_NEEDED", "YES"], ids=["shared-file-system", "file-transfer"])
def test_the_remote_traceback_shows_the_source_of_a_script(htcondor, tmp_path, way):
    """It names each function and its file, also where jobs cannot see the file."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(personal=str(htcondor.folder), way=way))
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, timeout=60, check=True, stdout=subprocess.PIPE
    )
    shown = done.stdout.decode()
    assert all(f"# in a {where}" in shown for where in ("script", "class", "lambda"))
    assert shown.count(f'File "{script}"') >= 5


def test_jobs_agree_on_hashes(make_pool, monkeypatch):
    """Jobs of one pool agree with each other, and with the notebook if that has a seed."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    pool = make_pool(processes=2, maxtasksperchild=1)
    assert len(set(pool.map(hash, ["foo"] * 4, chunksize=1))) == 1
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    ask = [sys.executable, "-c", "print(hash('foo'))"]
    expected = int(subprocess.run(ask, check=True, capture_output=True).stdout)
    assert pool.map(hash, ["foo"] * 2, chunksize=1) == [expected] * 2


STARTED = """
import condorpool, locale, sys, time

def started():
    try:
        assert False
    except AssertionError:
        asserts = True
    else:
        asserts = False
    flags = {name: getattr(sys.flags, name, None) for name in (
        "optimize", "dev_mode", "utf8_mode", "bytes_warning", "no_user_site", "int_max_str_digits",
        "warn_default_encoding")}
    return asserts, flags, time.tzname, locale.localeconv()["decimal_point"], hash("x"), sys.warnoptions

with condorpool.Pool(1, personal=PERSONAL) as pool:
    here, there = started(), pool.apply(started)
    assert here == there, (here, there)
"""


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        pytest.param("-O -bb -s -Xdev -Xutf8=0 -Xint_max_str_digits=5000 -Werror", {}, id="options"),
        pytest.param(
            "",
            {"PYTHONOPTIMIZE": "2", "PYTHONUTF8": "1", "PYTHONINTMAXSTRDIGITS": "6000",
             "PYTHONWARNINGS": "ignore::UserWarning", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
            id="variables",
        ),
    ],
)  # fmt: skip
def test_a_jobs_interpreter_starts_as_this_one(htcondor, tmp_path, options, variables):
    """Some options and variables can only be set when an interpreter starts."""
    script = tmp_path / "script.py"
    script.write_text(STARTED.replace("PERSONAL", repr(str(htcondor.folder))))
    environment = {**os.environ, "PYTHONHASHSEED": "7", **variables}
    command = [sys.executable, *options.split(), script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, timeout=60, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_what_calls_print_is_text_in_any_locale(make_pool, monkeypatch):
    """It is written and read as UTF-8."""
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    result = make_pool(processes=1).apply_async(print, ("ü",))
    result.get(timeout=60)
    assert result.stdout() == "ü\n"


CELLS = """
import concurrent.futures, multiprocessing, pickle, tempfile
import helper_of_the_cells

factor = 3

class Number:
    def __init__(self, value):
        self.value = value

def times(x):
    return factor * x

def wrapped(number):
    return Number(times(helper_of_the_cells.same(number.value)))

def context_of(method):
    tempfile.tempdir = "/tmp"  # the paths of these tests' folders are too long for a socket
    return multiprocessing.get_context(method)

def in_pool(method):
    with context_of(method).Pool(2) as pool:
        numbers = pool.map(wrapped, [Number(1), Number(2)])
        return pool.map(times, [1, 2]), [n.value for n in numbers], {type(n) is Number for n in numbers}

def given(func, method):
    with context_of(method).Pool(2) as pool:
        return pool.map(func, [1, 2])

def in_executor(method):
    context = context_of(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(times, [1, 2]))

def put(queue):
    queue.put(Number(times(2)))

def in_process(method):
    context = context_of(method)
    queue = context.Queue()
    process = context.Process(target=put, args=(queue,))
    process.start()
    number = queue.get(timeout=60)
    process.join()
    return number.value

def by_name():
    return pickle.loads(pickle.dumps(times)) is times
"""


@pytest.fixture
def cells(beside):
    """Return the names of a notebook whose cells were run, with a module beside it."""
    (beside / "helper_of_the_cells.py").write_text("def same(x):\n    return x\n")
    scope = {"__name__": "__main__"}
    exec(compile(CELLS, "/tmp/ipykernel_1/9.py", "exec"), scope)
    return scope


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_call_starts_processes_of_its_own(make_pool, cells, method):
    """They find the functions and classes of the notebook, as if started there."""
    pool = make_pool(processes=1, cpus=2)
    assert pool.apply_async(cells["in_pool"], (method,)).get(60) == ([3, 6], [3, 6], {True})
    assert pool.apply_async(cells["in_executor"], (method,)).get(60) == [3, 6]
    assert pool.apply_async(cells["in_process"], (method,)).get(60) == 6
    assert pool.apply_async(cells["given"], (cells["times"], method)).get(60) == [3, 6]
    assert pool.apply_async(cells["given"], (lambda x: -x, method)).get(60) == [-1, -2]


def test_names_of_the_notebook_are_those_of_the_call(make_pool, cells):
    """They are not those of an earlier call that the same process made."""
    pool = make_pool(processes=1)
    assert pool.apply(cells["by_name"])
    first = pool.apply(cells["in_pool"], ("fork",))
    exec(compile("def times(x):\n    return 'new'", "/tmp/ipykernel_1/10.py", "exec"), cells)
    assert pool.apply(cells["by_name"])
    assert pool.apply(cells["in_pool"], ("fork",))[0] == ["new"] * 2 != first[0]
    assert isinstance(pool.apply(cells["Number"], (1,)), cells["Number"])


def test_processes_that_a_call_leaves_find_the_functions_of_later_calls(make_pool, cells):
    """A pool of processes that an earlier call made gets this call's function."""

    def kept(func):
        if not hasattr(multiprocessing, "kept"):
            multiprocessing.kept = multiprocessing.get_context("fork").Pool(1)
        return multiprocessing.kept.apply(func, (2,))

    exec("def f(x): return 'old'\ndef call(kept): return kept(f)", cells)
    pool = make_pool(processes=1)
    assert pool.apply(cells["call"], (kept,)) == "old"
    exec("def f(x): return 'new'", cells)
    assert pool.apply(cells["call"], (kept,)) == "new"
