"""Which folders can be trusted, and that a held one stays the same."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from condorpool import personal
from condorpool.values import folders
from condorpool.values.exceptions import PersonalError
from condorpool.values.folders import HeldFolder, weakness

OTHER = 65534


@pytest.fixture
def place(tmp_path):
    """Return a folder of this user's in one of this user's."""
    folder = tmp_path / "around" / "folder"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o755)
    return folder


def test_a_folder_of_ones_own_is_trusted(place):
    """Also through a link, if no other user can change that; and what is missing is not looked at."""
    assert weakness(place) == ""
    link = place / "link"
    link.symlink_to("../folder/../folder")
    assert weakness(link / "missing" / "file") == ""


def test_the_folder_for_temporary_files_is_trusted_above_a_folder_of_ones_own(place):
    """The sticky bit keeps others from renaming it, not from adding files."""
    place.parent.chmod(0o1777)
    assert weakness(place) == ""
    assert weakness(place.parent) == f"{place.parent} can be written to by other users"


@pytest.mark.parametrize(
    ("mode", "writers"),
    [
        pytest.param(0o777, "other users", id="all"),
        pytest.param(0o2775, "group 12345", id="a group"),
        pytest.param(0o770, "group 12345", id="a group alone"),
    ],
)
@pytest.mark.parametrize("above", [0, 1])
def test_a_folder_that_others_may_write_to_is_not(place, mode, writers, above):
    """Nor is anything below it: they could rename each folder and put their own there."""
    if os.geteuid():
        pytest.skip("left out: only root may use another group")
    weak = [place, place.parent][above]
    os.chown(weak, -1, 12345)
    weak.chmod(mode)
    assert weakness(place) == f"{weak} can be written to by {writers}"


@pytest.mark.parametrize("gid", [0, os.geteuid()])
def test_a_group_of_ones_own_is_trusted(place, gid):
    """And root's."""
    if os.geteuid():
        pytest.skip("left out: only root may use another group")
    os.chown(place.parent, -1, gid)
    place.parent.chmod(0o2775)
    assert weakness(place) == ""


def test_modes_that_mean_nothing(place, monkeypatch):
    """On file systems such as AFS, access lists decide, and modes are whatever they are."""
    place.chmod(0o777)
    assert weakness(place)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    monkeypatch.setattr(
        folders, "OTHER_RULES", {line.split(" - ")[1].split()[0] for line in mounts}
    )
    assert weakness(place) == ""


def test_an_access_list_is_no_group_of_ones_own(place):
    """The bits of the group say what all in the list may do at most."""
    place.parent.chmod(0o755)
    try:
        # Version 2; user rwx, user 12345 rwx, group r-x, mask rwx, others r-x.
        entries = [(1, 7, -1), (2, 7, 12345), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
        text = (2).to_bytes(4, "little")
        for tag, bits, who in entries:
            text += tag.to_bytes(2, "little") + bits.to_bytes(2, "little")
            text += (who & 0xFFFFFFFF).to_bytes(4, "little")
        os.setxattr(place.parent, "system.posix_acl_access", text)
    except OSError:
        pytest.skip("left out: this file system has no access lists")
    assert weakness(place) == f"{place.parent} can be written to by the users in its access list"


@pytest.mark.skipif(os.geteuid() != 0, reason="left out: only root can be two users")
def test_folders_and_links_of_others_are_not_trusted(place):
    """The owner may be trusted above the folder itself, and that of a link never."""
    link = place.parent / "link"
    link.symlink_to(place)
    os.chown(link, OTHER, -1, follow_symlinks=False)
    assert weakness(link / "x").startswith(f"{link} belongs to user ")
    link.unlink()
    os.chown(place.parent, OTHER, -1)
    assert weakness(place).startswith(f"{place.parent} belongs to user ")
    assert weakness(place, trust_owners=True) == ""
    os.chown(place, OTHER, -1)
    assert weakness(place, trust_owners=True).startswith(f"{place} belongs to user ")


def test_owners_above_the_home_folder_are_trusted(place, monkeypatch):
    """They can do anything with it anyway."""
    if os.geteuid():
        pytest.skip("left out: only root can be two users")
    os.chown(place.parent, OTHER, -1)
    monkeypatch.setenv("HOME", str(place))
    assert weakness(place / "x") == ""


@pytest.mark.parametrize("umask", [0, 0o077])
def test_folders_are_made_private_whatever_the_umask(tmp_path, umask):
    """Also those above."""
    before = os.umask(umask)
    try:
        folders.make(tmp_path / "a" / "b")
        assert folders.private(tmp_path / "c" / "d") == ""
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "c", "c/d"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["state", "cache"])
def test_there_may_be_no_home(monkeypatch, kind):
    """A path that begins with ``~`` would be one in the working directory."""
    assert folders.in_home(kind).name == "condorpool"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # the user has no name
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert folders.in_home(kind) is None
    assert folders.private(None) == "there is no home folder"


