"""Fixtures for all tests: a real HTCondor, and pools on it that leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

# Set before condorpool is imported: every write of shared state checks that its lock is held.
os.environ["CONDORPOOL_DEBUG_LOCKS"] = "1"

import condorpool
from condorpool import personal
from condorpool.cleaner import registry
from condorpool.engine.tracker import tracker
from condorpool.values import guards


@pytest.fixture(autouse=True)
def no_breach():
    """Fail a test in which any thread wrote without the lock: the thread itself only logs it."""
    guards.breaches.clear()
    yield
    assert not guards.breaches


def pytest_configure():
    """Handle SIGINT even if a shell started pytest in the background, with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory):
    """Use a separate registry, not that of the user who runs the tests."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder / "condorpool"


@pytest.fixture(scope="session")
def htcondor(tmp_path_factory):
    """Return a personal HTCondor with two CPUs."""
    personal.install()
    started = personal.start(tmp_path_factory.mktemp("htcondor") / "personal", cpus=2)
    yield started
    started.stop()


@pytest.fixture
def access_point(htcondor):
    """Return the access point, for actions that bypass the pool."""
    return htcondor.access_point()


@pytest.fixture
def queued(access_point):
    """Return a function that queries the one job that is, or soon will be, in the queue."""

    def ask(projection):
        end = time.monotonic() + 10
        while not (ads := access_point.query("true", projection)):
            assert time.monotonic() < end, "no job appeared in the queue"
            time.sleep(0.01)  # HTCondor creates the job a moment after its cluster
        (ad,) = ads
        return ad

    return ask


@pytest.fixture(scope="session")
def empty_queue(htcondor):
    """Return a function that checks that no job is in the queue, or only for a moment."""
    known = ["ClusterId", "ProcId", "JobStatus", "JobBatchName", "HoldReason", "RemoveReason"]

    def check():
        # A job leaves the queue a moment after its last event.
        end = time.monotonic() + 10
        while jobs := htcondor.access_point().query("true", known):
            assert time.monotonic() < end, f"jobs remain in the queue: {jobs}"
            time.sleep(0.02)

    return check


@pytest.fixture
def make_pool(htcondor, tmp_path, monkeypatch, empty_queue):
    """Return a function that makes pools with their submit directory in ``tmp_path``."""
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
            entry.discard()  # the next test must not see it
    empty_queue()


@pytest.fixture
def pool(make_pool):
    """Return a pool that is terminated after the test."""
    return make_pool()


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Return a notebook's folder, from which modules can be imported during the test.

    It is not the submit directory, and jobs cannot see it.
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
    """Add event logs, hold reasons, and daemon logs to the report of a failed test."""
    report = (yield).get_result()
    if report.when != "call" or not report.failed:
        return
    shared = item.funcargs.get("where", {})  # the contract's pools share a folder
    folder = shared.get("submitdir", item.funcargs.get("tmp_path"))
    started = shared.get("personal", item.funcargs.get("htcondor"))
    if folder:
        for log in sorted(Path(folder).glob("**/events.log")):
            report.sections.append((f"event log {log}", log.read_text(errors="replace")[-8000:]))
        for file in sorted(Path(folder).glob(".condorpool-*/*.err")):
            if text := file.read_text(errors="replace"):
                report.sections.append((f"stderr {file}", text[-2000:]))
    if started:
        held = started.access_point().query("JobStatus == 5", ["ClusterId", "ProcId", "HoldReason"])
        report.sections.append(("held jobs", "\n".join(map(str, held))))
        report.sections.append(("daemon logs", started.log_tails(20)))


@pytest.fixture
def gone(tmp_path):
    """Return a function that checks that no submit directory remains in the test's folder."""

    def check():
        return not list(tmp_path.glob(".condorpool-*"))

    yield check
    # The folder itself stays: without it a cleaner would wait for its file system.
    for leftover in tmp_path.iterdir():
        shutil.rmtree(leftover, ignore_errors=True)
