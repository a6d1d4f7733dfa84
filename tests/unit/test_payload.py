"""Containers, chunks and outcomes as files."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys

import cloudpickle
import pytest

from condorpool.engine import payload
from condorpool.engine.description import START
from condorpool.engine.submitdir import SubmitDir
from condorpool.runner import program

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TestContainer:
    """A header and frames in one file."""

    def test_frames_come_back_uncopied_and_writable(self, tmp_path):
        """Also empty ones."""
        path = str(tmp_path / "x")
        program.write(path, {"a": "ü"}, [b"one", b"", bytearray(3)])
        about, frames = program.read(path)
        assert about["python"] == program.PYTHON
        assert (about["a"], [bytes(f) for f in frames]) == ("ü", [b"one", b"", b"\0\0\0"])
        assert not frames[0].readonly
        assert len({id(f.obj) for f in frames}) == 1

    def test_big_buffers_travel_out_of_band(self, tmp_path):
        """An array is written from its own memory."""
        data = bytearray(os.urandom(100_000))
        frames = program.dumps(__import__("pickle").PickleBuffer(data))
        assert len(frames) == 2
        assert frames[1].obj is data

    @pytest.mark.parametrize("cut", [0, 5, 30, -1])
    def test_half_a_file_is_no_container(self, tmp_path, cut):
        """A reader never takes a part for the whole."""
        path = tmp_path / "x"
        program.write(str(path), {}, [b"x" * 50])
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match="x"):
            program.read(str(path))
        assert payload.read_outcome(path) is None

    def test_it_is_private_and_leaves_no_scratch(self, tmp_path):
        """Mode 0600, one file."""
        program.write(str(tmp_path / "x"), {}, [])
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600


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
            command = [directory / "launch.sh", sys.executable, program.PYTHON, "o"]
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
            (directory / "o").unlink(missing_ok=True)
            subprocess.run(["/bin/sh", *command], cwd=directory.path, check=True, timeout=30)
            return payload.read_outcome(directory / "o")

        return run

    def test_values_and_exceptions(self, make):
        """Each call has an outcome of its own."""
        outcome = make(lambda x: 1 / x, 1, 0, 2)
        assert outcome.values == [1.0, None, 0.5]
        assert isinstance(outcome.errors[1], ZeroDivisionError)
        assert "1 / x" in str(outcome.errors[1].__cause__) or "lambda" in str(outcome.errors[1].__cause__)  # fmt: skip

    def test_a_class_of_the_notebook_is_the_same_class_when_it_comes_back(self, make):
        """So that isinstance works on results."""

        class Point:
            pass

        assert isinstance(make(lambda _: Point(), 0).values[0], Point)

    def test_the_environment_is_set_and_the_jobs_own_stands(self, make, monkeypatch):
        """What HTCondor sets for a job wins."""
        monkeypatch.setenv("CP_OWN", "job")
        outcome = make(os.getenv, "CP_OWN", "CP_SENT", environment={"CP_OWN": "x", "CP_SENT": "y"})
        assert outcome.values == ["job", "y"]

    def test_a_call_may_do_odd_things(self, make):
        """Close its output, change the directory, leave threads behind."""

        def odd(_):
            import threading
            import time

            os.chdir("/")
            os.close(1)
            sys.stdout.close()
            threading.Thread(target=time.sleep, args=(60,)).start()
            return "done"

        assert make(odd, 0).values[0] == "done"


def test_names():
    """Functions are called by the name that users know."""
    import functools

    assert payload.name_of(len) == "len"
    assert payload.name_of(functools.partial(pow, 2)) == "pow"


def test_the_kernels_own_variables_stay_here(monkeypatch):
    """A job has no matplotlib of a kernel's."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("JPY_SESSION_NAME", "x")
    monkeypatch.setenv("CP_MINE", "1")
    sent = payload.environment_to_send()
    assert sent["CP_MINE"] == "1"
    assert not {"MPLBACKEND", "JPY_SESSION_NAME"} & set(sent)


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
    """Give code and all that is in it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, type(code)):
            yield from codes(const)


class TestCode:
    """Code that is sent by value knows where it stands, whatever cloudpickle makes of that."""

    @pytest.fixture
    def cell(self, monkeypatch):
        """Give the names of a cell that was run."""
        scope = {"__name__": "__main__"}
        name = "/tmp/ipykernel_1/1.py"
        exec(compile(CELL, name, "exec"), scope)
        monkeypatch.setitem(linecache.cache, name, (len(CELL), None, CELL.splitlines(True), name))
        return scope

    def test_it_is_sent_with_its_file(self, cell):
        """Also inner functions, comprehensions, lambdas and what is in classes."""
        frames, files = payload._pickled([cell["outer"], cell["Thing"], cell["call"]])
        outer, thing, call = program.loads(frames)
        functions = [outer, call, thing.method, thing.static, vars(thing)["value"].fget]
        known = {inner.co_filename for func in functions for inner in codes(func.__code__)}
        assert known == files == {"/tmp/ipykernel_1/1.py"}

    def test_it_comes_back_with_its_file(self, cell):
        """What a job returns was pickled there."""
        back = program.loads(program.pickled(cell["outer"]))
        assert {c.co_filename for c in codes(back.__code__)} == {"/tmp/ipykernel_1/1.py"}

    def test_its_source_goes_along(self, cell, tmp_path):
        """That of cells, and of scripts; what has none is sent without."""
        script = tmp_path / "script.py"
        script.write_text("def twice(x):\n    return 2 * x\n")
        scope = {"__name__": "__main__"}
        exec(compile(script.read_text(), str(script), "exec"), scope)
        exec("def made(x): return x", scope)
        calls = (cell["call"], scope["twice"], scope["made"])
        payload.write_call(tmp_path / "x", payload.Call(calls, "apply"), lambda modules: modules)
        sources = program.read_about(str(tmp_path / "x"))["sources"]
        assert sources["/tmp/ipykernel_1/1.py"] == CELL
        assert sources[str(script)] == script.read_text()
        assert "<string>" not in sources
