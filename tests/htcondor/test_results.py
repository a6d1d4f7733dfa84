"""What users do with results: take them as they come, look at failures, run them again."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cloudpickle
import pytest
from matplotlib.figure import Figure

import condorpool
from condorpool.engine.streams import StreamedCalls

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def double(x):
    """Return twice the argument."""
    return 2 * x


def wait_for(path):
    """Wait until a file exists."""
    while not path.exists():
        time.sleep(0.02)


def odd_only(x):
    """Raise for even numbers."""
    if x % 2 == 0:
        raise ValueError(x)
    return x


class TestIterators:
    """Results as they come, of iterables that may have no end."""

    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_in_order(self, pool, chunksize):
        """``imap`` returns the values of ``map``, one by one."""
        assert list(pool.imap(double, range(10), chunksize)) == [2 * x for x in range(10)]

    def test_the_last_ones_may_be_late(self, pool, monkeypatch):
        """The iteration ends when they have arrived, not when their jobs have ended."""
        deliver = StreamedCalls.deliver
        late = lambda *args: (time.sleep(0.3), deliver(*args))  # noqa: E731
        monkeypatch.setattr(StreamedCalls, "deliver", late)
        assert list(pool.imap(double, range(4), 2)) == [0, 2, 4, 6]

    def test_as_they_end(self, make_pool, tmp_path):
        """The call that ends first comes first."""
        go = tmp_path / "go"

        def call(x):
            if x == 0:
                wait_for(go)
            return x

        results = make_pool(processes=2).imap_unordered(call, range(3))
        assert {next(results), next(results)} == {1, 2}
        go.touch()
        assert list(results) == [0]

    def test_an_endless_iterable(self, pool):
        """Items are taken as results are."""
        taken = []
        source = (taken.append(x) or x for x in itertools.count())
        results = pool.imap(double, source, buffersize=5)
        assert [next(results) for _ in range(20)] == [2 * x for x in range(20)]
        time.sleep(0.2)
        assert len(taken) <= 26

    def test_a_call_that_raises_does_not_end_it(self, pool):
        """Its exception comes in its place, and the next result after it."""
        results = pool.imap(odd_only, range(3))
        with pytest.raises(ValueError, match="0"):
            next(results)
        assert next(results) == 1
        with pytest.raises(ValueError, match="2"):
            next(results)
        with pytest.raises(StopIteration):
            next(results)

    @pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
    def test_an_iterable_that_raises(self, pool, verb):
        """Calls with the items before it are made; then its own exception is raised."""

        def source():
            yield from range(3)
            raise KeyError("source")

        results = getattr(pool, verb)(double, source())
        assert sorted(next(results) for _ in range(3)) == [0, 2, 4]
        with pytest.raises(KeyError, match="source"):
            next(results)
        with pytest.raises(StopIteration):
            next(results)

    def test_a_timeout(self, pool):
        """The value comes with the next request."""
        results = pool.imap(lambda s: (time.sleep(s), s)[1], [0.8])
        with pytest.raises(condorpool.TimeoutError):
            results.next(timeout=0.2)
        assert results.next(timeout=30) == 0.8

    def test_close_makes_all_that_remains(self, make_pool):
        """As in multiprocessing, all values of an ``imap`` are there after ``close``."""
        pool = make_pool()
        results = pool.imap(double, range(200), buffersize=3)
        pool.close()
        pool.join()
        assert list(results) == [2 * x for x in range(200)]

    def test_leaving_the_pool_takes_no_more_items(self, make_pool, gone):
        """An abandoned iterator over an endless iterable does not block the end of ``with``."""
        with make_pool() as pool:
            results = pool.imap(double, itertools.count())
            assert next(results) == 0
        with pytest.raises(condorpool.PoolClosedError):
            list(results)
        assert gone()

    def test_the_disk_has_no_more_than_what_is_under_way(self, pool, tmp_path):
        """Files are deleted with their results."""
        results = pool.imap(double, range(300), buffersize=10)
        for _ in range(290):
            next(results)
        (folder,) = tmp_path.glob(".condorpool-*")
        assert len(list(folder.glob("*.chunk"))) <= 30
        assert list(results) == [2 * x for x in range(290, 300)]

    @pytest.mark.parametrize(("verb", "seconds"), [("remove", 600), ("take_back", 1.5)])
    def test_what_is_removed(self, make_pool, verb, seconds):
        """No more items are taken, and the iterator ends after the calls that it had taken."""
        pool = make_pool(processes=1)
        results = pool.imap(time.sleep, itertools.repeat(seconds), chunksize=2, buffersize=10)
        while results.calls < 10 or not results.jobs:  # until a job has taken some
            time.sleep(0.02)
        assert getattr(results, verb)() == (10 if verb == "remove" else 8)
        removed = 0
        for _ in range(10):
            try:
                assert next(results) is None
            except condorpool.JobRemovedError:
                removed += 1
        assert removed == (10 if verb == "remove" else 8)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(results)
        assert results.calls == 10

    def test_bad_arguments(self, pool, tmp_path):
        """They are refused before an item is taken."""
        for wrong in ({"chunksize": 0}, {"buffersize": -1}, {"on_hold": "maybe"}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                pool.imap(double, range(3), **wrong)
        with pytest.raises(TypeError, match="iterable"):
            pool.imap(double, 3)


class TestFailures:
    """One bad call never hides the rest."""

    def test_exceptions_among_values(self, pool):
        """With ``return_exceptions`` a map returns both."""
        values = pool.map(odd_only, range(4), return_exceptions=True)
        assert values[1::2] == [1, 3]
        assert [str(error) for error in values[::2]] == ["0", "2"]
        assert isinstance(pool.apply(odd_only, (2,), return_exceptions=True), ValueError)

    def test_which_calls_failed(self, pool):
        """The result names them by number, with their exceptions."""
        result = pool.map_async(odd_only, range(4), chunksize=1)
        result.wait()
        assert result.failed == [0, 2]
        assert {n: str(error) for n, error in result.exceptions().items()} == {0: "0", 2: "2"}

    def test_what_failed_is_made_again(self, pool, tmp_path):
        """Other calls are not; they keep their values."""

        def once_unlucky(folder, x):
            mark = Path(folder, f"made-{x}")
            made = mark.exists()
            mark.touch()
            if x in (1, 4) and not made:
                raise OSError("the disk was away")
            assert x in (1, 4) or not made
            return x

        result = pool.starmap_async(once_unlucky, [(tmp_path, x) for x in range(6)], chunksize=2)
        with pytest.raises(OSError, match="away"):
            result.get(timeout=60)
        assert result.rerun() == 2
        assert result.get(timeout=60) == list(range(6))
        assert result.rerun() == 0

    def test_calls_of_a_killed_job_are_made_again(self, pool, tmp_path, gone):
        """Nothing remains of the failure."""
        mark = tmp_path / "once"

        def deadly(mark):
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "alive"

        result = pool.apply_async(deadly, (mark,))
        with pytest.raises(condorpool.JobFailedError):
            result.get(timeout=60)
        result.rerun()
        assert result.get(timeout=60) == "alive"
        pool.close()
        assert gone()

    def test_nothing_is_made_again_before_the_end(self, pool):
        """``rerun`` raises before that."""
        result = pool.apply_async(time.sleep, (0.5,))
        with pytest.raises(ValueError, match="not ready"):
            result.rerun()
        result.wait()

    def test_nothing_is_made_again_after_the_end_of_the_pool(self, make_pool):
        """The error says that it is closed, and the result stays as it is."""
        with make_pool() as pool:
            result = pool.map_async(odd_only, range(3))
            result.wait()
            list(result)
        with pytest.raises(condorpool.PoolClosedError):
            result.rerun()
        assert (result.counts(), result.failed) == ((1, 2, 0, 0, 0, 0), [0, 2])


@pytest.mark.parametrize("context", [contextvars.copy_context, contextvars.Context])
def test_echo(pool, capsys, context):
    """What calls print is printed here when they end, also in a plain script's empty context."""
    context().run(pool.map, print, ["a", "b"], chunksize=1, echo=True)
    pool.apply(print, ("c",))
    assert sorted(capsys.readouterr().out.split()) == ["a", "b"]


