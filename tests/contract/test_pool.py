"""multiprocessing.Pool's contract: the same cases on multiprocessing and on HTCondor.

The cases cover what CPython's own tests of its pool check
(``Lib/test/_test_multiprocessing.py``), except

- ``test_make_pool``, the half that counts ``_pool``: a private list of processes;
- ``test_resource_warning``: it sets a private state; a pool that was not closed is
  closed at the program's end, so no warning is needed;
- ``test_release_unused_processes``: it replaces the class of the processes;
- ``test_pool_worker_lifetime``, the half that calls ``_repopulate_pool`` (private);
- ``test_large_pool``: 20 processes here and not 200, for the sake of two CPUs;
- ``test_map_unplicklable``: the exception that pickling raised is the cause of
  ours, which says what could not be pickled;
- the tests of managers' proxies of pools and of ``ThreadPool``, which are other
  classes.

The order in which calls end needs two slots at a time, which a case that shares its
HTCondor may not get: see ``TestIterators`` in ``tests/htcondor/test_results.py``.

Cases in which multiprocessing itself hangs, or which it supports only from Python 3.15
on, are marked ``condorpool_only``.
"""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import multiprocessing.pool
import os
import pickle
import sys
import threading
import time
import traceback
import weakref

import numpy as np
import pytest

import condorpool

condorpool_only = pytest.mark.parametrize("backend", ["condorpool"], indirect=True, scope="module")

VERBS = ["map", "starmap", "imap", "imap_unordered"]


def square(x, wait=0.0):
    """Square it, after a while."""
    time.sleep(wait)
    return x * x


def difference(a, b):
    """Subtract."""
    return a - b


def identity(x):
    """Return it."""
    return x


def process(wait=0.0):
    """Return the process that makes the call."""
    time.sleep(wait)
    return os.getpid()


def raise_it(error):
    """Raise it."""
    raise error


def raise_late(size, wait=0.0):
    """Raise an exception with a long message."""
    time.sleep(wait)
    raise ValueError("x" * size)


def raise_with_a_comment():
    """Raise on a line that can be recognized."""
    raise RuntimeError(123)  # some comment


def raise_group():
    """Raise two at once."""
    raise ExceptionGroup("two", [ValueError(1), KeyError(2)])  # noqa: F821 - since Python 3.11


def set_variable(name, value):
    """Set a variable of the process, and count how often."""
    times = int(os.environ.get(f"{name}_TIMES", "0")) + 1
    os.environ.update({name: value, f"{name}_TIMES": str(times)})


class Told(Exception):
    """An exception with an ``__init__`` of its own."""

    def __init__(self, number, colour):
        super().__init__(number, colour)
        self.number, self.colour = number, colour


class Broken(Exception):
    """An exception that pickles and cannot be rebuilt."""

    def __init__(self, number, colour):
        super().__init__(number)


def raise_broken():
    """Raise the exception that cannot be rebuilt."""
    raise Broken(1, "red")


class Stubborn:
    """Refuses to be pickled."""

    def __reduce__(self):
        raise RuntimeError("cannot pickle")


def stubborn():
    """Return what cannot be pickled."""
    return Stubborn()


class Power:
    """Callable in many ways."""

    def __init__(self, exponent):
        self.exponent = exponent

    def __call__(self, x):
        """Raise to the power."""
        return x**self.exponent

    def method(self, x):
        """Bound to an object."""
        return self(x)

    @classmethod
    def of_class(cls, x):
        """Bound to the class."""
        return cls(2)(x)

    @staticmethod
    def static(x):
        """Bound to nothing."""
        return x * x


class Counted:
    """Knows how many of it there are."""

    alive = 0

    def __init__(self):
        type(self).alive += 1

    def __setstate__(self, state):
        type(self).alive += 1

    def __getstate__(self):
        return {"some": "thing"}

    def __del__(self):
        type(self).alive -= 1


