"""Names that users give: whole, or the beginning of only one."""

from __future__ import annotations

from pathlib import Path

import pytest

from condorpool.values.matching import did_you_mean, matching

FOLDERS = {run: Path("/jobs", f".{run}") for run in ("condorpool-12ab", "condorpool-34cd")}
KNOWN = {"scan", "scan-2", "fit", *FOLDERS}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan", ["scan"]),
        ("sca", ["scan", "scan-2"]),
        ("fi", ["fit"]),
        ("condorpool-1", ["condorpool-12ab"]),
        (".condorpool-34cd", ["condorpool-34cd"]),
        (".condorpool-3", ["condorpool-34cd"]),
        ("condor", ["condorpool-12ab", "condorpool-34cd"]),
        ("/jobs/.condorpool-12ab", ["condorpool-12ab"]),
        ("/jobs/condorpool-12ab/", ["condorpool-12ab"]),
    ],
)
def test_a_name_or_its_beginning(name, expected):
    """A whole name stands for itself, though another one begins with it."""
    assert matching(name, KNOWN, FOLDERS) == expected


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "./", "../", ".//", "an", "2", "12ab", "it", "*", "fit ", "FIT", "\x00",
     "/jobs", "/jobs/", "/jobs/.condorpool-12a", "/jobs/.condorpool-12ab/x", "/x/.condorpool-12ab"],
)  # fmt: skip
def test_no_name(name, tmp_path, monkeypatch):
    """`condorpool rm .` and `condorpool rm "$UNSET"` delete nothing, and no end of a name counts."""
    folder = tmp_path / ".condorpool-12ab"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert matching(name, KNOWN, FOLDERS) == []
    assert matching(name, KNOWN, {"condorpool-12ab": folder}) == []


def test_relative_paths(tmp_path, monkeypatch):
    """They are those of the current folder."""
    monkeypatch.chdir(tmp_path)
    folders = {"condorpool-12ab": tmp_path / ".condorpool-12ab"}
    for path in ("./.condorpool-12ab", ".condorpool-12ab/", "condorpool-12ab/"):
        assert matching(path, KNOWN, folders) == ["condorpool-12ab"]


def test_did_you_mean():
    """A name that is like it is suggested."""
    assert did_you_mean("scna", KNOWN) == " Did you mean 'scan'?"
    assert did_you_mean("SCAN", KNOWN) == " Did you mean 'scan'?"
    assert did_you_mean("ift", KNOWN) == " Did you mean 'fit'?"
    assert did_you_mean("condorpool1", KNOWN) == " Did you mean 'condorpool-12ab'?"
    assert did_you_mean("condor", KNOWN) == ""  # two begin with it
    assert did_you_mean("xyz", KNOWN) == ""
    assert did_you_mean("", KNOWN) == ""