class TestHeldFolder:
    """A folder that is held open stays the same, whatever its path names."""

    @pytest.fixture
    def held(self, place):
        """Hold a folder with one file."""
        (place / "file").write_text("mine")
        held = HeldFolder(place)
        held.open()
        return held

    def test_it_may_be_renamed(self, held, place):
        """What is put in its place is not seen."""
        assert held.is_in_place
        moved = place.rename(place.with_name("moved"))
        assert not held.is_in_place
        place.mkdir()
        (place / "file").write_text("theirs")
        assert not held.is_in_place
        assert Path(held / "file").read_text() == "mine"
        assert held.place == moved
        place.joinpath("file").unlink()
        place.rmdir()
        place.symlink_to(moved)
        assert not held.is_in_place

    def test_a_link_is_refused(self, place):
        """It may lead to any folder of this user's."""
        link = place / "link"
        link.symlink_to(place)
        with pytest.raises(PermissionError, match="is not a folder"):
            HeldFolder(link).open()

    def test_a_file_is_refused(self, place):
        """It is no folder."""
        (place / "file").touch()
        with pytest.raises(PermissionError, match="is not a folder"):
            HeldFolder(place / "file").open()

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
    def test_one_that_others_may_write_to_is_refused(self, place, mode):
        """Whose it is says nothing about its files."""
        place.chmod(mode)
        with pytest.raises(PermissionError, match="can be written to by other users"):
            HeldFolder(place).open()

    @pytest.mark.skipif(os.geteuid() != 0, reason="left out: only root can be two users")
    def test_one_of_another_user_is_refused(self, place):
        """Each time it is opened."""
        held = HeldFolder(place)
        held.open()
        held.close()
        os.chown(place, OTHER, -1)
        with pytest.raises(PermissionError, match="belongs to user"):
            held.names()

    def test_it_is_closed_with_its_last_file(self, place):
        """Descriptors do not add up, and no file in use is in another folder."""
        before = len(os.listdir("/proc/self/fd"))
        file = HeldFolder(place) / "file"
        Path(file).touch()
        assert file.exists()
        assert len(os.listdir("/proc/self/fd")) == before + 1
        del file
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_child_process_may_close_its_own(self, held):
        """That of its parent stays open."""
        pid = os.fork()
        if not pid:
            held.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert Path(held / "file").read_text() == "mine"


@pytest.mark.parametrize(("mode", "is_safe"), [(0o1777, True), (0o777, False), (0o755, True)])
def test_a_personal_htcondor_needs_a_safe_folder_for_temporary_files(
    tmp_path, monkeypatch, mode, is_safe
):
    """Others could put their configuration there, and so their programs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CONDORPOOL_PERSONAL", raising=False)
    tmp_path.chmod(mode)
    folder = personal.folders.resolve(None)
    with (
        contextlib.nullcontext()
        if is_safe
        else pytest.raises(PersonalError, match=f"{tmp_path} can be written to by other users")
    ):
        personal.folders._make(folder)
    assert folder.exists() is is_safe
