"""concurrent.futures' contract: the same cases on ProcessPoolExecutor and condorpool.Executor.

CPython's own tests of executors (``Lib/test/test_concurrent_futures``) are here in
our words, but for what is about threads, about pipes and processes that break, and
about idle processes: the pool's own tests have jobs that do.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait

import pytest

import condorpool

AFTER_THE_END = """
import threading, time
from {package} import {name}

def late():
    threading.main_thread().join()
    time.sleep(0.1)
    try:
        executor.submit(abs, -1)
    except RuntimeError as error:
        print(error)

if __name__ == "__main__":
    executor = {name}(max_workers=1, **{arguments})
    assert executor.submit(abs, -1).result() == 1
    threading.Thread(target=late).start()
"""


def since(*version):
    """Skip `ProcessPoolExecutor` where it does not know the keyword yet."""
    both = ["multiprocessing"] * (sys.version_info >= version) + ["condorpool"]
    return pytest.mark.parametrize("backend", both, indirect=True, scope="module")


def after(seconds, value=None):
    """Return the value after a while."""
    time.sleep(seconds)
    return value


def captured(*args, **kwargs):
    """Return how it was called."""
    return args, kwargs


def raise_it(error, seconds=0.0):
    """Raise it after a while."""
    time.sleep(seconds)
    raise error


def raise_with_a_comment():
    """Raise on a line that can be recognized."""
    raise RuntimeError(123)  # some comment


def raise_at_two(number):
    """Raise what ends iterators."""
    if number == 2:
        raise StopIteration(number)
    return number


def set_variable(value):
    """Set a variable of the process."""
    os.environ["CONTRACT"] = value


def wait_for_begin(future):
    """Wait until the call runs or has ended."""
    while not (future.running() or future.done()):
        time.sleep(0.01)


class Thing:
    """Something that can be referred to weakly."""

    def method(self):
        """Do nothing."""


def make_thing(_):
    """Return a new one."""
    return Thing()


class TestSubmit:
    """One call, one future."""

    def test_it_is_one(self, executor):
        """Executor and future are instances of the classes of concurrent.futures."""
        assert isinstance(executor, concurrent.futures.Executor)
        future = executor.submit(pow, 2, 8)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result() == future.result(timeout=0) == 256
        assert future.exception() is None
        assert future.done()
        assert not future.running()
        assert not future.cancelled()

    def test_arguments_and_keywords(self, executor):
        """A call gets its arguments and keywords, whatever their names are."""
        assert executor.submit(captured, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
        with pytest.raises(TypeError):
            executor.submit(fn=captured, arg=1)

    def test_an_exception(self, executor):
        """It is raised as itself, with the remote traceback as its cause."""
        future = executor.submit(raise_with_a_comment)
        with pytest.raises(RuntimeError) as caught:
            future.result()
        assert future.exception() is caught.value
        assert caught.value.args == (123,)
        assert "raise RuntimeError(123)  # some comment" in str(caught.value.__cause__)

    def test_a_timeout(self, executor):
        """The call continues."""
        future = executor.submit(after, 2.0, 7)
        for question in (future.result, future.exception):
            with pytest.raises(concurrent.futures.TimeoutError):
                question(timeout=0.05)
        assert future.result(timeout=60) == 7

    def test_callbacks(self, executor):
        """Each is called once with the future, also one that is added after the end."""
        got, there = [], threading.Event()
        future = executor.submit(after, 0.2)
        future.add_done_callback(lambda f: (got.append(f), there.set()))
        assert there.wait(60)
        future.add_done_callback(got.append)
        assert got == [future, future]

    def test_a_future_without_references(self, executor):
        """Its call has been garbage-collected by the time of the next one."""
        thing = Thing()
        watch = weakref.ref(thing)
        executor.submit(thing.method)
        del thing
        end = time.monotonic() + 30
        while watch() and time.monotonic() < end:
            executor.submit(abs, 1).result()
            gc.collect()
        assert watch() is None


class TestCancel:
    """Calls that no worker makes yet can be taken back."""

    def test_cancel(self, executor_class):
        """A running call continues, and a waiting one is not made."""
        with executor_class(1) as executor:
            futures = [executor.submit(after, 0.5, n) for n in range(8)]
            wait_for_begin(futures[0])
            assert futures[-1].cancel()
            assert futures[-1].cancel()
            assert futures[-1].cancelled()
            assert not futures[0].cancel()
            assert futures[0].result() == 0
            assert not futures[0].cancel()
            with pytest.raises(concurrent.futures.CancelledError):
                futures[-1].result()
            executor.shutdown(cancel_futures=True)
        states = [future.cancelled() for future in futures]
        assert all(future.done() for future in futures)
        assert states == sorted(states)
        assert [f.result() for f in futures if not f.cancelled()] == list(range(states.index(True)))

    def test_those_who_wait_are_told(self, executor_class):
        """A cancelled future is done for `wait` and `as_completed`."""
        with executor_class(1) as executor:
            futures = [executor.submit(after, 0.5) for _ in range(5)]
            told = []
            futures[4].add_done_callback(told.append)
            assert futures[4].cancel()
            assert told == [futures[4]]
            assert wait(futures, timeout=60).done == set(futures)

    @since(3, 11)
    def test_one_task_per_child(self, executor_class):
        """A call can be cancelled, too, when each has a process of its own."""
        with executor_class(1, max_tasks_per_child=1) as executor:
            futures = [executor.submit(after, 0.5) for _ in range(5)]
            while not futures[4].cancel():  # a job that is not in the queue yet cannot be removed
                time.sleep(0.01)
            assert set(as_completed(futures, timeout=60)) == set(futures)
            executor.shutdown(cancel_futures=True)


class TestMap:
    """Many calls."""

    @pytest.mark.parametrize("chunksize", [1, 3, 100])
    def test_in_order(self, executor, chunksize):
        """Results are those of the builtin; the shortest iterable ends them."""
        results = executor.map(pow, range(10), range(12), chunksize=chunksize)
        assert next(results) == 1
        assert list(results) == list(map(pow, range(10), range(10)))[1:]
        assert list(executor.map(pow, [], [1])) == []

    def test_an_exception(self, executor):
        """It is raised in place of its result, and ends the iteration."""
        results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
        assert [next(results), next(results)] == [(0, 1), (0, 1)]
        with pytest.raises(ZeroDivisionError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)

    def test_a_timeout(self, executor):
        """It holds for all results together."""
        results, got = executor.map(after, [0, 0, 3.0], timeout=1.5), []
        with pytest.raises(concurrent.futures.TimeoutError):
            got.extend(iter(lambda: next(results), 1))
        with pytest.raises(StopIteration):
            next(results)

    def test_items_are_taken_at_once(self, executor):
        """All items are taken, even if no result is."""
        source = iter(range(5))
        results = executor.map(abs, source)
        assert next(source, None) is None
        assert list(results) == list(range(5))

    @since(3, 14)
    def test_a_buffer(self, executor):
        """With it items are taken as results are, and may be endless."""
        source = itertools.count()
        results = executor.map(abs, source, buffersize=4)
        assert [next(results) for _ in range(10)] == list(range(10))
        time.sleep(0.3)
        assert next(source) <= 16
        results.close()

    @since(3, 14)
    @pytest.mark.parametrize(
        ("size", "error"), [(0, ValueError), (-1, ValueError), ("a", TypeError)]
    )
    def test_a_buffer_has_room(self, executor, size, error):
        """Its size must be at least 1."""
        with pytest.raises(error, match="buffersize"):
            executor.map(abs, [1], buffersize=size)

    def test_a_chunk_has_calls(self, executor):
        """Its size must be at least 1."""
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(abs, [1], chunksize=0)

    def test_results_are_not_kept(self, executor):
        """A result that was taken is garbage."""
        for thing in executor.map(make_thing, range(5)):
            watch = weakref.ref(thing)
            del thing
            gc.collect()
            assert watch() is None

    def test_an_iterable_that_raises(self, executor):
        """Its exception is raised as itself."""

        def source():
            yield 1
            raise KeyError("source")

        with pytest.raises(KeyError, match="source"):
            list(executor.map(abs, source()))


class TestWait:
    """Futures are good for concurrent.futures' functions."""

    def test_as_completed(self, executor):
        """Futures come once each, in the order in which their calls end."""
        fast, slow = executor.submit(after, 0), executor.submit(after, 0.7)
        fast.result()
        assert list(as_completed([slow, fast, slow])) == [fast, slow]

    def test_as_completed_with_a_timeout(self, executor):
        """The futures that have ended come before it is raised."""
        fast, slow = executor.submit(after, 0), executor.submit(after, 2.0)
        fast.result()
        got = []
        with pytest.raises(concurrent.futures.TimeoutError):
            got.extend(iter(as_completed([slow, fast], timeout=0.1)))
        assert not slow.done()

    @pytest.mark.parametrize(
        ("condition", "done"),
        [(FIRST_COMPLETED, {0}), (FIRST_EXCEPTION, {0, 1}), (ALL_COMPLETED, {0, 1, 2})],
    )
    def test_wait(self, executor_class, condition, done):
        """It waits for the first future, the first that raises, or all."""
        with executor_class(1) as executor:
            futures = [
                executor.submit(after, 0),
                executor.submit(raise_it, KeyError(1), 0.5),
                executor.submit(after, 1.5),
            ]
            ended = wait(futures, return_when=condition)
            assert ended.done == {futures[n] for n in done}
            assert ended.not_done == set(futures) - ended.done

    def test_wait_with_a_timeout(self, executor):
        """It returns the futures that have ended by then."""
        future = executor.submit(after, 1.0)
        assert wait([future], timeout=0.05).not_done == {future}

    def test_in_a_coroutine(self, executor):
        """``run_in_executor`` and ``wrap_future`` take the executor and its futures."""

        async def both():
            loop = asyncio.get_running_loop()
            return await asyncio.gather(
                loop.run_in_executor(executor, after, 0.1, "one"),
                asyncio.wrap_future(executor.submit(after, 0, "two")),
                asyncio.wrap_future(executor.submit(raise_it, KeyError(1))),
                return_exceptions=True,
            )

        *values, error = asyncio.run(both())
        assert values == ["one", "two"]
        assert isinstance(error, KeyError)


