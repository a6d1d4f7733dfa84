"""Every error that condorpool raises.

CondorPoolError
├── PoolClosedError         (ValueError)     the pool accepts no more calls
├── UnsubmittedError        (ValueError)     asked about a job that was never submitted
├── SubmitError                              HTCondor or the file system refused the jobs
├── ResultTimeoutError      (both TimeoutErrors)  the wait ended before the result came
├── PayloadError            (PicklingError)  a function or argument cannot be sent
├── CallError                                a call ended, and its result cannot be returned
│   ├── ResultPicklingError (PicklingError)  the result or exception cannot be pickled or rebuilt
│   └── EnvironmentMismatchError             the job's Python cannot run the payload
├── JobError                                 a job ended or was held without an outcome
│   ├── JobHeldError                         HTCondor holds the job
│   ├── JobRemovedError                      the job was removed from the queue
│   └── JobFailedError                       the job crashed, was killed or was lost
│       └── TaskTimeoutError                 a call took longer than its task_timeout
└── HTCondorError                            HTCondor is missing, does not answer, or refuses
    ├── HTCondorNotFoundError                no pool is configured and no program is installed
    ├── VersionSkewError                     bindings and access point are incompatible
    ├── InstallError                         HTCondor could not be installed
    └── PersonalError                        the personal HTCondor did not start or stop

An exception that the user's function raises is none of these: it is raised
again as itself, with the remote traceback as its cause (`condorpool.RemoteTraceback`).

Stand-ins for classes of the standard library, so that code that catches those works:

multiprocessing
    TimeoutError                the builtin, too: ResultTimeoutError
    ValueError: not running     PoolClosedError
    pool.MaybeEncodingError     ResultPicklingError, with its exc and value
    pool.RemoteTraceback        condorpool.RemoteTraceback, with its tb
    ProcessError, AuthenticationError, BufferTooShort
                                concern its own connections: not raised here
pickle
    PicklingError               PayloadError, ResultPicklingError
    UnpicklingError, or any other exception that pickling or rebuilding raises
                                PayloadError and ResultPicklingError are then of that class, too,
                                with its attributes: an OSError has its errno.  Neither is a
                                StopIteration, which ends loops; a ResultPicklingError is no
                                TimeoutError, by which get(timeout) says to call it again.
concurrent.futures
    CancelledError, InvalidStateError
                                raised unchanged by the futures of Executor
    BrokenExecutor              JobFailedError, for the calls of that job only

KeyboardInterrupt, SystemExit and other exceptions that end programs are raised unchanged.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, TypeVar, cast

from condorpool.values.text import one_line, printable

#: The flag of classes that are defined in Python (Py_TPFLAGS_HEAPTYPE).
_IS_OF_PYTHON = 1 << 9

#: Characters of a reason that are shown: it may contain a whole standard error.
MOST_REASON = 2_000

E = TypeVar("E", bound="CondorPoolError")

#: Methods that an error keeps from its own class, also when it stands in for another one.
_OWN = (
    "__init__ __str__ __repr__ __eq__ __hash__ __getattribute__ __setattr__ __delattr__ "
    "__setstate__".split()
)


def words_of(error: BaseException, show: Callable[[BaseException], str] = str) -> str:
    """Return the text of an exception, or its class's name if its own code fails."""
    try:
        return show(error)
    except BaseException:  # noqa: BLE001 - the user's class may raise anything, even SystemExit
        return type(error).__name__


class CondorPoolError(Exception):
    """The root of every error that condorpool raises by itself.

    Its text can be shown: parts of it may have been written by others.
    """

    def __str__(self) -> str:
        return printable(self._words())

    def _words(self) -> str:
        return BaseException.__str__(self)

    def _render_traceback_(self) -> list[str]:
        return render(self)


#: Packages whose frames say nothing to users: below a verb, or between a cell and its magic.
_UNSEEN = {"condorpool", "cloudpickle", "pickle", "threading", "IPython", "decorator"}


def render(error: BaseException | None = None) -> list[str]:
    """Return a traceback as IPython shows it, without the frames of condorpool.

    By default it is that of the exception that IPython is about to show.
    """
    from IPython.core.getipython import get_ipython  # noqa: PLC0415 - only IPython calls this

    shell: Any = get_ipython()
    shown: types.TracebackType | None = None
    error = cast("BaseException", error or sys.exc_info()[1] or sys.last_value)
    trace = error.__traceback__
    for entry in reversed(list(_entries(trace))):
        if entry is trace or not _is_unseen(entry):  # the first is IPython's, which skips it
            shown = types.TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    cause, suppresses = error.__cause__, error.__suppress_context__
    try:
        if cause and cause.__traceback__ and all(map(_is_unseen, _entries(cause.__traceback__))):
            error.__cause__ = None  # its message is in ours
        return shell.InteractiveTB.structured_traceback(type(error), error, shown, tb_offset=1)  # type: ignore[no-any-return]
    finally:
        error.__cause__, error.__suppress_context__ = cause, suppresses


