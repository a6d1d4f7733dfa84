"""The registry: this user's submit directories and their owners.

    STATE/
        cleaner.log
        kept/RUN.json                       a submit directory that stays until the user acts
        PID-START-BOOT-SPACE@HOST/          the owner: a process of this user
            RUN.json                        one of its submit directories
            RUN.note                        what its cleaner waits for or has done
            cleaner.lock                    held by the owner's cleaner as long as it lives

An entry belongs to the owner in whose folder it is: a process takes it over by a rename.
It is written before its directory is made, and deleted after its directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from condorpool import personal
from condorpool.access.accesspoint import AccessPoint
from condorpool.access.remote import RemoteAccessPoint
from condorpool.cleaner.owner import Owner
from condorpool.engine.submitdir import is_name, run_of
from condorpool.personal import guardian
from condorpool.values import plain
from condorpool.values.exceptions import CondorPoolError, HTCondorError
from condorpool.values.folders import in_home, is_own, private
from condorpool.values.text import one_line

KEPT = "kept"
LOG = "cleaner.log"
CLEANER_LOCK = "cleaner.lock"

#: The most characters of a note: it may contain an error, and a path that is not UTF-8.
MOST_OF_NOTE = 2_000

#: Bytes after which a new log is started; the previous one is kept beside it.
LOG_SIZE = 1 << 20


@dataclass(frozen=True)
class Entry:
    """What the registry knows about a submit directory.

    Parameters
    ----------
    file
        The entry itself.
    path
        The submit directory.
    origin
        Where its jobs are: see `AccessPoint.origin`.
    on_exit
        What is done when its owner ends: ``"wait"``, ``"remove"``, ``"keep"``;
        ``"delete"`` also removes what is otherwise kept of failed jobs.
    since
        When it was made.
    """

    file: Path
    path: Path
    origin: Mapping[str, str]
    on_exit: str
    since: float = field(default_factory=time.time)

    @property
    def run(self) -> str:
        """The name of the directory, and of the entry."""
        return self.file.stem

    @property
    def owner(self) -> Owner | None:
        """Its owner; None if it is kept."""
        return Owner.named(self.file.parent.name)

    @property
    def in_use(self) -> str:
        """The process that uses it, as far as can be known here; empty if none does."""
        owner = self.owner
        if owner is None or not owner.is_alive:
            return ""
        return f"in use by process {owner.pid} on {owner.host}"

    @property
    def cure(self) -> str:
        """What the user can do if it is in use."""
        host = self.owner.host if self.owner else ""
        gone = f", or `condorpool clean --gone {host}` if that machine will not come back"
        return f"close its pool, or end the process{gone * (host != socket.gethostname())}"

    @property
    def was_deleted(self) -> bool:
        """Whether the user has deleted a directory that was kept."""
        return self.owner is None and self.path.parent.exists() and not self.path.exists()

    def has_queue(self, queue: str) -> bool:
        """Return whether the queue of its jobs exists: that of a personal HTCondor ends with it."""
        try:
            return "personal" not in self.origin or bool(self.access_point(queue))
        except HTCondorError:  # it is starting or ending
            return True

    def access_point(self, queue: str = "") -> AccessPoint | None:
        """Return the access point of its jobs; None if their personal HTCondor has ended.

        With a ``queue``, also None if another one, with another queue, runs in its place.
        """
        origin = self.origin
        if "personal" in origin:
            point = personal.running(origin["personal"])
            return None if point and queue and queue != point.queue else point
        if "remote" in origin:
            return RemoteAccessPoint.reach(
                origin["remote"], origin["schedd"], origin.get("collector")
            )
        return AccessPoint.locate(**origin)

    @property
    def note(self) -> str:
        """What the cleaner waits for, or why the directory is kept."""
        try:
            return self._note.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @property
    def _note(self) -> Path:
        return self.file.with_suffix(".note")

    def say(self, text: str) -> None:
        """Write what is done and why into the note, and, if that is new, into the log."""
        text = one_line(text, MOST_OF_NOTE)
        if text != self.note:
            log(f"{self.path}: {text}")
            with (
                contextlib.suppress(OSError),
                open(self._note, "w", encoding="utf-8", opener=private_file) as note,
            ):
                note.write(text)

    def __bytes__(self) -> bytes:
        """Return what its file contains."""
        facts = {name: getattr(self, name) for name in _WRITTEN}
        facts |= {"path": str(self.path), "origin": dict(self.origin)}
        return json.dumps(facts).encode()

    def write(self) -> Entry:
        """Write a new entry under a temporary name and move it into place."""
        scratch = self.file.with_suffix(f".{os.getpid()}.tmp")
        with open(scratch, "wb", opener=private_file) as file:
            file.write(bytes(self))
        scratch.replace(self.file)
        return self

    def change(self, **changes: Any) -> Entry:
        """Change the entry where it is.

        Raises FileNotFoundError if another process moved it first.
        """
        entry = replace(self, **changes)
        # A rename would make an entry anew that another process has moved meanwhile.  So all of it
        # is written at once, and blanks replace what remains.
        file = os.open(self.file, os.O_WRONLY)
        try:
            os.pwrite(file, bytes(entry).ljust(os.fstat(file).st_size), 0)
        finally:
            os.close(file)
        return entry

    def move(self, folder: Path) -> Entry:
        """Move the entry to another owner's folder.

        Raises FileNotFoundError if another process moved it first.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        # The rename of the entry itself decides between two processes.
        with contextlib.suppress(FileNotFoundError):
            self._note.rename(folder / self._note.name)
        return replace(self, file=self.file.rename(folder / self.file.name))

    def discard(self) -> None:
        """Delete the entry."""
        self._note.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)


