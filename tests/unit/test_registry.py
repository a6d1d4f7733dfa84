"""Who owns a directory: names of owners, entries that move, locks that end with a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from condorpool.cleaner import registry
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.engine import ownership
from condorpool.engine.submitdir import SubmitDir
from condorpool.personal import guardian
from condorpool.values.exceptions import CondorPoolError


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Return the folder of a registry for this test alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return registry.state()


@pytest.fixture
def entry(state, tmp_path):
    """Register a directory of this process."""
    folder = state / str(Owner.this())
    folder.mkdir()
    place = {"schedd": "a", "collector": "b"}
    return Entry(folder / "condorpool-1.json", tmp_path / "condorpool-1", place, "wait").write()


class TestOwner:
    """A process has a name that no other ever has."""

    def test_it_is_read_back_from_its_name(self):
        """Also with dots and dashes in the host's name."""
        owner = replace(Owner.this(), host="node-1.example.org")
        assert Owner.named(str(owner)) == owner
        for other in ("kept", "cleaner.log", "1-2-3@host", "x-1-2-3@host"):
            assert Owner.named(other) is None

    @pytest.mark.parametrize(
        ("changes", "is_alive"),
        [
            pytest.param({}, True, id="this process"),
            pytest.param({"start": 1}, False, id="its id, reused"),
            pytest.param({"boot": "before"}, False, id="before a reboot"),
            pytest.param({"space": "1"}, False, id="another container of this host"),
            pytest.param({"host": "elsewhere", "start": 1}, True, id="another host"),
        ],
    )
    def test_is_alive(self, changes, is_alive):
        """An owner that cannot be seen from here counts as alive."""
        assert replace(Owner.this(), **changes).is_alive is is_alive


class TestEntry:
    """What the registry knows about a directory."""

    def test_it_is_read_as_it_was_written(self, entry):
        """Also when it was changed."""
        entry.change(on_exit="keep")
        assert registry.entries(entry.file.parent) == [replace(entry, on_exit="keep")]
        assert entry.file.stat().st_mode & 0o777 == 0o600

    def test_its_work_may_be_resumed_elsewhere(self, entry):
        """The cleaner then looks for its jobs there."""
        entry.change(origin={"schedd": "c"})
        assert registry.entries(entry.file.parent)[0].origin == {"schedd": "c"}

    def test_another_version_may_have_written_it(self, entry):
        """Unknown fields are ignored."""
        text = entry.file.read_text()
        entry.file.write_text(text.replace("{", '{"later": 1, ', 1))
        assert registry.entries(entry.file.parent) == [entry]

    def test_it_belongs_to_the_folder_that_it_was_moved_to(self, entry, state):
        """Its note moves along; a second process that moves it gets an error."""
        entry.say("waits")
        moved = entry.move(state / registry.KEPT)
        assert (moved.owner, moved.note) == (None, "waits")
        with pytest.raises(FileNotFoundError):
            entry.move(state / registry.KEPT)
        moved.discard()
        assert not list(registry.everything())

    @pytest.mark.parametrize("places", [("kept", "a"), ("a", "kept"), ("a", "b"), ("b", "a")])
    def test_it_is_not_missed_while_it_moves(self, entry, state, monkeypatch, places):
        """Whenever another process moves it, it is listed once."""
        owners = {name: str(replace(Owner.this(), host=name)) for name in "ab"} | {"kept": "kept"}
        for owner in owners.values():
            (state / owner).mkdir()
        begin, end = (state / owners[place] for place in places)
        read = registry.entries
        for moment in range(7):
            there = entry.move(begin)
            moments = iter(range(100))

            def entries(folder, there=there, moments=moments, moment=moment):
                if next(moments) == moment:
                    there.move(end)
                return read(folder)

            with monkeypatch.context() as patch:
                patch.setattr(registry, "entries", entries)
                assert [found.run for found in registry.everything()] == [entry.run]
            (entry,) = registry.everything()

    @pytest.mark.parametrize("on_exit", ["w", "a much longer word " * 20])
    def test_a_change_does_not_bring_it_back(self, entry, state, on_exit):
        """What another process has moved is not changed, and not made anew in the old folder."""
        changed = entry.change(on_exit=on_exit).change(on_exit=on_exit[:5])
        moved = entry.move(state / registry.KEPT)
        with pytest.raises(FileNotFoundError):
            entry.change(on_exit="delete")
        assert registry.entries(entry.file.parent) == []
        assert registry.entries(state / registry.KEPT) == [replace(changed, file=moved.file)]

    def test_files_that_are_no_entries_are_skipped(self, entry):
        """The other entries are still found."""
        entry.file.with_name("other.json").write_text("{")
        entry.file.with_name("more.json").write_text('{"path": "/x"}')
        entry.file.with_name("condorpool-1 (copy).json").write_text(entry.file.read_text())
        for name in (".nfs0000000000", f".{entry.file.name}.swp", f"{entry.file.name}~"):
            entry.file.with_name(name).write_text(entry.file.read_text())
        assert registry.entries(entry.file.parent) == [entry]

    def test_the_log_is_bounded(self, state, monkeypatch):
        """The previous one is kept beside it."""
        monkeypatch.setattr(registry, "LOG_SIZE", 1000)
        for number in range(100):
            registry.log(f"line {number}")
        logs = {file.name: file.stat().st_size for file in state.glob("cleaner.log*")}
        assert set(logs) == {"cleaner.log", "cleaner.log.old"}
        assert max(logs.values()) < 1100

    def test_a_folder_that_other_users_can_write_to_is_not_trusted(self, state):
        """The registry is in another one."""
        state.chmod(0o777)
        assert registry.state() != state


