"""What a cell that fails shows in a real kernel."""

from __future__ import annotations

import re

import pytest
from kernels import Kernel

from condorpool import personal

BEGIN = """
import condorpool, time, threading
pool = condorpool.Pool(2, personal={personal!r}, submitdir={folder!r}, progress=None)
"""

FUNCTION = """
def helper(x):
    y = x + 1
    raise ValueError(f"bad {x}")

def f(x):
    return helper(x) if x % 2 else x
"""


@pytest.fixture(scope="module")
def show(tmp_path_factory):
    """Return a function that runs a cell in a kernel, and returns the text that it shows."""
    personal.install()
    folder = tmp_path_factory.mktemp("tracebacks")
    with personal.start(folder / "personal", cpus=2) as started, Kernel(folder) as kernel:

        def run(code, interrupt=None):
            return re.sub(r"\x1b\[[0-9;]*m", "", kernel.run(code, interrupt=interrupt))

        run(BEGIN.format(personal=str(started.folder), folder=str(folder)))
        run(FUNCTION)
        yield run
        run("pool.terminate(); pool.join()")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("pool.map(f, range(6), chunksize=1)", "pool.last"),
        ("pool.starmap_async(f, [(1,), (2,)], 1).get()", "result"),
        ("%load_ext condorpool\n%condor_pool pool\n%condor_map f range(4)", "_condor"),
    ],
    ids=["map", "get", "magic"],
)
def test_a_call_that_raises(show, code, name):
    """The cell of the call, its line and the error are shown, and last what to do next."""
    text = show(code)
    assert "/condorpool/" not in text
    assert len(text.splitlines()) < 40
    assert re.search(r"Cell In\[\d+\], line 3, in helper", text)  # in the remote traceback
    assert re.search(r'-> 3 +raise ValueError\(f"bad \{x\}"\)', text)
    *_, message, first, second = text.splitlines()
    assert message == "ValueError: bad 1"
    assert re.match(r"this is call \d of \d \(the first is 0\): f\(1\)", first)
    assert f"{name}.values() has the" in second


def test_a_cell_that_raises(show):
    """The line of the cell that ran as a job is shown, and no frame of condorpool."""
    show("%load_ext condorpool\n%condor_pool pool")
    text = show("%%condor\nx = 1\nraise KeyError(x)\n")
    assert "/condorpool/" not in text
    assert re.search(r"-> 2 raise KeyError\(x\)", text)
    assert text.splitlines()[-1] == "KeyError: 1"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("pool.apply_async(time.sleep, (3,)).get(timeout=0.1)", "ResultTimeoutError: Timeout"),
        ("pool.map(abs, [threading.Lock()])", "PayloadError: the arguments of call 0"),
        ("pool.map(3, [1])", "TypeError: the first argument must be a function"),
        ("pool.map(abs, [1], memroy='2GB')", "TypeError: got an unexpected keyword"),
        ("pool.apply(abs, (1,), submitkwargs={'periodic_hold': 'true'})", "JobHeldError: job"),
    ],
    ids=["timeout", "payload", "argument", "keyword", "held"],
)
def test_errors_of_condorpool(show, code, message):
    """Only the user's line is shown with the message."""
    text = show(code)
    assert message in text
    assert "/condorpool/" not in text
    assert code in text
    assert len(text.splitlines()) < 12
    again = show("%tb")
    assert message in again
    assert "/condorpool/" not in again
    show("pool.last.remove()")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("await pool.apply_async(f, (1,))", "ValueError: bad 1"),
        ("pool.map_async(abs, [1])[7]", "IndexError: there is 1 call, and none is number 7"),
        ("pool.last.act('hodl')", "Did you mean 'hold'?"),
        ("pool.map_async(time.sleep, [1]).rerun()", "not ready: wait() for it"),
        ("condorpool.Executor(memroy=1)", "did you mean memory?"),
        ("condorpool.Job(3)", "TypeError: target must be a function"),
        ("pool.join()", "ValueError: Pool is still running"),
    ],
)
def test_other_ways_to_an_error(show, code, message):
    """None of them shows a frame of condorpool."""
    show("import condorpool")
    text = show(code)
    assert message in text
    assert "/condorpool/" not in text


def test_a_call_that_takes_too_long(show):
    """The error keeps the remote traceback, which says where it was."""
    text = show("pool.apply(time.sleep, (9,), task_timeout=1)\n")
    assert "TaskTimeoutError: job" in text
    assert "RemoteTraceback" in text
    assert "/condorpool/" not in text


def test_an_interrupt(show):
    """What goes on, and how to get at it, stands last."""
    text = show("pool.map(time.sleep, [4])", interrupt=1.5)
    assert len(text.splitlines()) < 12
    assert text.splitlines()[-1].startswith("interrupted; the jobs continue. pool.last.get()")
    assert "Error" not in show("pool.last.remove()")


def test_a_mistake_of_ours_is_shown_whole(show):
    """Its frames are what a bug report needs."""
    text = show(
        "from condorpool.interface import workload\n"
        "workload.GatheredCalls = None\n"
        "pool.map(abs, [1])"
    )
    assert "AttributeError" in text
    assert "in Pool.map" in text
    assert "in Workload.post" in text
