"""The user's code that runs in this process: unpickling, callbacks, iterables.

Whatever it does affects only its own calls: others continue.
"""

from __future__ import annotations

import _thread
import concurrent.futures
import dataclasses
import functools
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
import waiting

import condorpool
from condorpool.engine.tracker import tracker

cloudpickle.register_pickle_by_value(sys.modules[__name__])

until = functools.partial(waiting.until, seconds=30)

HERE = os.getpid()


@dataclasses.dataclass(frozen=True)
class Notice(Exception):  # noqa: D101
    text: str


class Two(Exception):  # noqa: D101
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


class Named(Exception):  # noqa: D101
    def __init__(self, *, name):
        super().__init__(name)
        self.name = name


class Mute(Exception):  # noqa: D101
    def __str__(self):
        raise SystemExit(4)

    __repr__ = __str__


class Rebuilt:
    """Runs a function when it is unpickled."""

    def __init__(self, deed):
        self.deed = deed

    def __setstate__(self, state):
        state["deed"]()


def leave():
    """End the program."""
    sys.exit(3)


def interrupt():
    """Raise an error that no ``except Exception`` catches."""
    raise KeyboardInterrupt


def stall():
    """Never return in the client; in a job, return at once."""
    if os.getpid() == HERE:
        time.sleep(10_000)


def raise_second(make, number):
    """Raise the made exception in one of four calls."""
    if number == 1:
        raise make()
    return number


@pytest.mark.parametrize(
    "make",
    [lambda: Notice("x"), lambda: Two(1, 2), lambda: Named(name="n"), lambda: Mute("x")],
    ids=["frozen", "two", "named", "mute"],
)
def test_exceptions_of_any_class_come_back(pool, make):
    """Also with attributes that cannot be set, and with an ``__init__`` of its own."""
    error = make()
    result = pool.starmap_async(raise_second, [(make, number) for number in range(4)])
    with pytest.raises(type(error)) as caught:
        result.get(timeout=60)
    assert vars(caught.value).items() >= vars(error).items()
    is_unmade = isinstance(error, (Two, Named))
    assert isinstance(caught.value, condorpool.ResultPicklingError) is is_unmade
    assert is_unmade or caught.value.args == error.args
    assert isinstance(caught.value.__cause__, condorpool.RemoteTraceback)
    assert result.failed == [1]


@pytest.mark.parametrize("deed", [leave, interrupt])
def test_a_value_that_ends_the_program_when_it_comes_back(pool, deed):
    """Its call gets an error; the next call is made."""
    with pytest.raises(condorpool.ResultPicklingError, match="cannot be rebuilt"):
        pool.apply_async(Rebuilt, (deed,)).get(timeout=60)
    assert pool.apply_async(abs, (-3,)).get(timeout=60) == 3


def test_a_value_that_never_comes_back(pool):
    """Only its own result waits."""
    stuck = pool.apply_async(Rebuilt, (stall,))
    assert pool.map_async(abs, range(5)).get(timeout=60) == list(range(5))
    assert not stuck.ready()
    with pytest.raises(condorpool.ResultTimeoutError):
        stuck.get(timeout=0.1)
    pool._workload.end(patience=0.5)  # and not for ever at the end of the program


def test_a_callback_that_ends_the_program(pool, caplog):
    """The error is logged, and everything continues."""
    assert pool.apply_async(abs, (-3,), callback=lambda _: sys.exit(2)).get(timeout=60) == 3
    assert pool.map_async(abs, range(5)).get(timeout=60) == list(range(5))
    pool.close()
    assert "SystemExit: 2" in caplog.text


@pytest.mark.parametrize("count", [1, 30])
def test_callbacks_that_call_the_pool(pool, count):
    """Blocking verbs work there, and callbacks run one at a time."""
    got, running, most = [], [], []

    def note(value):
        running.append(value)
        most.append(len(running))
        got.append(pool.apply(pow, (value, 2)))
        running.remove(value)

    results = [pool.apply_async(abs, (n,), callback=note) for n in range(count)]
    assert [result.get(timeout=60) for result in results] == list(range(count))
    while len(got) + len(running) < count:
        time.sleep(0.01)
    pool.close()  # waits for the last callback, too
    assert sorted(got) == [n * n for n in range(count)]
    assert max(most) == 1


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_callback_that_ends_the_pool(pool, end, gone):
    """The callback returns."""
    is_over = threading.Event()

    def callback(_):
        getattr(pool, end)()
        pool.join()
        is_over.set()

    result = pool.apply_async(abs, (-3,), callback=callback)
    assert result.get(timeout=60) == 3
    assert is_over.wait(60)
    assert gone()


