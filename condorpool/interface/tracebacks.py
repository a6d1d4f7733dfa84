"""Tracebacks of errors that are meant for users: in IPython, without condorpool's own frames.

A traceback of plain Python has them all, and so has that of a mistake of ours.
"""

from __future__ import annotations

import dis
import functools
import re
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar, cast

from condorpool.engine.modules import is_own
from condorpool.engine.outcomes import RemoteTraceback
from condorpool.engine.payload import cell_of
from condorpool.values.exceptions import CondorPoolError, render

F = TypeVar("F", bound=Callable[..., Any])

#: IPython shows no frame that has this local variable, unless it is the last one.
HIDDEN = "__tracebackhide__"

#: Packages whose frames say nothing to users.  IPython's are between a cell and its magics.
_OURS = ("condorpool", "cloudpickle")
_ABOVE = (*_OURS, "IPython", "decorator")

_TOP = "<module>"
_TOP_LINE = re.compile(rf", line (\d+), in {_TOP}$", re.MULTILINE)

_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


class _ForUsers:
    """Hides the frames of condorpool in the tracebacks of errors that leave a ``with`` block.

    Or those that leave a function, which it decorates.
    """

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def shown(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast("F", shown)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or "IPython" not in sys.modules or not _is_for_users(error, trace):
            return
        if isinstance(error, KeyboardInterrupt) or _is_check(error, trace):
            # Not in users' own exceptions: jobs that get them may not have condorpool.
            vars(error)["_render_traceback_"] = render
        while trace:
            _hide(trace.tb_frame)
            trace = trace.tb_next
        caller = sys._getframe(1)  # noqa: SLF001 - the frames that the error is about to leave
        while caller and _package(caller) in _ABOVE:
            _hide(caller, _ABOVE)
            caller = caller.f_back  # type: ignore[assignment]


for_users = _ForUsers()


def raise_from_call(error: BaseException, cell: str = "") -> NoReturn:
    """Raise the exception of a call.

    In IPython it seems to come from the cell in which the call raised it: the last frame of
    a traceback is always shown.  ``cell`` is the file name of one that ran as a job, where it had
    another name.
    """
    if remote := _remote(error):
        places = [place for place in _FRAME.findall(remote.tb) if cell_of(place[0])]
        if cell:
            places += [(cell, line, _TOP) for line in _TOP_LINE.findall(remote.tb)]
        if places:
            file, line, name = places[-1]
            code = compile("\n" * (int(line) - 1) + "raise error", file, "exec")
            exec(code.replace(co_name=name), {"error": error})  # noqa: S102 - one statement of ours
    raise error


def _is_for_users(error: BaseException, trace: TracebackType | None) -> bool:
    """Return whether an error tells users something: not a mistake of condorpool's."""
    if isinstance(error, (CondorPoolError, KeyboardInterrupt)) or _remote(error):
        return True
    if _is_check(error, trace):
        return True
    while trace:
        if _package(trace.tb_frame) not in _OURS and is_own(
            trace.tb_frame.f_globals.get("__name__")
        ):
            return True  # users' code raised it
        trace = trace.tb_next
    return False


def _is_check(error: BaseException, trace: TracebackType | None) -> bool:
    """Return whether a ``raise`` of condorpool's own raised an error: a check of arguments."""
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None or type(error) not in (TypeError, ValueError, IndexError):
        return False
    step = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    return _package(trace.tb_frame) == "condorpool" and dis.opname[step] == "RAISE_VARARGS"


def _remote(error: BaseException) -> RemoteTraceback | None:
    """Return the remote traceback of a call's exception, whose class may redefine the name."""
    cause = BaseException.__dict__["__cause__"].__get__(error)
    return cause if isinstance(cause, RemoteTraceback) else None


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _hide(frame: FrameType, packages: tuple[str, ...] = _OURS) -> None:
    if _package(frame) in packages:
        # Not a variable of the code: it would hide the frame also from mistakes of ours.
        frame.f_locals[HIDDEN] = True
