"""The tracker: one thread that follows the event logs of all sessions of this process."""

from __future__ import annotations

import logging
import os
import threading
import time

from condorpool.access.eventlog import FileWatch
from condorpool.engine import deliveries
from condorpool.engine.session import Session
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.locks import uninterrupted

logger = logging.getLogger("condorpool")

#: Seconds between looks at logs that may have grown unseen (network file systems).
LOOK_INTERVAL = 1.0

#: Seconds between two comparisons with the queue.
RECONCILE_INTERVAL = 30.0


class Tracker:
    """Reads event logs as they grow, and compares with the queue now and then.

    The thread starts with the first session and ends with the last; both may
    happen again and again.  It runs no code of the user's: `deliveries` does.
    """

    def __init__(self, reconcile_interval: float = RECONCILE_INTERVAL) -> None:
        self.reconcile_interval = reconcile_interval
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._thread: threading.Thread | None = None
        self._watch: FileWatch | None = None
        self._fault: BaseException | None = None  # why the thread has ended by itself

    def follow(self, session: Session) -> None:
        """Follow a session from now on."""
        with uninterrupted, self._lock:
            self._sessions = [*self._sessions, session]
            if self._watch is None:
                self._watch = FileWatch()
                self._thread = threading.Thread(
                    target=self._run, args=(self._watch,), name="condorpool-tracker", daemon=True
                )
                self._thread.start()
            self._watch.add(session.directory.log)

    def look(self) -> None:
        """Look at the logs at once."""
        with uninterrupted, self._lock:
            if self._watch:
                self._watch.wake()

    def check(self, session: Session) -> None:
        """Raise when nothing will be heard of a session any more: a wait would have no end."""
        if session in self._sessions:
            return
        if session.is_closed or self._fault is None:
            what = "its pool was closed, or this process was forked from the one that has it"
        else:
            what = f"the thread that follows its jobs has ended ({self._fault!r})"
        raise CondorPoolError(
            f"nothing is known any more of what is in {session.directory.path}: {what}. Its jobs "
            "go on; condorpool.attach() in a new process goes on with what they make."
        )

    @uninterrupted
    def unfollow(self, session: Session) -> None:
        """Follow a session no longer; when this returns the thread has let go of it."""
        with self._lock:
            if session not in self._sessions:
                return
            self._sessions = [other for other in self._sessions if other is not session]
            thread, watch = self._thread, self._watch
            last = not self._sessions
            if last:
                self._thread = self._watch = None
            if watch:
                watch.wake()
        # The last session takes the thread along; a callback that closes its own
        # pool runs in that thread.
        if last and thread and thread is not threading.current_thread():
            thread.join()

    def _run(self, watch: FileWatch) -> None:
        try:
            self._follow(watch)
        except BaseException as error:
            logger.exception("condorpool follows no jobs any more")
            with self._lock:
                if self._watch is watch:  # the next session begins anew
                    lost, self._fault = self._sessions, error
                    self._sessions, self._watch, self._thread = [], None, None
            for session in lost:
                with session.changed:
                    session.changed.notify_all()

    def _follow(self, watch: FileWatch) -> None:
        reconcile_at = time.monotonic() + self.reconcile_interval
        look_interval = LOOK_INTERVAL if watch.is_prompt else 0.05
        while self._watch is watch:
            watch.wait(deliveries.PATIENCE if deliveries.are_behind() else look_interval)
            deliveries.help_out()
            reconcile = time.monotonic() >= reconcile_at
            for session in self._sessions:
                try:
                    session.follower.pump()
                    if reconcile:
                        session.follower.reconcile()
                except BaseException:
                    # One broken session must not stop the others' results.
                    logger.exception("condorpool cannot follow %s", session.directory.path)
            if reconcile:
                reconcile_at = time.monotonic() + self.reconcile_interval
        with self._lock:  # whoever ended this thread may still be waking it
            watch.close()


_tracker = Tracker()


def tracker() -> Tracker:
    """Return the tracker of this process."""
    return _tracker


def _forget() -> None:
    # Threads do not survive a fork: a child that makes a pool starts afresh.
    global _tracker  # noqa: PLW0603
    _tracker = Tracker()


os.register_at_fork(after_in_child=_forget)
