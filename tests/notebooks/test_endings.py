"""However a kernel ends, no work is lost and nothing remains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time

import psutil
import pytest
from jupyter_client.manager import AsyncKernelManager

from condorpool import personal
from condorpool.cleaner import registry
from condorpool.engine.submitdir import run_of

#: A pool with jobs in every state; its calls write files.
CELL = """
import os, subprocess, time
import condorpool
pool = condorpool.Pool(personal={personal!r}, submitdir={submitdir!r}, on_exit={on_exit!r})

def work(name, seconds):
    time.sleep(seconds)
    open(name, "w").close()

def state(result):
    return result.jobs[0].state if result.jobs else None

pool.starmap(work, [("finished", 0)])
try:
    pool.apply(os._exit, (3,))
except condorpool.JobFailedError:
    pass
missing = {{"transfer_input_files": "/no/such/file", "should_transfer_files": "YES"}}
held = pool.apply_async(work, ("held", 0), submitkwargs=missing)
suspended = pool.apply_async(work, ("suspended", 60), submitkwargs={{"priority": 1}})
while state(suspended) is not condorpool.JobState.RUNNING:
    time.sleep(0.1)
subprocess.run(["condor_suspend", suspended.jobs[0].id], env={environment!r}, check=True)
while state(suspended) is not condorpool.JobState.SUSPENDED:
    time.sleep(0.1)
while state(held) is not condorpool.JobState.HELD:
    time.sleep(0.1)
running = pool.starmap_async(work, [(f"running-{{i}}", {seconds}) for i in range(6)], chunksize=1)
while not running.jobs:
    time.sleep(0.1)
print("READY", os.getpid())
"""

BUSY = "print('BUSY')\ntime.sleep(60)"
DEAF = """
print('BUSY')
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


async def shut_down(manager, client):
    """Do what the Shut Down button does."""
    await manager.shutdown_kernel()


def run(code, then=shut_down):
    """Return a function that starts a cell and calls ``then`` while the cell runs."""

    async def act(manager, client):
        client.execute(code)
        if "BUSY" in code:
            await wait_for(client, "BUSY")
        await then(manager, client)

    return act


def send(number):
    """Return a function that sends the kernel a signal."""

    async def act(manager, client):
        os.kill(manager.provisioner.pid, number)

    return act


async def interrupt(manager, client):
    """Interrupt the cell, and end the kernel some time later."""
    await manager.interrupt_kernel()
    await asyncio.sleep(1)
    await manager.shutdown_kernel()


async def restart(manager, client):
    """Do what the Restart button does."""
    await manager.restart_kernel()


async def leave(manager, client):
    """Wait until the kernel has ended by itself."""
    while await manager.is_alive():
        await asyncio.sleep(0.05)


#: How each kernel is ended, and its pool's on_exit.
ROWS = {
    "shut down": (shut_down, "wait"),
    "shut down, cell busy": (run(BUSY), "wait"),
    "shut down, cell swallows KeyboardInterrupt": (run(DEAF), "wait"),
    "interrupt, then shut down": (run(BUSY, interrupt), "wait"),
    "restart": (restart, "wait"),
    "SIGKILL": (send(signal.SIGKILL), "wait"),
    "SIGTERM": (send(signal.SIGTERM), "wait"),
    "exit": (run("exit", leave), "wait"),
    "os._exit": (run("os._exit(1)", leave), "wait"),
    "SIGKILL, remove": (send(signal.SIGKILL), "remove"),
    "shut down, remove": (shut_down, "remove"),
    "SIGKILL, keep": (send(signal.SIGKILL), "keep"),
}


