"""Waits until something appears in a folder of this machine (Linux's inotify)."""

from __future__ import annotations

import os

from .streams import file_of


class Watch:
    """A watched folder; raises OSError or AttributeError where inotify is not available."""

    def __init__(self, folder: str) -> None:
        import ctypes
        import select

        self.select = select.select
        libc = ctypes.CDLL(None, use_errno=True)
        self.handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        moved_to, created = 0x80, 0x100
        self.file = file_of(self.handle)
        if libc.inotify_add_watch(self.handle, os.fsencode(folder), moved_to | created) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def is_open(self) -> bool:
        """Return whether the descriptor is still this watch's: a call may have closed it."""
        return file_of(self.handle) == self.file

    def wait(self, seconds: float) -> None:
        """Wait for a change, at most this long."""
        if self.select([self.handle], [], [], seconds)[0]:
            os.read(self.handle, 65536)
