"""Listing, deciding and cleaning up read plain data: no pickle is loaded, and no file stops that."""

from __future__ import annotations

import ast
import json
import math
import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import pytest

import condorpool
from condorpool.cleaner import custody, ending, registry
from condorpool.cleaner.ending import Ending
from condorpool.cleaner.registry import Entry
from condorpool.cli.main import main
from condorpool.engine import ownership, payload, submitdir
from condorpool.engine.description import JobOptions
from condorpool.engine.records import BatchRecord, CrewRecord, ErrorRecord
from condorpool.engine.submitdir import SubmitDir
from condorpool.runner import container
from condorpool.runner.outcomes import frames_of
from condorpool.values import plain
from condorpool.values.exceptions import JobFailedError

#: The classes and functions that pickles have looked up while `watched`.
looked_up = []
watched = [False]


@sys.addaudithook
def _hook(event, arguments):
    if event == "pickle.find_class" and watched[0]:
        looked_up.append(arguments)


class Marker:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def marker(tmp_path, monkeypatch):
    """Have a registry for this test alone; return what must not exist at its end."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(ending, "SETTLED", 0.0)
    (registry.state() / registry.KEPT).mkdir()
    looked_up.clear()
    yield tmp_path / "marker"
    watched[0] = False
    assert not looked_up
    assert not (tmp_path / "marker").exists()


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a kept directory with calls: done, failed, lost, not made."""

    def make(name):
        watched[0] = False  # jobs load pickles
        directory = SubmitDir.new(tmp_path / "jobs")
        directory.make()
        payload.write_crew(directory / "0.crew", abs, (1,), {}, tmp_path)
        directory.make_crew(0)
        payload.write_call(
            directory / "1.call",
            payload.Call(abs, "map"),
            lambda modules: payload.Shared("9.shared", modules),
        )
        payload.write_shared(directory / "9.shared", abs)
        payload.write_chunk(directory / "1-0.chunk", [1, 2], 0)
        payload.write_chunk(directory / "1-2.chunk", [3, 4], 2)
        outcomes, frames = frames_of([(abs, ""), (ValueError(abs), "Traceback")])
        about = {"calls": outcomes, "count": 2, "host": "h", "job": "1.0", "started": time.time()}
        container.write(str(directory / "1-0.outcome"), about, frames)
        lost = ErrorRecord.of(JobFailedError("1.1", "lost"), 3)
        directory.record(submitdir.error_name(1, 2), lost)
        options = JobOptions(initializer=abs).recorded()
        directory.record("0.jobs", CrewRecord(name=name, options=options, clusters=[(1, 2, None)]))
        batch = BatchRecord(crew=0, title="note", name=name, calls=4, time=time.time())
        directory.record("1.facts", batch)
        ownership.release(directory.path)
        watched[0] = True
        file = registry.state() / registry.KEPT / f"{directory.run}.json"
        entry = Entry(file, directory.path, {"personal": str(file)}, "wait").write()
        return directory, entry

    return make


def plant(path, marker):
    """Replace all pickles in a container, with their checksums."""
    about, frames = container.read(str(path))
    container.write(str(path), about, [pickle.dumps(Marker(marker))] * len(frames))


def end(entry):
    """Do what a cleaner does with a directory whose owner has ended; return its entry."""
    entry = entry.move(custody._ended_folder())
    step = Ending(entry)
    for _ in range(5):
        if entry.file.exists():
            step.step(entry)
            time.sleep(0.001)
    ownership.release(entry.path)
    (kept,) = [each for each in registry.everything() if each.path == entry.path]
    return kept


def told(capsys, *words):
    """Run the command line; return what it says."""
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


WORDS = "1 of 4 calls done, 2 failed, 1 waiting"


def test_no_pickle_is_loaded_to_list_or_to_clean_up(make, marker, capsys):
    """Neither those of calls and arguments, nor those of values and exceptions."""
    directory, entry = make("scan")
    for name in ("0.crew", "1.call", "9.shared", "1-0.chunk", "1-2.chunk", "1-0.outcome"):
        plant(directory.path / name, marker)
    found = condorpool.attach()
    assert WORDS in repr(found)
    assert WORDS in found._repr_html_()
    assert WORDS in told(capsys, "ls")
    shown = told(capsys, "show", "scan")
    assert "1 x ValueError: <built-in function abs>" in shown
    assert "1 x JobFailedError: job 1.1 failed: lost." in shown
    assert json.loads(told(capsys, "ls", "--json"))[0]["calls"][0]["counts"]["total"] == 4
    told(capsys, "ps")
    told(capsys, "logs")
    told(capsys, "clean")
    assert end(entry).note == "kept: results named scan"
    told(capsys, "rm", "--yes", directory.run)
    assert not directory.path.exists()


