"""Notices of held calls that no display shows, such as those of ``apply_async``."""

from __future__ import annotations

import contextvars
import os
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from condorpool.display.groups import key_of
from condorpool.display.notices import tell
from condorpool.display.refresher import refresher
from condorpool.values.events import JobState
from condorpool.values.locks import uninterrupted
from condorpool.values.text import one_line, plural

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls
    from condorpool.engine.jobs import Crew
    from condorpool.values.exceptions import JobHeldError

#: Seconds for which calls must be held: by then a wait has raised the error, or handled it.
DELAY = 2.0

#: Seconds for which calls that are held for the same reason get no further line.
SILENCE = 60.0


@dataclass
class _Watched:
    """Calls, the cell that made them, and since when they are held."""

    calls: weakref.ref[Calls]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    since: float = 0.0


class HeldNotices:
    """Prints one line when watched calls are held; the refresher calls it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []
        self._told: dict[tuple[str, str], float] = {}  # when each reason was printed
        self._is_open = False  # whether the refresher calls this object

    def watch(self, calls: Calls) -> None:
        """Print a line if these calls are held, until they end."""
        with uninterrupted, self._lock:
            self._watched.append(_Watched(weakref.ref(calls)))
            if not self._is_open:
                self._is_open = True
                refresher.add(self)

    def refresh(self) -> bool:
        """Print what is new; return whether calls remain to be watched."""
        with uninterrupted, self._lock:
            watched = list(self._watched)
        now = time.monotonic()
        crews: dict[Crew, int] = {}  # how many jobs each has that are held
        done: set[int] = set()
        held: dict[tuple[str, str], list[tuple[_Watched, JobHeldError]]] = {}
        for each in watched:
            calls = each.calls()
            if calls is None or calls.batch is None or calls.is_ready or calls.is_reported:
                done.add(id(each))
                continue
            crew = calls.batch.crew
            if crew not in crews:
                crews[crew] = crew.count(JobState.HELD)
            error = _why_held(calls) if crews[crew] else None
            each.since = (each.since or now) if error else 0.0
            if error:
                key = calls.name, key_of(error.reason, error.code, error.subcode)
                held.setdefault(key, []).append((each, error))
        for key, group in held.items():
            if now - min(each.since for each, _ in group) < DELAY:
                continue
            done.update(id(each) for each, _ in group)
            if now - self._told.get(key, -SILENCE) >= SILENCE:
                self._told[key] = now
                first, error = group[0]
                text = f"{plural(len(group), 'call')} of {one_line(key[0])} held: {error}"
                first.context.copy().run(tell, text)
        with uninterrupted, self._lock:
            self._watched = [each for each in self._watched if id(each) not in done]
            self._is_open = bool(self._watched)
            return self._is_open


def _why_held(calls: Calls) -> JobHeldError | None:
    """Return the error that says why calls are held; None if they are not."""
    with calls.session.changed:
        batch = calls.batch
        return batch.held_error() if batch and batch.held and calls.counts().held else None


held_notices = HeldNotices()


def _forget() -> None:
    # A forked child has none of its parent's threads, and its jobs are not the child's.
    held_notices.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget)
