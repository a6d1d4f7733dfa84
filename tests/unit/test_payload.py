"""Containers, chunks and outcomes as files."""

from __future__ import annotations

import functools
import linecache
import os
import pickle
import random
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import cloudpickle
import numpy
import pytest

import condorpool
from condorpool.engine import copies, outcomes, payload, pickling
from condorpool.engine.description import START
from condorpool.engine.submitdir import SubmitDir
from condorpool.runner import container, sharing
from condorpool.runner.pickling import pickled

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TestContainer:
    """A header and frames in one file."""

    def test_frames_come_back_uncopied_and_writable(self, tmp_path):
        """Frames may be empty."""
        path = str(tmp_path / "x")
        container.write(path, {"a": "ü"}, [b"one", b"", bytearray(3)])
        about, frames = container.read(path)
        assert about["python"] == container.PYTHON
        assert (about["a"], [bytes(f) for f in frames]) == ("ü", [b"one", b"", b"\0\0\0"])
        assert not frames[0].readonly
        assert len({id(f.obj) for f in frames}) == 1

    def test_big_buffers_are_written_out_of_band(self, tmp_path):
        """An array is written from its own memory."""
        data = bytearray(os.urandom(100_000))
        frames = container.dumps(__import__("pickle").PickleBuffer(data))
        assert len(frames) == 2
        assert frames[1].obj is data

    @pytest.mark.parametrize("cut", [0, 5, 30, -1])
    def test_half_a_file_is_no_container(self, tmp_path, cut):
        """A reader never takes part of a file for all of it."""
        path = tmp_path / "x"
        container.write(str(path), {}, [b"x" * 50])
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match="x"):
            container.read(str(path))
        assert isinstance(outcomes.read(path), condorpool.JobFailedError)

    def test_it_is_private_and_leaves_no_scratch(self, tmp_path):
        """It is one file of mode 0600."""
        container.write(str(tmp_path / "x"), {}, [])
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600

    def test_a_scratch_file_of_a_killed_process_is_overwritten(self, tmp_path, monkeypatch):
        """A later process may have its id."""
        path, replace = str(tmp_path / "x"), os.replace
        scratch = []
        monkeypatch.setattr(
            os, "replace", lambda old, new: scratch.append(old) or replace(old, new)
        )
        container.write(path, {}, [b"1"])
        Path(scratch[0]).write_bytes(b"torn" * 1000)
        container.write(path, {}, [b"22"])
        assert scratch[0] == scratch[1]
        assert bytes(container.read(path)[1][0]) == b"22"
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("changed", ["pid", "host", "container"])
    def test_two_processes_write_different_scratch_files(self, tmp_path, monkeypatch, changed):
        """Process ids are the same on other machines and in containers."""
        scratch, replace = [], os.replace
        monkeypatch.setattr(
            os, "replace", lambda old, new: scratch.append(old) or replace(old, new)
        )
        container.write(str(tmp_path / "x"), {}, [])
        name, value = {
            "pid": ("getpid", 1), "host": ("uname", ("Linux", "elsewhere")),
            "container": ("readlink", "pid:[1]"),
        }[changed]  # fmt: skip
        monkeypatch.setattr(os, name, lambda *_: value)
        container.write(str(tmp_path / "x"), {}, [])
        assert scratch[0] != scratch[1]


class Unfriendly:
    """Raises an error when it is rebuilt."""

    def __init__(self, error):
        self.error = error

    def __setstate__(self, state):
        raise state["error"]


@pytest.mark.parametrize("error", [TypeError("mine"), FileNotFoundError("mine")])
def test_an_error_of_a_shared_object_is_the_users(tmp_path, monkeypatch, error):
    """It is not taken for an object of another pool."""
    payload.write_shared(tmp_path / "s", Unfriendly(error))
    monkeypatch.setattr(sharing, "_read", lambda name: container.read(str(tmp_path / name)))
    with pytest.raises(type(error), match="mine"):
        sharing.shared("s")
    with pytest.raises(LookupError, match="does not belong to this pool"):
        sharing.shared("other")
    monkeypatch.undo()
    with pytest.raises(LookupError, match="does not belong to this pool"):
        sharing.shared("s")


