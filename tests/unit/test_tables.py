"""Tables that fit a width, and texts that a terminal can show."""

from __future__ import annotations

import pytest

from condorpool.values.tables import aligned, cut, width_of
from condorpool.values.text import printable


def lines(rows, width=None):
    """Return the lines of a table."""
    return ["  ".join(row) for row in aligned(rows, width)]


def test_columns_are_aligned():
    """Each is as wide as its widest cell, also with letters that take two places or none."""
    assert lines([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d "]
    rows = [("日本", "x"), ("abcde", "x"), ("e\u0301", "x")]
    assert {width_of(line) for line in lines(rows)} == {8}


@pytest.mark.parametrize("width", [20, 30, 47, 80])
def test_a_table_fits_a_width(width):
    """The widest columns are cut first."""
    rows = [("scan", "x" * 60, "日本" * 10), ("short", "y", "z")]
    assert all(width_of(line) <= width for line in lines(rows, width))
    assert all("scan" in line or "short" in line for line in lines(rows, width) if width > 20)


def test_cells_have_no_control_characters():
    """Line breaks do not break the table, and escapes do not reach the terminal."""
    ((cell,),) = aligned([("a\nb\t\x1b[31m\x07\u202e",)])
    assert cell.isprintable()
    assert cell.startswith("a b ")


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 3, "abc"), ("abcdef", 5, "ab..."), ("abcdef", 2, ".."), ("日本語", 5, "日...")],
)
def test_cut(text, width, expected):
    """A text that was cut ends with dots."""
    assert cut(text, width) == expected


@pytest.mark.parametrize(
    "character", ["\x1b", "\x07", "\x9b", "\r", "\x00", "\u202e", "\ud800", "\x7f"]
)
def test_printable(character):
    """Lines and tabs remain."""
    assert printable(f"a{character}b\n\tc") == "a\ufffdb\n\tc"