class Enough(Exception):
    """What an iterable raises."""


def breaking(total, when):
    """Give numbers, and raise in place of one."""
    for x in range(total):
        if x == when:
            raise Enough
        yield x


class BreakingAtOnce:
    """An iterable that has a length and nothing else."""

    def __len__(self):
        return 1

    def __iter__(self):
        return self

    def __next__(self):
        raise Enough


class TestApply:
    """One call."""

    def test_arguments_and_keywords(self, pool):
        """A call gets its arguments and keywords."""
        assert pool.apply(square, (5,)) == 25
        assert pool.apply(square, (), {"x": 3}) == 9
        assert pool.apply(square, [2], {"wait": 0.01}) == 4
        assert pool.apply(int, ("ff",), {"base": 16}) == 255

    def test_a_result_comes_later(self, pool):
        """It is ready when the call has ended, and `get` may be called again."""
        start = time.monotonic()
        result = pool.apply_async(square, (7, 0.3))
        assert result.get() == result.get(timeout=1) == 49
        assert time.monotonic() - start >= 0.3

    def test_a_timeout(self, make_pool):
        """The error is multiprocessing's; the call continues."""
        result = make_pool(1).apply_async(square, (6, 1.0))
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(timeout=0.1)
        assert result.wait(0.01) is None
        assert not result.ready()
        assert result.get(timeout=60) == 36

    def test_successful_before_the_end(self, pool):
        """It raises ValueError as long as the call has not ended."""
        result = pool.apply_async(square, (1, 0.5))
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        result.wait()
        assert result.ready()
        assert result.successful() is True
        failed = pool.apply_async(raise_it, (KeyError(1),))
        failed.wait()
        assert failed.successful() is False

    @pytest.mark.parametrize(
        "func",
        [
            pytest.param(functools.partial(pow, 3), id="partial"),
            pytest.param(Power(2), id="object"),
            pytest.param(Power(2).method, id="method"),
            pytest.param(Power.of_class, id="class method"),
            pytest.param(Power.static, id="static method"),
            pytest.param(abs, id="builtin"),
            pytest.param(str.upper, id="method of a type"),
            pytest.param(np.sqrt, id="ufunc"),
        ],
    )
    def test_whatever_can_be_called(self, pool, func):
        """Functions, methods, classes, partials and callable objects can be called."""
        item = "c" if func is str.upper else 4
        assert pool.apply(func, (item,)) == func(item)
        assert pool.map(func, [item] * 3) == [func(item)] * 3

    @condorpool_only
    def test_closures(self, pool):
        """So can closures and lambdas, which multiprocessing cannot import in its workers."""
        assert pool.apply(lambda x: x, (4,)) == 4
        offset = 10

        def add(x):
            return x + offset

        assert pool.map(add, [1, 2]) == [11, 12]


