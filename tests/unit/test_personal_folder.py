"""The folder of a personal HTCondor, whose files other programs delete."""

import fcntl
import itertools
import os
import time

import pytest

from condorpool.personal import folders, guardian


@pytest.fixture
def files(tmp_path):
    """Return the files of a folder as they are when HTCondor runs, after a first look."""
    for name in guardian.KEPT:
        if name.startswith("local") and not name.endswith("_address"):
            (tmp_path / name).mkdir(mode=0o700)
        else:
            (tmp_path / name).write_text(f"this is {name}")
            os.utime(tmp_path / name, (10, 20))
    (tmp_path / "local/execute").chmod(0o755)
    files = guardian.Files(tmp_path)
    files.look()
    return files


def about(files):
    """Return what must stay the same of each file."""
    found = {}
    for name in guardian.KEPT:
        path = files.folder / name
        facts = path.lstat()
        is_file = path.is_file()
        content = (path.read_text(), facts.st_mtime_ns) if is_file else None
        found[name] = facts.st_mode, facts.st_uid, facts.st_gid, content
    return found


def delete(path):
    """Delete a file, or a folder with all that is in it."""
    if path.is_dir():
        for entry in path.iterdir():
            delete(entry)
        path.rmdir()
    elif path.exists():
        path.unlink()


def test_what_was_deleted_is_made_again(files):
    """Each file and folder, each pair of them, and all at once."""
    before = about(files)
    pairs = itertools.combinations_with_replacement(guardian.KEPT, 2)
    for names in [*pairs, guardian.KEPT]:
        for name in names:
            delete(files.folder / name)
        files.look()
        assert about(files) == before, names


def test_what_has_changed_is_made_again_as_it_was_last(files):
    """A daemon that was restarted has a new address."""
    path = files.folder / "local/run/schedd_address"
    path.write_text("another")
    files.look()
    path.unlink()
    files.look()
    assert path.read_text() == "another"


def test_cleaners_of_temporary_folders_leave_it_alone(files):
    """systemd-tmpfiles skips a folder that is locked; others look at the time of access."""
    other = os.open(files.folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    deep = files.folder / "local/execute/dir_1"
    deep.mkdir()
    (deep / "input").touch()
    (deep / "link").symlink_to("/nowhere")
    everything = [files.folder, *files.folder.rglob("*")]
    for path in everything:
        os.utime(path, (10, 20), follow_symlinks=False)
    files.touch_at = 0
    files.look()
    for path in everything:
        facts = path.lstat()
        assert facts.st_atime > time.time() - 100
        assert facts.st_mtime == 20


def test_links_of_others_are_not_followed(files, tmp_path_factory):
    """The daemons' account, under which root's jobs run, may write below ``local``."""
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_text("secret")
    path = files.folder / "local/run/schedd_address"
    path.unlink()
    path.symlink_to(outside)
    files.look()
    path.unlink()
    files.look()
    assert not path.exists()
    path.parent.rename(files.folder / "moved")
    path.parent.symlink_to(outside.parent)
    files.look()
    assert os.listdir(outside.parent) == ["secret"]


def test_a_folder_is_known_by_any_of_its_marks(files):
    """Not as one with other files, which is never deleted."""
    for name in (guardian.ALIVE_LOCK, guardian.STATE):
        (files.folder / name).touch()
    files.folder.chmod(0o700)
    assert folders.is_made(files.folder)
    (files.folder / guardian.START_LOCK).unlink()
    (files.folder / guardian.STATE).unlink()
    assert folders.is_made(files.folder)
    (files.folder / guardian.ALIVE_LOCK).unlink()
    assert not folders.is_made(files.folder)


def test_who_uses_it_knows_that_it_was_stopped(tmp_path):
    """Even after the folder was deleted, and until it is used again."""
    folder = tmp_path / "personal"
    folder.mkdir(mode=0o700)
    assert folders.use(folder)
    assert not folders.was_stopped(folder)
    folders.note_stop(folder)
    (folder / guardian.USERS_LOCK).unlink()
    assert folders.was_stopped(folder)
    folders.unuse(folder)
    assert folders.was_stopped(folder)
    assert folders.use(folder)
    assert not folders.was_stopped(folder)
    folders.unuse(folder)
