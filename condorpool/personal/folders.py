"""The folder of a personal HTCondor: its owner, its users, and its guardian's state.

Three locks in the folder decide who may do what:

``condorpool-start.lock``
    Held by a process while it starts, joins or deletes the personal HTCondor.
``alive.lock``
    Held by the guardian as long as it lives.  If it is free, the files in the
    folder are those of a dead one.
``users.lock``
    Shared by the processes that use it.  The guardian waits for an exclusive
    lock on it, which it gets when the last user has ended, even by SIGKILL.

A process must not wait for the guardian while it holds the start lock,
because the guardian needs that lock to delete the folder.

The folder is in the one for temporary files: a home may be on a network file system, which
is too slow for the queue and may have no locks, and the folder for runtime files is deleted
when the user logs out, though jobs remain.  The guardian protects it from programs that
delete old temporary files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condorpool.personal import guardian
from condorpool.values import plain
from condorpool.values.exceptions import PersonalError
from condorpool.values.folders import make, weakness
from condorpool.values.locks import uninterrupted

in_place = guardian.in_place

#: Seconds between two looks at what another process does.
POLL_SECONDS = 0.03


@dataclass(frozen=True)
class _Use:
    pid: int
    descriptor: int


# A process must not open users.lock twice: closing either file would drop its
# lock.  And a child that was forked does not inherit the lock.
_uses: dict[Path, _Use] = {}
_uses_lock = threading.Lock()

# Written into users.lock when a person stops it.  Those who use it have the file open, and
# can read this after the folder was deleted.
_STOPPED = b"stopped"

#: Folders of those that were stopped while this process used them, and not used again.
_stopped: set[Path] = set()


def use(folder: Path) -> bool:
    """Register this process as a user; return False while the guardian ends or asks the queue."""
    path = folder / guardian.USERS_LOCK
    with uninterrupted, _uses_lock:
        known = _uses.get(folder)
        if known is None or known.pid != os.getpid() or not in_place(known.descriptor, path):
            _drop(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            known = _uses[folder] = _Use(os.getpid(), descriptor)
            _stopped.discard(folder)
        try:
            fcntl.lockf(known.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def unuse(folder: Path) -> None:
    """Unregister this process as a user."""
    with uninterrupted, _uses_lock:
        _drop(folder)


def _drop(folder: Path) -> None:
    known = _uses.pop(folder, None)
    # A forked child may close its copy of the parent's descriptor: the child
    # holds no lock that this could drop.
    if known is not None:
        if _says_stopped(known):
            _stopped.add(folder)
        os.close(known.descriptor)


def note_stop(folder: Path) -> None:
    """Let the processes that use it know that a person stops it."""
    with uninterrupted, _uses_lock, suppress(OSError):
        known = _uses.get(folder)
        if known and in_place(known.descriptor, folder / guardian.USERS_LOCK):
            os.pwrite(known.descriptor, _STOPPED, 0)
        else:  # closing the file would drop a lock of this process
            (folder / guardian.USERS_LOCK).write_bytes(_STOPPED)


def was_stopped(folder: Path) -> bool:
    """Return whether a person has stopped the one that this process uses, or used last."""
    with uninterrupted, _uses_lock:
        known = _uses.get(folder)
        return folder in _stopped or bool(known and _says_stopped(known))


def _says_stopped(known: _Use) -> bool:
    return os.pread(known.descriptor, len(_STOPPED), 0) == _STOPPED


def default_folder() -> Path:
    """Return the folder of this user's personal HTCondor if the caller names no other."""
    chosen = os.environ.get("CONDORPOOL_PERSONAL")
    if chosen:
        return Path(chosen).expanduser()
    # Not in the home folder, which may be on a network file system.
    return Path(tempfile.gettempdir(), guardian.shared_name(), "personal")


def resolve(folder: str | os.PathLike[str] | None) -> Path:
    """Return the folder's canonical path, without following links where none are allowed."""
    path = Path(default_folder() if folder is None else folder).expanduser().absolute()
    base = _shared(path) or path
    return base.parent.resolve() / path.relative_to(base.parent)


def _shared(folder: Path) -> Path | None:
    """Return the folder's parent if that is this user's own folder in a shared one (`_make`)."""
    return folder.parent if folder.parent.name == guardian.shared_name() else None


