"""The pool: multiprocessing's verbs, whose calls run as HTCondor jobs.

Most of this module is what users read with ``pool.map?``.  `workload` does the work, and `options`
checks arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from condorpool import display
from condorpool.cleaner import custody
from condorpool.display.notices import tell
from condorpool.display.timeline import timeline
from condorpool.engine import payload
from condorpool.interface.handle import spell
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.job import QueuedJob
from condorpool.interface.leftovers import Leftover
from condorpool.interface.options import checks
from condorpool.interface.options.keywords import (
    CallKeywords,
    JobKeywords,
    PoolKeywords,
    ResultKeywords,
    takes,
)
from condorpool.interface.options.settings import Settings
from condorpool.interface.results import AsyncResult, Callback, MapResult, Result
from condorpool.interface.tracebacks import for_users
from condorpool.interface.workload import Workload
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.text import one_line

if TYPE_CHECKING:
    from typing_extensions import Unpack

S = TypeVar("S")
T = TypeVar("T")


class Pool:
    """Run calls as HTCondor jobs, through the interface of `multiprocessing.Pool`.

    Leaving a ``with`` block waits for the running jobs, removes those that are held or
    suspended (``killstats``), and deletes the submit directory.

    Parameters
    ----------
    processes
        The most jobs at once: the pool's worker processes.  By default as many
        as the HTCondor pool has CPUs, but no more than 1,000.
    initializer, initargs
        ``initializer(*initargs)`` is called once in each job, before its calls.
    maxtasksperchild
        How many times a job takes calls, ``chunksize`` at a time, before it ends.  With 1,
        each ``chunksize`` calls are an HTCondor job of their own.
    context
        Accepted for code written for `multiprocessing`, and ignored.
    schedd, collector
        Name of the access point, and address of its HTCondor pool's collector.
    personal
        True for the user's personal HTCondor, the folder of one, or a running
        `PersonalHTCondor`; False never starts one.  By default the HTCondor that is
        configured here, else the personal one, which is started if needed.
    remote
        A machine that ``ssh`` reaches without a password: jobs are submitted there, at
        its access point.  ``submitdir`` and this Python must be on a file system that both
        machines share.
    memory, disk
        What each job may use: ``"2GB"``, ``"500 MiB"``, or a number of MiB.  KB, MB,
        GB and TB are powers of 1024, as HTCondor reads them.
    memory_max
        A job that exceeds ``memory`` runs again with twice as much, up to this limit; its
        calls are made again.
    cpus, gpus
        How many each job may use.
    task_timeout
        Seconds that one call may take.  A longer call is interrupted and raises
        `TaskTimeoutError`; the other calls continue.
    container_image
        The image that jobs run in, such as ``"docker://python:3.11"``.
    requirements
        A ClassAd expression that machines must satisfy, such as ``"OpSysMajorVer == 9"``.
    secrets
        Environment variables that jobs get although their names look secret, such as
        ``["HF_TOKEN", "AWS_*"]``; they are sent in a private file.  All others are sent anyway.
    limit_directory_access
        More files and folders of the access point that jobs may reach through HTCondor
        (``condor_chirp``); by default only the submit directory and the files that HTCondor
        sends for them.  False for no limit.
    submitkwargs
        Other commands of the submit description, such as ``{"accounting_group": "higgs"}``.
    jobkwargs
        Defaults for what happens to jobs and their files: ``submitdir``, ``killstats``,
        ``cleanup``, ``cleanfailed``, ``cleanupfiles``.
    killstats
        Jobs in these states are removed when the pool closes.
    submitdir
        Where the pool makes its private, hidden submit directory; by default the
        working directory.
    on_hold
        What a wait does when only held jobs remain: ``"raise"`` `JobHeldError`,
        ``"wait"``, or ``"remove"`` them; by default ``"wait"`` while the widget with its
        buttons is visible, else ``"raise"``.  Or a function: the wait calls it with each
        `QueuedJob` that is put on hold, and it returns what to do with that job:
        ``"raise"``, ``"wait"``, ``"remove"`` or ``"release"``.
    python
        The interpreter on the execution point.  By default this one's path, or
        whatever Python of the same version is found there.
    linger
        Seconds that a job waits for the next call before it ends, and for which
        HTCondor then keeps its slot; both are charged to the user.  0 for none.
    retire_after
        Seconds after which a job takes no new calls, for sites that want short jobs.
    echo
        Print the output of calls here when they end.
    progress
        How to show calls that take longer than about a second: ``"widget"`` in a
        notebook, ``"text"``, or None for not at all.  By default the widget in a notebook,
        text on a terminal, and nothing elsewhere.
    on_exit
        What happens to unfinished work when this process ends, for any reason, without
        closing the pool.  ``"wait"``: another process waits for it and then cleans up as
        leaving ``with`` does; ``"remove"``: all jobs are removed; ``"keep"``: everything
        stays as it is, for `condorpool.attach` to resume.

    Examples
    --------
    >>> import math
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     pool.map(math.sqrt, [1, 4, 9])
    [1.0, 2.0, 3.0]
    """

    @takes(PoolKeywords)
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,  # noqa: ARG002 - multiprocessing's; HTCondor has no start method
        **keywords: Unpack[PoolKeywords],
    ) -> None:
        with for_users:
            settings = Settings(processes, initializer, initargs, maxtasksperchild, keywords)
        self.submitkwargs, self.jobkwargs = settings.submitkwargs, settings.jobkwargs
        self.killstats, self.remote = settings.killstats, settings.remote
        custody.sweep_once()
        self._workload = Workload(self, settings)

    # -- multiprocessing's verbs ---------------------------------------------------
    @takes(ResultKeywords)
    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **kwargs: Unpack[ResultKeywords],
    ) -> T:
        """Call ``func(*args, **kwds)`` in a job and return what it returns.

        Takes the keywords of `apply_async` too.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     pool.apply(int, ("ff",), {"base": 16})
        255
        """
        kwargs.setdefault("progress", self._workload.settings.progress)
        return self._wait(self.apply_async(func, args, kwds, **kwargs))

    @takes(ResultKeywords)
    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **kwargs: Unpack[ResultKeywords],
    ) -> AsyncResult[T]:
        """Submit ``func(*args, **kwds)`` as a job and return its `AsyncResult` at once.

        Parameters
        ----------
        callback, error_callback
            Called once with the value, or with the exception.
        **kwargs
            ``submitkwargs``, ``jobkwargs``, ``memory``, ``memory_max``, ``disk``, ``cpus``,
            ``gpus``, ``task_timeout``, ``container_image``, ``requirements`` and ``python``
            update the pool's own for this call; ``on_hold``, ``echo`` and ``progress``
            replace them.  A single call is shown only by `apply`, or if ``progress`` is given
            here; in notebooks and on terminals, a notice is printed if it is held.  With ``return_exceptions=True`` an exception is returned like a value.
            With a ``name`` results are kept on disk: the same calls with the same name
            are not made again, and other calls are refused, unless ``overwrite=True`` says
            that theirs replace these results.  If the access point does not answer, the client tries
            ``maxtries`` times (5), every 20 s.

        Raises
        ------
        PayloadError
            The function or an argument cannot be pickled; nothing was submitted.
        SubmitError
            The submit directory cannot be written, or HTCondor refused.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.apply_async(pow, (2, 10))
        ...     result.get()
        1024
        """
        kwargs.setdefault("progress", None)
        with for_users:
            keywords = checks.keywords("kwds", {} if kwds is None else kwds)
            items = [(checks.positional("args", args), keywords)]
            call = payload.Call(func, "apply")
            return self._workload.post(
                AsyncResult, call, items, 1, callback, error_callback, **kwargs
            )

    @takes(ResultKeywords)
    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        **kwargs: Unpack[ResultKeywords],
    ) -> list[T]:
        """Call ``func`` on every item of ``iterable`` and return the results in order.

        Blocks until every call has ended, or until only held jobs remain.

        Parameters
        ----------
        chunksize
            Calls that a job takes at a time.  By default a quarter of each process's share;
            these portions are split when calls turn out to be long.
        **kwargs
            As for `apply_async`.

        Raises
        ------
        JobHeldError
            Only held jobs remain (``on_hold="raise"``).  They stay in the queue.

        Examples
        --------
        >>> import math
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     pool.map(math.factorial, range(5), memory="100MB")
        [1, 1, 2, 6, 24]
        """
        return self._wait(self.map_async(func, iterable, chunksize, **kwargs))

    @takes(ResultKeywords)
    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **kwargs: Unpack[ResultKeywords],
    ) -> MapResult:
        """Submit the calls of `map` and return their `MapResult` at once.

        Takes the parameters of `map` and `apply_async`.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.map_async(abs, [-1, -2, -3])
        ...     result.get(timeout=60)
        [1, 2, 3]
        """
        with for_users:
            return self._workload.post_map(
                func, "map", iterable, chunksize, callback, error_callback, **kwargs
            )

    @takes(ResultKeywords)
    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **kwargs: Unpack[ResultKeywords],
    ) -> list[T]:
        """Like `map`, but each item is unpacked as arguments: ``func(*item)``.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     pool.starmap(pow, [(2, 3), (3, 2)])
        [8, 9]
        """
        return self._wait(self.starmap_async(func, iterable, chunksize, **kwargs))

    @takes(ResultKeywords)
    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **kwargs: Unpack[ResultKeywords],
    ) -> MapResult:
        """Submit the calls of `starmap` and return their `MapResult` at once.

        Takes the parameters of `map` and `apply_async`.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.starmap_async(pow, [(2, 3), (3, 2)])
        ...     result.get(timeout=60)
        [8, 9]
        """
        with for_users:
            items = map(checks.unpacked, checks.iterable("iterable", iterable))
            return self._workload.post_map(
                func, "starmap", items, chunksize, callback, error_callback, **kwargs
            )

    @takes(CallKeywords)
    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **kwargs: Unpack[CallKeywords],
    ) -> ResultIterator[T]:
        """Call ``func`` on every item of ``iterable`` and iterate over the results in order.

        The iterable may be endless: items are taken from it, in a thread, as results
        are taken.

        Parameters
        ----------
        chunksize
            Calls that a job takes at a time; more than 1 is much faster for short calls.
        buffersize
            The most calls that are under way or whose results wait to be taken.  By
            default 16 times ``chunksize`` for each process.
        **kwargs
            As for `apply_async`, except ``return_exceptions``, ``name`` and ``maxtries``.

        Examples
        --------
        >>> import itertools, math
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     for root in pool.imap(math.sqrt, itertools.count(), chunksize=10):
        ...         if root == 9:
        ...             break
        """
        with for_users:
            return self._workload.stream(
                func, "map", iterable, chunksize, buffersize, ordered=True, **kwargs
            )

    @takes(CallKeywords)
    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **kwargs: Unpack[CallKeywords],
    ) -> ResultIterator[T]:
        """Like `imap`, but results come in the order in which the calls end.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     sorted(pool.imap_unordered(abs, [-2, -1]))
        [1, 2]
        """
        with for_users:
            return self._workload.stream(
                func, "map", iterable, chunksize, buffersize, ordered=False, **kwargs
            )

    def share(self, value: T) -> payload.Shared[T]:
        """Send an object to each job once, for all calls that use it.

        Returns
        -------
        Shared
            Pass this to calls in place of the object: they get the object itself.  It is
            valid for calls of this pool (with this ``submitdir``) while the pool is open.

        Examples
        --------
        >>> import numpy as np
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     field = pool.share(np.arange(1_000_000))
        ...     pool.starmap(np.take, [(field, i) for i in (0, 10)])
        [np.int64(0), np.int64(10)]
        """
        self._workload.check_open()
        return self._workload.session(Path(self.jobkwargs["submitdir"]).absolute()).share(value)

    @takes(JobKeywords)
    def submit_description(
        self,
        func: Callable[..., Any],
        calls: int = 1,
        chunksize: int | None = None,
        **kwargs: Unpack[JobKeywords],
    ) -> dict[str, str]:
        """Return the submit description that HTCondor would get for a map of ``calls`` calls.

        Nothing is submitted or written.  Takes the keywords of `apply_async` that describe
        jobs.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     pool.submit_description(abs, memory="2GB")["request_memory"]
        '2048MB'
        """
        with for_users:
            return self._workload.describe(func, calls, chunksize, kwargs)

    @property
    def queue(self) -> list[QueuedJob]:
        """The HTCondor jobs of this pool that are in the queue."""
        return [
            QueuedJob(session, job)
            for session in self._workload.sessions
            for job in session.state.live_jobs
        ]

    def timeline(self, ax: Any = None) -> Any:
        """Plot when and where the latest calls were made, as `MapResult.timeline` does.

        Each bar is the calls that a job took at a time, at most the latest 10,000.
        """
        return timeline(list(self._workload.sessions.chunk_records), ax)

    def take_up(self, leftover: Leftover) -> Result[Any]:
        """Resume calls of a process that has ended; return their result.

        This pool then owns everything in their submit directory.

        Parameters
        ----------
        leftover
            One of those that `condorpool.attach` lists.

        Raises
        ------
        CondorPoolError
            Another process took them up first, or still runs; or the jobs are in the
            queue of another access point than this pool's.
        """
        return self._workload.take_up(leftover)

    def _wait(self, result: Result[T]) -> T:
        """Return what a blocking verb returns; an interrupt does not affect the jobs."""
        spell(result, "pool.last")
        try:
            return result.get()
        finally:
            if result.ready() and not result.successful():
                self._workload.results.note_raised(result)

    # -- the end -----------------------------------------------------------------------
    def close(self) -> None:
        """Accept no more calls, wait for the jobs and clean up.

        Jobs that are, or will be, in one of the states ``killstats`` are removed; so are, after
        a notice, jobs that never ran and that no slot of the HTCondor pool can run.

        Raises
        ------
        JobFailedError
            Calls failed and their errors were not raised before; the message lists them all.
        """
        self._workload.close()

    def terminate(self) -> None:
        """Accept no more calls and remove every job that has not ended."""
        self._workload.terminate()

    @for_users
    def join(self) -> None:
        """Wait for the jobs of a closed or terminated pool and clean up.

        Raises
        ------
        ValueError
            The pool is still open.
        """
        if not self._workload.is_closed:
            raise ValueError("Pool is still running")
        self._workload.end()

    @property
    def jobs(self) -> list[Result[Any]]:
        """The results that were not fetched yet, or that failed, the latest last.

        The name is the original CondorPool's.  `MapResult.jobs` are HTCondor jobs.
        """
        return self._workload.results.listed

    def clear_completed(self) -> None:
        """Drop the results from `jobs` that have ended."""
        self._workload.results.drop(lambda calls: calls.is_ready)

    def clear_successful(self) -> None:
        """Drop the results from `jobs` that have ended without errors."""
        self._workload.results.drop(lambda calls: calls.is_ready and not calls.errors)

    def closed(self) -> bool:
        """Return whether the pool accepts no more calls."""
        return self._workload.is_closed

    @property
    def results(self) -> list[Result[Any]]:
        """The results that have not ended, or have errors, the latest last."""
        return list(self._workload.results.unsettled.values())

    @property
    def last(self) -> Any:
        """The result of the last call, or its iterator, also if it failed or was interrupted.

        The pool keeps it until the next call, so that no value is lost.  None before the first.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     try:
        ...         pool.map((10).__floordiv__, [0, 2, 5])
        ...     except ZeroDivisionError:
        ...         pool.last.values()
        [None, 5, 2]
        """
        return self._workload.results.last

    def __enter__(self) -> Pool:
        self._workload.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt:
            # A user who interrupts does not want to wait.
            self._workload.is_closed = True
            tell("the jobs continue; pool.join() waits, pool.terminate() removes them")
            return
        if error is not None:
            self._workload.stop_feeding()
        try:
            self.close()
        except CondorPoolError:
            if error is None:
                raise

    @for_users
    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a Pool is not iterable; did you mean pool.map(...)?")

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _repr_html_(self) -> str:
        return display.html(list(self._workload.results.unsettled)[-display.MOST :], repr(self))

    def __repr__(self) -> str:
        state = "closed" if self._workload.is_closed else "open"
        point, calls = one_line(self._workload.access_point.name), self._workload.calls_pending
        return f"<condorpool.Pool at {point}: {state}, {calls:,} calls remaining>"


def workload_of(pool: Pool) -> Workload:
    """Return the work of a pool, for modules that do more with it than users."""
    return pool._workload  # noqa: SLF001 - a public name would be offered to users by the Tab key
