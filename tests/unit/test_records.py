"""Records for other processes, which may have another version of condorpool."""

from __future__ import annotations

import pytest

from condorpool.engine import submitdir
from condorpool.engine.description import JobOptions
from condorpool.engine.records import (
    BatchRecord,
    CrewRecord,
    ErrorRecord,
    Manifest,
    Submission,
)
from condorpool.engine.submitdir import SubmitDir, Token
from condorpool.runner import names
from condorpool.values.exceptions import JobFailedError, JobRemovedError, TaskTimeoutError


@pytest.fixture
def directory(tmp_path):
    """Return a submit directory that this process owns."""
    directory = SubmitDir.new(tmp_path)
    directory.make(lease=60.0, queue="here", notebook="a.ipynb")
    yield directory
    directory.remove()


def test_records_are_read_as_they_were_written(directory):
    """They are found by their numbers."""
    batch = BatchRecord(
        crew=1, title="f", name="n", calls=3, killstats=("Held",), parts=((0, 2, 0),)
    )
    crew = CrewRecord("f", 4, options={"cpus": 2}, clusters=[Submission(7, 2, (0, 1))])
    directory.record(submitdir.facts_name(2), batch)
    directory.record(submitdir.jobs_name(1), crew)
    assert directory.batches() == {2: batch}
    assert directory.crews() == {1: crew}
    assert SubmitDir.found(directory.path).manifest == directory.manifest


#: What NFS, editors, file managers and interrupted copies make of these names.
FOREIGN = (
    ".nfs00000000{}", ".{}.swp", "{}~", "#{}#", ".#{}", "{} (copy)", "Copy of {}", "{}.tmp", "x-{}",
    "{}.bak", "4913", "1", "CLOSED", "{}-5",
)  # fmt: skip


def test_files_that_are_not_ours_are_ignored(directory):
    """Wherever they are in the submit directory."""
    directory.make_crew(0)
    posted, taken = Token(2, 0, 3, 0), Token(2, 3, 5, 3, "12.0")
    directory.post(0, [posted])
    (directory.path / submitdir.taken_name(0) / str(taken)).touch()
    (directory.path / submitdir.chunk_name(2, 0)).touch()
    for number in (2, 10):
        directory.record(submitdir.facts_name(number), BatchRecord(crew=0, title="f"))
    directory.record(submitdir.error_name(2, 3), ErrorRecord.of(JobRemovedError("1.0", "x"), 5))
    directory.record(submitdir.jobs_name(0), CrewRecord())
    (directory.path / submitdir.shared_name(7)).touch()
    for file in [file for file in directory.path.rglob("*") if file.is_file()]:
        for foreign in FOREIGN:
            file.with_name(foreign.format(file.name)).write_text("no record")
    assert sorted(directory.tokens(0)) == [posted, taken]
    assert [each.token for each in directory.taken(0)] == [taken]
    assert sorted(directory.batches()) == [2, 10]
    assert sorted(directory.errors(2)) == [3]
    assert list(directory.crews()) == [0]
    assert directory.chunks() == ({(2, 0)}, set())
    assert directory.numbers_shared() == [7]


@pytest.mark.parametrize("name", ["1-0-4-0", "12-3-4-0"])
def test_runners_take_only_tokens(name):
    """The client and the runner agree on what is one."""
    assert names.is_token(name)
    assert Token.named(name)
    for foreign in FOREIGN:
        assert not names.is_token(foreign.format(name))
        assert Token.named(f"{foreign.format(name)}@1.0") is None
        assert Token.named(foreign.format(f"{name}@1.0")) is None


def test_options_are_restored():
    """Only the initializer is not: it is in the crew's own file."""
    options = JobOptions(processes=3, killstats=("Held",), cleanupfiles=("a", "b"))
    written = CrewRecord.parse(str(CrewRecord(options=options.recorded()))).options
    assert JobOptions.restored({**written, "later": 1}) == options


