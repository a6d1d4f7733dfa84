"""The user's own modules on a real HTCondor, with a shared file system and without."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import os
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(params=["shared", "transferred"])
def make(request, make_pool):
    """Return a function that makes pools of one job, which cannot see the notebook's folder."""
    submitkwargs = {"should_transfer_files": "YES"} if request.param == "transferred" else {}
    return functools.partial(make_pool, processes=1, submitkwargs=submitkwargs)


@pytest.fixture
def pool(make):
    """Return such a pool."""
    return make()


@pytest.fixture
def write(beside):
    """Write modules beside a notebook."""

    def write(name, source):
        file = beside / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
        importlib.invalidate_caches()

    return write


def on_the_path(name):
    """Return whether a module would be found if it were not sent."""
    return importlib.machinery.PathFinder.find_spec(name) is not None


HELPERS = """
class Point:
    def __init__(self, x):
        self.x = x


def scaled(point):
    return Point(3 * point.x)


def broken(x):
    return 1 / x  # the line of the culprit
"""


def test_a_module_is_sent_and_its_classes_stay_the_same(pool, write):
    """Results are instances of the notebook's own class."""
    write("cp_helpers.py", HELPERS)
    helpers = importlib.import_module("cp_helpers")
    assert on_the_path("cp_helpers")
    assert not pool.apply(on_the_path, ("cp_helpers",))
    result = pool.apply(helpers.scaled, (helpers.Point(2),))
    assert type(result) is helpers.Point
    assert result.x == 6
    assert pool.apply(lambda: helpers.Point(5)).x == 5


EDITED = """
import os

state = None


class Thing:
    number = {}


def init(x):
    global state
    state = x


def answer(thing):
    return thing.number, state, isinstance(thing, Thing), os.getpid()
"""


def test_an_edited_module_is_refreshed_in_the_same_runner(make, write):
    """So is all that depends on it: the initializer's work, and shared objects."""
    write("cp_edited.py", EDITED.format(1))
    edited = importlib.import_module("cp_edited")
    pool = make(initializer=edited.init, initargs=("set",))

    class Mine(edited.Thing):
        pass

    thing = pool.share(edited.Thing())
    *first, runner = pool.apply(edited.answer, (thing,))
    assert first == [1, "set", True]
    assert pool.apply(edited.answer, (Mine(),))[0] == 1
    write("cp_edited.py", EDITED.format(22))
    assert pool.apply(edited.answer, (thing,)) == (22, "set", True, runner)
    assert pool.apply(edited.answer, (Mine(),)) == (22, "set", True, runner)
    importlib.reload(edited)
    assert pool.apply(edited.answer, (edited.Thing(),)) == (22, "set", True, runner)


def test_a_package_with_relative_imports(pool, write):
    """A part of it that only the call imports is sent too."""
    write("cp_package/__init__.py", "from .inner import double\n")
    write("cp_package/inner.py", "from . import deep\n\ndef double(x): return deep.times(2, x)\n")
    write(
        "cp_package/deep.py", "def times(n, x):\n    from .late import n_of\n    return n_of(n) * x"
    )
    write("cp_package/late.py", "def n_of(n): return n\n")
    write("cp_package/never.py", "def same(x): return x\n")
    package = importlib.import_module("cp_package")
    assert pool.map(package.double, [1, 2]) == [2, 4]

    folder = Path(package.__file__).parent

    def late(x):
        while folder.exists():
            time.sleep(0.01)
        from cp_package import never

        return never.same(x)

    result = pool.apply_async(late, (7,))
    folder.rename(f"{folder}-moved")  # the job could see it here, but must not need it
    assert result.get() == 7
    assert "cp_package.never" not in sys.modules


def test_tracebacks_show_the_lines_that_were_sent(pool, write):
    """After an edit they show the new lines, in the same runner."""
    write("cp_helpers.py", HELPERS)
    helpers = importlib.import_module("cp_helpers")
    for source in (HELPERS, "\n\n" + HELPERS.replace("the culprit", "somebody else")):
        write("cp_helpers.py", source)
        with pytest.raises(ZeroDivisionError) as raised:
            pool.apply(helpers.broken, (0,))
        (line,) = (line for line in source.splitlines() if "1 / x" in line)
        number = source.splitlines().index(line) + 1
        shown = f'{helpers.__file__}", line {number}, in broken\n    {line.strip()}'
        assert shown in str(raised.value.__cause__)


def test_a_module_that_cannot_be_imported_there(pool, write):
    """The error names the machine and its Python, and keeps its class."""

    def call():
        import cp_missing

        return cp_missing

    for _ in range(2):
        with pytest.raises(ModuleNotFoundError) as raised:
            pool.apply(call)
        assert raised.value.name == "cp_missing"
        assert f"No module named 'cp_missing' on {os.uname().nodename} (Python " in str(
            raised.value
        )
        assert str(raised.value).count(" on ") == 1

    def careful():
        try:
            import cp_missing
        except ImportError as error:
            return str(error)
        return cp_missing

    assert pool.apply(careful) == "No module named 'cp_missing'"


def test_a_compiled_module_that_loading_the_function_needs(make_pool, write):
    """It is not sent, and the error says how to send it."""
    module = type(sys)("cp_compiled")
    exec("def f(): return 1", module.__dict__)
    module.__file__ = f"{sys.path[0]}/cp_compiled.so"
    sys.modules["cp_compiled"] = module
    with pytest.raises(ModuleNotFoundError, match="transfer_input_files") as raised:
        make_pool(processes=1).map(module.f, [1, 2])
    assert raised.value.name == "cp_compiled"


def test_plain_jobs_get_the_modules_too(make_pool, write):
    """They get them by file transfer, since they have no chirp."""
    write("cp_helpers.py", HELPERS)
    helpers = importlib.import_module("cp_helpers")
    pool = make_pool(maxtasksperchild=1, submitkwargs={"should_transfer_files": "YES"})
    points = [helpers.Point(x) for x in range(2)]
    assert [p.x for p in pool.map(helpers.scaled, points, chunksize=1)] == [0, 3]


SCRIPT = """
import cp_beside
from condorpool import Pool

class Mine:
    def __init__(self, x):
        self.x = x

def work(x):
    return cp_beside.plus(Mine(x).x), Mine(x)

if __name__ == "__main__":
    with Pool(2, personal={personal!r}, submitdir={submitdir!r}) as pool:
        results = pool.map(work, range(3))
    print([n for n, _ in results], {{type(mine) is Mine for _, mine in results}})
"""


def test_a_script_runs_as_with_multiprocessing(htcondor, write, tmp_path):
    """It runs from any folder, and imports the modules beside it."""
    write("cp_beside.py", "def plus(x): return x + 1\n")
    write("script.py", SCRIPT.format(personal=str(htcondor.folder), submitdir=str(tmp_path)))
    run = subprocess.run(
        [sys.executable, f"{sys.path[0]}/script.py"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout == "[1, 2, 3] {True}\n", run.stderr
