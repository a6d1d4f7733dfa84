"""Equal calls have the same fingerprint in each process; different calls have different ones."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading

import pytest

from condorpool.engine.fingerprint import fingerprint

SCRIPT = """
import dataclasses, functools, sys
import numpy as np
import cp_helpers
from condorpool.engine.fingerprint import fingerprint

CUTS = {"pt", "eta", "phi", "mass"}
WEIGHTS = np.arange(1000.0)
SCALE = {"jes": [1.0, 2.0]}

@dataclasses.dataclass
class Event:
    pt: float
    def squared(self):
        return self.pt ** 2

def helper(x):
    return x + 1  # a comment

@functools.lru_cache
def cached(x):
    return helper(x)

def outer(factor):
    def inner(x):
        return factor * x
    return inner

def f(event, shift=0.5, *, power=2):
    if event.pt in {"a", "b"}:
        return f(event)
    values = (lambda: WEIGHTS.sum() + len(CUTS) + SCALE["jes"][0])()
    return cached(event.squared()) + outer(3)(values) + cp_helpers.above(2) + sys.maxsize

items = [Event(float(n)) for n in range(10)]
print(fingerprint(functools.partial(f, power=3), "map", items))
"""

HELPERS = """
LIMIT = 5
def unused(x):
    return x
def below(x):
    return x - LIMIT
def above(x):
    return below(x) + 2 * LIMIT
"""


def printed(folder, script=SCRIPT, helpers=HELPERS, *, typed=False, seed=0):
    """Return what the script prints in a new process, which has no source file if ``typed``."""
    folder.mkdir(exist_ok=True)
    (folder / "cp_helpers.py").write_text(helpers)
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-B", *(["-c", script] if typed else ["script.py"])],
        cwd=folder,
        env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Return what the script prints with a source file and without."""
    folder = tmp_path_factory.mktemp("before")
    return {typed: printed(folder, typed=typed, seed=1) for typed in (False, True)}


@pytest.mark.parametrize("typed", [False, True])
def test_the_same_in_another_process(tmp_path, before, typed):
    """It depends neither on the place in the notebook nor on other code."""
    moved = SCRIPT.replace("import dataclasses", "\n\nimport dataclasses")
    other = HELPERS.replace("return x\n", "return -x\n")
    assert printed(tmp_path, moved, other, typed=typed, seed=2) == before[typed]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return x + 1", "return x + 2"),
        ("factor * x", "factor / x"),
        ('"phi"', '"psi"'),
        ("1000.0", "1001.0"),
        ("[1.0, 2.0]", "[1.0, 2.5]"),
        ("self.pt ** 2", "self.pt ** 3"),
        ("shift=0.5", "shift=0.6"),
        ("power=3", "power=4"),
        ("range(10)", "range(11)"),
        ('"map"', '"starmap"'),
        ('{"a", "b"}', '{"a", "c"}'),
    ],
)
def test_what_it_uses_counts(tmp_path, before, old, new):
    """Changed helpers, classes, globals, defaults and closures change it."""
    assert SCRIPT.count(old) == 1
    for typed in (False, True):
        assert printed(tmp_path, SCRIPT.replace(old, new), typed=typed) != before[typed]


@pytest.mark.parametrize(("old", "new"), [("x - LIMIT", "x + LIMIT"), ("LIMIT = 5", "LIMIT = 6")])
def test_own_modules_count(tmp_path, before, old, new):
    """Changes in what is used of them count."""
    assert printed(tmp_path, helpers=HELPERS.replace(old, new)) != before[False]


def test_what_only_cloudpickle_pickles():
    """Values that come after a function that a package made still count."""
    package = {"__name__": "cp_installed"}
    exec("def make():\n    return lambda x: x", package)
    made = package["make"]()
    assert fingerprint(abs, "map", [made, 1]) != fingerprint(abs, "map", [made, 2])


def test_what_cannot_be_pickled():
    """The error is raised when it is sent, not here."""
    assert fingerprint(abs, "map", [threading.Lock()])


