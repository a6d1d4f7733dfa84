"""The refresher: one thread that keeps all displays up to date."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from typing import Protocol, TypeVar

from condorpool.values.locks import uninterrupted
from condorpool.values.logs import logger

#: Seconds between two rounds.
INTERVAL = 0.25

#: The largest share of the time that one display may take.
SHARE = 0.05


class Refreshed(Protocol):
    """What the refresher calls."""

    def refresh(self) -> bool:
        """Show what is new; return whether there will be more."""
        ...


D = TypeVar("D", bound=Refreshed)


class Refresher:
    """Refreshes displays until they have no more to show.

    Each is called in a copy of the context that it was added in: Jupyter's
    kernels keep in the context which cell an output belongs to.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[tuple[Refreshed, contextvars.Context]] = []
        self._thread: threading.Thread | None = None

    @property
    def count(self) -> int:
        """The number of open displays, without what prints only notices."""
        return sum(hasattr(display, "has_viewer") for display, _ in self._entries)

    def add(self, display: D) -> D:
        """Refresh a display from now on, first after an interval; return it."""
        with uninterrupted, self._lock:
            self._entries.append((display, contextvars.copy_context()))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="condorpool-refresher", daemon=True
                )
                self._thread.start()
        return display

    def _run(self) -> None:
        due: dict[int, float] = {}
        while True:
            # Polling, not a condition: notifying would slow maps that take milliseconds.
            time.sleep(INTERVAL)
            with uninterrupted, self._lock:
                entries = list(self._entries)
                if not entries:
                    self._thread = None
                    return
            ended = []
            for entry in entries:
                display, context = entry
                begun = time.monotonic()
                if begun < due.get(id(display), 0.0):
                    continue
                try:
                    has_more = context.run(display.refresh)
                except BaseException:
                    # A display must never stop the calls, and errors' texts run users' code.
                    logger.exception("condorpool failed to show progress; the calls continue")
                    has_more = False
                now = time.monotonic()
                due[id(display)] = now + (now - begun) / SHARE
                if not has_more:
                    ended.append(entry)
                    del due[id(display)]
            with uninterrupted, self._lock:
                # By identity: the same object may have been added again meanwhile.
                gone = set(map(id, ended))
                self._entries = [entry for entry in self._entries if id(entry) not in gone]


refresher = Refresher()


def _forget() -> None:
    # Threads do not survive a fork.
    refresher.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget)