class TestProgram:
    """The shipped program, run by this Python as a job would."""

    @pytest.fixture
    def make(self, tmp_path):
        """Make calls through the shipped program; return their outcome."""
        directory = SubmitDir.new(tmp_path)
        directory.make()

        def share(value):
            payload.write_shared(directory / "s", value)
            return payload.Shared("s", value)

        def run(func, *items, style="map", environment=None):
            payload.write_crew(directory / "w", None, (), environment or {}, tmp_path)
            payload.write_call(directory / "c", payload.Call(func, style), share)
            payload.write_chunk(directory / "k", items, 0)
            command = [directory.path / "launch.sh", sys.executable, container.PYTHON, "o"]
            command += [
                "-c",
                START,
                "support.zip",
                "once",
                "w",
                "c",
                "k",
                "o",
                "0",
                "0",
                str(len(items)),
            ]
            directory.discard("o")
            subprocess.run(["/bin/sh", *command], cwd=directory.path, check=True, timeout=30)
            return outcomes.read(directory / "o")

        return run

    def test_values_and_exceptions(self, make):
        """Each call has an outcome of its own."""
        outcome = make(lambda x: 1 / x, 1, 0, 2)
        assert outcome.values == [1.0, None, 0.5]
        assert isinstance(outcome.errors[1], ZeroDivisionError)
        assert "1 / x" in str(outcome.errors[1].__cause__) or "lambda" in str(outcome.errors[1].__cause__)  # fmt: skip

    def test_a_class_of_the_notebook_is_the_same_class_when_it_comes_back(self, make):
        """``isinstance`` works on results."""

        class Point:
            pass

        assert isinstance(make(lambda _: Point(), 0).values[0], Point)

    def test_the_environment_is_set_and_the_jobs_own_stands(self, make, monkeypatch):
        """What HTCondor sets for a job wins."""
        monkeypatch.setenv("CP_OWN", "job")
        outcome = make(os.getenv, "CP_OWN", "CP_SENT", environment={"CP_OWN": "x", "CP_SENT": "y"})
        assert outcome.values == ["job", "y"]

    def test_a_call_may_do_odd_things(self, make):
        """It may close its output, change the directory, or leave threads behind."""

        def odd(_):
            import threading
            import time

            os.chdir("/")
            os.close(1)
            sys.stdout.close()
            threading.Thread(target=time.sleep, args=(60,)).start()
            return "done"

        assert make(odd, 0).values[0] == "done"


class Odd:
    """A callable with any ``__name__``."""

    def __init__(self, name):
        self.given = name

    @property
    def __name__(self):
        """Return what was given."""
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def __call__(self, _):
        """Do nothing."""


class TestNames:
    """Functions are called by the name that users know."""

    def test_partials_have_the_name_of_what_they_wrap(self):
        """Builtins and lambdas have their own names."""
        assert payload.name_of(len) == "len"
        assert payload.name_of(functools.partial(pow, 2)) == "pow"
        assert payload.name_of(lambda: 0) == "<lambda>"

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("two\nlines", "two lines"),
            ("\ta\x1f\0\x7f b\u2028c\r", "a b c"),
            ("\ud800", "Odd"),
            ("", "Odd"),
            (" \n", "Odd"),
            (3, "Odd"),
            (None, "Odd"),
            (RuntimeError("no"), "Odd"),
            ("x" * 10_000, "x" * 97 + "..."),
            ('a "b" $(c) \\', 'a "b" $(c) \\'),
            ("größe", "größe"),
        ],
    )
    def test_a_name_is_one_line(self, given, shown):
        """The function may have any ``__name__``."""
        assert payload.name_of(Odd(given)) == shown


class Lock:
    """Contains an object that cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()


class Raises:
    """Raises the given error when it is pickled."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


sim = Lock()


def uses_sim(_):
    """Use a global."""
    return sim


@pytest.fixture
def write(tmp_path):
    """Return functions that write each kind of file that is sent."""

    def share(value):
        return payload.Shared("s", value)

    def crew(initializer, *initargs):
        payload.write_crew(tmp_path / "w", initializer, initargs, {}, tmp_path)

    def call(func):
        payload.write_call(tmp_path / "c", payload.Call(func, "map"), share)

    def chunk(*items, first=0):
        payload.write_chunk(tmp_path / "k", items, first)

    def shared(value):
        payload.write_shared(tmp_path / "s", value)

    return types.SimpleNamespace(crew=crew, call=call, chunk=chunk, shared=shared)