class TestChunks:
    """When chunks were made, and where."""

    @pytest.mark.parametrize("maxtasksperchild", [None, 1])
    def test_of_a_map(self, make_pool, maxtasksperchild):
        """Each has its facts, for runners and for jobs that make only one."""
        pool, begun = make_pool(maxtasksperchild=maxtasksperchild), time.time()
        result = pool.map_async(lambda x: (time.sleep(0.1), odd_only(x)), range(5), chunksize=2)
        result.wait(60)
        chunks = sorted(result.chunks())
        assert [(c.first, c.calls, c.failed) for c in chunks] == [(0, 2, 1), (2, 2, 1), (4, 1, 1)]
        assert {c.job for c in chunks} == {job.id for job in result.jobs}
        assert {(c.host, c.attempts) for c in chunks} == {(platform.node(), 1)}
        assert all(begun <= c.started <= c.end <= time.time() for c in chunks)
        assert [round(c.seconds, 1) for c in chunks] >= [0.2, 0.2, 0.1]
        if maxtasksperchild:
            assert {c.exit for c in chunks} == {"exited with code 0"}
        assert len(result.to_dataframe()) == 3
        assert result.timeline(Figure().subplots()).collections

    def test_of_a_job_that_was_lost(self, make_pool):
        """Its chunk has its start and how it ended; so has the rerun after it."""
        pool = make_pool(processes=1, jobkwargs={"cleanfailed": True})
        calls = [(time.sleep, 0.1), (lambda s: (time.sleep(s), os.kill(os.getpid(), 9)), 1.2)]
        begun = time.time()
        result = pool.starmap_async(lambda f, s: f(s), calls, chunksize=1, return_exceptions=True)
        result.get(60)
        elapsed = time.time() - begun
        well, lost = result.chunks()
        assert (well.failed, lost.failed) == (0, 1)
        assert well.job == lost.job
        assert lost.exit == "was killed by signal 9"
        assert lost.started >= well.end
        assert 0.2 < lost.seconds < elapsed
        result.rerun()
        result.wait(60)
        assert [c.first for c in result.chunks()] == [0, 1, 1]

    def test_of_iterators_and_of_all_that_a_pool_has_made(self, make_pool):
        """They are kept when the values are taken, and when the pool is closed."""
        with make_pool() as pool:
            results = pool.imap(double, range(6), chunksize=3)
            assert list(results) == [0, 2, 4, 6, 8, 10]
            assert [c.first for c in sorted(results.chunks())] == [0, 3]
            pool.map(double, range(4), chunksize=1)
        [bars] = pool.timeline(Figure().subplots()).collections
        assert len(bars.get_paths()) == 6


