"""The owner of a submit directory: the process that has locked a file in it.

The lock is `fcntl`'s: it ends with the process, however that ends, is not inherited
by a forked child, and is kept through `exec`.  It also works between machines, on
network file systems that offer locks (NFS 4, NFS 3 with its lock manager; not
those mounted ``nolock`` or ``local_lock``).  Where each machine keeps locks to itself,
nothing prevents two machines from resuming one directory at the same time; therefore the
cleaner only works on the owner's own machine, unless the user asks for more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from condorpool.values.folders import HeldFolder

OWNER_LOCK = "owner.lock"

#: The locks of this process.  Opening and closing such a file again would drop its lock.
_held: dict[Path, int] = {}


def acquire(directory: Path) -> bool:
    """Become the owner of a directory; return False if another process is.

    Raises FileNotFoundError where there is no such directory, and PermissionError where it is
    not this user's.
    """
    if directory in _held:
        return True
    lock = HeldFolder(directory) / OWNER_LOCK
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return False
    _held[directory] = descriptor
    return True


def release(directory: Path) -> None:
    """Stop being the owner of a directory."""
    if directory in _held:
        os.close(_held.pop(directory))


def _forget() -> None:
    # The locks are the parent's.
    for directory in list(_held):
        with contextlib.suppress(OSError):
            release(directory)


os.register_at_fork(after_in_child=_forget)
