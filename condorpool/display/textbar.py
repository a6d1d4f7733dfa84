"""A line of text that shows progress in terminals and logs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TextIO

from condorpool.display.printed import shown, shown_if_quick
from condorpool.display.progress import Meter, Progress
from condorpool.values.locks import uninterrupted
from condorpool.values.text import duration, one_line, printable

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls

#: Seconds before calls are shown: most have ended by then.
DELAY = 1.0

#: Seconds between two lines where a line cannot be overwritten.
LINE_INTERVAL = 10.0

WIDTH = 20

#: Characters of a line, beside the bar.
MOST = 500


class TextBar:
    """Overwrites one line with a progress bar, or writes a line from time to time.

    Parameters
    ----------
    is_live
        Whether a carriage return lets a line be overwritten.
    """

    poll_interval = 1.0

    def __init__(self, calls: Calls, stream: TextIO, *, is_live: bool) -> None:
        self._meter, self._calls = Meter(calls), calls
        self._stream = stream
        self._is_live = is_live
        self._lock = threading.Lock()
        self._next = time.monotonic() + DELAY
        self._shown = ""
        self._is_closed = False
        self._has_warned = False  # that no slot can run the jobs

    def refresh(self) -> bool:
        """Write the line if it has changed and is due; return whether there will be more."""
        with uninterrupted, self._lock:
            if self._is_closed:
                return False
            now = time.monotonic()
            try:
                progress = self._meter.read()
            except ReferenceError:  # the iterator was dropped
                self._is_closed = True
                return False
            is_quick = progress.ended and not self._shown and progress.elapsed < DELAY
            printed = None
            if progress.ended and self._is_live:
                printed = shown_if_quick(self._calls) if is_quick else shown(self._calls)
            if is_quick and not printed:
                self._is_closed = True
            elif progress.ended or now >= self._next:
                self._next = now + (0.0 if self._is_live else LINE_INTERVAL)
                self._is_closed = progress.ended
                if progress.never and not self._has_warned:
                    self._has_warned = True
                    said = printable(progress.never)
                    self._stream.write(f"{chr(10) * self._is_live}condorpool: {said}\n")
                self._write(line(progress) + (f"; {printed.hint}" if printed else ""))
            if self._is_closed:
                del self._meter, self._calls  # must not keep the calls' values alive
            return not self._is_closed

    def close(self) -> None:
        """Write the last line."""
        self.refresh()

    def poll_clicks(self) -> None:
        """Do nothing: there is nothing to click."""

    def has_viewer(self) -> bool:
        """Return False: users cannot act here."""
        return False

    def _write(self, text: str) -> None:
        if text == self._shown and not self._is_closed:
            return
        if self._is_live:
            end = "\n" if self._is_closed else ""
            self._stream.write(f"\r{text.ljust(len(self._shown))}{end}")
        else:
            self._stream.write(f"condorpool: {text}\n")
        self._stream.flush()
        self._shown = text


def line(progress: Progress) -> str:
    """Return the line for this progress."""
    full = WIDTH * progress.counts.ended // max(1, progress.counts.total)
    eta = "" if progress.eta is None else f", eta {duration(progress.eta)}"
    name, summary = one_line(progress.name), one_line(progress.summary, MOST)
    return f"{name} |{'█' * full}{'·' * (WIDTH - full)}| {summary}{eta}"