@pytest.mark.parametrize(
    "error",
    [
        JobFailedError("7.1", "it exited with code 1", host="h", stderr="e", hint="Look."),
        JobRemovedError("7.1", "no reason was given", host="h"),
        TaskTimeoutError("7.1", "too long", stderr="where"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_restored(error):
    """It has the same class and the same text."""
    restored = ErrorRecord.parse(str(ErrorRecord.of(error, 3))).error()
    assert type(restored) is type(error)
    assert str(restored) == str(error)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        pytest.param(
            BatchRecord,
            '{"crew": 2, "title": "f", "name": "", "digest": "d", "style": "starmap", "calls": 4,'
            ' "time": 1.5, "cell": 3, "killstats": ["Held"], "cleanup": true,'
            ' "cleanfailed": false, "cleanupfiles": []}',
            BatchRecord(2, "f", "", "d", "starmap", 4, 1.5, 3, ("Held",), True, False, ()),
            id="batch",
        ),
        pytest.param(
            CrewRecord,
            '{"name": "f", "limit": 2, "is_resident": false, "options": {"cpus": 1},'
            ' "description": {"log": "events.log"}, "clusters": [[7, 2, [0, 5]], [8, 1, null]]}',
            CrewRecord(
                "f", 2, False, {"cpus": 1}, {"log": "events.log"},
                [Submission(7, 2, (0, 5)), Submission(8, 1, None)],
            ),
            id="crew",
        ),
        pytest.param(
            ErrorRecord,
            '{"end": 2, "kind": "JobFailedError", "job_id": "7.0", "reason": "r", "host": "h",'
            ' "stderr": "", "hint": ""}',
            ErrorRecord(2, "JobFailedError", "7.0", "r", "h"),
            id="error",
        ),
        pytest.param(
            Manifest,
            '{"run": "condorpool-1", "host": "h", "pid": 1, "created": 2.5, "program": "p",'
            ' "lease": 60.0, "queue": "q", "kernel": "", "notebook": "n"}',
            Manifest("condorpool-1", "h", 1, 2.5, "p", 60.0, "q", "", "n"),
            id="manifest",
        ),
    ],
)  # fmt: skip
def test_what_version_1_wrote_is_read(kind, text, expected):
    """The names of fields are those of the first version."""
    assert kind.parse(text) == expected


@pytest.mark.parametrize("kind", [Manifest, BatchRecord, CrewRecord, ErrorRecord])
def test_other_versions_may_have_other_fields(kind):
    """Unknown ones are ignored, missing ones have their default."""
    assert kind.parse('{"from a later version": 1}') == kind()


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_broken_is_no_record(text, tmp_path):
    """A folder with such a manifest is no submit directory."""
    with pytest.raises(ValueError):
        BatchRecord.parse(text)
    (tmp_path / submitdir.MANIFEST).write_text(text)
    assert SubmitDir.found(tmp_path) is None


@pytest.mark.parametrize("name", ["condorpool-1", ".condorpool-1"])
def test_submit_directories_of_all_versions_are_found(name, tmp_path):
    """Those of the first versions were not hidden; the name that users type is the same."""
    directory = SubmitDir(tmp_path / name)
    directory.make()
    found = SubmitDir.found(tmp_path / name)
    assert found
    assert found.run == found.manifest.run == "condorpool-1"
    found.remove()


def test_new_submit_directories_are_hidden(tmp_path):
    """They would clutter a file browser."""
    directory = SubmitDir.new(tmp_path)
    assert directory.path.name == f".{directory.run}"


@pytest.mark.parametrize(
    ("name", "is_script"),
    [("run.py", True), ("ipython", False), ("ipykernel_launcher.py", False), ("", False)],
)
def test_what_names_belong_to(name, is_script, tmp_path, monkeypatch):
    """A script is one; a shell is the same file for all, so that its folder counts."""
    monkeypatch.chdir(tmp_path)
    if name:
        (tmp_path / name).touch()
    monkeypatch.setattr("sys.argv", [name])
    expected = str(tmp_path / name) if is_script else str(tmp_path)
    assert submitdir.program.__wrapped__() == expected
    monkeypatch.setattr("sys.argv", ["-c"])
    assert submitdir.program.__wrapped__() == str(tmp_path)
