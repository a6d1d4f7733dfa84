"""multiprocessing.Pool whose calls run as HTCondor jobs, made for notebooks."""

from typing import Any as _Any

from condorpool.access.accesspoint import add_kerberos_tokens
from condorpool.engine.copies import RepeatedNumbersWarning
from condorpool.engine.outcomes import RemoteTraceback
from condorpool.engine.payload import Shared
from condorpool.interface.attach import attach
from condorpool.interface.executor import Executor
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.job import QueuedJob
from condorpool.interface.names import forget
from condorpool.interface.original import Job, RemoteJob
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


def register_joblib() -> None:
    """Register the back end "condorpool" with `joblib`.

    Then ``with joblib.parallel_config("condorpool", n_jobs=-1):`` makes the calls of
    `joblib.Parallel`, and those of scikit-learn, as HTCondor jobs.  It takes the keywords of
    `Pool`, too.

    Examples
    --------
    >>> import joblib
    >>> import condorpool
    >>> condorpool.register_joblib()
    >>> with joblib.parallel_config("condorpool", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(pow)(2, n) for n in range(4))
    [1, 2, 4, 8]
    """
    from condorpool.interface import joblib  # noqa: F401, PLC0415 - joblib is optional


__version__ = "0.1.0"


def load_ipython_extension(shell: _Any) -> None:
    """Load the magics: ``%load_ext condorpool``."""
    from condorpool.notebook import magics  # noqa: PLC0415 - scripts do not need IPython

    magics.load(shell)


def unload_ipython_extension(shell: _Any) -> None:
    """Unload the magics: ``%unload_ext condorpool``."""
    from condorpool.notebook import magics  # noqa: PLC0415

    magics.unload(shell)


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
    "QueuedJob",
    "RemoteJob",
    "RemoteTraceback",
    "RepeatedNumbersWarning",
    "ResultIterator",
    "ResultPicklingError",
    "ResultTimeoutError",
    "Shared",
    "SubmitError",
    "TaskTimeoutError",
    "TimeoutError",
    "UnsubmittedError",
    "VersionSkewError",
    "add_kerberos_tokens",
    "attach",
    "forget",
    "register_joblib",
]
