"""Locks that Control-C cannot break, and waits that it can end.

Python raises KeyboardInterrupt in the main thread between any two steps.  Between
taking a lock and recording that it is taken, or in the middle of a change, it leaves
a state from which no thread can continue: a lock that is never released, calls that
no job will make.  So SIGINT is deferred there, to the end of the block.
"""

from __future__ import annotations

import _signal  # signal.py converts to enums, which takes 8 us a call
import _thread
import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any


class _Interrupts:
    """Whether SIGINT is deferred in the main thread.  One for the process, like signal handlers."""

    def __init__(self) -> None:
        self.depth = 0
        #: The program's handler, called at the end of the block; None outside of one.
        self.handler: Callable[[int, Any], Any] | None = None
        #: Whether the main thread is in a wait, where SIGINT is handled at once.
        self.in_wait = False
        self.is_pending = False

    def handle(self, signum: int, frame: Any) -> None:
        """Handle SIGINT at once in a wait, else later."""
        if self.in_wait and self.handler:
            self.handler(signum, frame)
        else:
            self.is_pending = True

    def deliver(self) -> None:
        """Handle a SIGINT that was deferred."""
        if self.is_pending and self.handler:
            self.is_pending = False
            self.handler(_signal.SIGINT, sys._getframe())  # noqa: SLF001 - handlers take a frame


_interrupts = _Interrupts()


class _Uninterrupted(contextlib.ContextDecorator):
    """A block, or a function, during which KeyboardInterrupt is deferred to its end.

    Blocks may be nested, and entered in any thread; Python interrupts only the main thread.
    """

    def __enter__(self) -> None:
        if _thread.get_ident() != threading.main_thread().ident:
            return
        state = _interrupts
        if not state.depth:
            handler = _signal.getsignal(_signal.SIGINT)
            if callable(handler):  # else SIGINT is ignored or ends the process
                state.handler, state.is_pending = handler, False
                # From some point in this call on, SIGINT is deferred.
                _signal.signal(_signal.SIGINT, state.handle)
        state.depth += 1

    def __exit__(self, *_: object) -> None:
        state = _interrupts
        if _thread.get_ident() != threading.main_thread().ident or not state.depth:
            return
        state.depth -= 1
        if state.depth or state.handler is None:
            return
        handler, state.handler = state.handler, None
        if _signal.getsignal(_signal.SIGINT) == state.handle:
            _signal.signal(_signal.SIGINT, handler)
        # From here on SIGINT is no longer deferred.
        if state.is_pending:
            state.is_pending = False
            handler(_signal.SIGINT, sys._getframe())  # noqa: SLF001 - handlers take a frame

    @property
    def is_pending(self) -> bool:
        """Whether Control-C was pressed since this thread entered the block."""
        is_main = _thread.get_ident() == threading.main_thread().ident
        return is_main and _interrupts.is_pending


uninterrupted = _Uninterrupted()


class Monitor:
    """A reentrant lock and condition, like `threading.Condition`.

    But KeyboardInterrupt is deferred while the main thread holds the lock, and raised
    in `wait`.
    """

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._owner = 0
        self._depth = 0
        self._waiters: collections.deque[Any] = collections.deque()

    def __enter__(self) -> None:
        uninterrupted.__enter__()
        if self._owner != _thread.get_ident():
            self._lock.acquire()
            self._owner = _thread.get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = 0
            self._lock.release()
        uninterrupted.__exit__()

    @property
    def is_held(self) -> bool:
        """Whether this thread holds the lock."""
        return self._owner == _thread.get_ident()

    def notify_all(self) -> None:
        """Wake all waiting threads.  Called with the lock held."""
        while self._waiters:
            self._waiters.popleft().release()

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock until `notify_all` is called; return whether that was in time."""
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        depth, self._depth, self._owner = self._depth, 0, 0
        is_main = _thread.get_ident() == threading.main_thread().ident
        state = _interrupts
        is_notified = False
        self._lock.release()
        # No assignment is interrupted: ceval.c checks for signals at calls and backward
        # jumps only.  So the lines before and after the wait always run.
        try:
            if is_main:
                state.in_wait = True
                state.deliver()
            limit = -1 if timeout is None else max(0.0, min(timeout, _thread.TIMEOUT_MAX))
            is_notified = waiter.acquire(True, limit)
        finally:
            if is_main:
                state.in_wait = False
            self._lock.acquire()
            self._owner, self._depth = _thread.get_ident(), depth
            if not is_notified and waiter in self._waiters:
                self._waiters.remove(waiter)
        return is_notified

    def wait_for(self, over: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until ``over()``, which is called with the lock held; return its last value."""
        end = None if timeout is None else time.monotonic() + timeout
        while not (value := over()):
            remaining = None if end is None else end - time.monotonic()
            if remaining is not None and remaining <= 0:
                break
            self.wait(remaining)
        return value


def _forget() -> None:
    # The child's main thread may have forked in the middle of a block, which never ends there.
    state = _interrupts
    if state.handler is not None and _signal.getsignal(_signal.SIGINT) == state.handle:
        _signal.signal(_signal.SIGINT, state.handler)
    state.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget)
