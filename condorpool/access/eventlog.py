"""Read an HTCondor event log, and wait for one to grow."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import re
import select
import stat
from collections.abc import Iterator

from condorpool.access.bindings import htcondor2
from condorpool.values.events import JobEvent

#: The attributes that `JobEvent` keeps for each kind of event.
_FACTS = {
    "EXECUTE": ("ExecuteHost", "SlotName"),
    "JOB_EVICTED": ("ReasonCode", "ReasonSubCode"),
    "JOB_HELD": ("HoldReason", "HoldReasonCode", "HoldReasonSubCode"),
    "JOB_TERMINATED": ("TerminatedNormally", "ReturnValue", "TerminatedBySignal"),
    "JOB_ABORTED": ("Reason",),
    "SHADOW_EXCEPTION": ("Message",),
    "GENERIC": ("Info",),
    "FILE_TRANSFER": ("Type",),
    "IMAGE_SIZE": ("MemoryUsage",),
}


# Objects in one another in a log that is written as JSON.
_MAX_DEPTH = 99


class EventLog:
    """The log in which the access point and its shadows record events of a pool's jobs."""

    def __init__(self, path: os.PathLike[str]) -> None:
        """Open a log; raise ValueError if it is none that HTCondor's reader survives."""
        _check(path)
        self._log = htcondor2.JobEventLog(str(path))

    def new_events(self) -> Iterator[JobEvent]:
        """Yield the events written since the last call, without waiting.

        HTCondor's reader can wait by itself, but then it blocks every other
        reader of this process: all of them share one lock (job_event_log.cpp).
        So `FileWatch` waits instead.

        Raises ValueError if there is what is no event.
        """
        try:
            for event in self._log.events(stop_after=0):
                kind = event.type.name
                facts = {name: event[name] for name in _FACTS.get(kind, ()) if name in event}
                yield JobEvent(kind, event.cluster, event.proc, facts, event.timestamp)
        except htcondor2.HTCondorException as error:
            raise ValueError(f"it has what is no event ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def _check(path: os.PathLike[str]) -> None:
    """Raise ValueError if reading a file as an event log would block, or end this process."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("it is no file")
    with os.fdopen(handle, "rb") as file:
        is_json = file.read(1) == b"{"
        braces = re.sub(rb"[^{}]", b"", file.read(1 << 26)) if is_json else b""
    # The reader's recursion has no limit; events are not nested.
    depths = itertools.accumulate(1 if brace == ord("{") else -1 for brace in braces)
    if max(depths, default=0) > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")


class FileWatch:
    """Waits until one of its files grows or another thread calls `wake`.

    Uses Linux's inotify.  On other systems, and for changes made by another machine on
    a network file system, `wait` ends after its timeout, and the caller reads the files.
    """

    _IN_MODIFY = 0x2

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._libc = ctypes.CDLL(None, use_errno=True)
        has_inotify = hasattr(self._libc, "inotify_init1")
        self._inotify = (
            self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC) if has_inotify else -1
        )
        self.is_prompt = self._inotify >= 0

    def add(self, path: os.PathLike[str]) -> None:
        """Watch this file too."""
        if self.is_prompt:
            with contextlib.suppress(OSError):  # its folder is gone
                self._libc.inotify_add_watch(self._inotify, os.fsencode(path), self._IN_MODIFY)

    def wake(self) -> None:
        """End the current wait, or else the next one, at once.  Any thread may call this."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def wait(self, timeout: float) -> None:
        """Wait for a change, at most ``timeout`` seconds; spurious wake-ups are normal."""
        sources = [self._wake_read] + ([self._inotify] if self.is_prompt else [])
        for source in select.select(sources, [], [], timeout)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(source, 65536)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (self._wake_read, self._wake_write, self._inotify):
            if descriptor >= 0:
                os.close(descriptor)
