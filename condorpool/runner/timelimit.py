"""Interrupts a call that takes longer than ``task_timeout``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that an interrupted call gets to end by itself.
GRACE = 5.0


class OvertimeError(BaseException):
    """Raised in a call that takes too long; not an Exception, because calls often catch those."""


def arm(seconds: float, stderr: int) -> None:
    """Raise `OvertimeError` in this thread after ``seconds``.

    A call that cannot be interrupted, or catches even this, ends with its job after
    `GRACE` more seconds; its traceback goes to the descriptor ``stderr``.
    """
    import faulthandler
    import signal

    def ring(*_: Any) -> None:
        raise OvertimeError

    # Set for each call: an earlier one may have set another handler.
    signal.signal(signal.SIGALRM, ring)
    # The second clock is a thread in C: it also ends a call that stays in C code, where
    # Python runs no signal handler.
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stderr)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def disarm() -> None:
    """Stop both clocks; until then the alarm may still raise, also in here."""
    import faulthandler
    import signal

    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        faulthandler.cancel_dump_traceback_later()