def _entries(trace: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while trace:
        yield trace
        trace = trace.tb_next


def _is_unseen(entry: types.TracebackType) -> bool:
    return str(entry.tb_frame.f_globals.get("__name__")).partition(".")[0] in _UNSEEN


# The first two end loops silently, and ours have a meaning of their own.
_NOT_COMBINED = (StopIteration, StopAsyncIteration, CondorPoolError)
# From get(timeout) these say that the call has not ended.
_TIMEOUTS = (TimeoutError, multiprocessing.TimeoutError)


def in_place_of(kind: type[E], error: BaseException, *args: Any) -> E:
    """Return an error of a kind of ours that is also of the class of ``error``.

    Code that catches that class then catches ours, too, and finds its attributes.
    Where the two classes cannot be combined, the error is of our kind only.
    """
    other: Any = type(error)
    if (
        not isinstance(error, Exception)  # ours must not pass for one that ends programs
        or issubclass(kind, other)
        or issubclass(other, _NOT_COMBINED)
        or (issubclass(kind, CallError) and issubclass(other, _TIMEOUTS))
    ):
        return kind(*args)
    try:
        return _made(kind, other, args, BaseException.args.__get__(error), _facts(error))  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - creating a class may run the user's code
        return kind(*args)


def _facts(error: Exception) -> dict[str, Any]:
    """Return the attributes of an error, also those in slots and in C structures."""
    facts = dict(object.__getattribute__(error, "__dict__"))
    for cls in type(error).__mro__:
        for name, kept in vars(cls).items():
            if isinstance(kept, GetSetDescriptorType | MemberDescriptorType) and name[0] != "_":
                with contextlib.suppress(AttributeError):
                    facts[name] = kept.__get__(error)
    facts.pop("args", None)
    return facts


def _made(
    kind: type[E],
    other: type[Exception],
    args: tuple[Any, ...],
    others: tuple[Any, ...],
    facts: Mapping[str, Any],
) -> E:
    both = _class_of_both(kind, other)
    made: E = both.__new__(both, *others)
    for name, value in facts.items():
        with contextlib.suppress(AttributeError, TypeError):  # read-only ones are set by __new__
            setattr(made, name, value)
    kind.__init__(made, *args)
    made.__dict__["_made_of"] = (kind, other, args, others, facts)
    return made


def _class_of_both(kind: type[CondorPoolError], other: type[Exception]) -> Any:
    own: dict[str, Any] = {name: getattr(kind, name) for name in _OWN}
    own |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    own |= {"__doc__": kind.__doc__, "__reduce__": _reduced, "__reduce_ex__": _reduced}
    own |= {"__copy__": _copied, "__deepcopy__": _copied}
    both: Any = types.new_class(
        kind.__name__, (kind, other), exec_body=lambda body: body.update(own)
    )
    base = both
    while base.__flags__ & _IS_OF_PYTHON:
        base = base.__base__
    both.__new__ = base.__new__  # takes any arguments; the user's class may not
    return both


def _reduced(error: Any, _protocol: int = 0) -> tuple[Any, ...]:
    *parts, facts = error._made_of  # noqa: SLF001 - it is one of ours
    for sent in (facts, dict[str, Any]()):
        with contextlib.suppress(Exception):
            pickle.dumps((*parts, sent))
            return _made, (*parts, sent)
    return parts[0], parts[2]  # the other class cannot be imported by name


def _copied(error: Any, _memo: object = None) -> Any:
    return _made(*error._made_of)  # noqa: SLF001 - it is one of ours


class PoolClosedError(CondorPoolError, ValueError):
    """The pool was closed or terminated and accepts no more calls."""

    def _words(self) -> str:
        # multiprocessing's words and the original CondorPool's: code matches on both.
        return "Pool not running: Can't submit to a closed Pool!"


class UnsubmittedError(CondorPoolError, ValueError):
    """The job has not been submitted, so there is nothing to wait for."""


class SubmitError(CondorPoolError):
    """The jobs could not be submitted; none of them is in the queue."""


class ResultTimeoutError(CondorPoolError, multiprocessing.TimeoutError, TimeoutError):
    """The result was not ready in time.  The jobs continue; call ``get`` again.

    Parameters
    ----------
    timeout
        Seconds that the call waited.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.timeout = timeout

    def _words(self) -> str:
        return f"Timeout after {self.timeout:g} s! The jobs continue: call get() again."


class PayloadError(CondorPoolError, pickle.PicklingError):
    """A function or argument cannot be pickled.  Nothing was submitted."""


class CallError(CondorPoolError):
    """A call ended, and its result cannot be returned."""


class ResultPicklingError(
    CallError,
    pickle.PicklingError,
    multiprocessing.pool.MaybeEncodingError,  # type: ignore[name-defined, misc]
):
    """The value or exception of a call cannot be pickled there, or rebuilt here.

    Parameters
    ----------
    exc, value
        The error and the value as text, as in `multiprocessing.pool.MaybeEncodingError`.
    """

    def __init__(self, text: str, exc: str = "", value: str = "") -> None:
        Exception.__init__(self, text, exc, value)
        self.exc = exc
        self.value = value

    def _words(self) -> str:
        return str(self.args[0])


class EnvironmentMismatchError(CallError):
    """The job's Python cannot run what this Python wrote."""


class JobError(CondorPoolError):
    """A job ended or was held without an outcome.

    Parameters
    ----------
    job_id
        ``ClusterId.ProcId``, as HTCondor prints it; empty for a call without a job.
    reason
        HTCondor's reason, or ours.
    host
        The execution point, if the job ever ran.
    stderr
        The last lines that the job wrote to its standard error.
    hint
        What to do next.
    """

    state = "failed"

    def __init__(
        self, job_id: str, reason: str, *, host: str = "", stderr: str = "", hint: str = ""
    ) -> None:
        super().__init__(job_id, reason)
        self.job_id = job_id
        self.reason = reason
        self.host = host
        self.stderr = stderr
        self.hint = hint
        self.what = one_line(reason, MOST_REASON).rstrip(". ")

    def _words(self) -> str:
        where = f" on {one_line(self.host)}" if self.host else ""
        job = f"job {self.job_id}" if self.job_id else "a call without a job"
        text = f"{job} {self.state}{where}: {self.what}."
        if self.stderr:
            text += f"\nIts standard error ends with:\n{self.stderr}"
        if self.hint:
            text += f"\n{self.hint}" if self.stderr else f" {self.hint}"
        return text


class JobHeldError(JobError):
    """HTCondor put the job on hold and will not run it until it is released.

    Parameters
    ----------
    code, subcode
        HTCondor's ``HoldReasonCode`` and ``HoldReasonSubCode``.
    count
        How many jobs that make calls of the same result are held.
    """

    state = "is held"

    def __init__(
        self,
        job_id: str,
        reason: str,
        code: int = 0,
        subcode: int = 0,
        count: int = 1,
        **facts: str,
    ) -> None:
        super().__init__(job_id, reason, **facts)
        self.code = code
        self.subcode = subcode
        self.count = count
        self.what = f"{self.what} (hold code {code}.{subcode})"

    def _words(self) -> str:
        others = self.count - 1
        held = "job is" if others == 1 else "jobs are"
        return super()._words() + (f" {others:,} more {held} held." if others > 0 else "")


class JobRemovedError(JobError):
    """The job was removed from the queue before it wrote an outcome."""

    state = "was removed"


class JobFailedError(JobError):
    """The job crashed, was killed or was lost before it wrote an outcome."""


class TaskTimeoutError(JobFailedError):
    """A call took longer than its ``task_timeout``.

    Only this call is ended, and its job continues.  If the call cannot be interrupted,
    its job is ended, with the other calls of its chunk.
    """

    state = "exceeded task_timeout"

    def __init__(self, job_id: str, reason: str, **facts: str) -> None:
        facts.setdefault("hint", "Raise task_timeout=, or make the call shorter.")
        super().__init__(job_id, reason, **facts)


class HTCondorError(CondorPoolError):
    """HTCondor is missing, does not answer, or refused a request."""


class HTCondorNotFoundError(HTCondorError):
    """No HTCondor is configured, and no HTCondor program is installed."""


class VersionSkewError(HTCondorError):
    """The bindings here and the access point are incompatible."""


class InstallError(HTCondorError):
    """HTCondor could not be installed; no partial installation remains."""


class PersonalError(HTCondorError):
    """The personal HTCondor did not start or stop as it should."""
