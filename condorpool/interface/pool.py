"""The pool: multiprocessing's verbs, whose calls run as HTCondor jobs.

Nearly half of this module is what users read with ``pool.map?``.  What they may give is checked in
`options`; submit directories are the business of `sessions`.
"""

from __future__ import annotations

import atexit
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from condorpool import display
from condorpool.access.capacity import total_cpus
from condorpool.cleaner import custody
from condorpool.cleaner.owner import kernel_id
from condorpool.display.notices import tell, warn_of_hash
from condorpool.display.timeline import timeline
from condorpool.engine import actions, payload
from condorpool.engine.calls import GatheredCalls
from condorpool.engine.description import JobOptions
from condorpool.engine.fingerprint import fingerprint
from condorpool.engine.session import Session
from condorpool.engine.state import PATIENCE
from condorpool.engine.streams import StreamedCalls
from condorpool.engine.tracker import tracker
from condorpool.interface import sources
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.job import QueuedJob
from condorpool.interface.kept import KeptResults
from condorpool.interface.leftovers import Leftover, leftovers
from condorpool.interface.locate import find_access_point
from condorpool.interface.options import checks
from condorpool.interface.options.keywords import (
    CallKeywords,
    JobKeywords,
    PoolKeywords,
    ResultKeywords,
    takes,
)
from condorpool.interface.options.settings import CallOptions, Settings
from condorpool.interface.results import AsyncResult, Callback, MapResult, Result
from condorpool.interface.sessions import Sessions
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobFailedError,
    PoolClosedError,
    words_of,
)
from condorpool.values.locks import uninterrupted

if TYPE_CHECKING:
    from typing_extensions import Unpack

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R", AsyncResult[Any], MapResult)

#: Seconds for which resuming calls waits until the results that exist are read.
READ_TIME = 60.0

_open_pools: set[Pool] = set()


