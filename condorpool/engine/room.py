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

#: What to do when a submit directory was deleted or moved.
IF_LOST = (
    "If it was moved, move it back and get the results with condorpool.attach(); make other calls "
    "with a new Pool."
)


class Room:
    """The place of a submit directory, looked at by its path, as jobs do."""

    def __init__(self, directory: SubmitDir) -> None:
        self._directory = directory
        self._identity: tuple[int, int] | None = None
        self._missed = 0

    def is_lost(self) -> bool:
        """Return whether the folder was deleted or moved, and not just now.

        What cannot be looked at for another reason, as while a server is away, is not lost.
        """
        self._missed = 0 if self._is_there() else self._missed + 1
        return self._missed > 1

    def _is_there(self) -> bool:
        try:
            found = os.stat(self._directory.path)  # noqa: PTH116 - each second
        except FileNotFoundError:
            return False
        except OSError:
            return True
        identity = found.st_dev, found.st_ino
        self._identity = self._identity or identity
        return identity == self._identity  # HTCondor makes a folder for its log anew

    def trouble(self, crews: Iterable[int], *, probes: bool = False) -> CondorPoolError | None:
        """Return why jobs of these crews cannot write their results, and what to do.

        ``probes`` has a small file written: a quota, for example, is seen in no other way.
        """
        path, why = self._directory.path, ""
        if not self._is_there():
            return CondorPoolError(f"the submit directory {path} was deleted or moved. {IF_LOST}")
        if self._is_full() or any(map(self._has_no_room, crews)):
            why = f"{os.strerror(errno.ENOSPC)}, or no quota"
        elif probes:
            try:
                self._directory.write(PROBE, bytes(4096))
            except OSError as error:
                why = error.strerror or str(error)
        if not why:
            return None
        return CondorPoolError(
            f"jobs cannot write their results into the submit directory {path}: {why}. Free space "
            "there, or make it writable: the calls continue then."
        )

    def _is_full(self) -> bool:
        try:
            disk = os.statvfs(self._directory.path)
        except OSError:
            return False
        return not disk.f_bavail or bool(disk.f_files and not disk.f_favail)

    def _has_no_room(self, crew: int) -> bool:
        """Return whether a runner of a crew has said that it found no room for a result."""
        try:
            said = os.stat(self._directory.path / made_name(crew) / FULL).st_mtime  # noqa: PTH116
        except OSError:
            return False
        return self._time() < said + SILENCE

    def _time(self) -> float:
        """Return the time by the clock of the disk, which may be another machine's."""
        try:
            probe = os.open(
                self._directory.path / PROBE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
            )
        except OSError:
            return time.time()
        try:
            return os.fstat(probe).st_mtime
        finally:
            os.close(probe)