class TestMap:
    """Many calls."""

    @pytest.mark.parametrize("chunksize", [None, 1, 20, 1000])
    @pytest.mark.parametrize("items", [range(10), range(100)])
    def test_in_order(self, pool, items, chunksize):
        """Results are in the order of the items, for every chunksize."""
        assert pool.map(square, items, chunksize) == [x * x for x in items]
        assert pool.map_async(square, items, chunksize=chunksize).get() == [x * x for x in items]

    @pytest.mark.parametrize("chunksize", [None, 20])
    def test_star(self, pool, chunksize):
        """Items are unpacked as arguments."""
        items = [(x, 99 - x) for x in range(100)]
        expected = list(itertools.starmap(difference, items))
        assert pool.starmap(difference, items, chunksize) == expected
        assert pool.starmap_async(difference, iter(items), chunksize).get() == expected

    @pytest.mark.parametrize("empty", [[], (), {}, pytest.param(iter(()), id="iterator")], ids=str)
    def test_nothing(self, pool, empty):
        """An empty iterable gives an empty list at once."""
        assert pool.map(square, empty) == []
        assert pool.starmap(square, empty) == []
        assert pool.map_async(square, empty, chunksize=1).get(timeout=5) == []
        assert list(pool.imap(square, empty)) == []
        assert list(pool.imap_unordered(square, empty)) == []

    @condorpool_only
    def test_the_callback_of_an_empty_map(self, pool):
        """It is called, which multiprocessing does not do."""
        got = []
        pool.map_async(square, [], callback=got.append).wait(5)
        assert got == [[]]

    def test_items_without_a_length(self, pool):
        """Generators, sets, dictionaries and strings are iterables."""
        assert pool.map(square, (x for x in range(5))) == [0, 1, 4, 9, 16]
        assert sorted(pool.map(square, {1, 2, 3})) == [1, 4, 9]
        assert pool.map(str.upper, {"a": 1, "b": 2}) == ["A", "B"]
        assert pool.map(str.upper, "abc") == ["A", "B", "C"]

    def test_many_items(self, pool):
        """A map of a hundred thousand calls returns."""
        items = range(100_000)
        assert pool.map(identity, items) == list(items)
        assert sum(pool.imap_unordered(identity, items, chunksize=10_000)) == sum(items)

    def test_arrays(self, pool):
        """Arrays are sent and returned unchanged."""
        rows = np.arange(12.0).reshape(3, 4)
        results = pool.map(np.negative, rows)
        assert (np.array(results) == -rows).all()
        assert results[0].dtype == rows.dtype
        assert pool.apply(np.sum, (rows,), {"axis": 0}).tolist() == rows.sum(axis=0).tolist()

    def test_many_workers(self, make_pool):
        """There may be more workers than CPUs."""
        assert sum(make_pool(20).map(square, range(1000))) == 332833500

    def test_threads_share_a_pool(self, pool):
        """Each thread gets its own results."""
        got = {}

        def work(n):
            got[n] = pool.map(square, range(n))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == {n: [x * x for x in range(n)] for n in range(5)}


class TestIterators:
    """Results as they come."""

    @pytest.mark.parametrize(("count", "chunksize"), [(10, 1), (1000, 100)])
    def test_in_order(self, pool, count, chunksize):
        """Results come in the order of the items, and then StopIteration."""
        results = pool.imap(square, range(count), chunksize)
        assert iter(results) is results
        assert [next(results) for _ in range(count)] == [x * x for x in range(count)]
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(results)

    @pytest.mark.parametrize(("count", "chunksize"), [(10, 1), (1000, 100)])
    def test_as_they_end(self, pool, count, chunksize):
        """All results come, in any order."""
        results = pool.imap_unordered(square, range(count), chunksize)
        assert sorted(results) == [x * x for x in range(count)]

    def test_a_timeout(self, make_pool):
        """A later request gets the result."""
        results = make_pool(1).imap(functools.partial(square, wait=0.8), [3])
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(timeout=0.05)
        assert results.next(timeout=60) == 9
        with pytest.raises(StopIteration):
            results.next(timeout=1)

    @pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
    def test_no_end(self, make_pool, verb):
        """Items are taken as there is room, and a terminated pool takes no more."""
        results = getattr(make_pool(2), verb)(square, itertools.count())
        assert {next(results) for _ in range(5)} <= {x * x for x in range(100)}

    @condorpool_only
    def test_how_far_ahead(self, make_pool):
        """It takes 16 chunks ahead for each process, or ``buffersize`` calls."""
        for room, limits in ((3 * 16 * 2, {"chunksize": 3}), (4, {"buffersize": 4})):
            taken = []
            source = (taken.append(x) or x for x in itertools.count())
            results = make_pool(2).imap(square, source, **limits)
            assert [next(results) for _ in range(10)] == [x * x for x in range(10)]
            time.sleep(0.2)
            assert len(taken) <= room + 10 + 3  # a chunk is taken whole

    @pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
    def test_a_call_that_raises(self, pool, verb):
        """Its exception is raised in place of its result, and the other results come."""
        results, got = getattr(pool, verb)(functools.partial(divmod, 6), [1, 0, 2]), []
        while True:
            try:
                got.append(next(results))
            except ZeroDivisionError:
                got.append((0, 0))
            except StopIteration:
                break
        assert sorted(got) == [(0, 0), (3, 0), (6, 0)]
        assert verb == "imap_unordered" or got[1] == (0, 0)

    def test_closing_makes_all_that_is_left(self, make_pool):
        """After it all remaining results are there."""
        pool = make_pool(2)
        results = pool.imap(square, range(100), 5)
        pool.close()
        pool.join()
        assert list(results) == [x * x for x in range(100)]


