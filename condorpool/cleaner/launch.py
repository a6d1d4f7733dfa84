"""Starts the cleaner: the process that outlives this one and ends its submit directories."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from condorpool.cleaner import registry, waiter
from condorpool.cleaner.owner import kernel_id
from condorpool.personal import guardian
from condorpool.values.programs import command

#: Seconds for which unfinished work is left alone after the end of a kernel: the next one may
#: take it up.
GRACE = 30.0

#: The program that the waiter becomes.
_ENDING = "condorpool.cleaner.ending"

#: The pipe that names to the waiter the files to lock; -1 before it runs.
_pipe = -1

#: When the cleaner's lock may be checked: until then it may still be starting.
_check_at = 0.0


def ensure_cleaner(folder: Path, origin: Mapping[str, str]) -> None:
    """Start a cleaner unless one runs; a personal HTCondor stays as long as the cleaner."""
    if _pipe < 0 or (time.monotonic() > _check_at and not registry.is_claimed(folder)):
        _start_cleaner(folder)
    if "personal" in origin:
        lock = Path(origin["personal"], guardian.USERS_LOCK)
        with contextlib.suppress(OSError):  # the waiter was killed, or is too slow to read
            os.write(_pipe, os.fsencode(lock) + b"\n")


def _start_cleaner(folder: Path) -> None:
    global _pipe, _check_at  # noqa: PLW0603 - one cleaner for the process
    if _pipe >= 0:
        os.close(_pipe)  # the last cleaner was killed
    reader, _pipe = os.pipe()
    os.set_blocking(_pipe, False)
    _check_at = time.monotonic() + 5
    # The waiter watches a pidfd: an id may be reused, and children that the owner
    # forked may hold the pipe's end open.
    owner = os.pidfd_open(os.getpid()) if hasattr(os, "pidfd_open") else -1
    grace = os.environ.get("CONDORPOOL_GRACE", GRACE) if kernel_id() else 0
    program = [sys.executable, "-IS", waiter.__file__, folder, grace, owner, reader]
    try:
        _detach(
            [*map(str, program), *command(_ENDING, folder)], [d for d in (owner, reader) if d >= 0]
        )
    finally:
        os.close(reader)
        if owner >= 0:
            os.close(owner)


def end_now(folders: Iterable[Path]) -> None:
    """Start a cleaner for owners that have ended."""
    _detach(command(_ENDING, *folders))


def _detach(command: Sequence[str], descriptors: Sequence[int] = ()) -> None:
    """Start a program that outlives this process and gets none of its signals."""
    file = registry.state() / registry.LOG
    with open(file, "a", encoding="utf-8", opener=registry.private_file) as log:
        # The shell ends at once, so we do not wait for Python to start.
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            pass_fds=descriptors,
            start_new_session=True,
            check=True,
        )


def _forget() -> None:
    # A forked child has no entries and no cleaner; the pipe is its parent's.
    global _pipe  # noqa: PLW0603
    if _pipe >= 0:
        os.close(_pipe)
        _pipe = -1


os.register_at_fork(after_in_child=_forget)
