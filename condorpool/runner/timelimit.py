"""Interrupts a call that takes longer than ``task_timeout``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that an interrupted call gets to end by itself.
GRACE = 5.0


class OvertimeError(BaseException):
    """Raised in a call that takes too long; not an Exception, which calls catch by accident."""


def arm(seconds: float, stderr: int) -> None:
    """Raise `OvertimeError` in this thread after ``seconds``.

    A call that cannot be interrupted, or catches even this, ends with its job after
    `GRACE` more seconds; its traceback goes to the descriptor ``stderr``.
    """
    import faulthandler
    import signal

    def ring(*_: Any) -> None:
        raise OvertimeError

    # Each time anew: a call may have set a handler of its own.
    signal.signal(signal.SIGALRM, ring)
    # This one is a thread in C, and needs no interpreter.
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stderr)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def disarm() -> None:
    """Stop both clocks; the first may still ring until it is stopped."""
    import faulthandler
    import signal

    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        faulthandler.cancel_dump_traceback_later()
