"""What another user puts in the place of a submit directory is neither read, run, nor deleted.

He may do that where he can write to the folder above: here that is done for him.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from planted import Planted

from condorpool.cleaner import custody, registry
from condorpool.cleaner.ending import Ending
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.engine import outcomes, ownership, payload, submitdir
from condorpool.engine.records import BatchRecord
from condorpool.engine.submitdir import SubmitDir, Token
from condorpool.interface import sessions
from condorpool.interface.leftovers import leftovers
from condorpool.runner import container
from condorpool.values.exceptions import CondorPoolError, SubmitError

OTHER = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="left out: only root can be two users")


@pytest.fixture(autouse=True)
def mark(tmp_path):
    """Check that nothing planted was unpickled."""
    mark = tmp_path / "unpickled"
    yield mark
    assert not mark.exists()


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Return the folder of a registry for this test alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return registry.state()


@pytest.fixture
def directory(tmp_path):
    """Make a submit directory with one batch, in a folder that others may write to."""
    base = tmp_path / "group"
    base.mkdir()
    base.chmod(0o777)
    directory = SubmitDir.new(base)
    directory.make()
    directory.make_crew(1)
    directory.record(submitdir.facts_name(2), BatchRecord(crew=1, title="f", calls=1, time=1.0))
    payload.write_chunk(directory / submitdir.chunk_name(2, 0), [1], 0)
    yield directory
    ownership.release(directory.path)


@pytest.fixture
def entry(directory, state):
    """Register it for a process that has ended."""
    folder = state / str(replace(Owner.this(), start=0))
    folder.mkdir()
    file = folder / f"{directory.run}.json"
    ownership.release(directory.path)
    return Entry(file, directory.path, {"personal": "/nowhere"}, "wait").write()


def plant(folder, mark):
    """Fill a folder with files of another user's, with the names of all that is read."""
    folder.mkdir(exist_ok=True)
    evil = [pickle.dumps(Planted(str(mark)))]
    about = {"calls": None, "count": 1, "host": "h", "python": "3", "job": "1.0", "end": 1}
    for name in ("1.crew", "2.call", "2-0.chunk", "2-0.outcome", "3.shared"):
        container.write(str(folder / name), about, evil)
    for name in ("1.posted", "1.taken", "1.made"):
        (folder / name).mkdir()
    (folder / "1.posted" / "2-0-1-0").touch()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER, OTHER)


def attack(directory, mark, how):
    """Rename a submit directory, and put something else in its place; return what it is now."""
    moved = directory.path.rename(directory.path.with_name("moved"))
    if how == "folder":
        plant(directory.path, mark)
        (directory.path / "manifest.json").write_bytes((moved / "manifest.json").read_bytes())
    elif how == "link":
        target = directory.path.with_name("target")
        plant(target, mark)
        directory.path.symlink_to(target)
    elif how == "open folder of this user":
        plant(directory.path, mark)
        (directory.path / "manifest.json").write_bytes((moved / "manifest.json").read_bytes())
        os.chown(directory.path, os.geteuid(), -1)
        directory.path.chmod(0o777)
    elif how == "file":
        directory.path.write_text("his")
    return moved


