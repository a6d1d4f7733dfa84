"""multiprocessing.Pool whose calls run as HTCondor jobs, made for notebooks."""

from condorpool.engine.payload import Shared
from condorpool.interface.executor import Executor
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.job import Job
from condorpool.interface.pool import Pool
from condorpool.interface.results import AsyncResult, MapResult
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    CallError,
    CondorPoolError,
    EnvironmentMismatchError,
    HTCondorError,
    HTCondorNotFoundError,
    InstallError,
    JobError,
    JobFailedError,
    JobHeldError,
    JobRemovedError,
    PayloadError,
    PersonalError,
    PoolClosedError,
    ResultPicklingError,
    ResultTimeoutError,
    SubmitError,
    TaskTimeoutError,
    UnsubmittedError,
    VersionSkewError,
)

TimeoutError = ResultTimeoutError  # noqa: A001 - multiprocessing's name for it

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "CallError",
    "CondorPoolError",
    "EnvironmentMismatchError",
    "Executor",
    "HTCondorError",
    "HTCondorNotFoundError",
    "InstallError",
    "Job",
    "JobError",
    "JobFailedError",
    "JobHeldError",
    "JobRemovedError",
    "JobState",
    "MapResult",
    "PayloadError",
    "PersonalError",
    "Pool",
    "PoolClosedError",
    "ResultIterator",
    "ResultPicklingError",
    "ResultTimeoutError",
    "Shared",
    "SubmitError",
    "TaskTimeoutError",
    "TimeoutError",
    "UnsubmittedError",
    "VersionSkewError",
]
