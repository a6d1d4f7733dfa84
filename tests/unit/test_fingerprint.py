"""The same calls have the same fingerprint in each process, others have others."""

from __future__ import annotations

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
    """Return what the script prints in a process of its own, which has its source or not."""
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
    """What the script prints with its source at hand and without."""
    folder = tmp_path_factory.mktemp("before")
    return {typed: printed(folder, typed=typed, seed=1) for typed in (False, True)}


@pytest.mark.parametrize("typed", [False, True])
def test_the_same_in_another_process(tmp_path, before, typed):
    """Wherever it stands in the notebook, and whatever else there is."""
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
    """Helpers, classes, globals, defaults and closures, in whatever they are used."""
    assert SCRIPT.count(old) == 1
    for typed in (False, True):
        assert printed(tmp_path, SCRIPT.replace(old, new), typed=typed) != before[typed]


@pytest.mark.parametrize(("old", "new"), [("x - LIMIT", "x + LIMIT"), ("LIMIT = 5", "LIMIT = 6")])
def test_own_modules_count(tmp_path, before, old, new):
    """As far as they are used."""
    assert printed(tmp_path, helpers=HELPERS.replace(old, new)) != before[False]


def test_what_only_cloudpickle_pickles():
    """Functions that packages make do not hide what comes after them."""
    package = {"__name__": "cp_installed"}
    exec("def make():\n    return lambda x: x", package)
    made = package["make"]()
    assert fingerprint(abs, "map", [made, 1]) != fingerprint(abs, "map", [made, 2])


def test_what_cannot_be_pickled():
    """That is told when it is sent, not here."""
    assert fingerprint(abs, "map", [threading.Lock()])
