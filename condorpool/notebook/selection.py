"""What magics act on: the notebook's pool, and jobs and results by their names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from condorpool.cleaner import registry
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.engine.description import title
from condorpool.interface.handle import Handle
from condorpool.interface.job import Jobs, QueuedJob, act
from condorpool.interface.openpools import open_pools, workloads
from condorpool.interface.pool import Pool, workload_of
from condorpool.notebook.lines import LineError
from condorpool.values.events import JobState
from condorpool.values.text import one_line, plural

#: Job ids in an error, at most.
MOST = 5

#: For each action: its past participle, and why it did not apply to other jobs.
_REPORTS = {
    "hold": ("held", "already held or ended"),
    "release": ("released", "not held"),
    "remove": ("removed", "already ended"),
}


class NotebookPool:
    """The pool that magics use, created with the set arguments when a magic first needs it."""

    def __init__(self) -> None:
        self._arguments: Mapping[str, Any] | None = {}
        self._pools: dict[int | None, Pool] = {}
        self._resumed: list[Pool] = []

    def get(self, processes: int | None = None) -> Pool:
        """Return the pool, or one with the same arguments and this many processes."""
        pool = self._pools.get(processes)
        if pool is None or pool.closed():
            number = {} if processes is None else {"processes": processes}
            if number and self._arguments is None:
                raise LineError("--processes needs a pool that %condor_pool made, not your own")
            pool = self._pools[processes] = Pool(**{**(self._arguments or {}), **number})
        return pool

    def set(self, *args: Any, **kwargs: Any) -> Pool:
        """Use this pool, or a new one, from now on; calls in the previous pool continue."""
        if len(args) == 1 and isinstance(args[0], Pool):
            pool, arguments = args[0], None
        else:
            pool = Pool(*args, **kwargs)
            arguments = inspect.signature(Pool).bind(*args, **kwargs).arguments
        for old in self._pools.values() if self._arguments is not None else ():
            if all(calls.batch.is_done for calls in workload_of(old).handles() if calls.batch):
                old.terminate()  # its jobs only linger
                old.join()
        self._arguments, self._pools = arguments, {None: pool}
        return pool

    def add_resumed(self, result: Handle) -> None:
        """Let `clean` also close the pool of a result that was resumed."""
        self._resumed += [pool for pool in open_pools() if result in pool.jobs]

    def clean(self) -> None:
        """Close the pool as leaving ``with`` does, and delete the files of failed jobs too.

        Named results stay until the user calls ``forget()``.
        """
        pools = [*self._pools.values(), *self._resumed]
        self._pools, self._resumed = {}, []
        for pool in pools:
            folders = [session.directory for session in workload_of(pool).sessions]
            try:
                pool.close()
            finally:
                for folder in folders:
                    if not any(batch.name for batch in folder.batches().values()):
                        folder.remove()


def left_behind() -> list[Entry]:
    """Return the work of processes that have ended, which cleaners wait for or keep."""
    others = (entry for entry in registry.everything() if entry.owner != Owner.this())
    return [entry for entry in others if entry.note and not entry.in_use]


def fit(pool: Pool, description: Mapping[str, str]) -> Any:
    """Return how many slots of a pool's HTCondor match a submit description."""
    return workload_of(pool).access_point.fit(description)


def known_results() -> list[Handle]:
    """Return the results that the pools of this notebook still hold."""
    return [handle for work in workloads() for handle in work.handles().values()]


def held_jobs() -> list[QueuedJob]:
    """Return the held jobs of this notebook."""
    return [job for pool in open_pools() for job in pool.queue if job.state is JobState.HELD]


def listed_results() -> list[Handle]:
    """Return the results that this notebook may still ask for, and iterators in use."""
    handles = {calls: handle for work in workloads() for calls, handle in work.handles().items()}
    listed = [result for work in workloads() for result in work.results.listed]
    return list(dict.fromkeys([*listed, *handles.values()]))


def known_jobs(*, queued: bool = False) -> list[QueuedJob]:
    """Return the jobs of this notebook: those in the queue, then, by default, others of results."""
    jobs = [job for pool in open_pools() for job in pool.queue]
    if not queued:
        jobs += [job for result in known_results() for job in result.jobs]
    return list({job.id: job for job in reversed(jobs)}.values())[::-1]


def find(text: str, evaluate: Callable[[str], Any]) -> list[Any]:
    """Return the jobs and results that a magic's line names.

    Parameters
    ----------
    text
        Job ids (``12.3``, or ``12`` for a whole cluster), results by ``--name``, variables
        that hold results or jobs, ``held``, ``all``.
    evaluate
        Returns the value of an expression in the notebook.
    """
    found: list[Any] = []
    for word in text.replace(",", " ").split():
        if word == "held":
            found += held_jobs()
        elif word == "all":
            found += [job for pool in open_pools() for job in pool.queue]
        elif re.fullmatch(r"\d+(\.\d+)?", word):
            known = known_jobs()
            named = [job for job in known if job.id == word or job.id.startswith(f"{word}.")]
            if not named:
                ids = ", ".join(job.id for job in known[:MOST]) + ", ..." * (len(known) > MOST)
                raise LineError(f"this notebook has no job {word}; it has {ids or 'none'}")
            found += named
        else:
            found += _named(word) or _values(word, evaluate(word))
    if not text.strip():
        raise LineError(
            "write what after the magic's name: a job's id, a result, the name of calls, `held`, "
            "or `all`"
        )
    return found


def names() -> list[str]:
    """Return the words that `find` knows beside ids and variables."""
    return ["held", "all", *(handle.name for handle in known_results())]


def _named(word: str) -> list[Handle]:
    """Return the results that ``--name`` gave this name."""
    name = title(word)
    return [
        handle
        for work in workloads()
        for calls, handle in work.handles().items()
        if calls.batch and calls.batch.options.submitkwargs.get("batch_name") == name
    ]


def is_job_or_result(value: object) -> bool:
    """Return whether a value is a job or a result."""
    return isinstance(value, Jobs)


def _values(word: str, value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    for each in values:
        if not is_job_or_result(each):
            raise LineError(f"{word} is of type {type(each).__name__}, neither a job nor a result")
    return values


def jobs_of(found: Iterable[Any]) -> list[QueuedJob]:
    """Return the jobs of what was found; for waiting calls, the jobs that may take them."""
    return [QueuedJob(each._session, job) for each in found for job in each._jobs()]  # noqa: SLF001


def apply(action: str, found: Iterable[Any]) -> str:
    """Hold, release or remove what was found; return a line that reports it."""
    found = list(dict.fromkeys(found))
    jobs = {each.id: each for each in found if isinstance(each, QueuedJob)}
    results = [each for each in found if not isinstance(each, QueuedJob)]
    past, why_not = _REPORTS[action]
    done = act(action, [job for job in jobs.values() if _takes(action, job.state)])
    others = len(jobs) - done
    parts = []
    if action == "remove":
        parts += [f"{plural(each.remove(), 'call')} of {one_line(each.name)}" for each in results]
    else:
        done += sum(getattr(each, action)() for each in results)
    if jobs or not parts:
        parts.insert(0, plural(done, "job"))
    return f"{past} {', '.join(parts)}" + (f"; {others:,} {why_not}" if others else "")


def _takes(action: str, state: JobState) -> bool:
    if state.is_final:
        return False
    return action == "remove" or (state is JobState.HELD) == (action == "release")
