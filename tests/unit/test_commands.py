"""Commands that HTCondor would misread or ignore raise an error that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from condorpool.interface.options import commands


def test_values_become_text():
    """Numbers, bools, paths and lists of files are written as HTCondor reads them."""
    given = {
        "request_cpus": 2, "nice_user": True, "x509userproxy": Path("/p"),
        "transfer_input_files": ["a", "b"], "My.Colour": '"red"', "+Project": '"x"',
    }  # fmt: skip
    assert list(commands.check(given).values()) == [
        "2",
        "True",
        "/p",
        "a, b",
        '"red"',
        '"x"',
    ]


def test_an_unknown_command_is_named_with_the_nearest():
    """The error names a misspelled command, which HTCondor would silently ignore."""
    with pytest.raises(ValueError, match=r"'acounting_group'.*did you mean 'accounting_group'"):
        commands.check({"acounting_group": "atlas"})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("reqest_memory", "request_memory"), ("request_memroy", "request_memory"),
        ("Request_CPU", "request_cpus"), ("requirement", "requirements"),
        ("prioritty", "priority"), ("transfer_input_file", "transfer_input_files"),
    ],
)  # fmt: skip
def test_near_misses(key, meant):
    """One letter more or less, or two that changed places, is a misspelling."""
    with pytest.raises(ValueError, match=f"'{key}'.*did you mean '{meant}'"):
        commands.check({key: 1})


@pytest.mark.parametrize(
    "key",
    [
        "request_fpgas", "request_tpus", "require_tpus", "mytoken_oauth_scopes", "site_queue", "desired_sites",
        "My.Reqest_Memory", "+request_memroy", "colour", "my.hold",
    ],
)  # fmt: skip
def test_what_sites_and_users_invent_is_passed_on(key):
    """Commands and attributes that sites and users define reach HTCondor."""
    assert commands.check({key: "x"}) == {key: "x"}


def test_equal_commands_meet():
    """HTCondor ignores the case of commands, but shows that of attributes."""
    given = {"Request_Cpus": 2, "Site_Queue": "long", "My.Colour": "1"}
    assert list(commands.check(given)) == ["request_cpus", "site_queue", "My.Colour"]


def test_a_macro_that_is_used_is_passed_on():
    """Users may define their own macros."""
    commands.check({"colour": "red", "My.Colour": '"$(colour)"'})


@pytest.mark.parametrize("key", ["executable", "Log", "hold", "arguments"])
def test_reserved(key):
    """A command that condorpool sets itself cannot be set, in upper or lower case."""
    with pytest.raises(ValueError, match=key):
        commands.check({key: "x"})


@pytest.mark.parametrize("value", [None, {}, ["x"], object()])
def test_values_that_are_no_text(value):
    """The error names the key and the type."""
    with pytest.raises(TypeError, match="request_memory"):
        commands.check({"request_memory": value})


def test_a_line_break_cannot_smuggle_commands():
    """A value is one line, and a key one word."""
    for key in ("a\nqueue", "queue 5", "", "a=b"):
        with pytest.raises(ValueError, match="one word"):
            commands.check({key: "x"})
    with pytest.raises(ValueError, match="line break"):
        commands.check({"accounting_group": "a\nexecutable = /bin/evil"})
    with pytest.raises(ValueError, match="must not end with a backslash"):
        commands.check({"accounting_group": "a\\ "})
