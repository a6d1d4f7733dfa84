"""Every error that condorpool raises.

CondorPoolError
├── PoolClosedError         (ValueError)     the pool accepts no more calls
├── UnsubmittedError        (ValueError)     asked about a job that was never submitted
├── SubmitError                              HTCondor or the file system refused the jobs
├── ResultTimeoutError      (both TimeoutErrors)  the wait ended before the result came
├── PayloadError            (PicklingError)  a function or argument cannot be sent
├── CallError                                a call ended, and its result cannot be given
│   ├── ResultPicklingError (PicklingError)  the result or exception cannot be pickled or rebuilt
│   └── EnvironmentMismatchError             the job's Python cannot run the payload
├── JobError                                 a job ended, or stands, without an outcome
│   ├── JobHeldError                         HTCondor holds the job
│   ├── JobRemovedError                      the job was removed from the queue
│   └── JobFailedError                       the job crashed, was killed or was lost
│       └── TaskTimeoutError                 a call took longer than its task_timeout
└── HTCondorError                            no HTCondor, or it does not do what we ask
    ├── HTCondorNotFoundError                no pool is configured and no program is installed
    ├── VersionSkewError                     bindings and access point do not understand each other
    ├── InstallError                         HTCondor could not be installed
    └── PersonalError                        the personal HTCondor did not start or stop

An exception that the user's function raises is none of these: it is raised
again as itself, with the remote traceback as its cause (`condorpool.RemoteTraceback`).

What stands in for the standard library's classes, so that code which names those works:

multiprocessing
    TimeoutError                the builtin, too: ResultTimeoutError
    ValueError: not running     PoolClosedError
    pool.MaybeEncodingError     ResultPicklingError, with its exc and value
    pool.RemoteTraceback        condorpool.RemoteTraceback, with its tb
    ProcessError, AuthenticationError, BufferTooShort
                                of its own connections: nothing here
pickle
    PicklingError               PayloadError, ResultPicklingError
    UnpicklingError, or whatever else pickling or rebuilding raises
                                PayloadError and ResultPicklingError are then of its class, too,
                                with its attributes: an OSError has its errno.  Not of
                                StopIteration, by which loops end; and no result is of
                                TimeoutError, by which get(timeout) says to ask again.
concurrent.futures
    CancelledError, InvalidStateError
                                raised by the futures of Executor as they are
    BrokenExecutor              JobFailedError, for the calls that the job had alone

KeyboardInterrupt, SystemExit and other exceptions that end programs stay what they are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
import pickle
import types
from collections.abc import Callable, Mapping
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, TypeVar

#: A flag of classes that were not made in C.
_IS_OF_PYTHON = 1 << 9

E = TypeVar("E", bound="CondorPoolError")

#: What an error has of its own class, whatever the class says that it stands in for.
_OWN = (
    "__init__ __str__ __repr__ __eq__ __hash__ __getattribute__ __setattr__ __delattr__ "
    "__setstate__".split()
)


def words_of(error: BaseException, show: Callable[[BaseException], str] = str) -> str:
    """Return what an exception says, whatever code its class runs for that."""
    try:
        return show(error)
    except BaseException:  # noqa: BLE001 - also SystemExit: the words are not the point
        return type(error).__name__


class CondorPoolError(Exception):
    """The root of every error that condorpool raises by itself."""


# Loops end silently by these, and ours have a meaning of their own.
_MEANS_MORE = (StopIteration, StopAsyncIteration, CondorPoolError)
# From get(timeout) they say that the call goes on.
_MEANS_ASK_AGAIN = (TimeoutError, multiprocessing.TimeoutError)


def in_place_of(kind: type[E], error: BaseException, *args: Any) -> E:
    """Return an error of ours that is also of the class of the one that it is about.

    So code that names that class catches ours, too, and finds the other's attributes.
    Where there can be no such class the error is of ours alone.
    """
    other: Any = type(error)
    if (
        not isinstance(
            error, Exception
        )  # what ends programs is caught by nobody who does not mean it
        or issubclass(kind, other)
        or issubclass(other, _MEANS_MORE)
        or (issubclass(kind, CallError) and issubclass(other, _MEANS_ASK_AGAIN))
    ):
        return kind(*args)
    try:
        return _made(kind, other, args, BaseException.args.__get__(error), _facts(error))  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - making a class may run the user's code
        return kind(*args)


def _facts(error: Exception) -> dict[str, Any]:
    """Return the attributes of an error, also those that its class keeps elsewhere."""
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
        with contextlib.suppress(AttributeError, TypeError):  # __new__ has set what nobody may
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
    both.__new__ = base.__new__  # takes any arguments, as that of the user's class may not
    return both


def _reduced(error: Any, _protocol: int = 0) -> tuple[Any, ...]:
    *parts, facts = error._made_of  # noqa: SLF001 - it is one of ours
    for sent in (facts, dict[str, Any]()):
        with contextlib.suppress(Exception):
            pickle.dumps((*parts, sent))
            return _made, (*parts, sent)
    return parts[0], parts[2]  # nobody knows the other class by its name


def _copied(error: Any, _memo: object = None) -> Any:
    return _made(*error._made_of)  # noqa: SLF001 - it is one of ours


class PoolClosedError(CondorPoolError, ValueError):
    """The pool was closed or terminated and accepts no more calls."""

    def __str__(self) -> str:
        # multiprocessing's words and the original CondorPool's: code matches on both.
        return "Pool not running: Can't submit to a closed Pool!"


class UnsubmittedError(CondorPoolError, ValueError):
    """The job has not been submitted, so there is nothing to wait for."""


class SubmitError(CondorPoolError):
    """The jobs could not be submitted; nothing was left in the queue."""


class ResultTimeoutError(CondorPoolError, multiprocessing.TimeoutError, TimeoutError):
    """The result did not come in time.  The jobs go on; ask again later.

    Parameters
    ----------
    timeout
        Seconds that were waited.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return f"Timeout after {self.timeout:g} s! The jobs go on: call get() again."


