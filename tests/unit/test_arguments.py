"""Checks of arguments name the argument."""

from __future__ import annotations

import pytest

from condorpool.interface.options import checks


@pytest.mark.parametrize(
    "name",
    ["scan", "my scan, 2nd try", "größe 😀", "$(ClusterId)", 'it\'s "x"', "+x", "12.3", "a/b", "*"],
)
def test_names_of_calls(name):
    """Any readable line is a name."""
    assert checks.calls_name(name) == name


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (3, TypeError, "a string, not int"),
        (b"scan", TypeError, "a string, not bytes"),
        (None, TypeError, "a string, not NoneType"),
        ("", ValueError, "must not be empty"),
        (" \t", ValueError, "must not be empty"),
        ("\n", ValueError, "must not be empty"),
        ("new\nline", ValueError, "one line .* such as 'new line'"),
        ("bell\a", ValueError, "one line .* such as 'bell'"),
        ("\x1b[31mred", ValueError, r"one line .* such as '\[31mred'"),
        ("u\x1fs", ValueError, "one line"),
        ("nul\0", ValueError, "one line"),
        ("para\u2029graph", ValueError, "one line"),
        ("right\u202eleft", ValueError, "one line"),
        ("half \ud800", ValueError, "one line"),
        (" scan", ValueError, "blanks around it, such as 'scan'"),
        ("scan ", ValueError, "blanks around it, such as 'scan'"),
        ("x" * 101, ValueError, "101 characters"),
        ("x" * 1_000_000, ValueError, "1,000,000 characters"),
        ("-x", ValueError, "option"),
        ("--all", ValueError, "option"),
    ],
)
def test_wrong_names_of_calls(name, error, words):
    """The error says what is wrong, in one short line."""
    with pytest.raises(error, match=f"^name.*{words}") as caught:
        checks.calls_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
