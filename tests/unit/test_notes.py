"""Notes on exceptions, short forms of values, and what differs between calls."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from condorpool.engine.fingerprint import differences, fingerprint
from condorpool.engine.payload import expression
from condorpool.values.notes import annotate
from condorpool.values.text import short


@dataclass(frozen=True)
class Frozen(Exception):
    """Forbids attributes."""

    x: int


class Slots(Exception):
    """Has slots."""

    __slots__ = ("a",)


class Loud:
    """Its repr is long, raises, or has control characters."""

    def __init__(self, shown):
        self.shown = shown

    def __repr__(self):
        if isinstance(self.shown, BaseException):
            raise self.shown
        return self.shown


@pytest.mark.parametrize("error", [ValueError(1), Frozen(1), Slots(1)], ids=repr)
def test_notes(error):
    """Ours replace those that we added before; others stay, and a job gets plain text."""
    before = dict(vars(error))
    annotate(error)
    assert vars(error) == before
    vars(error)["__notes__"] = ["the user's"]
    annotate(error, "first")
    annotate(error, "second", "third")
    assert error.__notes__ == ["the user's", "second", "third"]
    assert {type(note) for note in pickle.loads(pickle.dumps(error.__notes__))} == {str}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "3"),
        ([1, "x"], "[1, 'x']"),
        (Loud("a\x1b[2Jb\nc"), "a [2Jb c"),
        (Loud(SystemExit()), "<Loud"),
        (Loud(ValueError()), "<Loud"),
        (Loud("x" * 10**7), "xxx"),
        ("x" * 10**7, "'xxx"),
        ([[0] * 1000] * 1000, "[[0, 0,"),
    ],
)
def test_short_forms(value, expected):
    """They are one bounded line, whatever the value's class does."""
    shown = short(value)
    assert shown.startswith(expected)
    assert len(shown) <= 100
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("style", "item", "expected"),
    [
        ("map", (1, 2), "f((1, 2))"),
        ("starmap", (1, "b"), "f(1, 'b')"),
        ("apply", ((1,), {"key": 2}), "f(1, key=2)"),
    ],
)
def test_a_call_as_it_is_written(style, item, expected):
    """Items become arguments as the verb passes them."""
    assert expression("f", style, item) == expected


def test_what_differs_between_calls():
    """The function, something that it uses, or the items."""
    space = {}

    def made(code, **names):
        space.update(names)
        exec(f"def f(x): {code}", space)
        return space["f"]

    one = fingerprint(made("return a", a=1), "map", [1, 2])
    assert differences(one, fingerprint(made("return a", a=1), "map", [1, 2])) == ""
    assert differences(one, fingerprint(made("return a", a=1), "map", [3])) == "the items"
    assert differences(one, fingerprint(made("return -a", a=1), "map", [1, 2])) == "the function"
    uses = "a function, class or global that it uses"
    assert differences(one, fingerprint(made("return a", a=2), "map", [1, 2])) == uses
    assert differences(one, "0123") == ""
    assert differences(*(fingerprint(f, "map", [1]) for f in (abs, len))) == "the function"
