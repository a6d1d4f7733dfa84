"""What is pickled by name, and what by value."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import random
import subprocess
import sys
import types
from pathlib import Path

import cloudpickle
import numpy
import pytest

from condorpool.engine.payload import support_archive
from condorpool.engine.pickling import is_importable, pickled
from condorpool.runner import container

LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from _condorpool_program.container import loads, read
print(repr(loads(read(sys.argv[2])[1])()))
"""


@pytest.fixture
def main(monkeypatch):
    """Return the module of a notebook, which no other process can import."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


@pytest.fixture
def elsewhere(tmp_path):
    """Return a function that makes a call in another process, as a job would."""

    def call(func):
        container.write(str(tmp_path / "x"), {}, pickled(func)[0])
        (tmp_path / "support.zip").write_bytes(support_archive())
        command = [sys.executable, "-c", LOAD, tmp_path / "support.zip", tmp_path / "x"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return ran.stdout.strip() or ran.stderr

    return call


#: Definitions of a cell, what a call does with them, and the result.
CELLS = {
    "lru_cache": (
        """
        import functools
        @functools.lru_cache(maxsize=7)
        def fib(n):
            "Doc."
            return n if n < 2 else fib(n - 1) + fib(n - 2)
        """,
        "fib(10), fib.__name__, fib.__doc__, fib.cache_parameters()['maxsize']",
        "(55, 'fib', 'Doc.', 7)",
    ),
    "singledispatch": (
        """
        import functools
        @functools.singledispatch
        def kind(x): return "any"
        @kind.register
        def _(x: int): return "int"
        kind(1)
        """,
        "kind(1), kind(True), kind('')",
        "('int', 'int', 'any')",
    ),
    "functools in a class": (
        """
        import functools
        class Sim:
            @functools.cache
            def cached(self, x): return x + 1
            @functools.cached_property
            def once(self): return 5
            @functools.singledispatchmethod
            def kind(self, x): return "any"
            @kind.register
            def _(self, x: int): return "int"
            both = functools.partialmethod(cached, 2)
        sim = Sim()
        """,
        "sim.cached(1), sim.once, sim.once, sim.kind(1), sim.kind(''), sim.both()",
        "(2, 5, 5, 'int', 'any', 3)",
    ),
    "named tuples": (
        """
        import collections, typing
        Point = collections.namedtuple("Point", "x y")
        class Typed(typing.NamedTuple):
            x: int = 3
        """,
        "Point(1, 2), Typed(), Point(1, 2)._replace(x=3).x",
        "(Point(x=1, y=2), Typed(x=3), 3)",
    ),
    "enums": (
        """
        import enum
        class Color(enum.Enum):
            RED = 1
        class Named(enum.Enum):
            RED = 1
            def __reduce_ex__(self, protocol): return self.name
        Named_RED = RED = Named.RED
        Made = enum.Enum("Made", "X Y")
        """,
        "Color.RED is Color(1), RED is Named.RED, Made.Y.value",
        "(True, True, 2)",
    ),
    "dataclass": (
        """
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class Point:
            x: int
            y: list = dataclasses.field(default_factory=list)
        """,
        "Point(1), dataclasses.fields(Point)[0].default is dataclasses.MISSING",
        "(Point(x=1, y=[]), True)",
    ),
    "abstract": (
        """
        import abc
        class Base(abc.ABC):
            @abc.abstractmethod
            def f(self): ...
        class Made(Base):
            def f(self): return 9
        """,
        "Made().f(), isinstance(Made(), Base)",
        "(9, True)",
    ),
    "types": (
        """
        import typing
        class ByClass(typing.TypedDict):
            a: int
        ByCall = typing.TypedDict("ByCall", {"a": int})
        UserId = typing.NewType("UserId", int)
        T = typing.TypeVar("T")
        P = typing.ParamSpec("P")
        class Box(typing.Generic[T]):
            def get(self, x: T) -> T: return x
        """,
        "ByClass(a=1), ByCall(a=2), UserId(3), UserId.__name__, T.__name__, P.__name__, Box().get(4)",
        "({'a': 1}, {'a': 2}, 3, 'UserId', 'T', 'P', 4)",
    ),
    "decorated": (
        """
        import functools
        class Jit:
            def __init__(self, func):
                self.py_func = func
                functools.update_wrapper(self, func)
            def __call__(self, *args): return self.py_func(*args)
            def __reduce__(self): return self.__qualname__
        @Jit
        def factorial(n): return 1 if n == 0 else n * factorial(n - 1)
        """,
        "factorial(5)",
        "120",
    ),
    "weak dictionaries": (
        """
        import weakref
        class Key: pass
        key = Key()
        weak = weakref.WeakKeyDictionary({key: 1}), weakref.WeakValueDictionary({1: key})
        """,
        "weak[0][key], weak[1][1] is key",
        "(1, True)",
    ),
    "secrets": ("from secrets import choice, randbelow", "choice([1]), randbelow(1)", "(1, 0)"),
}
if sys.version_info >= (3, 12):
    CELLS["since Python 3.12"] = (
        """
        type Pair[T] = tuple[T, T]
        def same[T](x: T) -> T: return x
        """,
        "Pair, same(1)",
        "(Pair, 1)",
    )


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_cell_defines_is_there_in_the_job(main, elsewhere, cell):
    """It is pickled by value, since a job cannot import a notebook."""
    source, expression, expected = CELLS[cell]
    lines = source.splitlines()
    indent = len(source) - len(source.lstrip()) - 1 if len(lines) > 1 else 0
    exec("\n".join(line[indent:] for line in lines), vars(main))
    assert elsewhere(eval(f"lambda: ({expression})", vars(main))) == expected


@pytest.mark.parametrize("is_known", [True, False])
def test_modules_without_a_file_go_by_value(main, monkeypatch, elsewhere, is_known):
    """So do their functions and classes, also when the module is in ``sys.modules``."""
    made = types.ModuleType("made_up")
    source = """
