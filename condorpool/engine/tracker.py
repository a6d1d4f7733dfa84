"""The tracker: one thread that follows the event logs of all sessions of this process."""

from __future__ import annotations

import os
import threading
import time

from condorpool.access.eventlog import FileWatch
from condorpool.engine import deliveries, follower
from condorpool.engine.session import Session
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.locks import uninterrupted
from condorpool.values.logs import logger

#: Seconds between looks at logs, whose growth may go unnoticed on network file systems.
LOOK_INTERVAL = 1.0

#: Seconds between two comparisons with the queue.
RECONCILE_INTERVAL = 30.0


class Tracker:
    """Reads event logs as they grow, and compares with the queue now and then.

    The thread starts with the first session and ends with the last; a later session
    starts a new one.  It runs no code of the user's: `deliveries` does.
    """

    def __init__(self, reconcile_interval: float = RECONCILE_INTERVAL) -> None:
        self.reconcile_interval = reconcile_interval
        self._lock = threading.Lock()  # guards the assignment of all below
        # Replaced, never changed in place: the thread iterates over it without the lock.
        self._sessions: list[Session] = []
        self._thread: threading.Thread | None = None
        self._watch: FileWatch | None = None  # the thread ends when this is another
        self._fault: BaseException | None = None  # the error that ended the thread

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
        """Have the thread look at the logs at once."""
        with uninterrupted, self._lock:
            if self._watch:
                self._watch.wake()

    def check(self, session: Session) -> None:
        """Raise if a session is no longer followed: a wait would never end."""
        if session in self._sessions:
            return
        if session.is_closed or self._fault is None:
            what = "their pool was closed, or this process was forked from the one that owns it"
        else:
            what = f"the thread that follows their jobs has ended ({self._fault!r})"
        raise CondorPoolError(
            f"the calls in {session.directory.path} are no longer followed: {what}. Their jobs "
            "continue; get their results with condorpool.attach() in a new process."
        )

    @uninterrupted
    def unfollow(self, session: Session) -> None:
        """Stop following a session; after the last one, wait for a while until the thread has ended."""
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
        # A thread cannot join itself.
        if last and thread and thread is not threading.current_thread():
            thread.join(follower.READ_LAG)  # else it ends when its read does

    def _run(self, watch: FileWatch) -> None:
        try:
            self._follow(watch)
        except BaseException as error:
            logger.exception("condorpool no longer follows any jobs")
            lost: list[Session] = []
            with self._lock:
                if self._watch is watch:  # the next session starts a new thread
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
                    session.revival.look()
                    session.follower.pump()
                    if reconcile:
                        session.follower.reconcile()
                except BaseException:
                    # One broken session must not stop the others.
                    logger.exception("condorpool cannot follow %s", session.directory.path)
            if reconcile:
                reconcile_at = time.monotonic() + self.reconcile_interval
        with self._lock:  # the thread that called unfollow() may still be waking this one
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
