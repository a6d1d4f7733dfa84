"""Wait for the end of a process, then clean up after it.

This is a program: ``python -IS waiter.py FOLDER GRACE OWNER PIPE COMMAND...``.
FOLDER is the owner's folder in the registry, and OWNER a pidfd, which can be read
when the owner has ended (-1: there is none, and the end of PIPE counts).  If the owner
leaves entries, this process becomes COMMAND.  It may wait for weeks beside every
notebook: it imports little, and nothing of condorpool.

It reads the names of files from PIPE, one on a line, and keeps a shared lock on each until
it ends, so that a personal HTCondor stays for jobs whose owner has just ended.
"""

import fcntl
import os
import select
import sys
import time
from contextlib import suppress

CLEANER_LOCK = "cleaner.lock"


def has_entries(folder: str) -> bool:
    """Return whether the owner has submit directories."""
    return any(name.endswith(".json") for name in os.listdir(folder))  # noqa: PTH208


def lock(path: str, kind: int) -> None:
    """Lock a file until this process ends, also after it has become the command."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)


def wait(owner: int, pipe: int) -> None:
    """Return when the owner has ended."""
    poll, text = select.poll(), b""
    used: set[int] = set()
    for source in (owner, pipe):
        if source >= 0:
            poll.register(source, select.POLLIN)
    while True:
        for source, _ in poll.poll():
            if source == owner:
                return
            data = os.read(pipe, 4096)
            if not data:  # closed by the owner and by all children that it forked
                if owner < 0:
                    return
                poll.unregister(pipe)
            *paths, text = (text + data).split(b"\n")
            for path in paths:
                with suppress(OSError):  # the personal HTCondor has just ended
                    number = os.stat(path).st_ino  # noqa: PTH116
                    # Locking it again is harmless, but takes a descriptor each time.
                    if number not in used:
                        lock(os.fsdecode(path), fcntl.LOCK_SH)
                        used.add(number)


def main(arguments: list[str]) -> None:
    """Wait, give a restarted kernel time to take up the work, and clean up."""
    folder, grace, owner, pipe, *command = arguments
    with suppress(OSError):  # another cleaner has locked the folder, or it is gone
        lock(f"{folder}/{CLEANER_LOCK}", fcntl.LOCK_EX)
        wait(int(owner), int(pipe))
        deadline = time.monotonic() + float(grace)
        while has_entries(folder) and time.monotonic() < deadline:
            time.sleep(0.2)
        if has_entries(folder):
            os.execv(command[0], command)  # noqa: S606 - no shell is wanted
        os.unlink(f"{folder}/{CLEANER_LOCK}")  # noqa: PTH108
        os.rmdir(folder)  # noqa: PTH106


if __name__ == "__main__":
    main(sys.argv[1:])