class PayloadError(CondorPoolError, pickle.PicklingError):
    """A function or argument cannot be pickled.  Nothing was submitted."""


class CallError(CondorPoolError):
    """A call was made, and its result cannot be given."""


class ResultPicklingError(
    CallError,
    pickle.PicklingError,
    multiprocessing.pool.MaybeEncodingError,  # type: ignore[name-defined, misc]
):
    """The value or exception of a call cannot be pickled, or not be rebuilt here.

    Parameters
    ----------
    exc, value
        What went wrong with what, as text, as `multiprocessing` has them.
    """

    def __init__(self, text: str, exc: str = "", value: str = "") -> None:
        Exception.__init__(self, text, exc, value)
        self.exc = exc
        self.value = value

    def __str__(self) -> str:
        return str(self.args[0])


class EnvironmentMismatchError(CallError):
    """The Python that the job found cannot run what this Python wrote."""


class JobError(CondorPoolError):
    """A job ended, or stands, without an outcome.

    Parameters
    ----------
    job_id
        ``ClusterId.ProcId``, as HTCondor prints it.
    reason
        What HTCondor says.
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
        self.what = reason.rstrip(". ")

    def __str__(self) -> str:
        where = f" on {self.host}" if self.host else ""
        text = f"job {self.job_id} {self.state}{where}: {self.what}."
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
        How many jobs of the same call are held.
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

    def __str__(self) -> str:
        others = f" {self.count - 1} more jobs of this call are held." if self.count > 1 else ""
        return super().__str__() + others


class JobRemovedError(JobError):
    """The job was removed from the queue before it left an outcome."""

    state = "was removed"


class JobFailedError(JobError):
    """The job crashed, was killed or was lost before it left an outcome."""


class TaskTimeoutError(JobFailedError):
    """A call took longer than the ``task_timeout`` that it was given.

    The call alone is ended, and its job goes on.  A call that does not let itself be
    interrupted ends with its job, and so do the other calls of its chunk.
    """

    state = "ran over time"

    def __init__(self, job_id: str, reason: str, **facts: str) -> None:
        facts.setdefault("hint", "Give task_timeout= more, or the call less to do.")
        super().__init__(job_id, reason, **facts)


class HTCondorError(CondorPoolError):
    """HTCondor is not there, or does not do what it was asked."""


class HTCondorNotFoundError(HTCondorError):
    """No HTCondor is configured, and no HTCondor program is installed."""


class VersionSkewError(HTCondorError):
    """The bindings here and the access point do not understand each other."""


class InstallError(HTCondorError):
    """HTCondor could not be installed; nothing half-done was left."""


class PersonalError(HTCondorError):
    """The personal HTCondor did not start or stop as it should."""
