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
again as itself, with the remote traceback as its cause.
"""

from __future__ import annotations

import multiprocessing
import pickle


class CondorPoolError(Exception):
    """The root of every error that condorpool raises by itself."""


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


class ResultPicklingError(CallError, pickle.PicklingError):
    """The value or exception of a call cannot be pickled, or not be rebuilt here."""


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

    @classmethod
    def restored(cls, kind: str, job_id: str, reason: str, **facts: str) -> JobError:
        """Return an error whose facts were written down."""
        found = {
            error.__name__: error
            for error in (*cls.__subclasses__(), *JobFailedError.__subclasses__())
        }
        return found.get(kind, JobFailedError)(job_id, reason, **facts)

    def facts(self) -> dict[str, str]:
        """Return all that another process needs to raise it too."""
        names = ("job_id", "reason", "host", "stderr", "hint")
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in names}}

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