#: Values that are made or pickled differently in each process.
VALUES = """
import abc, collections, copy, dataclasses, enum, functools, sys, types, typing
from condorpool.engine.fingerprint import fingerprint

odd = int(sys.argv[1]) % 2
NAMES = {"pt", "eta", "phi", "mass"}
T = typing.TypeVar("T")
text = "".join(["ab", "cd"])
pair = (text, [1, 2])

class Sets(set):
    pass

class Holder:
    names = NAMES
    class Inner:
        def __init__(self):
            self.a, self.b, self.c = 1, 2, 3
        def more(self):
            self.d = self.e = 4
    def __init__(self):
        self.names = {"k": frozenset(NAMES)}
    @functools.cached_property
    def cached(self):
        return 1
    @classmethod
    def make(cls):
        return cls()
    @functools.singledispatchmethod
    def single(self, x):
        return x

class Base(abc.ABC):
    @abc.abstractmethod
    def a(self): ...
    @abc.abstractmethod
    def b(self): ...
    @abc.abstractmethod
    def c(self): ...

class Pair(typing.TypedDict, total=False):
    a: int
    b: int

class Box(typing.Generic[T]):
    pass

class Color(enum.Flag):
    RED = enum.auto()
    BLUE = enum.auto()

@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    pt: float = 0.0
    kinds: frozenset = frozenset(NAMES)

@functools.singledispatch
def single(x):
    return x

@functools.cache
def cached(x):
    return NAMES

def local(x):
    class Local:
        def __init__(self):
            self.a, self.b, self.c, self.d = x
        def more(self):
            self.e = self.f = self.g = x
    return Local()

def uses(thing):
    return lambda x: thing

cycle = [1]
cycle.append(cycle)
tree = [1]
for _ in range(200):
    tree = [tree, tree] if odd else [tree, copy.copy(tree)]

if odd:
    single(1), cached(1), isinstance(1, Base), Holder().cached, Holder().single(1), local("abcd")

values = {
    "set": NAMES,
    "set in a dict": {"cuts": [NAMES, (1, frozenset(NAMES))]},
    "subclass of set": Sets(NAMES),
    "counter": collections.Counter("abc"),
    "object": Holder(),
    "namespace": types.SimpleNamespace(names=NAMES),
    "closure": uses(NAMES),
    "partial": functools.partial(uses, thing=NAMES),
    "one string twice": [text, text] if odd else [text, "".join(["ab", "cd"])],
    "one tuple twice": [pair, pair] if odd else [pair, copy.deepcopy(pair)],
    "one name twice": [{text: 1}, {text: 2}] if odd else [{text: 1}, {"".join("abcd"): 2}],
    "many that are one": tree,
    "cycle": cycle,
    "local class": local,
    "enum": Color.RED,
    "cached": uses(cached),
    "dispatch": uses(single),
    **{cls.__name__: uses(cls) for cls in (Holder, Base, Pair, Box, Color, Event)},
}
for name, value in values.items():
    print(name, fingerprint(len, "map", [value]), sep="=")
"""


@pytest.mark.parametrize("typed", [False, True])
def test_only_the_values_count(tmp_path, typed):
    """The order of sets, shared objects and earlier use do not."""
    runs = [printed(tmp_path, f"import sys; sys.argv[1:] = ['{n}']\n" + "\n" * n + VALUES,
                    typed=typed, seed=n) for n in (1, 2, 3, 4)]  # fmt: skip
    lines = [run.splitlines() for run in runs]
    assert len(set(lines[0])) == len({line.partition("=")[2] for line in lines[0]}) > 20
    differ = {one.partition("=")[0] for alike in zip(*lines, strict=True) for one in alike[1:]
              if one != alike[0]}  # fmt: skip
    assert not differ


@pytest.mark.parametrize("call", ["maths.sqrt(x)", "[maths.sqrt(y) if y else maths.pi for y in x]"])
def test_a_function_with_its_import_is_the_same(call):
    """Python compiles a call differently if the same cell imports the module."""
    definition = (
        f"def f(x):\n  try:\n    return {call}\n  except ValueError:\n    return maths.floor(x)"
    )
    apart = made(definition)
    apart.__globals__["maths"] = math
    together = made(f"import math as maths\n{definition}")
    assert fingerprint(apart, "map", [1]) == fingerprint(together, "map", [1])


def lambdas():
    """Return functions that one line of source makes."""
    return lambda x: x + 1, lambda x: x + 2


def made(definition):
    """Return the function of this definition, which has no source file."""
    names = {"__name__": "__main__"}
    exec(definition, names)
    return names["f"]


@pytest.mark.parametrize(
    "functions",
    [
        pytest.param(lambdas(), id="lambdas of one line"),
        pytest.param(
            [made(f"def f(x, {a}=1, {b}=2): return a - b") for a, b in ("ab", "ba")], id="parameters"
        ),
        pytest.param(
            [
                made(f"def f(x):\n  class C:\n    n = {n}\n    def g(self): self.{n} = {n!r}\n  return C")
                for n in "xyz"
            ],
            id="local classes",
        ),
        pytest.param([made(f"def f(x): return {n}") for n in ("1", "1.0", "True", "1j")], id="constants"),
        pytest.param(
            [made(f"def f(x): return x in {n}") for n in ("{1, 2}", "{1, 3}", "(1, 2)")], id="constant sets"
        ),
        pytest.param([made(f"{n}def f(x): return x") for n in ("", "async ")], id="coroutine"),
    ],
)  # fmt: skip
def test_other_functions_are_other_calls(functions):
    """Functions with different code differ, also on the same line of the same file."""
    for one, other in itertools.combinations(functions, 2):
        assert fingerprint(one, "map", [1]) != fingerprint(other, "map", [1])


def test_the_environment_does_not_matter(monkeypatch):
    """Calls that use it are the same in another kernel: a job gets the environment of its own time."""
    read = eval("lambda x: environ.get(x)", {"environ": os.environ})
    before = fingerprint(read, "map", ["A"])
    monkeypatch.setenv("CP_ANOTHER", "1")
    assert fingerprint(read, "map", ["A"]) == before