def run(code, *arguments):
    """Run code in another process; return what it printed."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


class TestOthers:
    """What other users of the machine have put there is not believed."""

    @pytest.fixture
    def home(self, tmp_path, monkeypatch):
        """Return the folder of the registry's, and make one for temporary files."""
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
        (tmp_path / "tmp").mkdir()
        (tmp_path / "tmp").chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        return tmp_path / "home"

    def spoiled(self, home, spoil):
        """Spoil the usual folder."""
        folder = home / "condorpool"
        folder.mkdir(parents=True)
        if spoil == "open to others":
            folder.chmod(0o777)
        elif spoil == "below one that is open":
            folder.parent.chmod(0o777)
        else:
            folder.rmdir()
            folder.write_text("")
        return folder

    @pytest.mark.parametrize("spoil", ["open to others", "below one that is open", "no folder"])
    def test_the_folder_for_temporary_files_is_used_and_the_reason_given(
        self, tmp_path, home, spoil
    ):
        """Users are told."""
        folder = self.spoiled(home, spoil)
        fallback = tmp_path / "tmp" / guardian.shared_name() / "state"
        assert registry.state() == fallback
        assert fallback.stat().st_mode & 0o777 == fallback.parent.stat().st_mode & 0o777 == 0o700
        assert str(folder.parent) in registry.why_elsewhere()

    def test_a_usual_folder_has_no_reason(self, tmp_path, home):
        """Also one that a link of this user's leads to."""
        (tmp_path / "big").mkdir()
        home.symlink_to("big")
        assert registry.state().samefile(tmp_path / "big" / "condorpool")
        assert registry.why_elsewhere() == ""

    def test_a_home_that_is_not_known(self, tmp_path, home, monkeypatch):
        """No folder called ``~`` is made."""
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # the user has no name
        monkeypatch.chdir(tmp_path)
        assert registry.state() == tmp_path / "tmp" / guardian.shared_name() / "state"
        assert registry.why_elsewhere() == "there is no home folder"
        assert not (tmp_path / "~").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="left out: only root can be two users")
    @pytest.mark.parametrize("planted", ["folder", "link", "state"])
    def test_a_fallback_of_another_user_is_refused(self, tmp_path, home, planted):
        """The error says what to do."""
        self.spoiled(home, "no folder")
        around = tmp_path / "tmp" / guardian.shared_name()
        if planted == "link":
            (tmp_path / "his").mkdir()
            around.symlink_to(tmp_path / "his")
            os.chown(around, 65534, 65534, follow_symlinks=False)
        else:
            (around / "state").mkdir(parents=True)
            os.chown(around if planted == "folder" else around / "state", 65534, 65534)
        with pytest.raises(CondorPoolError, match=r"belongs to user .* Set XDG_STATE_HOME"):
            registry.state()
        assert not list(around.glob("state/*"))

    @pytest.mark.skipif(os.geteuid() != 0, reason="left out: only root can be two users")
    def test_an_entry_of_another_user_is_none(self, entry):
        """Others may have been able to write there earlier."""
        os.chown(entry.file, 65534, -1)
        assert registry.everything() == []
        os.chown(entry.file, 0, -1)
        assert registry.everything() == [entry]
        os.chown(entry.file.parent, 65534, -1)
        assert registry.everything() == []

    @pytest.mark.parametrize("path", ["/home/user", "/x/.condorpool-2", "jobs/condorpool-1", "/"])
    def test_an_entry_is_for_a_submit_directory_of_its_name(self, entry, path):
        """No other folder may be deleted."""
        entry.change(path=Path(path))
        assert registry.everything() == []


class TestOwnership:
    """One process owns a directory."""

    ACQUIRE = (
        "import sys; from pathlib import Path; from condorpool.engine import ownership\n"
        "print(ownership.acquire(Path(sys.argv[1])))"
    )

    @pytest.fixture
    def directory(self, tmp_path):
        """Make a submit directory that this process owns."""
        directory = SubmitDir.new(tmp_path)
        directory.make()
        yield directory
        directory.remove()
        assert not directory.path.exists()

    def test_there_is_one_owner(self, directory):
        """It owns the directory until it releases it."""
        assert ownership.acquire(directory.path)
        assert run(self.ACQUIRE, directory.path) == "False"
        ownership.release(directory.path)
        assert run(self.ACQUIRE, directory.path) == "True"

    FORK = (
        "import os, subprocess, sys\n{0}\n"
        "if not os.fork():\n"
        "    ownership.release(Path(sys.argv[1]))\n"
        "    os._exit(ownership.acquire(Path(sys.argv[1])))\n"
        "print(os.wait()[1], flush=True)\n"
        "subprocess.run([sys.executable, '-c', {0!r}, sys.argv[1]])"
    )

    def test_a_forked_child_owns_nothing(self, tmp_path):
        """It neither has its parent's lock nor can release it."""
        assert run(self.FORK.format(self.ACQUIRE), tmp_path).split() == ["True", "0", "False"]

    def test_a_found_directory_is_identified_by_its_manifest(self, directory, tmp_path):
        """The manifest has the directory's name, so a copy is not accepted."""
        assert SubmitDir.found(directory.path).manifest.pid == os.getpid()
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / "manifest.json").write_text(directory.text("manifest.json"))
        assert SubmitDir.found(copy) is None
        assert SubmitDir.found(Path("/nowhere")) is None