def test_a_callback_of_a_future_may_wait_for_another(htcondor, tmp_path):
    """Callbacks may use the executor and its other futures."""
    with condorpool.Executor(2, personal=htcondor, submitdir=tmp_path) as executor:
        got, is_over = [], threading.Semaphore(0)

        def done(future):
            got.append(executor.submit(pow, future.result(), 2).result(timeout=60))
            is_over.release()

        for number in range(5):
            executor.submit(abs, number).add_done_callback(done)
        for _ in range(5):
            assert is_over.acquire(timeout=60)
    assert sorted(got) == [0, 1, 4, 9, 16]


def test_a_dead_tracker_is_reported(pool, monkeypatch, caplog):
    """No wait hangs when the thread that follows jobs has ended; the next pool starts another."""
    result = pool.apply_async(time.sleep, (30,))

    def fail(_self, _timeout):
        raise OSError(9, "Bad file descriptor")

    with monkeypatch.context() as patch:
        patch.setattr("condorpool.access.eventlog.FileWatch.wait", fail)
        tracker().look()
        with pytest.raises(condorpool.CondorPoolError, match=r"has ended .*Bad file descriptor"):
            result.get(timeout=60)
    assert "condorpool no longer follows any jobs" in caplog.text
    for session in pool._workload.sessions:
        tracker().follow(session)  # the pool needs it to close


def test_a_forked_child_does_not_wait(pool):
    """The child gets an error, because only its parent receives results."""
    result = pool.apply_async(time.sleep, (1,))
    child = os.fork()
    if not child:
        try:
            result.get()
        except condorpool.CondorPoolError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert result.get(timeout=60) is None


@pytest.mark.parametrize("progress", [None, "text"])
def test_an_abandoned_imap_stops_reading(make_pool, progress):
    """Leaving the loop is enough; the pool closes although the iterable never ends."""
    taken = itertools.count()
    with make_pool(processes=2, progress=progress) as pool:
        for root in pool.imap(abs, (next(taken) for _ in iter(int, 1)), chunksize=10):
            if root == 25:
                break
    assert next(taken) < 1000


@pytest.mark.parametrize(
    "source", [lambda: [3, 4], lambda: (x for x in (3, 4)), lambda: iter([3, 4])]
)
def test_an_imap_continues_to_its_end_when_its_pool_closes(make_pool, source):
    """As in multiprocessing, which has read the iterable by then."""
    with make_pool(processes=2) as pool:
        results = pool.imap(abs, source())
    assert list(results) == [3, 4]


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_a_call_that_raises_stopiteration_does_not_end_an_imap(pool, verb):
    """As in a generator (PEP 479), it becomes the cause of a RuntimeError; the others follow."""
    results, got = getattr(pool, verb)(next, [iter([n] * (n != 2)) for n in range(4)]), []
    for _ in range(4):
        try:
            got.append(next(results))
        except RuntimeError as error:
            assert isinstance(error.__cause__, StopIteration)  # noqa: PT017
            got.append(2)
    assert sorted(got) == [0, 1, 2, 3]
    with pytest.raises(StopIteration):
        next(results)


class Weak:
    """An object that the garbage collector can find (see `alive`)."""

    def same(self, value):
        """Return it."""
        return value


def alive():
    """Return the number of `Weak` objects in memory."""
    gc.collect()
    return sum(isinstance(each, Weak) for each in gc.get_objects())


def test_values_and_arguments_of_earlier_calls_are_freed(htcondor, tmp_path):
    """A pool keeps references to those of `Pool.last` alone, and an executor to none."""
    before = alive()
    called = threading.Semaphore(0)
    with condorpool.Pool(2, personal=htcondor, submitdir=tmp_path) as pool:
        for verb in (
            lambda: pool.apply(Weak),
            lambda: pool.apply(Weak().same, (Weak(),)),
            lambda: pool.map(Weak().same, [Weak(), Weak()], progress="text"),
            lambda: pool.map_async(
                Weak().same, [Weak()], callback=lambda _: called.release()
            ).get(),
            lambda: list(pool.imap(Weak().same, [Weak(), Weak()])),
            lambda: [next(pool.imap(Weak().same, [Weak()] * 9))],
        ):
            verb()
            pool.apply(int)
            until(lambda: alive() == before)
        for _ in range(3):
            pool.apply_async(Weak, callback=lambda _: called.release())
        for _ in range(4):
            assert called.acquire(timeout=60)
        pool.apply(int)
        until(lambda: alive() == before)
        kept = pool.apply_async(Weak)
        assert kept.get() is kept.get()
    with condorpool.Executor(2, personal=htcondor, submitdir=tmp_path) as executor:
        executor.submit(Weak().same, Weak()).result()
        list(executor.map(Weak().same, [Weak(), Weak()]))
        concurrent.futures.wait([executor.submit(Weak) for _ in range(3)])
        until(lambda: alive() == before + 1)


