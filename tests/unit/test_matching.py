"""Names that users give: whole, or the beginning of only one."""

from __future__ import annotations

import pytest

from condorpool.values.matching import did_you_mean, matching

KNOWN = {"scan", "scan-2", "fit", "condorpool-12ab", ".condorpool-34cd"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan", ["scan"]),
        ("sca", ["scan", "scan-2"]),
        ("fi", ["fit"]),
        ("condorpool-1", ["condorpool-12ab"]),
        ("condorpool-34cd", [".condorpool-34cd"]),
        (".condorpool-34cd", [".condorpool-34cd"]),
        ("condor", [".condorpool-34cd", "condorpool-12ab"]),
    ],
)
def test_a_name_or_its_beginning(name, expected):
    """A whole name stands for itself, though another one begins with it."""
    assert matching(name, KNOWN) == expected


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "./", "../", "an", "2", "12ab", "it", "*", "fit ", "FIT", "\x00"]
)
def test_no_name(name, tmp_path, monkeypatch):
    """`condorpool rm .` and `condorpool rm "$UNSET"` delete nothing, and no end of a name counts."""
    folder = tmp_path / "condorpool-12ab"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert matching(name, KNOWN, [folder]) == []


def test_paths(tmp_path, monkeypatch):
    """A folder can be given as a whole path."""
    folder = tmp_path / "condorpool-12ab"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (str(folder), f"{folder}/", "./condorpool-12ab", "condorpool-12ab/"):
        assert matching(path, KNOWN, [folder]) == ["condorpool-12ab"]
    for path in (str(folder)[:-1], f"/elsewhere/{folder.name}", f"{folder}/more", str(tmp_path)):
        assert matching(path, KNOWN, [folder]) == []


def test_did_you_mean():
    """A name that is like it is suggested."""
    assert did_you_mean("scna", KNOWN) == " Did you mean 'scan'?"
    assert did_you_mean("xyz", KNOWN) == ""
    assert did_you_mean("", KNOWN) == ""
