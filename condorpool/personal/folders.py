"""The folder of a personal HTCondor: whose it is, who uses it, what its guardian tells.

Who may do what is decided by three locks in the folder:

``condorpool-start.lock``
    Held while one starts, joins or deletes the personal HTCondor.
``alive.lock``
    Held by the guardian as long as it lives.  Held: it runs.  Free: what is
    in the folder is left from a dead one.
``users.lock``
    Shared by the processes that use it.  The guardian waits for it, and so
    learns that the last user has gone, however that one ended.

Nobody waits for the guardian while it holds the start lock, because the
guardian needs that one to delete the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condorpool.personal import guardian
from condorpool.values.exceptions import PersonalError
from condorpool.values.locks import uninterrupted

#: What the guardian holds as long as it lives.
ALIVE_LOCK = "alive.lock"

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


def use(folder: Path) -> bool:
    """Count this process among the users; False while the guardian ends or looks at the queue."""
    path = folder / guardian.USERS_LOCK
    with uninterrupted, _uses_lock:
        known = _uses.get(folder)
        if known is None or known.pid != os.getpid() or not in_place(known.descriptor, path):
            _drop(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            known = _uses[folder] = _Use(os.getpid(), descriptor)
        try:
            fcntl.lockf(known.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def unuse(folder: Path) -> None:
    """Count this process among the users no more."""
    with uninterrupted, _uses_lock:
        _drop(folder)


def _drop(folder: Path) -> None:
    known = _uses.pop(folder, None)
    # In a forked child the descriptor is the parent's, but closing it is
    # right there too: it never held a lock of the child's.
    if known is not None:
        os.close(known.descriptor)


def in_place(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def default_folder() -> Path:
    """Return where this user's personal HTCondor is, unless another folder is named."""
    chosen = os.environ.get("CONDORPOOL_PERSONAL")
    if chosen:
        return Path(chosen).expanduser()
    # Not in the home folder, which may be on a network file system.
    return Path(tempfile.gettempdir(), guardian.shared_name(), "personal")


def resolve(folder: str | os.PathLike[str] | None) -> Path:
    """Return the folder's one name; that of what must not be a link is kept."""
    path = Path(default_folder() if folder is None else folder).expanduser().absolute()
    base = _shared(path) or path
    return base.parent.resolve() / path.relative_to(base.parent)


def _shared(folder: Path) -> Path | None:
    """Return the folder around it if that is this user's among other users' files."""
    return folder.parent if folder.parent.name == guardian.shared_name() else None


def _make(folder: Path) -> None:
    """Make the folder, private to this user, or raise."""
    shared = _shared(folder)
    try:
        if shared is not None:
            shared.parent.mkdir(parents=True, exist_ok=True)
            shared.mkdir(mode=0o700, exist_ok=True)
            _check_private(shared)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_private(folder)
        _check_ours(folder)
    except FileNotFoundError:
        return  # deleted by a guardian meanwhile; the caller tries again
    except OSError as error:
        raise cannot(f"make the folder {folder}", error) from error


def is_made(folder: Path) -> bool:
    """Tell whether a personal HTCondor is in the folder, dead or alive; raise if it is planted."""
    try:
        for path in filter(None, (_shared(folder), folder)):
            _check_private(path)
        return (folder / guardian.START_LOCK).exists()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot(f"look into {folder}", error) from error


def _check_private(folder: Path) -> None:
    """Raise unless nobody else can have put anything there.

    Where everybody may write, as in the folder for temporary files, another
    user could have made it before us.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        why = "is not a folder"
    elif about.st_uid != os.geteuid():
        why = f"belongs to user {about.st_uid}"
    elif about.st_mode & 0o022:
        why = "may be written to by others"
    else:
        return
    raise PersonalError(
        f"{folder} {why}: it is not safe to run HTCondor there. Remove it, or name another "
        "folder (CONDORPOOL_PERSONAL in the environment, or `folder`)."
    )


def _check_ours(folder: Path) -> None:
    """Raise if the folder holds anything but a personal HTCondor: it will be deleted."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        folder.chmod(0o700)
    elif guardian.START_LOCK not in names:
        raise PersonalError(
            f"{folder} holds other files ({', '.join(sorted(names)[:3])}): HTCondor needs a "
            "folder of its own, which is deleted when it stops. Name another one."
        )


@contextmanager
def start_lock(folder: Path, deadline: float) -> Iterator[None]:
    """Hold the folder's start lock; make the folder if it is not there."""
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
            raise PersonalError(f"another process is still starting HTCondor in {folder}.")


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
    """Tell whether the folder has a living guardian."""
    try:
        descriptor = os.open(folder / ALIVE_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _flock_now(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return what is in a file; nothing if that cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def state(folder: Path) -> dict[str, Any]:
    """Return what the guardian has written down."""
    return read_json(folder / "state.json")


def living(state: Mapping[str, Any], name: str) -> int | None:
    """Return the id of a process in the state, if it is still that process."""
    pid, started = state.get(name) or (0, 0)
    return int(pid) if started and guardian.start_time(int(pid)) == started else None


def cannot(what: str, error: OSError) -> PersonalError:
    """Say what the system does not let us do, and what helps."""
    cure = "Name another folder (CONDORPOOL_PERSONAL in the environment, or `folder`)."
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        cure = "The disk is full: make room, or name another folder (CONDORPOOL_PERSONAL)."
    return PersonalError(f"cannot {what}: {error.strerror or error}. {cure}")
