"""Ends a personal HTCondor, and the remaining processes of one whose guardian was killed."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from condorpool.personal import folders, guardian
from condorpool.values.exceptions import PersonalError

_STOP_SECONDS = 30.0


def stop(folder: str | os.PathLike[str] | None = None, *, keep_folder: bool = False) -> bool:
    """End a personal HTCondor and its jobs now, even if it is in use; return whether one ran.

    Returns when none of its processes remains.

    Parameters
    ----------
    folder
        As for `start`.
    keep_folder
        Keep its files, to read the logs.  The next `start` there deletes them.
    """
    path = folders.resolve(folder)
    if not folders.is_made(path) and not _leftovers(path):
        return False
    ran = folders.is_guarded(path) or bool(_leftovers(path))
    folders.note_stop(path)
    end(path, keep_folder=keep_folder)
    return ran


def end(folder: Path, *, keep_folder: bool = False) -> None:
    """End the HTCondor in the folder, and delete what its guardian could not."""
    request = signal.SIGUSR1 if keep_folder else signal.SIGTERM
    deadline = time.monotonic() + _STOP_SECONDS
    asked: list[int] | None = None  # its process, and when that started
    # The guardian deletes its lock before it ends, so wait for its process, too.
    while folders.is_guarded(folder) or folders.living({"guardian": asked}, "guardian"):
        known = folders.state(folder).get("guardian")
        if asked is None and (pid := folders.guardian_of(folder)):
            asked = [pid, guardian.start_time(pid)]
            _signal_guardian(asked, request)
        elif asked and known and known != asked:
            return  # it has ended, and another process has already started a new one
        if time.monotonic() > deadline:
            if not _signal_guardian(asked, signal.SIGKILL):
                raise PersonalError(
                    f"the HTCondor in {folder} runs where this process cannot see it, perhaps in "
                    "another container: stop it there."
                )
            deadline += _STOP_SECONDS
        time.sleep(folders.POLL_SECONDS / 2)
    folders.unuse(folder)
    _clear_dead(folder, keep_folder=keep_folder)


def _signal_guardian(asked: list[int] | None, number: int) -> bool:
    pid = folders.living({"guardian": asked}, "guardian")
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return pid is not None


def _clear_dead(folder: Path, *, keep_folder: bool) -> None:
    """Clean up after a guardian that could not do so."""
    try:
        lock = os.open(folder / guardian.START_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        end_leftovers(folder)  # the guardian has deleted the folder, or another program
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        in_place = folders.in_place(lock, folder / guardian.START_LOCK)
        if in_place and not folders.is_guarded(folder):
            end_leftovers(folder)
            if not keep_folder:
                guardian.remove(folder)
    finally:
        os.close(lock)


def end_leftovers(folder: Path) -> None:
    """End the processes of an HTCondor whose guardian was killed.

    condor_master then shuts down by itself.  Wait for that, and end the processes
    that remain.
    """
    if _have_ended(folder, 5):
        return
    for number, patience in ((signal.SIGTERM, 1), (signal.SIGKILL, 5)):
        for pid in _leftovers(folder):
            with suppress(OSError):
                os.kill(pid, number)
        if _have_ended(folder, patience):
            return
    raise PersonalError(
        f"processes of the HTCondor that ran in {folder} do not end: "
        f"{', '.join(map(str, _leftovers(folder)))}. End them yourself, then try again."
    )


def is_ending(folder: str | os.PathLike[str]) -> bool:
    """Return whether processes remain of one whose guardian has ended."""
    path = folders.resolve(folder)
    return not folders.is_guarded(path) and bool(_leftovers(path))


def _have_ended(folder: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while _leftovers(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(folders.POLL_SECONDS)
    return True


def _leftovers(folder: Path) -> list[int]:
    """Return the processes that provably belong to this folder's HTCondor."""
    found = folders.marked(folder)
    master = folders.living(folders.state(folder), "master")
    if master is not None:
        found += [master, *guardian.descendants(master)]
    return sorted(set(found) - {os.getpid()})