def files(folder):
    """Return the paths of all in a folder, and what is in its files."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


HOW = ["folder", "link", "open folder of this user", "file", "nothing"]


@pytest.mark.parametrize("how", HOW)
class TestHeld:
    """A submit directory in use."""

    def test_it_is_read_and_written_where_it_is_now(self, directory, mark, how):
        """Whatever is at its path."""
        moved = attack(directory, mark, how)
        before = files(directory.path)
        assert directory.displaced == f"was moved to {moved}"
        assert directory.batches().keys() == {2}
        assert outcomes.look_at(directory / submitdir.outcome_name(2, 0)) is None
        assert directory.ends(2) == {0: 1}
        directory.post(1, [Token(2, 0, 1, 0)])
        assert os.listdir(moved / "1.posted") == ["2-0-1-0"]
        assert [token.first for token in directory.tokens(1)] == [0]
        directory.write("new", b"x")
        assert (moved / "new").read_bytes() == b"x"
        with pytest.raises(SubmitError, match=r"was moved to .*moved\. Nothing was submitted"):
            directory.check_place()
        assert files(directory.path) == before

    def test_it_is_deleted_where_it_is_now(self, directory, mark, how):
        """And nothing else."""
        moved = attack(directory, mark, how)
        around = directory.path.parent
        before = {path: text for path, text in files(around).items() if moved not in path.parents}
        directory.remove()
        del before[moved]
        assert files(around) == before

    def test_it_is_not_found(self, directory, mark, how):
        """By another process, that is."""
        attack(directory, mark, how)
        assert SubmitDir.found(directory.path) is None


@pytest.mark.parametrize("how", HOW[:-1])
class TestLeftBehind:
    """A submit directory whose owner has ended."""

    def test_the_cleaner_keeps_it(self, directory, entry, mark, how):
        """Nothing is deleted, and the note says why."""
        moved = attack(directory, mark, how)
        before = files(directory.path.parent)
        Ending(entry).step(entry)
        (kept,) = registry.everything()
        assert kept.owner is None
        assert str(directory.path) in kept.note
        assert "Move the submit directory back" in kept.note
        assert files(directory.path.parent) == before
        assert moved.exists()

    def test_a_cleaner_that_has_begun_keeps_it(self, directory, entry, mark, how):
        """It holds the lock of the directory that was moved."""
        ending = Ending(entry)
        ending.step(entry)
        assert registry.everything()[0].owner
        moved = attack(directory, mark, how)
        before = files(directory.path.parent)
        for _ in range(3):
            for known in registry.everything():
                if known.owner:
                    ending.step(known)
            time.sleep(0.01)
        assert registry.everything()[0].owner is None
        assert {
            p: t for p, t in files(directory.path.parent).items() if moved not in p.parents
        } == {p: t for p, t in before.items() if moved not in p.parents}
        assert (moved / "2-0.chunk").exists()

    def test_it_is_not_listed_or_taken_up(self, directory, entry, mark, how):
        """Until it is moved back."""
        moved = attack(directory, mark, how)
        assert not leftovers()
        with pytest.raises(CondorPoolError, match=r"try again|cleaned up"):
            custody.take_up(entry, "wait", entry.origin)
        if directory.path.is_dir() and not directory.path.is_symlink():
            shutil.rmtree(directory.path)
        else:
            directory.path.unlink()
        moved.rename(directory.path)
        assert SubmitDir.found(directory.path)


def test_files_of_other_users_are_not_unpickled_in_a_job(tmp_path, mark, monkeypatch):
    """On a shared file system it finds them by their path."""
    monkeypatch.setattr(container, "owners", {0})
    folder = tmp_path / "folder"
    plant(folder, mark)
    for name in ("2.call", "2-0.outcome"):
        for read in (container.read, container.read_about):
            with pytest.raises(ValueError, match=f"belongs to user {OTHER}"):
                read(str(folder / name))


def test_a_folder_is_not_filled_that_was_put_in_place_of_a_new_one(tmp_path, monkeypatch):
    """Not even another one of this user's."""
    directory = SubmitDir.new(tmp_path)
    mkdir = Path.mkdir

    def swapped(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)
        if path == directory.path:
            (path / "file").touch()

    monkeypatch.setattr(Path, "mkdir", swapped)
    with pytest.raises(SubmitError, match="another folder was put in its place"):
        directory.make()


@pytest.mark.parametrize("umask", [0, 0o002, 0o077])
def test_all_is_private_whatever_the_umask(tmp_path, umask):
    """Also the folder around it may only be read."""
    before = os.umask(umask)
    try:
        directory = SubmitDir.new(tmp_path / "a" / "b")
        directory.make()
        directory.make_crew(1)
        directory.close_crew(1)
        directory.post(1, [Token(2, 0, 1, 0)])
        payload.write_chunk(directory / submitdir.chunk_name(2, 0), [1], 0)
    finally:
        os.umask(before)
    ownership.release(directory.path)
    for path in (directory.path, *directory.path.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        assert path.stat().st_mode & 0o022 == 0


def test_users_are_told_once_of_folders_that_others_may_write_to(
    directory, tmp_path, monkeypatch, capsys
):
    """Of that around the submit directory, and of the one that stands in for the registry's."""
    sessions._tell_once.cache_clear()
    for _ in range(2):
        sessions._tell_risks(directory.path)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(
        f"condorpool: {directory.path.parent} can be written to by other users"
    )
    assert "Pool(submitdir=...)" in told[0]
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "open"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        sessions._tell_risks(tmp_path / "mine")
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'open'} can be written to by other users" in told
    assert "XDG_STATE_HOME" in told


@pytest.mark.parametrize(("owner", "mode"), [(0, 0o775), (0, 0o755), (OTHER, 0o755)])
def test_a_deleted_directory_that_htcondor_has_made_again(directory, entry, owner, mode):
    """It belongs to root, or to the account of root's personal HTCondor, and holds its files only."""
    shutil.rmtree(directory.path)
    directory.path.mkdir()
    directory.path.chmod(mode)
    (directory.path / "events.log").touch()
    os.chown(directory.path, owner, -1)
    ending, end = Ending(entry), time.monotonic() + 30
    while registry.everything():
        assert time.monotonic() < end
        ending.step(entry)
        time.sleep(0.05)
    assert not directory.path.exists()