class TestAwait:
    """Results in coroutines."""

    def test_values_and_errors(self, pool):
        """``await`` returns what ``get`` returns, and other tasks run meanwhile."""

        async def both():
            return await asyncio.gather(
                pool.map_async(double, range(3)),
                pool.apply_async(odd_only, (2,)),
                asyncio.sleep(0, "other"),
                return_exceptions=True,
            )

        values, error, other = asyncio.run(both())
        assert (values, other) == ([0, 2, 4], "other")
        assert isinstance(error, ValueError)

    def test_it_can_be_canceled(self, pool):
        """The jobs continue, and the result can be read later."""
        result = pool.apply_async(lambda: (time.sleep(0.6), 7)[1])

        async def impatient():
            await asyncio.wait_for(result, 0.2)

        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(impatient())
        assert result.get(timeout=30) == 7

    def test_held_jobs(self, make_pool):
        """``await`` raises what ``get`` raises."""
        commands = {"transfer_input_files": "/no/such/file", "should_transfer_files": "YES"}
        result = make_pool(submitkwargs=commands).apply_async(abs, (1,))

        async def wait():
            return await result

        with pytest.raises(condorpool.JobHeldError):
            asyncio.run(wait())
        result.remove()


def told(caught, capsys=None):
    """Return the notes on an exception, or what Python 3.10 prints instead."""
    noted = "\n".join(getattr(caught.value, "__notes__", []))
    return noted or capsys.readouterr().err.removeprefix("condorpool: ")


