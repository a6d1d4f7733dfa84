"""A kernel that replaces another one resumes its calls."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import pytest
from jupyter_client.manager import KernelManager

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


class Kernel:
    """A kernel that runs cells in a folder."""

    def __init__(self, folder, grace):
        environment = {**os.environ, "CONDORPOOL_GRACE": str(grace)}
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=str(folder), env=environment, stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code):
        """Run a cell and return what it printed."""
        texts = []

        def show(message):
            assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])
            if message["msg_type"] == "stream":
                texts.append(message["content"]["text"])

        self.client.execute_interactive(code, timeout=120, output_hook=show)
        return "".join(texts)

    def restart(self):
        """Restart the kernel, as the Restart button does."""
        self.manager.restart_kernel()
        self.client.wait_for_ready(timeout=60)

    def kill(self):
        """Kill the kernel with SIGKILL."""
        os.kill(self.manager.provisioner.pid, signal.SIGKILL)

    def close(self):
        """Shut down the kernel and close its client."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.client.context.destroy()


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
            kernel = Kernel(tmp_path, grace)
            stack.callback(kernel.close)
            return kernel

        yield start, BEGIN.format(folder=str(tmp_path), personal=str(htcondor.folder))


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
    kernel.run(first)
    kernel.restart()
    check_resumed(kernel.run(RESUME), htcondor, tmp_path)


def test_another_kernel_resumes(begin, htcondor, tmp_path):
    """After the grace period another kernel takes over from the cleaner."""
    start, first = begin
    kernel = start(0.5)
    kernel.run(first)
    kernel.kill()
    end = time.monotonic() + 30
    while not any("waits for jobs" in entry.note for entry in registry.everything()):
        assert time.monotonic() < end
        time.sleep(0.05)
    check_resumed(start(30).run(RESUME), htcondor, tmp_path)
    end = time.monotonic() + 20
    while any(entry.path.parent == tmp_path for entry in registry.everything()):
        assert time.monotonic() < end
        time.sleep(0.05)