async def wait_for(client, word, timeout=90):
    """Wait until a cell has printed a word; return the line."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        message = await client.get_iopub_msg(timeout=timeout)
        assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])
        for line in str(message["content"].get("text", "")).splitlines():
            if line.startswith(word):
                return line
    raise TimeoutError(word)


class Ended:
    """A kernel that was ended while its pool had jobs in every state."""

    def __init__(self, folder, htcondor):
        self.folder = folder
        self.htcondor = htcondor

    async def run(self, end, on_exit):
        """Start the kernel, end it, and wait for its cleaner."""
        cell = CELL.format(
            personal=str(self.htcondor.folder), submitdir=str(self.folder), on_exit=on_exit,
            seconds=600 if on_exit == "remove" else 2,
            environment={**os.environ, **self.htcondor.environment()},
        )  # fmt: skip
        manager = AsyncKernelManager()
        await manager.start_kernel(
            cwd=str(self.folder),
            env={**os.environ, "CONDORPOOL_GRACE": "1"},
            stderr=subprocess.DEVNULL,
        )
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        client.execute(cell)
        await wait_for(client, "READY")
        (self.directory,) = self.folder.glob(".condorpool-*")
        (entry,) = (e for e in registry.everything() if e.path == self.directory)
        (cleaner,) = cleaners_of(entry)
        self.memory = cleaner.memory_info().rss
        await end(manager, client)
        deadline = time.monotonic() + 60
        while cleaner.is_running() and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        self.cleaner_lives = cleaner.is_running()
        run = f'CondorpoolRun == "{run_of(self.directory)}"'
        self.jobs = self.htcondor.access_point().query(run, ["JobStatus"])
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        client.context.destroy()
        return self

    @property
    def made(self):
        """The files that calls have written."""
        return {file.name for file in self.folder.iterdir() if file.is_file()}


def cleaners_of(entry):
    """Return the cleaners of an entry's owner."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(entry.file.parent) in process.cmdline():
                found.append(process)
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """All kernels, ended at the same time."""
    personal.install()
    base = tmp_path_factory.mktemp("endings")
    # One CPU for each suspended job, and not enough for the others: some are idle.
    settings = {"MEMORY": "1000000"}
    with personal.start(base / "personal", cpus=len(ROWS) + 8, settings=settings) as htcondor:
        yield asyncio.run(end_all(base, htcondor))


async def end_all(base, htcondor):
    """Return the ended kernels by their names."""
    kernels = []
    for number, (end, on_exit) in enumerate(ROWS.values()):
        folder = base / str(number)
        folder.mkdir()
        kernels.append(Ended(folder, htcondor).run(end, on_exit))
    return dict(zip(ROWS, await asyncio.gather(*kernels), strict=True))


WORK = {f"running-{i}" for i in range(6)}


ENDED = [name for name, (_, on_exit) in ROWS.items() if on_exit != "keep"]


@pytest.mark.parametrize("name", ENDED)
def test_nothing_remains(ended, name):
    """No job, no process, and only the files of the job that failed."""
    row = ended[name]
    assert not row.jobs
    assert not row.cleaner_lives
    kept = {file.name for file in row.directory.iterdir()}
    assert {name for name in kept if name.endswith(".chunk")} == {"2-0.chunk"}
    assert not [name for name in kept if name.endswith(".outcome")]


@pytest.mark.parametrize("name", ENDED)
def test_work(ended, name):
    """Running work finishes if it should; held and suspended jobs are removed."""
    work = WORK if ROWS[name][1] == "wait" else set()
    assert ended[name].made == {"finished", *work}


def test_keep(ended):
    """Nothing is touched: jobs continue, and the directory stays until the user takes it up."""
    row = ended["SIGKILL, keep"]
    assert not row.cleaner_lives
    assert 5 in {job["JobStatus"] for job in row.jobs}
    assert (row.directory / "manifest.json").exists()
    assert [entry.path for entry in registry.entries(registry.state() / registry.KEPT)].count(
        row.directory
    )


def test_a_waiting_cleaner_is_small(ended):
    """One process beside each kernel, under 15 MB."""
    for name, row in ended.items():
        assert row.memory < 15 << 20, name