def half(x):
    """Return a number's half; raise for odd ones."""
    if x % 2:
        raise ValueError(x)
    return x // 2


class TestSequence:
    """A result is a sequence of what its calls returned or raised."""

    def test_a_failed_call_hides_no_other(self, pool):
        """Its exception stands in its place, however the result is read."""
        result = pool.map_async(half, range(5), chunksize=2)
        assert len(result) == 5
        assert result
        found = list(result)
        assert found[::2] == [0, 1, 2]
        assert [type(error) for error in found[1::2]] == [ValueError] * 2
        assert result.get(return_exceptions=True) == found
        assert [result[0], result[-1], result[2:4]] == [0, 2, found[2:4]]
        assert result.values() == [0, None, 1, None, 2]
        assert result.values(missing=-1) == [0, -1, 1, -1, 2]
        with pytest.raises(IndexError, match="5 calls"):
            result[5]
        with pytest.raises(TypeError, match="not str"):
            result["a"]
        with pytest.raises(ValueError, match=r"progress='wigdet'.* Did you mean 'widget'"):
            result.show("wigdet")
        assert isinstance(result, Sequence)
        assert (result.index(2), result.count(1), 7 in result) == (4, 1, False)
        with pytest.raises(ValueError, match="1"):
            result.get(return_exceptions=False)
        single = pool.apply_async(half, (1,))
        assert isinstance(single.get(return_exceptions=True), ValueError)

    def test_values_come_as_calls_end(self, make_pool, tmp_path):
        """The first value is here while a later call runs."""
        go = tmp_path / "go"

        def call(x):
            if x == 2:
                wait_for(go)
            return x

        result = make_pool(processes=1).map_async(call, range(4), chunksize=1)
        items = iter(result)
        assert [next(items), next(items), result[1]] == [0, 1, 1]
        assert not result.ready()
        assert result.values(missing="?")[2:] == ["?", "?"]
        go.touch()
        assert list(items) == [2, 3]

    def test_calls_that_were_removed(self, make_pool, tmp_path):
        """Values that arrived before stay."""
        go = tmp_path / "go"

        def call(x):
            if x:
                wait_for(go)
            return x

        result = make_pool(processes=1).map_async(call, range(3), chunksize=1)
        assert result[0] == 0
        result.remove()
        assert [type(value).__name__ for value in result] == ["int", *["JobRemovedError"] * 2]
        assert result.values(missing="-") == [0, "-", "-"]

    def test_held_jobs(self, make_pool):
        """Waiting for a value raises as ``get`` does."""
        commands = {"periodic_hold": "true"}
        result = make_pool(submitkwargs=commands, on_hold="raise").map_async(abs, [1, 2])
        with pytest.raises(condorpool.JobHeldError) as caught:
            result[1]
        assert "result.release()" in told(caught)
        result.remove()

    def test_no_calls(self, pool):
        """A map of nothing is an empty sequence, but not false."""
        result = pool.map_async(abs, [])
        assert (list(result), result.values(), len(result), bool(result)) == ([], [], 0, True)

    def test_made_again(self, pool, tmp_path):
        """An item waits for a call that is made again."""
        lucky = tmp_path / "lucky"

        def call(x):
            if x == 1 and not lucky.exists():
                raise ValueError(x)
            return x

        result = pool.map_async(call, range(3), chunksize=1)
        assert isinstance(result[1], ValueError)
        result.wait(60)
        lucky.touch()
        result.rerun()
        assert result[1] == 1