import functools, math
def area(r): return halved(r) * math.pi // 1
def halved(x): return x / 2
@functools.cache
def cached(x): return halved(x)
class Box:
    size = 4
    def half(self): return halved(self.size)
"""
    exec(source, vars(made))
    made.itself = made
    if is_known:
        monkeypatch.setitem(sys.modules, "made_up", made)
    vars(main).update(module=made, area=made.area, Box=made.Box, cached=made.cached)
    parts = "module.area(2), module.itself is module, area(2), Box().half(), cached(4)"
    assert elsewhere(eval(f"lambda: ({parts})", vars(main))) == "(3.0, True, 3.0, 2.0, 2.0)"


@pytest.mark.parametrize("file", ["other.ipynb", "other.py"])
def test_a_module_that_is_from_elsewhere_goes_by_value(
    monkeypatch, main, tmp_path, elsewhere, file
):
    """Its file may be one that Python does not import, such as a notebook, or not exist."""
    module = types.ModuleType("other")
    module.__file__ = str(tmp_path / file)
    exec("def f(): return 3", vars(module))
    monkeypatch.setitem(sys.modules, "other", module)
    main.f = module.f
    assert elsewhere(eval("lambda: f()", vars(main))) == "3"


class Facade(types.ModuleType):
    """A module of another type."""


def test_modules_of_another_type_go_by_name(main, monkeypatch, elsewhere):
    """Some packages put an object of their own class into ``sys.modules``."""
    module = Facade("json")
    module.__file__ = pickle.__file__
    monkeypatch.setitem(sys.modules, "json", module)
    assert pickle.loads(pickled(module)[0][0]) is module
    main.json = module
    assert elsewhere(eval("lambda: json.dumps(1)", vars(main))) == "'1'"


@pytest.mark.parametrize("name", ["os", "os.path", "sys", "zipimport", "json.decoder", "numpy.linalg", "condorpool.engine", "not_imported"])  # fmt: skip
def test_what_can_be_imported_goes_by_name(name):
    """It may be a file, frozen, built in, or compiled."""
    assert is_importable(name)


@pytest.mark.parametrize("value", [random.randint, functools.lru_cache, dataclasses.dataclass, numpy.sin, numpy.linalg.norm, numpy.linalg, Path])  # fmt: skip
def test_installed_things_stay_small(value):
    """They are pickled by name."""
    assert pickle.loads(pickled(value)[0][0]) == value
    assert len(pickled(value)[0][0]) < 200


class Missing:
    """A sentinel, which is compared by identity."""

    def __reduce__(self):
        return "MISSING"


def test_a_sentinel_of_a_notebook_is_refused(main):
    """A copy would be another object, and a job cannot import its name."""
    Missing.__module__ = "__main__"
    main.MISSING = Missing()
    with pytest.raises(pickle.PicklingError, match=r"__main__\.MISSING.*jobs cannot import"):
        pickled([main.MISSING])


def test_the_notebook_itself_is_refused(main):
    """A job would silently use its own ``__main__``."""
    with pytest.raises(pickle.PicklingError, match="__main__"):
        pickled(main)


class Holder:
    """Has an attribute."""

    def __init__(self, value):
        self.value = value


GLOBALS = {
    "random": (random.random, random._inst),
    "randint": (random.randint, random._inst),
    "gauss": (random.gauss, random._inst),
    "normal": (numpy.random.normal, numpy.random.mtrand._rand),
    "rand": (numpy.random.rand, numpy.random.mtrand._rand),
}


@pytest.mark.parametrize("name", GLOBALS)
def test_functions_of_the_global_generators_go_by_name(name):
    """Each job uses its own generator, which it seeds itself."""
    func, generator = GLOBALS[name]
    closure = (lambda: func), (lambda x=func: x)
    values = [func, functools.partial(func, 1), *closure, Holder(func), {"f": [func]}, generator]
    for value in values:
        frames, generators, _ = pickled(value)
        assert not generators
        assert len(frames[0]) < 2500  # the state of a generator is larger
        pickle.loads(frames[0])
    assert pickle.loads(pickled(func)[0][0]).__self__ is generator
    assert pickle.loads(pickled(generator)[0][0]) is generator


@pytest.mark.parametrize(
    "make",
    [
        random.Random,
        type("Mine", (random.Random,), {}),
        numpy.random.default_rng,
        numpy.random.RandomState,
        numpy.random.PCG64,
        numpy.random.MT19937,
    ],
)
def test_other_generators_are_found(make):
    """They are found themselves and through their methods, wherever they are."""
    generator = make()
    values = [generator, Holder(generator), [generator], lambda: generator]
    values += [getattr(generator, name) for name in ("normal", "gauss") if hasattr(generator, name)]
    for value in values:
        assert pickled(value)[1][0] is generator
    assert not pickled(random.SystemRandom())[1]


def test_arrays_are_sent_out_of_band():
    """An array is written from its own memory."""
    array = numpy.zeros(1000)
    frames = pickled([array])[0]
    assert len(frames) == 2
    assert numpy.shares_memory(numpy.frombuffer(frames[1]), array)


def test_registered_modules_go_by_value(main, elsewhere):
    """Modules that are registered with cloudpickle are respected."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert elsewhere(_registered) == "8"
    finally:
        cloudpickle.unregister_pickle_by_value(module)


@functools.lru_cache
def _registered():
    return 8
