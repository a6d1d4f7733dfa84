"""A write of shared state without its lock raises; the check is on in all tests."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from condorpool.access.accesspoint import AccessPoint
from condorpool.engine.jobs import Crew
from condorpool.values import guards
from condorpool.values.locks import Monitor


@guards.guarded(by="lock")
class Shelf:
    """An object with an attribute of each kind that is checked."""

    def __init__(self, lock):
        self.lock = lock
        self.count = 0
        self.books = {}
        self.order = []
        self.seen = set()


WRITES = {
    "attribute": lambda shelf: setattr(shelf, "count", 1),
    "item": lambda shelf: shelf.books.__setitem__("a", 1),
    "update": lambda shelf: shelf.books.update(a=1),
    "append": lambda shelf: shelf.order.append(1),
    "add": lambda shelf: shelf.seen.add(1),
    "a new container": lambda shelf: setattr(shelf, "order", []),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_breach_raises(write):
    """A write raises, except with the lock held."""
    shelf = Shelf(Monitor())
    with pytest.raises(AssertionError, match="is written without the lock"):
        write(shelf)
    assert len(guards.breaches) == 1
    guards.breaches.clear()
    with shelf.lock:
        write(shelf)
    assert not guards.breaches


def test_an_unshared_object_needs_no_lock():
    """Its lock is None."""
    Shelf(None).books["a"] = 1
    assert not guards.breaches


WAITS = {
    "open": lambda path: path.read_bytes(),
    "list": lambda path: list(path.parent.iterdir()),
    "scan": lambda path: os.scandir(path.parent).close(),
    "look": lambda path: path.exists(),
    "rename": lambda path: path.rename(path.with_suffix(".new")),
    "delete": lambda path: path.unlink(),
    "make": lambda path: path.with_suffix(".new").mkdir(),
    "lock": lambda path: fcntl.lockf(1, fcntl.LOCK_UN),
    "start": lambda path: subprocess.run(["true"], check=True),
    "connect": lambda path: socket.create_connection(("127.0.0.1", 9)),
    "HTCondor": lambda path: AccessPoint("name", "", "").query("true", []),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_no_disk_under_a_lock(tmp_path, wait):
    """What may take minutes raises, only in the thread that holds a lock, and does not happen."""
    (tmp_path / "file").write_bytes(b"")
    lock = Monitor()
    with pytest.raises(AssertionError, match="with a lock held"), lock:
        wait(tmp_path / "file")
    assert len(guards.breaches) == 1
    guards.breaches.clear()
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    with lock, ThreadPoolExecutor(1) as other:
        assert other.submit(os.listdir, tmp_path).result() == ["file"]
    assert not guards.breaches


def test_a_wait_lets_go_of_the_lock(tmp_path):
    """Blocks may be nested; after them, and after a wait, all is as before."""
    lock = Monitor()
    with lock, lock:
        lock.wait(0.01)
    assert list(tmp_path.iterdir()) == []
    with lock, pytest.raises(AssertionError):
        list(tmp_path.iterdir())
    guards.breaches.clear()


def test_the_engine_is_guarded():
    """The checks are on in all tests."""
    assert guards.DEBUG
    assert Crew.__setattr__ is not object.__setattr__