def _make(folder: Path) -> None:
    """Make the folder, private to this user; raise if that is impossible."""
    shared = _shared(folder)
    try:
        if shared is not None:
            make(shared)
            _check_private(shared)
        make(folder)
        _check_private(folder)
        _check_ours(folder)
    except FileNotFoundError:
        return  # deleted by a guardian meanwhile; the caller tries again
    except OSError as error:
        raise cannot(f"make the folder {folder}", error) from error


def is_made(folder: Path) -> bool:
    """Return whether a personal HTCondor is in the folder, dead or alive.

    Raises PersonalError if another user may have made the folder.
    """
    try:
        for path in filter(None, (_shared(folder), folder)):
            _check_private(path)
        return _is_ours(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot(f"look into {folder}", error) from error


def _check_private(folder: Path) -> None:
    """Raise unless only this user can have put files there.

    Where all users may write, as in the folder for temporary files, another
    user could have made it first.
    """
    is_folder = stat.S_ISDIR(folder.lstat().st_mode)
    if why := weakness(folder) if is_folder else f"{folder} is not a folder":
        raise PersonalError(
            f"{why}: it is not safe to run HTCondor in {folder}. Name another folder, which only "
            "you can change (CONDORPOOL_PERSONAL in the environment, or `folder`)."
        )


def _check_ours(folder: Path) -> None:
    """Raise if the folder holds other files than a personal HTCondor's: it will be deleted."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        folder.chmod(0o700)
    elif not _is_ours(names):
        raise PersonalError(
            f"{folder} holds other files ({', '.join(sorted(names)[:3])}): HTCondor needs a "
            "folder of its own, which is deleted when it stops. Name another one."
        )


def _is_ours(names: Iterable[str]) -> bool:
    """Return whether a folder with these files is one of ours; one of the marks may be deleted."""
    return not {guardian.START_LOCK, guardian.ALIVE_LOCK, guardian.STATE}.isdisjoint(names)


@contextmanager
def start_lock(folder: Path, deadline: float) -> Iterator[None]:
    """Hold the folder's start lock; make the folder if it does not exist."""
    path = folder / guardian.START_LOCK
    while True:
        _make(folder)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # the folder was deleted meanwhile
        except OSError as error:
            raise cannot(f"write in {folder}", error) from error
        try:
            if _flock(descriptor, deadline) and in_place(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise PersonalError(
                f"another process is still starting HTCondor in {folder}. Try again later."
            )


def _flock(descriptor: int, deadline: float) -> bool:
    """Lock the file by the deadline, or return False."""
    while not _flock_now(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _flock_now(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_guarded(folder: Path) -> bool:
    """Return whether the folder has a living guardian."""
    try:
        descriptor = os.open(folder / guardian.ALIVE_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # The guardian makes it again if it was deleted.
        return folder.exists() and guardian_of(folder) is not None
    try:
        return not _flock_now(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; an empty one if it cannot be read."""
    try:
        content = plain.parse(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def state(folder: Path) -> dict[str, Any]:
    """Return the state that the guardian has written."""
    return read_json(folder / guardian.STATE)


def living(state: Mapping[str, Any], name: str) -> int | None:
    """Return the id of a process in the state; None if that process has ended."""
    pid, started = state.get(name) or (0, 0)
    return int(pid) if started and guardian.start_time(int(pid)) == started else None


def guardian_of(folder: Path) -> int | None:
    """Return the id of the living guardian, even if the file that says so was deleted."""
    known = living(state(folder), "guardian")
    if known is None:
        program = str(Path(guardian.__file__).resolve()).encode()
        for pid in marked(folder):
            with suppress(OSError):
                if program in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
    return known


def marked(folder: Path) -> list[int]:
    """Return the living processes that carry the folder's mark, except this one."""
    mark = f"{guardian.MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended, or is another user's
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def cannot(what: str, error: OSError) -> PersonalError:
    """Return the error for an operation that the system refused, with what to do."""
    cure = "Name another folder (CONDORPOOL_PERSONAL in the environment, or `folder`)."
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        cure = "The disk is full: free space, or name another folder (CONDORPOOL_PERSONAL)."
    return PersonalError(f"cannot {what}: {error.strerror or error}. {cure}")
