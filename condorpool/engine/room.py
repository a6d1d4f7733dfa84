"""Whether jobs can write their results into the submit directory."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable

from condorpool.engine.submitdir import PROBE, SubmitDir, made_name
from condorpool.runner.names import FULL, ROOM_INTERVAL
from condorpool.values.exceptions import CondorPoolError

#: Seconds after which a runner that found no room and said nothing since has ended.
SILENCE = 2 * ROOM_INTERVAL


def trouble(
    directory: SubmitDir, crews: Iterable[int], *, probes: bool = False
) -> CondorPoolError | None:
    """Return why jobs of these crews cannot write their results, and what to do.

    ``probes`` has a small file written: a quota, for example, is seen in no other way.
    """
    why = ""
    if _is_full(directory) or any(_has_no_room(directory, crew) for crew in crews):
        why = f"{os.strerror(errno.ENOSPC)}, or no quota"
    elif probes:
        try:
            directory.write(PROBE, bytes(4096))
        except OSError as error:
            why = error.strerror or str(error)
    if not why:
        return None
    return CondorPoolError(
        f"jobs cannot write their results into the submit directory {directory.path}: {why}. Free "
        "space there, or make it writable: the calls continue then."
    )


def _is_full(directory: SubmitDir) -> bool:
    try:
        disk = os.statvfs(directory.here)
    except OSError:
        return False
    return not disk.f_bavail or bool(disk.f_files and not disk.f_favail)


def _has_no_room(directory: SubmitDir, crew: int) -> bool:
    """Return whether a runner of a crew has said that it found no room for a result."""
    try:
        said = (directory / f"{made_name(crew)}/{FULL}").stat().st_mtime
    except OSError:
        return False
    return _time(directory) < said + SILENCE


def _time(directory: SubmitDir) -> float:
    """Return the time by the clock of the disk, which may be another machine's."""
    try:
        probe = os.open(directory / PROBE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError:
        return time.time()
    try:
        return os.fstat(probe).st_mtime
    finally:
        os.close(probe)
