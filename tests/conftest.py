"""A real HTCondor for all tests of the session, and pools on it that leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

# Before condorpool is imported: every write of shared state checks that its lock is held.
os.environ["CONDORPOOL_DEBUG_LOCKS"] = "1"

import condorpool
from condorpool import personal
from condorpool.cleaner import registry
from condorpool.engine.tracker import tracker
from condorpool.values import guards


@pytest.fixture(autouse=True)
def no_breach():
    """Fail a test in which any thread has written without the lock: threads only log it."""
    guards.breaches.clear()
    yield
    assert not guards.breaches


def pytest_configure():
    """Take interrupts: what a script's shell starts in the background ignores them, but not tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory):
    """Give the tests a registry of their own, not that of the user who runs them."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder / "condorpool"


@pytest.fixture(scope="session")
def htcondor(tmp_path_factory):
    """One personal HTCondor with two CPUs."""
    personal.install()
    started = personal.start(tmp_path_factory.mktemp("htcondor") / "personal", cpus=2)
    yield started
    started.stop()


@pytest.fixture
def access_point(htcondor):
    """The access point, for what a test does behind the pool's back."""
    return htcondor.access_point()


@pytest.fixture
def queued(access_point):
    """Ask for attributes of the one job that is, or soon will be, in the queue."""

    def ask(projection):
        end = time.monotonic() + 10
        while not (ads := access_point.query("true", projection)):
            assert time.monotonic() < end, "no job comes into the queue"
            time.sleep(0.01)  # HTCondor makes it a moment after its cluster
        (ad,) = ads
        return ad

    return ask


@pytest.fixture
def make_pool(htcondor, tmp_path, monkeypatch):
    """Make pools whose submit directory is the test's own folder."""
    monkeypatch.setattr(tracker(), "reconcile_interval", 1.0)
    pools = []

    def make(**arguments):
        pool = condorpool.Pool(**{"personal": htcondor, "submitdir": tmp_path, **arguments})
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()
    for entry in registry.entries(registry.state() / registry.KEPT):
        if tmp_path in entry.path.parents:
            entry.discard()  # what is kept of this test is nothing to the next
    end = time.monotonic() + 10  # a job leaves the queue a moment after its last event
    while left := htcondor.access_point().query("true", ["ClusterId", "JobStatus"]):
        assert time.monotonic() < end, f"jobs left in the queue: {left}"
        time.sleep(0.02)


@pytest.fixture
def pool(make_pool):
    """Give a pool that is terminated after the test."""
    return make_pool()


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Give the folder of a notebook, whose modules are found, and forgotten after the test.

    It is not the submit directory, and no job looks there.
    """
    folder = tmp_path / "notebook"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Add to a failure what HTCondor knows: event logs, hold reasons, daemon logs."""
    report = (yield).get_result()
    if report.when != "call" or not report.failed:
        return
    shared = item.funcargs.get("where", {})  # the contract's pools have one folder
    folder = shared.get("submitdir", item.funcargs.get("tmp_path"))
    started = shared.get("personal", item.funcargs.get("htcondor"))
    if folder:
        for log in sorted(Path(folder).glob("**/events.log")):
            report.sections.append((f"event log {log}", log.read_text(errors="replace")[-8000:]))
        for file in sorted(Path(folder).glob("condorpool-*/*.err")):
            if text := file.read_text(errors="replace"):
                report.sections.append((f"stderr {file}", text[-2000:]))
    if started:
        held = started.access_point().query("JobStatus == 5", ["ClusterId", "ProcId", "HoldReason"])
        report.sections.append(("held jobs", "\n".join(map(str, held))))
        report.sections.append(("daemon logs", started.log_tails(20)))


@pytest.fixture
def gone(tmp_path):
    """Return a check that no submit directory is left in the test's folder."""

    def check():
        return not list(tmp_path.glob("condorpool-*"))

    yield check
    # The folder itself stays: without it a cleaner would wait for its file system.
    for left in tmp_path.iterdir():
        shutil.rmtree(left, ignore_errors=True)
