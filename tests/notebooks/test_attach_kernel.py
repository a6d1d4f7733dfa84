"""A kernel that replaces another one resumes its calls."""

from __future__ import annotations

import contextlib
import os
import time

import pytest
from kernels import Kernel

from condorpool import personal
from condorpool.cleaner import registry

BEGIN = """
import time
from pathlib import Path
import condorpool

def note(x):
    with Path({folder!r}, f"made-{{x}}").open("a") as file:
        file.write("x")
    time.sleep(0.5 if x < 3 else 1.5)  # longer than a kernel needs to start
    return x

pool = condorpool.Pool(2, personal={personal!r}, submitdir={folder!r})
result = pool.map_async(note, range(12), chunksize=1)
while result.calls_ended < 3:
    time.sleep(0.01)
"""

RESUME = """
import condorpool
print(condorpool.attach())
%load_ext condorpool
result = %condor_attach note
print(result.get(timeout=90))
print(condorpool.attach())
%condor_clean
"""


@pytest.fixture(scope="module")
def htcondor(tmp_path_factory):
    """One personal HTCondor with two CPUs."""
    personal.install()
    with personal.start(tmp_path_factory.mktemp("htcondor") / "personal", cpus=2) as started:
        yield started


@pytest.fixture
def begin(htcondor, tmp_path):
    """Return a function that starts kernels, and the cell that begins a map in the first."""
    with contextlib.ExitStack() as stack:

        def start(grace):
            return stack.enter_context(
                Kernel(tmp_path, {**os.environ, "CONDORPOOL_GRACE": str(grace)})
            )

        yield start, BEGIN.format(folder=str(tmp_path), personal=str(htcondor.folder))


def run(kernel, code):
    """Run a cell that does not raise; return what it printed."""
    output = kernel.run(code)
    assert not kernel.has_failed, output
    return output


def check_resumed(output, htcondor, folder):
    """Check that each call was made exactly once, and that nothing is left behind."""
    assert f"{list(range(12))}\n" in output
    greeting = [line for line in output.splitlines() if line.endswith("`%condor_attach note`")]
    assert len(greeting) == 1
    assert "condorpool: 1 map of this notebook is running or kept:" in output
    (line,) = [line for line in output.splitlines() if line.startswith("note ")]
    assert "of 12" in line  # and the second attach() no longer lists it
    marks = {file.name: file.read_text() for file in folder.glob("made-*")}
    assert marks == {f"made-{x}": "x" for x in range(12)}
    assert not list(folder.glob(".condorpool-*"))
    end = time.monotonic() + 10  # a job leaves the queue a moment after its last event
    while htcondor.access_point().query("true", ["ClusterId"]):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_restarted_kernel_resumes(begin, htcondor, tmp_path):
    """During the grace period the cleaner does not touch the previous kernel's work."""
    start, first = begin
    kernel = start(60)
    run(kernel, first)
    kernel.restart()
    check_resumed(run(kernel, RESUME), htcondor, tmp_path)


def test_another_kernel_resumes(begin, htcondor, tmp_path):
    """After the grace period another kernel takes over from the cleaner."""
    start, first = begin
    kernel = start(0.5)
    run(kernel, first)
    kernel.kill()
    end = time.monotonic() + 30
    while not any("waits for jobs" in entry.note for entry in registry.everything()):
        assert time.monotonic() < end
        time.sleep(0.05)
    check_resumed(run(start(30), RESUME), htcondor, tmp_path)
    end = time.monotonic() + 20
    while any(entry.path.parent == tmp_path for entry in registry.everything()):
        assert time.monotonic() < end
        time.sleep(0.05)