class TestLast:
    """``pool.last`` is the result of the last call."""

    def test_of_each_verb(self, make_pool):
        """Blocking or not, failed or not, also an iterator."""
        pool = make_pool()
        assert pool.last is None
        pool.map(abs, [-1, -2])
        assert pool.last.get() == [1, 2]
        with pytest.raises(ValueError, match="1"):
            pool.map(half, range(3))
        assert pool.last.values() == [0, None, 1]
        assert pool.apply_async(abs, (-3,)) is pool.last
        pool.apply(abs, (-4,))
        assert pool.last.get() == 4
        with pytest.raises(condorpool.PayloadError):
            pool.map(abs, [threading.Lock()])
        assert pool.last.get() == 4
        results = pool.imap(abs, [-1])
        assert pool.last is results

    def test_an_iterator_that_was_dropped(self, make_pool, gone):
        """A pool that closes does not make the rest of its calls."""
        with make_pool() as pool:
            taken = []
            for value in pool.imap(double, (taken.append(x) or x for x in range(10_000))):
                if value == 4:
                    break
        assert len(taken) < 1000
        assert gone()


class Odd(Exception):
    """An exception that forbids attributes."""

    def __setattr__(self, name, value):
        raise AttributeError(name)


class Rude:
    """Raises when it is shown."""

    def __repr__(self):
        raise SystemExit


class TestNotes:
    """Errors say which call failed, and how to get at the rest."""

    def test_of_a_map(self, pool):
        """The call, its item, how many others failed, and where the values are; once."""
        with pytest.raises(ValueError, match="3") as caught:
            pool.starmap(lambda x, y: half(x), [(x, "y" * 1000) for x in (0, 3, 5, 2)], 2)
        lines = told(caught).splitlines()
        assert lines[0].startswith("this is call 1 of 4 (the first is 0): <lambda>(3, 'yyy")
        assert len(lines[0]) < 200
        assert lines[1].startswith("1 more failed; pool.last.values() has the 2 values")
        with pytest.raises(ValueError, match="3"):
            pool.last.get()
        assert told(caught).splitlines() == lines

    @pytest.mark.parametrize("error", [ValueError(1), Odd(1)], ids=["plain", "odd"])
    def test_any_exception(self, pool, error):
        """Those that forbid attributes come unharmed, and items that cannot be shown do no harm."""

        def call(_):
            raise error

        with pytest.raises(type(error)) as caught:
            pool.map(call, [Rude()])
        assert caught.value.args == (1,)
        assert "this is call 0 of 1 (the first is 0): call(<Rude" in told(caught)
        copy = pickle.loads(pickle.dumps(ValueError(1).with_traceback(None)))
        assert copy.args == (1,)

    def test_of_an_iterator(self, pool):
        """It continues with the next result."""
        results = pool.imap(half, range(3))
        next(results)
        with pytest.raises(ValueError, match="1") as caught:
            next(results)
        assert told(caught).startswith("this is call 1 (the first is 0)")
        assert list(pool.last) == [1]

    def test_of_an_iterator_without_order(self, pool):
        """The number is that of the call, not of the result."""
        results = pool.imap_unordered(half, [0, 2, 4, 5], chunksize=2)
        with pytest.raises(ValueError, match="5") as caught:
            list(results)
        assert told(caught).startswith("this is call 3 (the first is 0); pool.last has")


def test_an_interrupt_leaves_the_jobs(make_pool, tmp_path, capsys):
    """Ctrl-C in a blocking call returns at once, and says how to get the results."""
    pool = make_pool(processes=1)
    runs, goes_on = tmp_path / "runs", tmp_path / "goes-on"

    def call(x):
        runs.touch()
        wait_for(goes_on)
        return x

    def stop():
        wait_for(runs)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.map(call, [1, 2])
    assert told(caught, capsys).startswith("interrupted; the jobs continue. pool.last.get() waits")
    goes_on.touch()
    assert pool.last.get(timeout=60) == [1, 2]


def test_a_pool_that_is_not_closed_keeps_nothing_of_results_that_were_taken(pool):
    """Values must not pile up."""

    def values():
        return sum(isinstance(o, dict) and "only-in-this-test" in o for o in gc.get_objects())

    for _ in range(3):
        pool.map(lambda x: {"only-in-this-test": x}, range(10))
    gc.collect()
    assert values() <= 11
