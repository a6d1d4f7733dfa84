"""The submit directories that this process owns: how it acquires them and hands them over."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from condorpool.access.accesspoint import AccessPoint
from condorpool.cleaner import launch, registry
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.engine import ownership
from condorpool.engine.submitdir import SubmitDir, run_of
from condorpool.values.exceptions import CondorPoolError, SubmitError

#: Seconds that a cleaner has to release a directory that this process takes up.
RELEASE_TIMEOUT = 30.0

#: Attempts to move an entry that a cleaner may move at the same time.
TRIES = 3


def register(path: Path, access_point: AccessPoint, on_exit: str) -> None:
    """Register a submit directory that is about to be made; a cleaner ends it after this process."""
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        Entry(folder / f"{run_of(path)}.json", path, access_point.origin, on_exit).write()
        launch.ensure_cleaner(folder, access_point.origin)
    except OSError as error:
        raise SubmitError(
            f"cannot register {path} for clean-up: {error}. Nothing was submitted. "
            "Set XDG_STATE_HOME to a folder that you can write to."
        ) from error


def keep_running(access_point: AccessPoint) -> None:
    """Have a personal HTCondor that was started again stay as long as this process's cleaner."""
    launch.ensure_cleaner(_folder(), access_point.origin)


def unregister(path: Path, why: str = "", *, is_quiet: bool = True) -> None:
    """Remove a directory of this process from the registry, or list it as kept.

    Parameters
    ----------
    why
        Why it is kept; empty if it was deleted.
    is_quiet
        Whether HTCondor writes nothing more there.  If it may make a deleted directory again,
        or already has, a cleaner waits for that and deletes it.
    """
    entry = _folder() / f"{run_of(path)}.json"
    for known in registry.entries(entry.parent):
        if known.file == entry and why and path.exists():
            known.say(f"kept: {why}")
            known.move(registry.state() / registry.KEPT)
            ownership.release(path)
            return
        if known.file == entry and not why and (path.exists() or not is_quiet):
            known.change(on_exit="delete")
            hand_over(path)
            return
    entry.unlink(missing_ok=True)


def hand_over(path: Path) -> None:
    """Start a cleaner that ends a directory of this process now."""
    ownership.release(path)
    for entry in registry.entries(_folder()):
        if entry.path == path:
            entry.move(_ended_folder())
    sweep()


def mark(path: Path, on_exit: str) -> None:
    """Change what is done with a directory of this process when it is handed over."""
    for entry in registry.entries(_folder()):
        if entry.path == path:
            entry.change(on_exit=on_exit)


def delete(entry: Entry) -> None:
    """Start a cleaner that removes the jobs of a directory that no process uses, and deletes it.

    Raises FileNotFoundError if another process has taken it up.
    """
    if entry.owner:
        entry.change(on_exit="delete")  # its cleaner reads this, or a new one
    else:
        entry.move(_ended_folder()).change(on_exit="delete")
    sweep()


def sweep() -> list[Entry]:
    """Start a cleaner for owners that have ended and have none; return their entries."""
    for entry in registry.entries(registry.state() / registry.KEPT):
        if entry.was_deleted:
            entry.discard()
    dead = [folder for folder, owner in registry.folders().items() if not owner.is_alive]
    dead = [folder for folder in dead if not registry.is_claimed(folder)]
    for folder in dead:
        registry.tidy(folder)
    entries = [entry for folder in dead for entry in registry.entries(folder)]
    if entries:
        launch.end_now(dead)
    return entries


def disown(host: str) -> list[Entry]:
    """Keep the directories of processes on a machine that is gone; return their entries.

    Where the file system has locks, directories that a process has locked are left alone.
    """
    if host == socket.gethostname():
        raise CondorPoolError(f"{host} is this machine: run `condorpool clean` without --gone.")
    kept = []
    gone = [folder for folder, owner in registry.folders().items() if owner.host == host]
    for folder in gone:
        for entry in registry.entries(folder):
            # Its file system is not mounted here, or another user has put a folder in its place.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if ownership.acquire(entry.path):
                    entry.say(f"kept: {host} is gone")
                    kept.append(entry.move(registry.state() / registry.KEPT))
                    ownership.release(entry.path)
        if not registry.entries(folder):
            registry.tidy(folder)
    return kept


@functools.cache
def sweep_once() -> None:
    """Sweep when this process first needs HTCondor."""
    with contextlib.suppress(OSError, CondorPoolError):
        sweep()


def adopt(entry: Entry, on_exit: str, origin: Mapping[str, str] | None = None) -> Entry:
    """Make this process the owner of an entry; ``on_exit`` says what is done when it ends.

    Raises FileNotFoundError if another process moved the entry first.
    """
    folder = _folder()
    origin = origin or entry.origin
    adopted = entry.move(folder).change(on_exit=on_exit, origin=origin)
    launch.ensure_cleaner(folder, origin)
    return adopted


def take_up(entry: Entry, on_exit: str, origin: Mapping[str, str]) -> SubmitDir:
    """Become the owner of a directory whose owner has ended; return it.

    Parameters
    ----------
    origin
        The access point at which its work is resumed.

    Raises
    ------
    CondorPoolError
        Another process took it up first, or does not release it.
    """
    for _ in range(TRIES):
        # A cleaner may have moved the entry meanwhile.
        entry = next((known for known in registry.everything() if known.path == entry.path), entry)
        if entry.owner and entry.owner.is_alive:
            pid = entry.owner.pid
            raise CondorPoolError(f"{entry.path} was taken up by process {pid} meanwhile.")
        if entry.owner:
            # The note is in the folder that the cleaner watches: it wakes up and lets go.
            entry.say(f"is taken up by process {os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            adopted = adopt(entry, on_exit, origin)
            break
    else:
        raise CondorPoolError(f"{entry.path} was taken up or cleaned up meanwhile.")
    # The entry is ours now, but a cleaner may hold the lock until its current step ends.
    end = time.monotonic() + RELEASE_TIMEOUT
    why = ""
    try:
        while not ownership.acquire(entry.path):
            if time.monotonic() > end:
                why = f"another process is working on {entry.path}: try again later."
                break
            time.sleep(0.1)
    except PermissionError as error:
        why = f"{error.strerror}. Move it back, or make it private (chmod 700), and try again."
    except FileNotFoundError:
        pass  # see below
    if why:
        adopted.move(entry.file.parent).change(on_exit=entry.on_exit, origin=entry.origin)
        raise CondorPoolError(why)
    directory = SubmitDir.found(entry.path)
    if directory is None:
        raise CondorPoolError(f"{entry.path} was cleaned up meanwhile.")
    return directory


def _folder() -> Path:
    return registry.state() / str(Owner.this())


def _ended_folder() -> Path:
    """Return the folder of an owner that has ended: no process starts at tick 0."""
    return registry.state() / str(replace(Owner.this(), start=0))


# A forked child sweeps when it first needs HTCondor itself.
os.register_at_fork(after_in_child=sweep_once.cache_clear)