class Pool:
    """Run calls as HTCondor jobs, through the interface of `multiprocessing.Pool`.

    Leaving a ``with`` block waits for the jobs that run, removes those that are
    held or suspended (``killstats``), and deletes the submit directory.

    Parameters
    ----------
    processes
        The most jobs at once: the pool's worker processes.  By default as many
        as the HTCondor pool has CPUs, but no more than 1,000.
    initializer, initargs
        ``initializer(*initargs)`` is called once in each job, before its calls.
    maxtasksperchild
        How many times a job takes new calls (``chunksize`` of them) before it ends.  With 1
        it never does: each has a job of its own.
    context
        Accepted for code written for `multiprocessing`; HTCondor has none.
    schedd, collector
        Name of the access point, and address of its HTCondor pool's collector.
    personal
        True for the user's personal HTCondor, a folder, or a running
        `PersonalHTCondor`; False never starts one.  By default the configured
        HTCondor is used, else the personal one, started when it is needed.
    remote
        A machine that ``ssh`` reaches without a password: jobs are submitted there, at
        its access point.  ``submitdir`` and this Python must be on a file system that it
        shares.
    memory, disk
        What each job may use: ``"2GB"``, ``"500 MiB"``, or a number of MiB.  KB, MB,
        GB and TB are powers of 1024, as HTCondor reads them.
    memory_max
        A job that needs more than ``memory`` is run again with twice as much, and
        so on up to this; its calls are made again.
    cpus, gpus
        How many each job may use.
    task_timeout
        Seconds that one call may take: then it is interrupted and raises
        `TaskTimeoutError`, and the other calls go on.
    container_image
        The image that jobs run in, as ``"docker://python:3.11"``.
    requirements
        A ClassAd expression that machines must satisfy, as ``"OpSysMajorVer == 9"``.
    submitkwargs
        Other commands of the submit description, as ``{"accounting_group": "higgs"}``.
    jobkwargs
        Defaults for what happens to jobs and their files: ``submitdir``, ``killstats``,
        ``cleanup``, ``cleanfailed``, ``cleanupfiles``.
    killstats
        States whose jobs are removed when the pool closes.
    submitdir
        Where the pool makes its private submit directory; by default the
        working directory.
    on_hold
        What a wait does when only held jobs remain: ``"raise"`` `JobHeldError`,
        ``"wait"``, or ``"remove"`` them; by default ``"wait"`` while the widget with its
        buttons is visible, else ``"raise"``.  Or a function, which the wait calls with the
        `QueuedJob` each time that one is held, and which returns what to do with it:
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
        Print here what calls have printed, when they end.
    progress
        How calls are shown that take longer than a moment: ``"widget"`` in a
        notebook, ``"text"``, or None for not at all.  By default the widget in a notebook,
        text on a terminal, and nothing elsewhere.
    on_exit
        What happens to unfinished work when this process ends, in whatever way, without
        closing the pool: ``"wait"``, another process waits for it and then cleans up as
        leaving ``with`` does; ``"remove"`` all jobs; or ``"keep"`` everything as it is, to
        be resumed with `condorpool.attach`.

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
        settings = Settings(processes, initializer, initargs, maxtasksperchild, keywords)
        self._settings = settings
        self.submitkwargs, self.jobkwargs = settings.submitkwargs, settings.jobkwargs
        self.killstats, self.remote = settings.killstats, settings.remote
        custody.sweep_once()
        self._access_point = find_access_point(
            settings.schedd, settings.collector, settings.personal, settings.remote
        )
        self._cpus: tuple[float, int] = (-math.inf, 1)
        self._sessions = Sessions(self._access_point, settings.on_exit)
        self._results = KeptResults()
        self._iterators: weakref.WeakSet[ResultIterator[Any]] = weakref.WeakSet()
        self._closed = False

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
        kwargs.setdefault("progress", self._settings.progress)
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
            replace them, but a single call is only shown if it is waited for, or if
            ``progress`` says so here; with ``return_exceptions=True`` an exception is
            returned like a value.  An access point that does not answer is tried
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
        keywords = checks.keywords("kwds", {} if kwds is None else kwds)
        items = [(checks.positional("args", args), keywords)]
        call = payload.Call(func, "apply")
        kwargs.setdefault("progress", None)
        return self._post(AsyncResult, call, items, 1, callback, error_callback, **kwargs)

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
            Calls that a job makes in one go.  By default so many that each CPU of the
            HTCondor pool gets four such portions, which are split when calls turn out to
            be long.
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
        """Submit the calls of `map` and return their `MapResult` at once."""
        return self._map(func, "map", iterable, chunksize, callback, error_callback, **kwargs)

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
        """Submit the calls of `starmap` and return their `MapResult` at once."""
        items = map(checks.unpacked, checks.iterable("iterable", iterable))
        return self._map(func, "starmap", items, chunksize, callback, error_callback, **kwargs)

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
            Calls that a job makes in one go; more than 1 is much faster for short calls.
        buffersize
            The most calls that are under way or whose results wait to be taken.  By
            default 16 times ``chunksize`` for each process.
        **kwargs
            As for `apply_async`, but for ``return_exceptions``.

        Examples
        --------
        >>> import itertools, math
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     for root in pool.imap(math.sqrt, itertools.count(), chunksize=10):
        ...         if root == 9:
        ...             break
        """
        return self._imap(func, iterable, chunksize, buffersize, ordered=True, **kwargs)

    @takes(CallKeywords)
    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **kwargs: Unpack[CallKeywords],
    ) -> ResultIterator[T]:
        """Like `imap`, but each result comes when its call has ended.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     sorted(pool.imap_unordered(abs, [-2, -1]))
        [1, 2]
        """
        return self._imap(func, iterable, chunksize, buffersize, ordered=False, **kwargs)

    def share(self, value: T) -> payload.Shared[T]:
        """Send an object that many calls use once to each job, and not with every call.

        Returns
        -------
        Shared
            What to give to calls instead: there it is the object itself.  It is
            good for calls of this pool (and this ``submitdir``) as long as it is open.

        Examples
        --------
        >>> import numpy as np
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     field = pool.share(np.arange(1_000_000))
        ...     pool.starmap(np.take, [(field, i) for i in (0, 10)])
        [np.int64(0), np.int64(10)]
        """
        if self._closed:
            raise PoolClosedError
        return self._session(Path(self.jobkwargs["submitdir"]).absolute()).share(value)

    @takes(JobKeywords)
    def submit_description(
        self,
        func: Callable[..., Any],
        calls: int = 1,
        chunksize: int | None = None,
        **kwargs: Unpack[JobKeywords],
    ) -> dict[str, str]:
        """Return exactly what HTCondor would get for a map of so many calls.

        Nothing is submitted or written.  Takes what describes jobs, as `apply_async` does.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     pool.submit_description(abs, memory="2GB")["request_memory"]
        '2048MB'
        """
        self._check_call(func)
        checks.count("calls", calls)
        checks.optional_count("chunksize", chunksize)
        options = self._options(JobKeywords, kwargs)
        staffing = self._sessions.staffing(options.base)
        jobs = math.ceil(calls / (chunksize or self._chunksize(calls)))
        resident = staffing.is_resident(options.job)
        limit = min(jobs, options.job.limit(is_resident=resident))
        batch, name = None if resident else 0, payload.name_of(func)
        return staffing.describe(0, batch, limit, name, options.job)

    @property
    def queue(self) -> list[QueuedJob]:
        """The HTCondor jobs of this pool that are in the queue."""
        return [
            QueuedJob(session, job) for session in self._sessions for job in session.state.live_jobs
        ]

    def timeline(self, ax: Any = None) -> Any:
        """Plot when and where the latest calls were made, at most 10,000 bars; as for a result."""
        return timeline(list(self._sessions.made), ax)

    # -- posting ----------------------------------------------------------------------
    def _check_call(self, func: Callable[..., Any]) -> None:
        if self._closed:
            raise PoolClosedError
        warn_of_hash(checks.called(func))

    def _options(self, kind: type, keywords: Mapping[str, Any]) -> CallOptions:
        # Only a pool without a size of its own needs to ask the collector.
        cpus = 1 if self._settings.processes else self._count_cpus()
        return self._settings.of_call(kind, keywords, self._access_point, cpus)

    def _session(self, base: Path) -> Session:
        _open_pools.add(self)
        return self._sessions.get(base)

    def _post(
        self,
        kind: type[R],
        call: payload.Call,
        items: Sequence[Any],
        chunksize: int,
        callback: Callback | None,
        error_callback: Callback | None,
        *,
        in_order: bool = True,
        **keywords: Unpack[ResultKeywords],
    ) -> R:
        self._check_call(call.func)
        checks.function("callback", callback)
        checks.function("error_callback", error_callback)
        options = self._options(ResultKeywords, keywords)
        name = options.name
        if name is not None:
            call = replace(call, name=name, digest=fingerprint(call.func, call.style, items))
            if known := self._known(call):
                return cast("R", known)
        calls = GatheredCalls.of(
            call,
            items,
            chunksize,
            echo=options.echo,
            callback=callback,
            error_callback=error_callback,
            return_exceptions=options.return_exceptions,
            in_order=in_order,
        )
        result = kind(calls, options.on_hold)
        self._start(calls, result, self._session(options.base), options.job, options.maxtries)
        if name is not None:
            self._results.add_name(calls, result)
        result.show(options.progress)
        return result

    def _known(self, call: payload.Call) -> Result[Any] | None:
        """Return the result of the same calls under the same name; None if there is none.

        Tells the user, and calls again what failed.
        """
        named = [pool._results.named(call.name) for pool in _open_pools]  # noqa: SLF001
        mine = [result for result in named if result]
        found = [left for left in leftovers() if left.digest and left.name == call.name]
        if mine:
            digest = mine[-1].digest
        elif found:
            digest = found[-1].digest
        else:
            return None
        remedy = "result.forget()" if mine else f"`condorpool rm {found[-1].run}`"
        if digest != call.digest:
            raise ValueError(
                f"name={call.name!r} has the results of other calls (another function, other "
                "functions, classes or globals that it uses, or other items): choose another "
                f"name, or delete them with {remedy}"
            )
        if not mine and found[-1].in_use:
            raise ValueError(f"name={call.name!r} is {found[-1].in_use}: choose another name")
        result = mine[-1] if mine else self.take_up(found[-1])
        if result.ready():
            result.rerun()
        tell(
            f"{call.name!r}: reusing {result.calls_ended} of {result.calls} results computed "
            f"earlier ({remedy.replace('`', '')} deletes them)"
        )
        return result

    @uninterrupted
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
            Another process was quicker, or still works on it; or the jobs are in the
            queue of another access point than this pool's.
        """
        if self._closed:
            raise PoolClosedError
        session = self._sessions.take_over(leftover)
        results = {}
        for root, chain in session.directory.chains().items():
            calls = GatheredCalls.taken_up(session, chain)
            kind: type[Result[Any]] = AsyncResult if calls.is_single else MapResult
            results[root] = result = kind(calls, self._settings.on_hold)
            self._results.add(calls, result)
            if calls.digest:
                self._results.add_name(calls, result)
        _open_pools.add(self)
        self._sessions.follow(session)
        tracker().look()
        session.deliveries.wait(READ_TIME)  # what has ended is read first
        return results[leftover.chain[0][0]]

    def _start(
        self,
        calls: GatheredCalls,
        result: Result[Any],
        session: Session,
        options: JobOptions,
        maxtries: int,
        wait: float = 20.0,
    ) -> None:
        """Post calls; when the access point does not answer, try again after ``wait`` seconds."""
        wait = checks.seconds("wait", wait)
        for remaining in reversed(range(checks.count("maxtries", maxtries))):
            batch = calls.prepare(session, options)
            try:
                # From here on an interrupt leaves the calls posted, and their result here.
                with uninterrupted:
                    self._results.add(calls, result)
                    try:
                        calls.commit(session, batch)
                    except BaseException:
                        self._results.release(calls)
                        raise
                break
            except HTCondorError as error:
                if not remaining:
                    raise
                tell(f"{error} Trying again in {wait:g} s.")
            time.sleep(wait)
        tracker().look()

    def _map(
        self,
        func: Callable[..., Any],
        style: payload.Style,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
        **keywords: Unpack[ResultKeywords],
    ) -> MapResult:
        self._check_call(func)
        checks.optional_count("chunksize", chunksize)
        items = list(checks.iterable("iterable", iterable))
        # Chunks whose size the user did not choose are split when calls turn out to be long.
        call = payload.Call(func, style, splits=chunksize is None)
        size = chunksize or self._chunksize(len(items))
        return self._post(MapResult, call, items, size, callback, error_callback, **keywords)

    def _imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int,
        buffersize: int | None,
        *,
        ordered: bool,
        style: payload.Style = "map",
        **keywords: Unpack[CallKeywords],
    ) -> ResultIterator[T]:
        self._check_call(func)
        checks.count("chunksize", chunksize)
        ahead = checks.optional_count("buffersize", buffersize)
        checks.iterable("iterable", iterable)
        options = self._options(CallKeywords, keywords)
        calls = StreamedCalls(
            self._session(options.base),
            payload.Call(func, style),
            iterable,
            chunksize,
            options.job,
            ahead or 16 * chunksize * options.job.limit(is_resident=True),
            ordered=ordered,
            echo=options.echo,
        )
        iterator: ResultIterator[T] = ResultIterator(calls, options.on_hold)
        self._iterators.add(iterator)
        iterator.show(options.progress)
        tracker().look()
        return iterator

    def _wait(self, result: Result[T]) -> T:
        """Return what a blocking verb returns; an interrupt does not affect the jobs."""
        try:
            return result.get()
        except KeyboardInterrupt:
            if not result.ready():  # else the call has raised it
                tell(
                    "interrupted; the jobs continue. Their result is pool.results[-1]: "
                    ".get() waits again, .remove() ends them"
                )
            raise
        finally:
            if result.ready() and result.calls_failed:
                self._results.note_raised(result)

    def _chunksize(self, calls: int) -> int:
        """Follow multiprocessing's rule: four chunks for each process."""
        return max(1, math.ceil(calls / (4 * (self._settings.processes or self._count_cpus()))))

    def _count_cpus(self) -> int:
        asked, cpus = self._cpus
        if time.monotonic() - asked > 60:
            cpus = total_cpus(self._access_point.slots())
            self._cpus = time.monotonic(), max(1, cpus)
        return self._cpus[1]

    # -- the end -----------------------------------------------------------------------
    def close(self) -> None:
        """Accept no more calls, wait for the jobs and clean up.

        Jobs that are, or will be, in one of the states ``killstats`` are removed.

        Raises
        ------
        JobFailedError
            Calls failed and their errors were not raised before; it lists all of them.
        """
        self._closed = True
        for iterator in list(self._iterators):
            iterator._calls.exhaust()  # noqa: SLF001
        self._end()
        unreported = self._results.unreported()
        jobs = [job.id for result, _ in unreported for job in result.jobs]
        self._results.clear()
        if unreported:
            reports = [f"{r!r}: {words_of(e, repr)}\n{words_of(e)}" for r, e in unreported]
            raise JobFailedError(
                ", ".join(jobs) or "",
                "Pool.close - failed jobs:\n" + "\n==========\n".join(reports),
            )

    def terminate(self) -> None:
        """Remove every job that has not ended and accept no more calls."""
        self._closed = True
        self._results.mark_reported()
        self._stop_feeding()
        self._sessions.terminate()

    def join(self) -> None:
        """Wait for the jobs of a closed or terminated pool and clean up.

        Raises
        ------
        ValueError
            The pool is still open.
        """
        if not self._closed:
            raise ValueError("Pool is still running")
        self._end()

    def _end(self, patience: float = PATIENCE) -> None:
        self._sessions.end(patience)
        _open_pools.discard(self)

    def _stop_feeding(self) -> None:
        for iterator in list(self._iterators):
            iterator._calls.stop()  # noqa: SLF001

    def _take_back(self) -> None:
        self._stop_feeding()
        for session in self._sessions:
            actions.take_back(session.state)

    @property
    def jobs(self) -> list[Result[Any]]:
        """The results that were not fetched yet, or that failed, the latest last.

        The name is the original CondorPool's; a result has the jobs that make its calls.
        """
        return self._results.listed

    def clear_completed(self) -> None:
        """Take out of `jobs` what has ended."""
        self._results.drop(lambda calls: calls.is_ready)

    def clear_successful(self) -> None:
        """Take out of `jobs` what has ended without errors."""
        self._results.drop(lambda calls: calls.is_ready and not calls.errors)

    def closed(self) -> bool:
        """Return whether the pool accepts no more calls."""
        return self._closed

    @property
    def results(self) -> list[Result[Any]]:
        """The results that have not ended, or have errors, the latest last."""
        return self._results.select(lambda calls: not calls.is_ready or calls.errors)

    def __enter__(self) -> Pool:
        if self._closed:
            raise PoolClosedError
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt:
            # A user who interrupts does not want to wait.
            self._closed = True
            tell("the jobs continue; pool.join() waits, pool.terminate() removes them")
            return
        if error is not None:
            self._stop_feeding()
        try:
            self.close()
        except CondorPoolError:
            if error is None:
                raise

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a Pool is not iterable; did you mean pool.map(...)?")

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _repr_html_(self) -> str:
        return sources.html(self.results[-display.MOST :], repr(self))

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        batches = [b for s in self._sessions for b in list(s.state.batches.values())]
        calls = sum(batch.calls_pending for batch in batches)
        return f"<condorpool.Pool at {self._access_point.name}: {state}, {calls:,} calls remaining>"