def test_memory_of_large_values_is_released(htcondor, tmp_path):
    """After 40 at once and 40 one by one the process is as small as before; the peak is bounded."""
    program = f"""
import gc, re
from pathlib import Path
import numpy as np, psutil
import condorpool
def make(_):
    return np.ones(2 << 17)
with condorpool.Pool(2, personal={str(htcondor.folder)!r}, submitdir={str(tmp_path)!r}) as pool:
    pool.map(abs, range(4))
    now = lambda: psutil.Process().memory_info().rss / 2**20
    # Not getrusage's: a new program inherits the peak of the process that has started it.
    most = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024
    before = now()
    arrays = pool.map(make, range(40))
    peak = most() - before
    del arrays
    for _ in range(40):
        pool.apply(make, (0,))
    gc.collect()
    print(peak, now() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    peak, growth = map(float, done.stdout.split())
    assert peak < 1.5 * 80  # MiB
    assert growth < 20


def test_a_kept_error_keeps_few_callers(make_pool):
    """An exception references its callers' frames; a pool keeps only the latest exceptions."""

    def work(pool):
        argument = Weak()
        with pytest.raises(TypeError):
            pool.map(lambda value: value + 1, [argument])

    before, pool = alive(), make_pool()
    for _ in range(12):
        work(pool)
    until(lambda: alive() - before <= 6)
    assert len(pool.results) <= 6


def test_results_with_a_name_are_freed_when_they_are_forgotten(make_pool):
    """The name can then be used again."""
    before, pool = alive(), make_pool()
    pool.map(Weak().same, [Weak()], name="scan")
    pool.map_async(Weak().same, [Weak()], name="scan").forget()
    pool.apply(int)  # a pool keeps the result of its last call
    until(lambda: alive() == before)
    assert pool.map(abs, [-1], name="scan") == [1]
    pool.map_async(abs, [-1], name="scan").forget()


class Holder:
    """Has decorated methods, which cloudpickle alone cannot pickle."""

    @functools.cached_property
    def kept(self):
        """Compute a value once."""
        return 7

    @functools.lru_cache  # noqa: B019
    def cached(self):
        """Compute another value once."""
        return 8


def test_values_of_decorated_classes_come_back(pool):
    """As instances of the notebook's own class."""
    back = pool.apply(Holder)
    assert type(back) is Holder
    assert (back.kept, back.cached()) == (7, 8)


def test_a_runner_that_is_interrupted_between_calls(make_pool):
    """The next call is made, if need be by another runner."""
    pool = make_pool(processes=1)
    for _ in range(5):
        pool.apply(lambda: threading.Timer(0.1, _thread.interrupt_main).start())
        time.sleep(0.3)
        assert pool.apply(abs, (-3,)) == 3


@pytest.mark.parametrize("source", ["range(200)", "itertools.count()", "stalls()"])
def test_a_program_ends_while_an_imap_is_in_use(htcondor, tmp_path, source):
    """It does not read the rest of the iterable."""
    program = f"""
import itertools, time, condorpool
def stalls():
    yield 0
    time.sleep(10_000)
pool = condorpool.Pool(2, personal={str(htcondor.folder)!r})
results = pool.imap(abs, {source})
print(next(results))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=90
    )
    assert done.stdout == "0\n"
    assert not list(tmp_path.glob(".condorpool-*"))


def test_a_done_callback_shuts_its_executor_down(htcondor, tmp_path, gone):
    """The callback returns, and everything is cleaned up."""
    is_over = threading.Event()
    with condorpool.Executor(2, personal=htcondor, submitdir=tmp_path) as executor:
        future = executor.submit(abs, -1)
        future.add_done_callback(lambda _: (executor.shutdown(), is_over.set()))
        assert future.result() == 1
        assert is_over.wait(60)
    assert gone()


def test_an_executor_is_shut_down_by_several_threads(htcondor, tmp_path):
    """All threads return."""
    for _ in range(5):
        executor = condorpool.Executor(2, personal=htcondor, submitdir=tmp_path)
        executor.submit(abs, -1).result()
        with concurrent.futures.ThreadPoolExecutor(3) as threads:
            for ended in [threads.submit(executor.shutdown) for _ in range(3)]:
                assert ended.result(60) is None


def test_control_c_at_random_moments(htcondor, tmp_path):
    """Nothing hangs, no call is lost, nothing remains; ``tests/interrupts.py`` does more."""
    program = Path(__file__).parents[1] / "interrupts.py"
    environment = {
        **os.environ,
        "CONDORPOOL_PERSONAL": str(htcondor.folder),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, program, "150", "1"],
        env={**environment, "CONDOR_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert not list(tmp_path.iterdir())
