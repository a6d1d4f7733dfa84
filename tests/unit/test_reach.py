"""What jobs can reach at the access point."""

from __future__ import annotations

import os

import pytest

from condorpool.engine import reach
from condorpool.interface.options import commands, resources


@pytest.fixture
def here(tmp_path):
    """Return a folder with a submit directory and some data."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/table").touch()
    (tmp_path / "far").mkdir()
    (tmp_path / "far/file").touch()
    (tmp_path / "data/link").symlink_to(tmp_path / "far/file")
    (tmp_path / "data/deep/link").symlink_to(tmp_path / "far")
    return tmp_path


def limits(here, also=(), directory="jobs", **given):
    """Return the items of the limit, below the folder, beside the submit directory."""
    text = reach.limit(here / directory, given, also)
    assert text[0] == text[-1] == '"'
    own, *others = text[1:-1].split(", ")
    assert own == f"{here}/{directory}/".replace(",", "*").replace("$", "$(DOLLAR)")
    return {item.replace(f"{here}/", "") for item in others}


@pytest.mark.parametrize(
    ("given", "reached"),
    [
        ({}, set()),
        ({"transfer_input_files": "{}/data/table, ../far/file"}, {"data/table*", "far/file*"}),
        ({"transfer_input_files": "own.txt, https://host/a, osdf:///b"}, set()),
        ({"transfer_input_files": "{}/data/link"}, {"far/file*"}),
        ({"transfer_input_files": "{}/data"}, {"data/", "far/file*"}),
        ({"transfer_input_files": "{}/data/"}, {"data/", "far/file*"}),
        ({"transfer_input_files": "{}/missing"}, {"missing*"}),
        ({"transfer_input_files": "{}/data/t$(runner)"}, {"data/t$(runner)*"}),
        ({"transfer_input_files": "$(data)/table"}, {"$(data)/table*"}),
        ({"transfer_input_files": "a/$(x)/b"}, set()),
        ({"transfer_input_files": "{}/$(x)/b"}, {"$(x)/b*"}),
        ({"transfer_input_files": "$ENV(DATA)/../far/file"}, {"far/file*"}),
        ({"transfer_plugins": "tape=../far/file"}, {"far/file*"}),
        ({"container_image": "docker://python:3.11"}, set()),
        ({"container_image": "{}/data/table"}, {"data/table*"}),
        ({"x509userproxy": "/tmp/x509up_u1"}, {"/tmp/x509up_u1*"}),
        ({"use_x509userproxy": "True"}, {"data/proxy*"}),
    ],
)
def test_files_that_are_sent(here, monkeypatch, given, reached):
    """They are named one by one; folders with all that is in them, and where links lead."""
    monkeypatch.setenv("DATA", str(here / "data"))
    monkeypatch.setenv("X509_USER_PROXY", str(here / "data/proxy"))
    given = {key: value.replace("{}", str(here)) for key, value in given.items()}
    assert limits(here, **given) == reached


def test_more_that_the_user_names(here):
    """Dollar signs in paths are no macros."""
    (here / "a $(b)").mkdir()
    assert limits(here, [f"{here}/a $(b)", f"{here}/far"]) == {"a $(DOLLAR)(b)/", "far/"}


@pytest.mark.parametrize("name", ["a b", "a,b", "a, b, c", 'a"b\\', "$(x)", "ü"])
def test_any_name_of_the_submit_directory(here, name):
    """A comma ends an item for HTCondor, so it is a wildcard there; other characters are quoted."""
    (here / name).mkdir()
    item = reach.limit(here / name, {}, ())
    written = {"a,b": "a*b", "a, b, c": "a* c", 'a"b\\': 'a\\"b\\\\', "$(x)": "$(DOLLAR)(x)"}
    assert item == f'"{here}/{written.get(name, name)}/"'


def test_links_to_the_submit_directory(here):
    """The access point may not know it by the name to which it leads here."""
    (here / "short").symlink_to(here / "jobs")
    assert limits(here, directory="short") == {"jobs/"}


def test_a_large_folder_costs_little(here, monkeypatch):
    """Not all files are looked at."""
    monkeypatch.setattr(reach, "_LOOKED_AT", 20)
    for number in range(50):
        (here / f"far/{number}").symlink_to(here / "jobs")
    seen = []
    monkeypatch.setattr(
        os.path, "realpath", lambda path, real=os.path.realpath: seen.append(path) or real(path)
    )
    reach.limit(here / "jobs", {"transfer_input_files": str(here / "far")}, ())
    assert len(seen) <= 23


@pytest.mark.parametrize(
    ("given", "checked"),
    [(True, ()), (False, None), ("/data", ("/data",)), (["/a", "/b"], ("/a", "/b"))],
)
def test_the_keyword(given, checked):
    """Its values, as HTCondor's own setting."""
    asked = resources.check({"limit_directory_access": given}, {})
    assert asked["limit_directory_access"] == checked


def test_mistakes():
    """They are refused, with what to write instead."""
    with pytest.raises(TypeError, match="limit_directory_access"):
        resources.check({"limit_directory_access": 3}, {})
    with pytest.raises(ValueError, match="one line"):
        resources.check({"limit_directory_access": ["/a\n/b"]}, {})
    for key in ("My.LimitDirectoryAccess", "+limitDirectoryAccess"):
        with pytest.raises(ValueError, match="limit_directory_access="):
            commands.check({key: '"/"'})