class TestBreakingIterables:
    """Iterables that raise: the caller gets the exception, and the pool works afterwards."""

    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("source", [lambda: breaking(1, 0), BreakingAtOnce], ids=["", "sized"])
    def test_at_once(self, pool, verb, source):
        """The exception is raised as itself, without a remote traceback, also a second time."""
        for _ in range(2):
            with pytest.raises(Enough) as caught:
                list(getattr(pool, verb)(square, source(), 1))
            assert caught.value.__cause__ is None
        assert pool.apply(square, (2,)) == 4

    def test_midway(self, pool):
        """A map raises the exception."""
        with pytest.raises(Enough):
            pool.map(square, breaking(10, 3), 1)

    @pytest.mark.parametrize(
        ("total", "when", "chunksize", "before"), [(10, 3, 1, 3), (20, 7, 2, 6), (20, 7, 4, 4)]
    )
    def test_midway_in_order(self, pool, total, when, chunksize, before):
        """The results of whole chunks come before the exception."""
        results = pool.imap(square, breaking(total, when), chunksize)
        assert [next(results) for _ in range(before)] == [x * x for x in range(before)]
        with pytest.raises(Enough):
            next(results)

    @pytest.mark.parametrize(("total", "when", "chunksize"), [(10, 3, 1), (20, 7, 2)])
    def test_midway_as_they_end(self, pool, total, when, chunksize):
        """The exception comes among the results, or after them."""
        results, left = pool.imap_unordered(square, breaking(total, when), chunksize), set(range(9))
        with pytest.raises(Enough):
            left.difference_update(round(result**0.5) for result in results)
        assert left >= set(range(when, 9))

    def test_pickling_fails(self, pool):
        """A map raises an error that says why; nothing hangs."""
        with pytest.raises((RuntimeError, pickle.PicklingError)) as caught:
            pool.map(square, [Stubborn()] * 10)
        assert "cannot pickle" in str(caught.value.__cause__ or caught.value)
        assert pool.apply(square, (2,)) == 4