class TestWhatCannotBeSent:
    """The error names the object by the path to it."""

    @pytest.mark.parametrize(
        ("kind", "given", "words"),
        [
            ("call", (uses_sim,), "the function 'uses_sim' cannot .*: `sim.lock` is of type _thr"),
            ("crew", (uses_sim,), "`initializer -> sim.lock` is of type _thread.lock"),
            ("crew", (print, 1, sim), "`initargs\\[1\\].lock` is of type _thread.lock"),
            ("shared", ([sim],), "shared object of type list .* `value\\[0\\].lock` is of type"),
            ("chunk", (1, {"a": sim}), "call 1 .type dict. .* `item\\['a'\\].lock` is of type"),
            ("chunk", (sim,), "call 0 .* `item.lock` is of type"),
        ],
    )
    def test_the_path_to_it_is_named(self, write, kind, given, words):
        """It is written as in Python."""
        with pytest.raises(condorpool.PayloadError, match=words) as caught:
            getattr(write, kind)(*given)
        assert isinstance(caught.value, TypeError)
        assert "cannot pickle '_thread.lock' object" in str(caught.value)
        assert "inside the function" in str(caught.value)

    @pytest.mark.parametrize(
        ("items", "path"),
        [
            ([(0, 0), (1, sim)], r"item\[1\].lock"),
            ([((1, sim), {})], r"args\[1\].lock"),
            ([((1,), {"x": sim})], r"kwargs\['x'\].lock"),
        ],
    )
    def test_arguments_are_named_as_they_are_given(self, write, items, path):
        """The error has the number of the call."""
        with pytest.raises(condorpool.PayloadError, match=f"call 7 .* `{path}` is of type"):
            write.chunk(*items, first=8 - len(items))

    @pytest.mark.parametrize(
        "error", [RuntimeError("x"), KeyError("x"), OSError(28, "full"), pickle.PicklingError("x")]
    )
    def test_it_is_of_the_class_that_was_raised(self, write, error):
        """Code that expects that class catches it."""
        with pytest.raises(type(error), match="Raises") as caught:
            write.chunk(Raises(error))
        assert isinstance(caught.value, condorpool.PayloadError)
        assert caught.value.__cause__ is error
        assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)

    def test_what_is_too_deep_is_a_recursion_error_too(self, write):
        """It is one in multiprocessing."""
        deep = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(RecursionError) as caught:
            write.chunk(deep)
        assert isinstance(caught.value, condorpool.PayloadError)
        while deep:  # else deleting it would recurse too deep
            deep = deep[0]

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
    def test_what_ends_programs_is_raised_as_itself(self, write, error):
        """Ctrl-C while an argument is pickled is Ctrl-C."""
        with pytest.raises(type(error)) as caught:
            write.chunk(Raises(error))
        assert caught.value is error

    def test_an_error_without_a_usable_text(self, write):
        """Its ``__str__`` may raise, or return a very long text."""

        class Mute(Exception):
            def __str__(self):
                raise ValueError

        with pytest.raises(condorpool.PayloadError, match="Mute"):
            write.chunk(Raises(Mute()))
        with pytest.raises(condorpool.PayloadError) as caught:
            write.chunk(Raises(ValueError("x" * 100_000)))
        assert len(str(caught.value)) < 1500


