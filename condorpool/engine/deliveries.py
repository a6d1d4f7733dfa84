"""Threads that run users' code: what unpickles the values of calls, and callbacks.

Such code may do anything: raise SystemExit, never return, or call a pool's own verbs
and wait.  The tracker's thread, on which all pools depend, therefore never runs it,
and no delivery waits for another that does not return.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

from condorpool.values.locks import Monitor, uninterrupted

logger = logging.getLogger("condorpool")

Task = Callable[[], object]

#: Seconds after which another thread helps out where one is busy and others wait.
PATIENCE = 0.02

#: Seconds for which a thread waits for more.
LINGER = 10.0


class Lane:
    """Runs tasks one after the other, in the order in which they come.

    Tasks of different lanes do not wait for each other.
    """

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._tasks: collections.deque[Task] = collections.deque()
        self._lock = threading.Lock()
        self._is_running = False

    def put(self, task: Task) -> None:
        """Run a task when those before it have ended."""
        with uninterrupted:
            self._deliveries.note(1)
            with self._lock:
                self._tasks.append(task)
                starts, self._is_running = not self._is_running, True
            if starts:
                _threads.run(self)

    def run(self) -> None:
        """Run all tasks that there are."""
        while True:
            with self._lock:
                if not self._tasks:
                    self._is_running = False
                    return
                task = self._tasks.popleft()
            try:
                with self._deliveries.entered():
                    task()
            except BaseException:  # also SystemExit: it is not this thread that is to end
                logger.exception("condorpool could not deliver the result of a call")
            del task  # with all that it holds


class Deliveries:
    """What one pool has to deliver.

    Parameters
    ----------
    changed
        Is notified when there is nothing left.
    """

    def __init__(self, changed: Monitor) -> None:
        self._changed = changed
        self._count = 0
        self._inside = threading.local()

    def lane(self) -> Lane:
        """Return a new lane."""
        return Lane(self)

    def note(self, more: int) -> None:
        """Note that there are more deliveries, or fewer."""
        with self._changed:
            self._count += more
            if not self._count:
                self._changed.notify_all()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Note for as long as it lasts, and until its end, that this thread delivers."""
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
        """Whether there are none, but for those that ask."""
        return self._count <= self.depth

    def wait(self, patience: float) -> None:
        """Wait until there are none, at most ``patience`` seconds; in a delivery not at all."""
        with self._changed:
            self._changed.wait_for(lambda: self.depth or self.are_over, patience)


class _Threads:
    """Runs lanes: in one thread, as long as that is not kept by what it runs."""

    def __init__(self) -> None:
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self._idle = 0
        self._taken = 0.0  # when a lane was taken last

    def run(self, lane: Lane) -> None:
        """Have a lane run."""
        self._lanes.put(lane)
        with self._lock:
            if not self._count:
                self._add()

    @property
    def are_behind(self) -> bool:
        """Whether lanes wait for a thread."""
        return not self._lanes.empty() and not self._idle

    def help_out(self) -> None:
        """Add a thread if all are kept: called now and then as long as they `are_behind`."""
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
                if lane is None and self._lanes.empty():
                    self._count -= 1
                    return
            if lane:
                lane.run()
            del lane  # with all that it holds


_threads = _Threads()


def are_behind() -> bool:
    """Return whether deliveries wait for a thread."""
    return _threads.are_behind


def help_out() -> None:
    """Add a thread if users' code keeps all that there are."""
    _threads.help_out()


def _forget() -> None:
    # Threads do not survive a fork.
    global _threads  # noqa: PLW0603
    _threads = _Threads()


os.register_at_fork(after_in_child=_forget)