#: The fields that the file of an entry contains.
_WRITTEN = [known.name for known in fields(Entry) if known.name != "file"]


@dataclass(frozen=True)
class _Facts:
    """What the file of an entry contains."""

    path: str
    origin: Mapping[str, str]
    on_exit: str
    since: float = 0.0


def state() -> Path:
    """Return the folder of the registry, private to this user."""
    return _place()[0]


def why_elsewhere() -> str:
    """Return why the registry is not in its usual place; empty if it is there."""
    return _place()[1]


def _place() -> tuple[Path, str]:
    """Return the folder of the registry, and why it is not the usual one."""
    why = ""
    fallback = Path(tempfile.gettempdir(), guardian.shared_name(), "state")
    for folder in (in_home("state"), fallback):
        if not (problem := private(folder)) and folder:
            return folder, why
        why = f"{why}; {problem}".removeprefix("; ")
    raise CondorPoolError(
        f"there is no safe folder in which to note what must be cleaned up ({why}). "
        "Set XDG_STATE_HOME to a folder that only you can change."
    )


def folders() -> dict[Path, Owner]:
    """Return the folders of all owners."""
    found = {}
    for folder in state().iterdir():
        with contextlib.suppress(FileNotFoundError):  # a cleaner has just deleted it
            if (owner := Owner.named(folder.name)) and is_own(folder.lstat()):
                found[folder] = owner
    return found


def entries(folder: Path) -> list[Entry]:
    """Return the entries of an owner, or those that are kept, the oldest first."""
    found = []
    for file in folder.glob("*.json"):
        try:
            with file.open(encoding="utf-8") as text:
                # Others may have been able to write here earlier.
                facts = plain.parse(text.read()) if is_own(os.fstat(text.fileno())) else {}
            known = plain.checked(facts, _Facts)
            run = file.stem
            entry = Entry(file, **{**vars(known), "path": Path(known.path)})
            # A folder that may not be one of ours is not touched, whatever an entry says.
            if entry.path.is_absolute() and is_name(run) and run_of(entry.path) == run:
                found.append(entry)
        except (OSError, ValueError):
            continue  # gone meanwhile, or not an entry
    return sorted(found, key=lambda entry: entry.since)


def everything() -> list[Entry]:
    """Return all entries of this user, each once, though cleaners move them meanwhile."""
    found: dict[Path, Entry] = {}
    kept = state() / KEPT
    # Twice, the second time in the opposite order: an entry that is moved while this reads, from
    # a folder not read yet to one that was read already, must not be missed.
    for step in (1, -1):
        for folder in [kept, *folders()][::step]:
            found.update((entry.path, entry) for entry in entries(folder))
    return list(found.values())


def claim(folder: Path) -> bool:
    """Become the cleaner of an owner until this process ends; return False if there is one."""
    try:
        # Never closed: that would drop the lock.
        lock = os.open(folder / CLEANER_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_claimed(folder: Path) -> bool:
    """Return whether an owner has a cleaner.

    A cleaner must not call this for its own folder: closing the file drops its lock.
    """
    try:
        lock = os.open(folder / CLEANER_LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def tidy(folder: Path) -> None:
    """Delete the folder of an owner that has ended, unless it has entries."""
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if file.suffix != ".json":
                file.unlink()
        folder.rmdir()


def log(text: str) -> None:
    """Write a line into the cleaners' log, which is bounded."""
    file = state() / LOG
    with contextlib.suppress(OSError):  # the clean-up continues on a full disk
        if file.exists() and file.stat().st_size > LOG_SIZE:
            file.replace(file.with_suffix(".log.old"))
        with open(file, "a", encoding="utf-8", opener=private_file) as lines:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            lines.write(f"{now} [{os.getpid()}] {one_line(text, 2 * MOST_OF_NOTE)}\n")


def private_file(path: str, flags: int) -> int:
    """Open a file, with which only this user may do anything if it is new."""
    return os.open(path, flags, 0o600)