def not_a_file(path):
    """Make a pipe, from which reading would block."""
    os.mkfifo(path)


#: What may be in the place of a file: bytes, or a function that makes something.
CONTENTS = {
    "empty": b"",
    "a pickle": None,  # the test makes it
    "deep": b"[" * 200_000,
    "deep object": b'{"calls":' * 100_000,
    "a huge number": b'{"calls": ' + b"9" * 9_000 + b"}",
    "infinite": b'{"time": Infinity, "created": NaN}',
    "null": b"null",
    "no text": b"\xff\xfe\x00{",
    "surrogate": b'{"run": "\\ud800", "title": "\\ud800\\u001b[31m"}',
    "of another version": b"condorpool-payload-1 python=3.11 frames=1\n.",
    "a folder": os.mkdir,
    "a pipe": not_a_file,
    "a link to an endless file": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
}

FILES = (
    "manifest.json 0.jobs 0.crew 1.call 1.facts 1-0.chunk 1-2.chunk 1-0.outcome 1-2.error 9.shared "
    "events.log".split()
)


@pytest.mark.parametrize("content", CONTENTS)
def test_one_file_does_not_stop_the_listing_of_others(make, marker, capsys, content):
    """Whatever is in its place; where that matters, it is named."""
    make("healthy")
    what = CONTENTS[content]
    for file in FILES:
        if (content, file) == ("surrogate", "1.facts"):
            continue  # these may be
        directory, entry = make("broken")
        path = directory.path / file
        path.unlink()
        if callable(what):
            what(path)
        else:
            path.write_bytes(pickle.dumps(Marker(marker)) if what is None else what)
        lines = told(capsys, "ls").splitlines()
        assert [WORDS in line for line in lines if "healthy" in line] == [True]
        of_this = [line for line in lines if directory.run in line]
        assert of_this, (file, lines)
        if file in ("manifest.json", "1.facts", "1-0.chunk", "1-2.chunk"):
            assert f"its file {file} cannot be read" in "".join(of_this)
            assert f"its file {file} cannot be read" in repr(condorpool.attach())
        assert directory.run in told(capsys, "show", directory.run)
        told(capsys, "ps")
        assert end(entry).owner is None, file
        assert directory.path.exists(), file
        (registry.state() / registry.KEPT / entry.file.name).unlink(missing_ok=True)
    assert len(registry.everything()) == 1


def test_a_directory_with_a_broken_file_can_be_removed(make, capsys):
    """By its own name."""
    directory, _ = make("broken")
    (directory.path / "1.facts").write_bytes(b"[" * 200_000)
    told(capsys, "rm", "--yes", directory.run)
    assert not directory.path.exists()


