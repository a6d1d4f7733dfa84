"""Threads that run users' code: the unpickling of values, and callbacks.

Such code may do anything: raise SystemExit, never return, or call a pool's own methods
and wait.  The tracker's thread, on which all pools depend, therefore never runs it,
and no lane waits for another that does not return.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

from condorpool.values.locks import Monitor, uninterrupted
from condorpool.values.logs import logger

Task = Callable[[], object]

#: Seconds for which lanes wait for busy threads before another thread is started.
PATIENCE = 0.02

#: Seconds after which a thread without work ends.
LINGER = 10.0


class Lane:
    """Runs tasks one after the other, in the order in which they come.

    Tasks of different lanes do not wait for each other.
    """

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        # Guards the two below together: else a task could be put just when the thread that
        # runs the lane has found none and leaves, and no thread would run it.
        self._lock = threading.Lock()
        self._tasks: collections.deque[Task] = collections.deque()
        self._is_running = False

    def put(self, task: Task) -> None:
        """Have a task run after those before it."""
        with uninterrupted:
            # Counted first: `Deliveries.wait` must not find none before the task can run.
            self._deliveries.note(1)
            with self._lock:
                self._tasks.append(task)
                starts, self._is_running = not self._is_running, True
            if starts:
                _threads.run(self)

    def run(self) -> None:
        """Run tasks until there are none."""
        while True:
            with self._lock:
                if not self._tasks:
                    self._is_running = False
                    return
                task = self._tasks.popleft()
            try:
                with self._deliveries.entered():
                    task()
            except BaseException:  # also SystemExit, which must not end this thread
                logger.exception("condorpool could not deliver the result of a call")
            del task  # else what it refers to would live until the next one


class Deliveries:
    """Counts what one pool has yet to deliver.

    Parameters
    ----------
    changed
        The session's lock, which is notified when nothing remains.
    """

    def __init__(self, changed: Monitor) -> None:
        self._changed = changed
        self._count = 0
        self._inside = threading.local()  # each thread has a depth of its own

    def lane(self) -> Lane:
        """Return a new lane."""
        return Lane(self)

    def note(self, more: int) -> None:
        """Add to the number of deliveries that remain."""
        with self._changed:
            self._count += more
            if not self._count:
                self._changed.notify_all()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Note that this thread delivers; at the end, that one delivery less remains."""
        self._inside.depth = self.depth + 1
        try:
            yield
        finally:
            self._inside.depth -= 1
            self.note(-1)

    @property
    def depth(self) -> int:
        """How many deliveries this thread is in the middle of."""
        return getattr(self._inside, "depth", 0)

    @property
    def are_over(self) -> bool:
        """Whether none remain, except those that this thread is in the middle of."""
        return self._count <= self.depth

    def wait(self, patience: float) -> None:
        """Wait until none remain, at most ``patience`` seconds.

        Inside a delivery return at once: the wait could be for that delivery itself.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.depth or self.are_over, patience)


class _Threads:
    """Runs lanes: in one thread, or in more while users' code keeps that busy."""

    def __init__(self) -> None:
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the three below
        self._count = 0  # threads
        self._idle = 0  # threads that wait for a lane
        self._taken = 0.0  # when a lane was last taken

    def run(self, lane: Lane) -> None:
        """Have a thread run a lane."""
        self._lanes.put(lane)
        with self._lock:
            if not self._count:
                self._add()

    @property
    def are_behind(self) -> bool:
        """Whether lanes wait for a thread."""
        return not self._lanes.empty() and not self._idle

    def help_out(self) -> None:
        """Add a thread if all are busy; the tracker calls this while they `are_behind`."""
        with self._lock:
            if self.are_behind and time.monotonic() > self._taken + PATIENCE:
                self._add()

    def _add(self) -> None:
        self._count += 1
        self._taken = time.monotonic()
        threading.Thread(target=self._work, name="condorpool-delivery", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            lane = None
            with contextlib.suppress(queue.Empty):
                lane = self._lanes.get(timeout=LINGER)
            with self._lock:
                self._idle -= 1
                self._taken = time.monotonic()
                # Look again, with the lock: `run` may have put a lane when the wait was
                # over, and starts no thread as long as this one counts.
                if lane is None and self._lanes.empty():
                    self._count -= 1
                    return
            if lane:
                lane.run()
            del lane  # else what it refers to would live until the next one


_threads = _Threads()


def are_behind() -> bool:
    """Return whether deliveries wait for a thread."""
    return _threads.are_behind


def help_out() -> None:
    """Add a thread if users' code keeps all of them busy."""
    _threads.help_out()


def _forget() -> None:
    # Threads do not survive a fork, and one may have had the lock.
    global _threads  # noqa: PLW0603
    _threads = _Threads()


os.register_at_fork(after_in_child=_forget)
