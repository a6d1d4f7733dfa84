"""A write of shared state without its lock raises; the check is on in all tests."""

from __future__ import annotations

import pytest

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


def test_the_engine_is_guarded():
    """The checks are on in all tests."""
    assert guards.DEBUG
    assert Crew.__setattr__ is not object.__setattr__
