"""The original CondorPool's jobs: constructed first, submitted later, with or without a pool."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from condorpool.engine.gathered import GatheredCalls
from condorpool.engine.payload import Call
from condorpool.engine.texts import end_of
from condorpool.interface.job import Jobs, QueuedJob
from condorpool.interface.options import checks
from condorpool.interface.options.keywords import JobKeywords
from condorpool.interface.pool import Pool, workload_of
from condorpool.interface.results import Result
from condorpool.interface.tracebacks import for_users
from condorpool.values.events import KILLSTATS
from condorpool.values.exceptions import (
    JobError,
    JobFailedError,
    words_of,
)

T = TypeVar("T")

#: The last lines of the output of a failed job that its error shows, and the most characters.
MOST_LINES, MOST_SHOWN = 100, 20_000

#: The pools of jobs that were given none, by the machine through which they are submitted.
_pools: dict[str | None, Pool] = {}


def _own_pool(remote: str | None) -> Pool:
    if remote not in _pools or _pools[remote].closed():
        _pools[remote] = Pool(remote=remote)
    return _pools[remote]


class Job(Result[T]):
    """One call that is an HTCondor job of its own, as in the original CondorPool.

    It needs no pool.  Its files are deleted when the program ends.

    Parameters
    ----------
    target, args, kwargs
        The call: ``target(*args, **kwargs)``.
    submitkwargs
        Commands of the submit description, such as ``{"request_memory": "2GB"}``.
    submitdir
        The folder for the job's files; on a shared file system it also runs there.
    cleanup, cleanupfiles, cleanfailed
        Whether to delete the job's files; other files of ``submitdir`` to delete; and
        whether to delete the files of a failed job, too.  Without ``cleanup`` the program
        ends without waiting for the job.
    polltime
        Accepted for code written for the original, and ignored.
    killstats
        States in which `wait` and the end of the program remove the job.
    pool
        The `Pool` at whose HTCondor the job is submitted, and which waits for it when it
        closes.  By default one that ``Pool()`` makes.

    Examples
    --------
    >>> from condorpool import Job
    >>> job = Job(pow, (2, 10))
    >>> cluster = job.submit()
    >>> job.get()
    1024
    """

    _remote: str | None = None

    @for_users
    def __init__(
        self,
        target: Callable[..., T],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        submitkwargs: Mapping[str, Any] | None = None,
        submitdir: str | os.PathLike[str] = ".",
        cleanup: bool = True,
        cleanupfiles: Iterable[str] = (),
        polltime: float = 60,  # noqa: ARG002 - nothing is polled
        killstats: Iterable[str] = KILLSTATS,
        cleanfailed: bool = False,
        *,
        pool: Pool | None = None,
    ) -> None:
        self._pool = pool
        self._submitkwargs = dict(submitkwargs or {})
        self._jobkwargs = {
            "submitdir": submitdir,
            "cleanup": cleanup,
            "cleanupfiles": list(cleanupfiles),
            "killstats": killstats,
            "cleanfailed": cleanfailed,
        }
        self._killstats = killstats
        if not callable(target):
            raise TypeError(f"target must be a function, not {type(target).__name__}")
        items = [
            (
                checks.positional("args", args),
                checks.keywords("kwargs", {} if kwargs is None else kwargs),
            )
        ]
        super().__init__(GatheredCalls.of(Call(target, "apply"), items), "raise")

    def submit(self, maxtries: int = 5, wait: float = 20) -> int:
        """Submit the job and return its ClusterId.

        Parameters
        ----------
        maxtries, wait
            How often to try if the access point does not answer, and the seconds in between.

        Raises
        ------
        PayloadError
            The function or an argument cannot be pickled; nothing was submitted.
        SubmitError
            The submit directory cannot be written, or HTCondor refused.
        HTCondorError
            The access point did not answer.
        ValueError
            The job was submitted already.
        """
        if self.submitted():
            raise ValueError(f"{self!r} was submitted already: make another Job")
        work = workload_of(self._pool or _own_pool(self._remote))
        work.check_call(self._calls.func)
        given = {"submitkwargs": self._submitkwargs, "jobkwargs": self._jobkwargs}
        options = work.options(JobKeywords, given)
        job = dataclasses.replace(options.job, maxtasksperchild=1)
        session = work.session(options.base)
        work.start(self._calls, self, session, job, maxtries, wait)
        return cast("int", self.clusterid)

    @property
    def job(self) -> QueuedJob | None:
        """The HTCondor job; None if the job was not submitted."""
        return next(iter(self.jobs), None)

    def status(self) -> str | None:
        """Return the state of the job, as for a result; None if it was not submitted."""
        return super().status() if self.submitted() else None

    def successful(self) -> bool | None:
        """Return whether the call returned; None until it has ended."""
        return super().successful() if self.ready() else None

    def query(self, *projection: str, checkhistory: bool = True) -> Any:
        """Return attributes of the job, as for a result; None if it was not submitted."""
        return super().query(*projection, checkhistory=checkhistory) if self.submitted() else None

    def wait_to_start(self, timeout: float | None = None, polltime: float | None = None) -> None:
        """Wait until the job is no longer idle, at most ``timeout`` seconds."""
        with self._session.changed:
            self._session.state.check_reach()
        super().wait_to_start(timeout, polltime)

    def wait(
        self,
        timeout: float | None = None,
        polltime: float | None = None,
        timeouterror: bool = False,
        killstats: Iterable[str] | None = None,
    ) -> None:
        """Wait until the job has ended, at most ``timeout`` seconds.

        Like the ``wait`` of other results, but ``killstats`` defaults to the job's own.
        """
        super().wait(
            timeout, polltime, timeouterror, self._killstats if killstats is None else killstats
        )

    def stdout(self, tail: int | None = None) -> str | None:  # type: ignore[override]
        """Return what the job printed, or its last lines; None if there is nothing yet."""
        return super().stdout(tail) or Jobs.stdout(self, tail)

    def stderr(self, tail: int | None = None) -> str | None:  # type: ignore[override]
        """Return what the job wrote to standard error, or its last lines; None if there is nothing yet."""
        return super().stderr(tail) or Jobs.stderr(self, tail)

    def log(self) -> str | None:
        """Return the job's events from the event log; None if there are none yet."""
        return super().log() if self.submitted() else None

    def _act(self, action: str) -> int:
        with self._session.changed:
            self._session.state.check_reach()
        return super()._act(action)

    def _outcome(self, raises: bool) -> T:
        try:
            with for_users:
                return super()._outcome(raises)
        except BaseException as error:
            said = f"{type(error).__name__}: {words_of(error)}"
            what = error.what if isinstance(error, JobError) else said
            raise self._failure(what) from error

    def _failure(self, what: str) -> JobFailedError:
        """Return the one error that the original raises for every failure, with its report."""
        (job,) = self.jobs
        facts = [f"submitted: {self.submitted()}", f"completed: {self.completed()}"]
        facts += [f"output exists: {self.output_exists()}"]
        texts = self.stdout(MOST_LINES), self.stderr(MOST_LINES), self.log()
        for which, text in zip(("output", "error", "log"), texts, strict=True):
            facts.append(f"*** {which}:\n{end_of(text or '', MOST_SHOWN)}")
        return JobFailedError(job.id, what, host=job.host, hint="\n" + "\n".join(facts))


class RemoteJob(Job[T]):
    """A `Job` that is submitted through another machine, which ``ssh`` reaches.

    Parameters
    ----------
    remote
        The machine, as for `Pool`.  The other parameters are those of `Job`.
    """

    def __init__(self, remote: str, target: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        super().__init__(target, *args, **kwargs)
        self._remote = remote