class TestErrors:
    """Calls that raise."""

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("key"),
            Told(13, "black"),
            OSError(2, "no file"),
            UnicodeDecodeError("a", b"", 0, 1, "b"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_as_itself(self, pool, error):
        """The exception has the class and arguments with which the call raised it."""
        with pytest.raises(type(error)) as caught:
            pool.apply(raise_it, (error,))
        assert type(caught.value) is type(error)
        assert caught.value.args == error.args
        assert vars(caught.value) == vars(error)

    def test_the_remote_traceback(self, pool, capsys):
        """It is the cause, so that a printed exception shows the line."""
        with pytest.raises(RuntimeError) as caught:
            pool.apply(raise_with_a_comment)
        error, line = caught.value, "raise RuntimeError(123)  # some comment"
        assert type(error.__cause__).__name__ == "RemoteTraceback"
        assert line in error.__cause__.tb
        assert line in str(error.__cause__)
        traceback.print_exception(type(error), error, error.__traceback__)
        assert line in capsys.readouterr().err

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
    def test_groups(self, pool):
        """Exception groups come with all their exceptions."""
        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821 - since Python 3.11
            pool.apply(raise_group)
        assert [type(error) for error in caught.value.exceptions] == [ValueError, KeyError]

    @condorpool_only
    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
    def test_what_ends_programs(self, pool, error):
        """SystemExit does not end the worker; with multiprocessing the result never comes."""
        with pytest.raises(type(error)):
            pool.apply(raise_it, (error,))
        assert pool.map(square, [2]) == [4]

    @condorpool_only
    def test_what_cannot_be_rebuilt(self, pool):
        """The error says so and shows the traceback; multiprocessing hangs."""
        with pytest.raises(condorpool.ResultPicklingError) as caught:
            pool.apply(raise_broken)
        assert "Broken" in str(caught.value)
        assert pool.apply(square, (2,)) == 4

    def test_what_cannot_be_pickled(self, make_pool):
        """A result that cannot be pickled ends no worker."""
        pool, got = make_pool(2), []
        for _ in range(20):
            result = pool.apply_async(stubborn, error_callback=got.append)
            with pytest.raises(Exception, match="cannot pickle"):
                result.get(timeout=60)
        assert len(got) == 20
        assert pool.apply(square, (2,)) == 4

    def test_in_a_map(self, pool):
        """A map raises the exception of its call."""
        with pytest.raises(ZeroDivisionError):
            pool.map(functools.partial(divmod, 1), [1, 0, 2])
        with pytest.raises(ZeroDivisionError):
            pool.starmap(divmod, [(1, 1), (1, 0)], chunksize=1)

    def test_a_map_waits_for_all(self, make_pool):
        """It does so even if the first call has raised, with a long message."""
        start, pool = time.monotonic(), make_pool(2)
        with pytest.raises(ValueError, match="xxx"):
            pool.starmap(raise_late, [(1 << 20, 0), (1 << 20, 1.0)], chunksize=1)
        assert time.monotonic() - start > 0.9
        pool.close()
        pool.join()


class TestCallbacks:
    """Exactly one is called, once, before ``wait`` returns or a moment later."""

    @pytest.mark.parametrize("verb", ["apply_async", "map_async", "starmap_async"])
    @pytest.mark.parametrize(("text", "kind"), [("1", "value"), ("a", "error")])
    def test_once(self, pool, verb, text, kind):
        """``callback`` gets the value, or ``error_callback`` the exception."""
        items = {"apply_async": (text,), "map_async": [text] * 3, "starmap_async": [(text,)] * 3}
        got, done = [], threading.Event()

        def note(kind):
            return lambda value: (got.append((kind, value)), done.set())

        result = getattr(pool, verb)(
            int, items[verb], callback=note("value"), error_callback=note("error")
        )
        result.wait()
        assert done.wait(10)
        time.sleep(0.05)
        ((told, value),) = got
        assert told == kind
        if kind == "value":
            assert value == (1 if verb == "apply_async" else [1, 1, 1])
        else:
            assert isinstance(value, ValueError)

    def test_without_one_for_errors(self, pool):
        """``get`` raises the error."""
        result = pool.apply_async(raise_it, (KeyError("key"),), callback=pytest.fail)
        with pytest.raises(KeyError):
            result.get()

    def test_it_may_submit(self, pool):
        """A callback may submit the next call."""
        later, there = [], threading.Event()

        def go_on(value):
            later.append(pool.apply_async(square, (value,)))
            there.set()

        pool.apply_async(square, (3,), callback=go_on)
        assert there.wait(30)
        assert later[0].get(timeout=30) == 81


class TestLife:
    """From the first call to the end."""

    @pytest.mark.parametrize("processes", [0, -1])
    def test_a_pool_has_processes(self, pool_class, processes):
        """A pool must have at least one process."""
        with pytest.raises(ValueError, match=r"at least 1"):
            pool_class(processes)

    @pytest.mark.parametrize("value", [0, -1, 0.5, "12"])
    def test_max_tasks_is_a_number(self, pool_class, value):
        """It must be a positive whole number."""
        with pytest.raises(ValueError, match="maxtasksperchild"):
            pool_class(2, maxtasksperchild=value)

    def test_an_initializer_is_called(self, pool_class):
        """It must be a function."""
        with pytest.raises(TypeError, match="initializer"):
            pool_class(1, initializer=1)

    def test_it_is_called_once_in_each_process(self, make_pool):
        """It is called before the calls, with its arguments."""
        pool = make_pool(1, set_variable, ("CONTRACT", "green"))
        for _ in range(2):
            assert pool.map(os.getenv, ["CONTRACT", "CONTRACT_TIMES"], 1) == ["green", "1"]

    def test_a_process_ends_after_its_tasks(self, make_pool):
        """Another process makes the next calls."""
        pool = make_pool(1, maxtasksperchild=2)
        pids = [pool.apply(process) for _ in range(5)]
        assert len(set(pids)) == 3

    def test_closing_before_processes_have_ended(self, make_pool):
        """All calls are made, each in a process of its own."""
        pool = make_pool(2, maxtasksperchild=1)
        results = [pool.apply_async(square, (x, 0.1)) for x in range(6)]
        pool.close()
        pool.join()
        assert [result.get(timeout=0) for result in results] == [x * x for x in range(6)]

    def test_calls_are_made_elsewhere(self, make_pool):
        """They are made in other processes, at most so many."""
        pids = make_pool(2).map(process, [0.05] * 10, chunksize=1)
        assert os.getpid() not in pids
        assert len(set(pids)) <= 2

    def test_a_context(self, make_pool):
        """Leaving ``with`` closes the pool."""
        with make_pool(2) as pool:
            assert pool.map_async(square, range(10)).get() == [x * x for x in range(10)]
        pool.join()
        with pytest.raises(ValueError, match="Pool not running"):
            pool.map_async(square, range(10))

    def test_a_closed_pool_is_not_entered(self, make_pool):
        """``with`` raises for a closed pool, which takes no calls."""
        pool = make_pool(1)
        with pool:
            pass
        with pytest.raises(ValueError, match="Pool not running"), pool:
            pass
        pool.join()

    @pytest.mark.parametrize("end", ["close", "terminate"])
    @pytest.mark.parametrize(
        "verb",
        [
            "apply",
            "apply_async",
            "map",
            "map_async",
            "starmap",
            "starmap_async",
            "imap",
            "imap_unordered",
        ],
    )
    def test_no_call_after_the_end(self, ended_pools, end, verb):
        """Every verb of an ended pool raises."""
        with pytest.raises(ValueError, match="Pool not running"):
            getattr(ended_pools[end], verb)(square, [(1,)])

    @pytest.fixture(scope="class")
    @staticmethod
    def ended_pools(pool_class):
        """Return pools that were ended in both ways, twice."""
        pools = {"close": pool_class(1), "terminate": pool_class(1)}
        for end, pool in pools.items():
            getattr(pool, end)()
            getattr(pool, end)()
            pool.join()
            pool.join()
        return pools

    def test_an_open_pool_is_not_joined(self, pool):
        """``join`` raises, as it would never return."""
        with pytest.raises(ValueError, match="Pool is still running"):
            pool.join()

    def test_terminating_does_not_wait(self, make_pool):
        """It does not wait for ten thousand long calls."""
        pool = make_pool(2)
        pool.map_async(time.sleep, [600] * 10_000, chunksize=1)
        pool.imap(time.sleep, itertools.repeat(600))
        time.sleep(0.2)
        pool.terminate()
        pool.join()

    @condorpool_only
    @pytest.mark.parametrize("maxtasksperchild", [None, 1])
    def test_terminating_while_items_are_taken(self, make_pool, maxtasksperchild):
        """A call that is posted a moment later is not made."""
        pool = make_pool(1, maxtasksperchild=maxtasksperchild)

        def source():
            pool.terminate()
            yield 600

        results = pool.imap(time.sleep, source())
        with pytest.raises(condorpool.JobRemovedError, match="terminated"):
            next(results)
        pool.join()

    def test_a_pool_is_not_pickled(self, pool):
        """Pickling it raises: a copy would have no processes."""
        with pytest.raises(NotImplementedError, match="pool objects cannot be passed"):
            pickle.dumps(pool)

    def test_nothing_is_kept(self, pool):
        """Arguments and results that were taken are garbage, at the next call at the latest."""
        objects = [Counted() for _ in range(10)]
        gone = [weakref.ref(item) for item in objects]
        pool.map(identity, objects)
        del objects
        pool.apply(identity, (0,))
        end = time.monotonic() + 5
        while (Counted.alive or any(ref() for ref in gone)) and time.monotonic() < end:
            time.sleep(0.05)
            gc.collect()
        assert not [ref for ref in gone if ref()]
        assert Counted.alive == 0

    def test_a_pool_can_be_collected(self, pool_class):
        """A pool that has ended is garbage."""
        pool = pool_class(1)
        assert pool.map(square, [3]) == [9]
        pool.close()
        pool.join()
        gone = weakref.ref(pool)
        del pool
        gc.collect()
        assert gone() is None


class TestBadInput:
    """Bad input raises an error, and never makes a wait endless."""

    @pytest.mark.parametrize("verb", VERBS)
    def test_what_is_no_iterable(self, pool, verb):
        """It raises TypeError."""
        with pytest.raises(TypeError):
            list(getattr(pool, verb)(square, 3))

    @pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
    @pytest.mark.parametrize("chunksize", [0, -1])
    def test_chunks_have_calls(self, pool, verb, chunksize):
        """The chunksize must be at least 1."""
        with pytest.raises(ValueError, match=r"(?i)chunksize"):
            getattr(pool, verb)(square, [1], chunksize)

    def test_what_is_no_function(self, pool):
        """It raises TypeError, here or from the call."""
        with pytest.raises(TypeError):
            pool.apply(3, (1,))
        with pytest.raises(TypeError):
            pool.map(None, [1])

    def test_wrong_arguments_of_the_call(self, pool):
        """They raise TypeError, as in Python."""
        with pytest.raises(TypeError, match="argument"):
            pool.apply(square)
        with pytest.raises(TypeError):
            pool.starmap(square, [1])

    def test_unknown_keywords(self, pool, pool_class):
        """Pools and verbs raise TypeError."""
        with pytest.raises(TypeError, match="argument"):
            pool_class(1, colour="red")
        with pytest.raises(TypeError, match="argument"):
            pool.map(square, [1], colour="red")


def parameters(function):
    """Return names and defaults of all parameters except ``**kwargs``."""
    return [
        (p.name, p.default or None)  # an empty dictionary is what None stands for
        for p in inspect.signature(function).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]


REFERENCE = {
    "Pool": (multiprocessing.pool.Pool, condorpool.Pool),
    "AsyncResult": (multiprocessing.pool.AsyncResult, condorpool.AsyncResult),
    "MapResult": (multiprocessing.pool.MapResult, condorpool.MapResult),
    "IMapIterator": (multiprocessing.pool.IMapIterator, condorpool.ResultIterator),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, (theirs, _) in REFERENCE.items()
        for name, value in vars(theirs).items()
        if inspect.isfunction(value)
        and (not name.startswith("_") or (kind, name) == ("Pool", "__init__"))
    ]
    + [("AsyncResult", "get"), ("MapResult", "wait")],
)
def test_signatures(kind, name):
    """Every public method takes the parameters of multiprocessing's, in the same order."""
    theirs, ours = (parameters(getattr(cls, name)) for cls in REFERENCE[kind])
    assert ours[: len(theirs)] == theirs