class TestRandomNumbers:
    """Copies of a generator repeat each other's numbers, and the user is warned."""

    @pytest.fixture
    def warned(self):
        """Record warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught

    def test_one_that_is_sent_with_the_function(self, write, warned):
        """There is one warning, with its name, at the user's line."""
        rng = numpy.random.default_rng(1)

        def draw(_):
            return rng.normal()

        write.call(draw)
        write.call(draw)
        (warning,) = warned
        assert warning.category is condorpool.RepeatedNumbersWarning
        assert "`rng` is sent with the function 'draw'" in str(warning.message)
        assert "SeedSequence" in str(warning.message)
        assert warning.filename == __file__

    @pytest.mark.parametrize(
        ("kind", "make", "name"),
        [
            ("call", lambda rng: rng.normal, "self"),
            ("call", lambda rng: functools.partial(max, rng), "args[0]"),
            ("crew", lambda rng: lambda: rng, "initializer -> rng"),
            ("shared", lambda rng: {"a": rng}, "value['a']"),
        ],
    )
    def test_wherever_it_is(self, write, warned, kind, make, name):
        """Each job gets a copy of each of these."""
        getattr(write, kind)(make(numpy.random.RandomState(1)))
        assert f"`{name}` is sent with" in str(warned[0].message)

    def test_the_same_for_several_calls(self, write, warned):
        """The second chunk that has it repeats the numbers of the first."""
        rng = random.Random(1)
        write.chunk((1, rng))
        assert not warned
        write.chunk((2, None), (3, rng), first=1)
        (warning,) = warned
        assert "`item[1]` is sent with several calls" in str(warning.message)

    def test_one_whose_state_has_changed_repeats_nothing(self, write, warned):
        """Here it was seeded again."""

        class Mine(random.Random):
            pass

        rng = Mine()
        for seed in range(3):
            rng.seed(seed)
            write.chunk(((rng,), {}))
        assert not warned

    def test_one_for_each_call_is_the_cure(self, write, warned):
        """Nor is there a warning when the cell runs again."""
        for _ in range(2):
            seeds = numpy.random.SeedSequence(42).spawn(20)
            for first in range(0, 20, 5):
                write.chunk(*map(numpy.random.default_rng, seeds[first : first + 5]), first=first)
        assert not warned

    def test_the_global_ones_are_each_jobs_own(self, write, warned):
        """Each job seeds its own."""
        write.call(lambda _: (random.random(), numpy.random.rand()))
        write.call(random.random)
        write.call(numpy.random.mtrand._rand.normal)
        assert not warned

    def test_not_more_are_remembered_than_needed(self, write):
        """Memory use is limited."""
        write.chunk(*map(numpy.random.PCG64, range(copies.REMEMBERED + 100)))
        assert len(copies._states) == copies.REMEMBERED


CELL = """
import functools

def outer(x):
    def inner(y):
        return [1 / z for z in [y]]
    return inner(x)

class Thing:
    def method(self, x):
        return outer(x)

    @staticmethod
    def static(x):
        return Thing().method(x)

    @property
    def value(self):
        return Thing.static(0)

call = lambda: Thing().value
"""


def codes(code):
    """Yield code and all code inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, type(code)):
            yield from codes(const)


class TestCode:
    """Code that is sent by value keeps its file name, unlike with cloudpickle alone."""

    @pytest.fixture
    def cell(self, monkeypatch):
        """Return the names of a cell that was run."""
        scope = {"__name__": "__main__"}
        name = "/tmp/ipykernel_1/1.py"
        exec(compile(CELL, name, "exec"), scope)
        monkeypatch.setitem(linecache.cache, name, (len(CELL), None, CELL.splitlines(True), name))
        return scope

    def test_it_is_sent_with_its_file(self, cell):
        """So are inner functions, comprehensions, lambdas and methods."""
        frames, _, files = pickling.pickled([cell["outer"], cell["Thing"], cell["call"]])
        outer, thing, call = container.loads(frames)
        functions = [outer, call, thing.method, thing.static, vars(thing)["value"].fget]
        known = {inner.co_filename for func in functions for inner in codes(func.__code__)}
        assert known == files == {"/tmp/ipykernel_1/1.py"}

    def test_it_comes_back_with_its_file(self, cell):
        """Code that a job returns was pickled there."""
        back = container.loads(pickled(cell["outer"]))
        assert {c.co_filename for c in codes(back.__code__)} == {"/tmp/ipykernel_1/1.py"}

    def test_its_source_is_sent(self, cell, tmp_path):
        """Cells and scripts have one; code without a source is sent without."""
        script = tmp_path / "script.py"
        script.write_text("def twice(x):\n    return 2 * x\n")
        scope = {"__name__": "__main__"}
        exec(compile(script.read_text(), str(script), "exec"), scope)
        exec("def made(x): return x", scope)
        calls = (cell["call"], scope["twice"], scope["made"])
        call = payload.Call(calls, "apply")
        payload.write_call(tmp_path / "x", call, lambda found: payload.Shared("1.shared", found))
        sources = container.read_about(str(tmp_path / "x"))["sources"]
        assert sources["/tmp/ipykernel_1/1.py"] == CELL
        assert sources[str(script)] == script.read_text()
        assert "<string>" not in sources


def test_the_number_of_a_cell(tmp_path):
    """It is that of the cell's prompt, whatever IPython counts meanwhile."""
    code = """if True:
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        for number in (1, 2):
            shell.run_cell("from condorpool.engine import payload", store_history=True)
            shell.run_cell("n = payload.number_of_cell()", store_history=True)
            assert shell.user_ns["n"] == 2 * number
    """
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
