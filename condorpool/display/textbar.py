"""A line of text that shows how calls proceed, for terminals and logs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TextIO

from condorpool.display.progress import Meter, Progress
from condorpool.values.locks import uninterrupted
from condorpool.values.text import duration

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls

#: Seconds for which calls are not shown: most have ended by then.
DELAY = 1.0

#: Seconds between two lines where lines cannot be written over.
LINE_INTERVAL = 10.0

WIDTH = 20


class TextBar:
    """Writes a bar again and again over itself, or a line now and then.

    Parameters
    ----------
    is_live
        Whether a carriage return goes back to the start of the line there.
    """

    poll_interval = 1.0

    def __init__(self, calls: Calls, stream: TextIO, *, is_live: bool) -> None:
        self._meter = Meter(calls)
        self._stream = stream
        self._is_live = is_live
        self._lock = threading.Lock()
        self._next = time.monotonic() + DELAY
        self._shown = ""
        self._is_over = False

    def refresh(self) -> bool:
        """Write the line, if it has changed and it is time."""
        with uninterrupted, self._lock:
            if self._is_over:
                return False
            now = time.monotonic()
            try:
                progress = self._meter.read()
            except ReferenceError:  # the iterator was dropped
                self._is_over = True
                return False
            if progress.ended and not self._shown and progress.elapsed < DELAY:
                self._is_over = True
            elif progress.ended or now >= self._next:
                self._next = now + (0.0 if self._is_live else LINE_INTERVAL)
                self._is_over = progress.ended
                self._write(line(progress))
            if self._is_over:
                del self._meter  # values live as long as their users want
            return not self._is_over

    def close(self) -> None:
        """Write the last line."""
        self.refresh()

    def poll_clicks(self) -> None:
        """Do nothing: there is nothing to click."""

    def has_viewer(self) -> bool:
        """Return that no user can act here."""
        return False

    def _write(self, text: str) -> None:
        if text == self._shown and not self._is_over:
            return
        if self._is_live:
            end = "\n" if self._is_over else ""
            self._stream.write(f"\r{text.ljust(len(self._shown))}{end}")
        else:
            self._stream.write(f"condorpool: {text}\n")
        self._stream.flush()
        self._shown = text


def line(progress: Progress) -> str:
    """Return a line that says how far the calls are."""
    full = WIDTH * progress.counts.ended // max(1, progress.counts.total)
    eta = "" if progress.eta is None else f", about {duration(progress.eta)} left"
    return f"{progress.name} |{'█' * full}{'·' * (WIDTH - full)}| {progress.summary}{eta}"