class TestShutdown:
    """The end."""

    def test_nothing_after_it(self, executor_class):
        """A shut-down executor takes no calls, and may be shut down again."""
        executor = executor_class(1)
        executor.shutdown()
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(abs, 1)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(abs, [1])

    def test_leaving_with_waits(self, executor_class):
        """It waits for all calls, also those of a map whose results are not taken."""
        with executor_class(2) as executor:
            future = executor.submit(after, 0.5, 1)
            results = executor.map(after, [0.1] * 5, range(5))
        assert future.result(timeout=0) == 1
        assert list(results) == list(range(5))

    def test_without_waiting(self, executor_class):
        """The calls continue; a later shutdown waits for them."""
        executor = executor_class(1)
        futures = [executor.submit(after, 0.5, n) for n in range(2)]
        executor.shutdown(wait=False)
        assert not futures[1].done()
        executor.shutdown()
        assert [future.result(timeout=5) for future in futures] == [0, 1]

    def test_cancelling_without_waiting(self, executor_class):
        """Waiting calls are cancelled, and running ones continue."""
        executor = executor_class(1)
        futures = [executor.submit(after, 0.5, n) for n in range(10)]
        wait_for_begin(futures[0])
        executor.shutdown(wait=False, cancel_futures=True)
        assert futures[0].result() == 0
        while not all(future.done() for future in futures):
            time.sleep(0.01)
        assert futures[9].cancelled()
        executor.shutdown()

    def test_after_the_program_began_to_end(self, backend, where):
        """No call is submitted."""
        package = "condorpool" if backend == "condorpool" else "concurrent.futures"
        name = "Executor" if backend == "condorpool" else "ProcessPoolExecutor"
        arguments = {k: str(getattr(v, "folder", v)) for k, v in where.items() if k != "linger"}
        program = AFTER_THE_END.format(package=package, name=name, arguments=arguments)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert "cannot schedule new futures after" in done.stdout, done.stderr

    @since(3, 14)
    def test_a_lazy_map(self, executor_class):
        """After the end it takes no more items."""
        with executor_class(1) as executor:
            results = executor.map(abs, itertools.count(), buffersize=2)
            assert next(results) == 0
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            list(results)