@pytest.mark.parametrize(
    ("file", "facts"),
    [
        ("1.facts", {"calls": "4"}),
        ("1.facts", {"calls": True}),
        ("1.facts", {"calls": 10**15}),
        ("1.facts", {"calls": -1}),
        ("1.facts", {"time": 1e300}),
        ("1.facts", {"time": "now"}),
        ("1.facts", {"crew": [1]}),
        ("1.facts", {"crew": 7}),
        ("1.facts", {"killstats": "Held"}),
        ("1.facts", {"style": "eval"}),
        ("1.facts", {"title": {"a": 1}}),
        ("1.facts", {"parts": [[0, 10**15, 0]]}),
        ("1.facts", {"parts": [[-5, 2, 0]]}),
        ("1.facts", {"cleanupfiles": [3]}),
        ("0.jobs", {"clusters": [[1, 10**12, None]]}),
        ("0.jobs", {"clusters": [[1, -1, None]]}),
        ("0.jobs", {"clusters": [[1]]}),
        ("0.jobs", {"clusters": {"1": 1}}),
        ("0.jobs", {"limit": "many"}),
        ("0.jobs", {"options": {"linger": "long"}}),
        ("0.jobs", {"options": {"initializer": {"path": "/tmp/x"}}}),
        ("0.jobs", {"options": {"initargs": 3}}),
        ("0.jobs", {"description": {"log": 3}}),
        ("1-2.error", {"end": 10**15}),
        ("1-2.error", {"end": -1}),
        ("1-2.error", {"kind": "SystemExit"}),
        ("1-2.error", {"reason": None}),
        ("1-0.chunk", {"end": 10**15}),
        ("1-0.chunk", {"end": "2"}),
        ("1-0.chunk", {"end": None}),
        ("1-0.chunk", {"end": -1}),
        ("1-0.outcome", {"count": 10**15, "calls": None}),
        ("1-0.outcome", {"count": "2", "calls": None}),
        ("1-0.outcome", {"mismatch": "x", "count": 10**15, "calls": None}),
        ("1-0.outcome", {"calls": [1] * 10_000}),
        ("1-0.outcome", {"calls": [["raise", "x", 1]]}),
        ("1-0.outcome", {"calls": [["eval", "x", 1, "y"]]}),
        ("1-0.outcome", {"calls": {}}),
        ("1-0.outcome", {"started": "x"}),
        ("1-0.outcome", {"printed": ["a"]}),
        ("1-0.outcome", {"prints": [[1]]}),
        ("manifest.json", {"pid": "x"}),
        ("manifest.json", {"run": "another"}),
        ("manifest.json", {"notebook": 3}),
    ],
)
def test_facts_that_cannot_be(make, capsys, file, facts):
    """Their directory is listed, and the others are as they were."""
    make("healthy")
    directory, entry = make("broken")
    path = directory.path / file
    if file.endswith((".chunk", ".outcome")):
        about, frames = container.read(str(path))
        container.write(str(path), {**about, **facts}, frames)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    lines = told(capsys, "ls").splitlines()
    assert [WORDS in line for line in lines if "healthy" in line] == [True]
    assert directory.run in "".join(lines)
    assert "healthy" in repr(condorpool.attach())
    told(capsys, "show", directory.run)
    told(capsys, "ls", "--json")
    assert end(entry).owner is None
    assert directory.path.exists()


def test_an_entry_that_cannot_be(make, capsys):
    """It is passed over."""
    _, entry = make("healthy")
    for number, text in enumerate(
        ("", "[" * 200_000, "3", '{"path": 3}', '{"path": "/", "origin": 3, "on_exit": "wait"}')
    ):
        (entry.file.parent / f"condorpool-{number}.json").write_text(text)
    assert len(told(capsys, "ls").splitlines()) == 2


def test_results_of_a_directory_with_a_broken_file_stay(make, capsys):
    """`rm` of one name does not delete what could not be seen."""
    directory, _ = make("scan")
    shutil.copy(directory.path / "1.facts", directory.path / "2.facts")
    (directory.path / "2.facts").write_text("{")
    capsys.readouterr()
    assert main(["rm", "--yes", "scan"]) == 1
    assert "has other calls, too" in capsys.readouterr().err
    assert directory.path.exists()


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, int, 1),
        (1, float, 1.0),
        (None, int | None, None),
        ([1, [2]], list[int | list[int]], [1, [2]]),
        ([[1, "a"]], tuple[tuple[int, str], ...], ((1, "a"),)),
        ({"a": [1]}, dict[str, tuple[int]], {"a": (1,)}),
    ],
)
def test_values_are_of_their_kind(value, kind, expected):
    """Sequences become what the annotation says."""
    found = plain.checked(value, kind)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int),
        (1.0, int),
        (2**60, int),
        (math.nan, float),
        (math.inf, float),
        (10**400, float),
        (True, float),
        ("a", list[str]),
        ([1], tuple[int, int]),
        ({"a": 1}, dict[str, str]),
        (3, str | None),
    ],
)
def test_values_of_another_kind(value, kind):
    """They raise the one error."""
    with pytest.raises(plain.PlainError):
        plain.checked(value, kind)


#: The modules that load pickles: see the table in runner/PROTOCOL.md.
LOADERS = {"runner/container.py"}


def test_where_pickles_are_loaded():
    """In one place, whose users the protocol lists."""
    package = Path(condorpool.__file__).parent
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                is_pickle = node.value.id in ("pickle", "cloudpickle", "_pickle", "marshal")
                if is_pickle and node.attr in ("load", "loads", "Unpickler"):
                    found.add(str(file.relative_to(package)))
    assert found == LOADERS
    protocol = (package / "runner" / "PROTOCOL.md").read_text()
    assert all(loader in protocol for loader in LOADERS)