def open_pools() -> list[Pool]:
    """Return the pools of this process that have, or had, jobs and are not cleaned up."""
    return list(_open_pools)


@atexit.register
def _close_open_pools() -> None:
    """Do for pools that were not closed what leaving ``with`` does.

    A kernel has no time for that: its cleaner does what is not done here.
    """
    hurries = bool(kernel_id())
    for pool in list(_open_pools):
        on_exit, sessions = pool._settings.on_exit, pool._sessions  # noqa: SLF001
        is_busy = any(session.state.is_busy for session in sessions)
        if on_exit == "keep" or (on_exit == "wait" and hurries and is_busy):
            continue
        try:
            pool._stop_feeding()  # noqa: SLF001 - no more results are taken
            if on_exit == "remove":
                pool.terminate()
            pool._closed = True  # noqa: SLF001
            # The program is over: an access point that does not answer is not waited for.
            pool._end(patience=0.5 if hurries else 5.0)  # noqa: SLF001
            pool.close()
        except CondorPoolError as error:
            tell(str(error))


def _forget() -> None:
    # The pools of a forked child are its parent's, and only its parent may end them.
    for pool in _open_pools:
        pool._closed = True  # noqa: SLF001
        pool._sessions.forget()  # noqa: SLF001
        pool._results = KeptResults()  # noqa: SLF001
    _open_pools.clear()


os.register_at_fork(after_in_child=_forget)