class TestWorkers:
    """Who makes the calls."""

    @pytest.mark.parametrize("number", [0, -1])
    def test_there_is_one(self, executor_class, number):
        """There must be at least one worker; the error names the argument."""
        with pytest.raises(ValueError, match="max_workers"):
            executor_class(max_workers=number)

    def test_an_initializer(self, executor_class):
        """Calls see its effects; it must be a function."""
        with executor_class(1, initializer=set_variable, initargs=("green",)) as executor:
            assert executor.submit(os.getenv, "CONTRACT").result() == "green"
        with pytest.raises(TypeError, match="initializer"):
            executor_class(1, initializer=3)

    @since(3, 11)
    def test_tasks_per_child(self, executor_class):
        """A process ends after so many calls, and another one takes the next."""
        with executor_class(1, max_tasks_per_child=2) as executor:
            pids = [executor.submit(os.getpid).result() for _ in range(5)]
        assert len(set(pids)) == 3

    @pytest.mark.parametrize(
        "name", ["__init__", "submit", "map", "shutdown", "__enter__", "__exit__"]
    )
    def test_signatures(self, name):
        """Every method takes the parameters of concurrent.futures, in the same order."""
        theirs, ours = (
            list(inspect.signature(getattr(cls, name)).parameters.values())
            for cls in (concurrent.futures.ProcessPoolExecutor, condorpool.Executor)
        )
        if name != "__exit__":  # it is never called with keywords
            assert [(p.name, p.kind) for p in ours][: len(theirs)] == [
                (p.name, p.kind) for p in theirs
            ]
            assert [p.default for p in ours][: len(theirs)] == [p.default for p in theirs]


