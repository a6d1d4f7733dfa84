"""Errors name what cannot be sent by the path to it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import multiprocessing.pool
import sys
import threading
import time

import cloudpickle
import pytest

from condorpool.engine import blame
from condorpool.engine.pickling import pickled

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LOCK = "_thread.lock"


class Thing:
    """Has the attributes that it is given."""

    def __init__(self, **given):
        vars(self).update(given)

    def run(self):
        """Run."""


class Slots:
    """Has no dict."""

    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


@dataclasses.dataclass(frozen=True)
class Point:
    """Has fields."""

    x: int
    y: object


class OwnState:
    """Says what to pickle."""

    def __getstate__(self):
        return {"fresh": threading.Lock()}


class OwnReduce:
    """Says how to make it."""

    def __init__(self, inner):
        self.inner = inner

    def __reduce__(self):
        return OwnReduce, (self.inner,)


class Raises:
    """Cannot be pickled."""

    def __reduce__(self):
        raise RuntimeError("out of order")


class Hostile:
    """Raises in every method but the one for pickling."""

    def __reduce_ex__(self, protocol):
        return object.__new__, (Hostile,), vars(self)

    def __refuse(self, *_):
        raise RuntimeError("do not ask")

    __eq__ = __len__ = __bool__ = __repr__ = __iter__ = __getitem__ = __getattr__ = __refuse
    __hash__ = None


class Nameless:
    """Says that it comes from nowhere."""

    __module__ = 3


nameless = Nameless()
nameless.lock = threading.Lock()


class Class:
    """Has a lock of its own."""

    lock = threading.Lock()


sim = Thing(cache=Thing(lock=threading.Lock()))
config = {"db": {"lock": threading.Lock()}, 3: [1, 2, threading.Lock()], (1, "a"): Raises()}
slots = Slots(threading.Lock())
tree = collections.OrderedDict(a=[OwnState()])
cycle = [1]
cycle += [cycle, {"k": threading.Lock()}]
hostile = Hostile()
hostile.lock = threading.Lock()
event = threading.Event()
raises = Raises()
many = [list(range(10_000)), Raises()]


def uses(value):
    """Return a function with a closure."""
    return lambda: value


def positional(a, b=1, c=[threading.Lock()]):  # noqa: B006, B008
    """Have a default."""


def keyword(*, key=sim):
    """Have a default of a keyword."""


def helper():
    """Use a global."""
    return sim


class Derived(Thing):
    """Has a method with a global."""

    def work(self):
        """Work."""
        return sim


annotated = uses(1)
annotated.note = raises
PATHS = [
    (lambda: sim, "sim.cache.lock", LOCK),
    (lambda: config["db"], "config['db']['lock']", LOCK),
    (lambda: tree, "tree['a'][0].fresh", LOCK),
    (lambda: slots, "slots.x", LOCK),
    (lambda: cycle, "cycle[2]['k']", LOCK),
    (lambda: event, "event._cond._lock", LOCK),
    (lambda: [raises], "raises", "Raises"),
    (lambda: many, "many[1]", "Raises"),
    (lambda: Class, "Class.lock", LOCK),
    (lambda: [Class()], "Class.lock", LOCK),
    (lambda: nameless, "nameless.lock", LOCK),
    (lambda: hostile, "hostile.lock", LOCK),
    (lambda: [helper], "helper -> sim.cache.lock", LOCK),
    (lambda: [Derived()], "Derived.work -> sim.cache.lock", LOCK),
    (uses(sim), "value.cache.lock", LOCK),
    (uses({"a": (1, sim)}), "value['a'][1].cache.lock", LOCK),
    (uses(uses(raises)), "value -> value", "Raises"),
    (uses(collections.deque([1, raises])), "value[1]", "Raises"),
    (uses({raises}), "value", "Raises"),
    (uses(Point(1, raises)), "value.y", "Raises"),
    (uses(OwnReduce(raises)), "value.inner", "Raises"),
    (annotated, ".note", "Raises"),
    (positional, "positional(c=)[0]", LOCK),
    (keyword, "keyword(key=).cache.lock", LOCK),
    (functools.partial(max, 1, sim), ".args[1].cache.lock", LOCK),
    (functools.partial(max, key={"z": raises}), ".keywords['key']['z']", "Raises"),
    (functools.partial(helper), "sim.cache.lock", LOCK),
    (functools.lru_cache(helper), "sim.cache.lock", LOCK),
    (Thing(pool=raises).run, "self.pool", "Raises"),
    ([1, {"a": sim}], "[1]['a'].cache.lock", LOCK),
    (raises, "", "Raises"),
]
if sys.version_info < (3, 11):  # there pickling asks an object for more
    PATHS = [case for case in PATHS if case[1] != "hostile.lock"]


@pytest.mark.parametrize(
    ("value", "path", "kind"), PATHS, ids=[case[1] or "itself" for case in PATHS]
)
def test_the_path_is_named(value, path, kind):
    """It is written as in Python."""
    with pytest.raises(Exception) as caught:
        pickled(value)
    found, of = blame.blamed(value, caught.value)
    assert (found, of.removeprefix(f"{__name__}.")) == (path, kind)


def test_a_pool_is_named_and_not_what_it_is_made_of(make_error):
    """The parts of an object of ours say nothing to the user."""
    import condorpool

    pool = object.__new__(condorpool.Pool)
    vars(pool)["_lock"] = threading.Lock()
    value = Thing(pool=pool)
    assert blame.blamed(value, make_error(value)) == (".pool", "condorpool.interface.pool.Pool")
    other = object.__new__(multiprocessing.pool.ThreadPool)
    other._state = "RUN"
    other._worker_handler = None
    value.pool = other
    found = blame.blamed(value, make_error(value))
    other._state = "CLOSE"
    assert found == (".pool", "multiprocessing.pool.ThreadPool")


@pytest.fixture
def make_error():
    """Return the error of a value that cannot be pickled."""

    def error_of(value):
        with pytest.raises(Exception) as caught:
            pickled(value)
        return caught.value

    return error_of


def test_the_search_has_an_end(monkeypatch, make_error):
    """If the value is too big, the path is not named."""
    value = [[Thing() for _ in range(100_000)], threading.Lock()]
    error = make_error(value)
    monkeypatch.setattr(blame, "PATIENCE", 0.05)
    begun = time.process_time()
    assert blame.blamed(value, error) is None
    took = time.process_time() - begun
    monkeypatch.setattr(blame, "PATIENCE", 1000.0)
    begun = time.process_time()
    assert blame.blamed(value, error) == ("[1]", LOCK)
    assert time.process_time() - begun > 2 * took


def test_what_is_too_deep_is_no_fault_of_its_end(make_error):
    """Python's recursion limit ends both."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    error = make_error(deep)
    assert blame.blamed(deep, error) is None
    while deep:  # else deleting it would recurse too deep
        deep = deep[0]


def test_objects_are_found():
    """They are found by identity, wherever they are."""
    target = Thing()
    assert blame.path_to(lambda: target, target) == "target"
    assert blame.path_to(lambda: raises, target) is None
    assert blame.path_to(uses([0, {"x": Thing(y=target)}]), target) == "value[1]['x'].y"