@pytest.mark.parametrize("backend", ["condorpool"], indirect=True, scope="module")
def test_held_jobs(executor_class):
    """A wait for a future raises that its job is held."""
    with executor_class(1) as executor:
        future = executor.submit(after, 60)
        while not executor.pool.results[-1].hold():
            time.sleep(0.02)
        with pytest.raises(condorpool.JobHeldError):
            future.result(timeout=30)
    assert isinstance(future.exception(), condorpool.JobRemovedError)


@pytest.mark.parametrize("backend", ["condorpool"], indirect=True, scope="module")
@pytest.mark.parametrize("tasks", [None, 1])
def test_what_waits_behind_others_is_cancelled(executor_class, tasks):
    """Calls that were posted a moment ago are, too, also with a job for each call."""
    with executor_class(2, max_tasks_per_child=tasks) as executor:
        futures = [executor.submit(after, 2.0, n) for n in range(6)]
        wait_for_begin(futures[0])
        late = [executor.submit(after, 2.0, n) for n in range(6)]
        assert all(future.cancel() for future in late)
        executor.shutdown(cancel_futures=True)
        assert [future.cancelled() for future in futures[2:]] == [True] * 4
        assert futures[0].result() == 0


@pytest.mark.parametrize("backend", ["condorpool"], indirect=True, scope="module")
def test_a_call_that_raises_stopiteration(executor):
    """It ends neither a map nor an await: it is the cause of a RuntimeError (PEP 479)."""
    results, got = executor.map(raise_at_two, range(4)), []
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        got.extend(results)
    assert isinstance(caught.value.__cause__, StopIteration)

    async def run():
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(executor, raise_at_two, 2), 60)

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(run())
