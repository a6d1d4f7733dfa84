"""The pool: multiprocessing's verbs, whose calls run as HTCondor jobs."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from condorpool.engine import description, payload
from condorpool.engine.description import JobOptions
from condorpool.engine.session import PATIENCE, Session
from condorpool.engine.tracker import tracker
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.locate import find_access_point
from condorpool.interface.results import AsyncResult, Callback, MapResult, Result, check_on_hold
from condorpool.personal import PersonalHTCondor
from condorpool.values.events import JobState
from condorpool.values.exceptions import CondorPoolError, JobFailedError, PoolClosedError

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R", AsyncResult[Any], MapResult)

_STATES = tuple(state.value for state in JobState)

#: Seconds between the lines that say what a closing pool waits for.
_NOTE_INTERVAL = 10.0

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
        Chunks that a job makes before it ends.  1 is a job for every chunk.
    context
        Accepted for code written for `multiprocessing`; HTCondor has none.
    schedd, collector
        Name of the access point, and address of its HTCondor pool's collector.
    personal
        True for the user's personal HTCondor, a folder, or a running
        `PersonalHTCondor`; False never starts one.  By default the configured
        HTCondor is used, else the personal one, started when it is needed.
    submitkwargs
        Commands of the submit description, as ``{"request_memory": "2GB"}``.
    jobkwargs
        Defaults for what becomes of jobs: ``submitdir``, ``killstats``,
        ``cleanup``, ``cleanfailed``, ``cleanupfiles``.
    killstats
        States whose jobs are removed when the pool closes.
    submitdir
        Where the pool makes its private submit directory; by default the
        working directory.
    on_hold
        What a wait does when nothing but held jobs is left: ``"raise"``
        `JobHeldError`, ``"wait"``, or ``"remove"`` them.
    python
        The interpreter on the execution point.  By default this one's path, or
        whatever Python of the same version is found there.
    linger
        Seconds that a job waits for the next call before it ends, and for which
        HTCondor then keeps its slot; both are charged to the user.  0 for none.
    retire_after
        Seconds after which a job takes no new chunk, for sites that want short jobs.
    echo
        Print here what calls print, as they end.

    Examples
    --------
    >>> import math
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     pool.map(math.sqrt, [1, 4, 9])
    [1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,  # noqa: ARG002 - multiprocessing's; HTCondor has no start method
        *,
        schedd: str | None = None,
        collector: str | None = None,
        personal: PersonalHTCondor | Path | str | bool | None = None,
        submitkwargs: Mapping[str, Any] | None = None,
        jobkwargs: Mapping[str, Any] | None = None,
        killstats: Iterable[str] = ("Held", "Suspended"),
        submitdir: str | os.PathLike[str] = ".",
        on_hold: str = "raise",
        python: str | None = None,
        linger: float = 10.0,
        retire_after: float = math.inf,
        echo: bool = False,
    ) -> None:
        self._processes = _positive("processes", processes)
        self._maxtasksperchild = _positive("maxtasksperchild", maxtasksperchild)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer, self._initargs = initializer, tuple(initargs)
        if linger < 0:
            raise ValueError(f"linger={linger} is a number of seconds, 0 or more")
        self.submitkwargs = description.check(submitkwargs or {})
        self.killstats = _killstats(killstats)
        self.jobkwargs = {
            "submitdir": submitdir,
            "killstats": self.killstats,
            **_check_jobkwargs(jobkwargs or {}),
        }
        self._on_hold = check_on_hold(on_hold)
        if retire_after <= 0:
            raise ValueError(f"retire_after={retire_after} is a number of seconds, more than 0")
        self._python, self._linger, self._retire_after = python, linger, retire_after
        self._access_point = find_access_point(schedd, collector, personal)
        self._cpus: tuple[float, int] = (-math.inf, 1)
        self._sessions: dict[Path, Session] = {}
        self._results: list[AsyncResult[Any] | MapResult] = []
        self._iterators: weakref.WeakSet[ResultIterator[Any]] = weakref.WeakSet()
        self._echo = echo
        self._closed = False

    # -- multiprocessing's verbs ---------------------------------------------------
    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> T:
        """Call ``func(*args, **kwds)`` in a job and return what it returns.

        Takes the keywords of `apply_async` too.
        """
        return self._wait(self.apply_async(func, args, kwds, **kwargs))

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **kwargs: Any,
    ) -> AsyncResult[T]:
        """Submit ``func(*args, **kwds)`` as a job and return its `AsyncResult` at once.

        Parameters
        ----------
        callback, error_callback
            Called once with the value, or with the exception.
        **kwargs
            ``submitkwargs`` and ``jobkwargs`` update the pool's own for this call;
            ``on_hold`` and ``echo`` replace them; with ``return_exceptions=True`` an
            exception is returned like a value.

        Raises
        ------
        PayloadError
            The function or an argument cannot be pickled; nothing was submitted.
        SubmitError
            The submit directory cannot be written, or HTCondor refused.
        """
        items = [(tuple(args), dict(kwds or {}))]
        call = payload.Call(func, "apply")
        return self._post(AsyncResult, call, items, 1, callback, error_callback, **kwargs)

    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        **kwargs: Any,
    ) -> list[T]:
        """Call ``func`` on every item of ``iterable`` and return the results in order.

        Blocks until every call has ended, or until nothing but held jobs is left.

        Parameters
        ----------
        chunksize
            Calls that a job makes in one go.  By default four chunks are made for
            each CPU that the HTCondor pool offers, and are split as calls turn out to
            be long.
        **kwargs
            As for `apply_async`.

        Raises
        ------
        JobHeldError
            Only held jobs are left (``on_hold="raise"``).  They stay in the queue.
        """
        return self._wait(self.map_async(func, iterable, chunksize, **kwargs))

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **kwargs: Any,
    ) -> MapResult:
        """Submit the calls of `map` and return their `MapResult` at once."""
        return self._map(func, "map", iterable, chunksize, callback, error_callback, **kwargs)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **kwargs: Any,
    ) -> list[T]:
        """Like `map`, but each item is unpacked as arguments: ``func(*item)``."""
        return self._wait(self.starmap_async(func, iterable, chunksize, **kwargs))

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **kwargs: Any,
    ) -> MapResult:
        """Submit the calls of `starmap` and return their `MapResult` at once."""
        items = (tuple(item) for item in iterable)
        return self._map(func, "starmap", items, chunksize, callback, error_callback, **kwargs)

    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **kwargs: Any,
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
            default 16 chunks for each process.
        **kwargs
            ``submitkwargs``, ``jobkwargs``, ``on_hold`` and ``echo``, as for `apply_async`.

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

    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **kwargs: Any,
    ) -> ResultIterator[T]:
        """Like `imap`, but results come as chunks end."""
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
        return self._options(None, None)[1].share(value)

    def submit_description(
        self,
        func: Callable[..., Any],
        calls: int = 1,
        chunksize: int | None = None,
        *,
        submitkwargs: Mapping[str, Any] | None = None,
        jobkwargs: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Return exactly what HTCondor would get for a map of this many calls.

        Nothing is submitted.
        """
        _positive("calls", calls)
        _positive("chunksize", chunksize)
        options, session = self._options(submitkwargs, jobkwargs)
        jobs = math.ceil(calls / (chunksize or self._chunksize(calls)))
        resident = session.is_resident(options)
        limit = min(jobs, options.limit(is_resident=resident))
        return session.describe(0, None if resident else 0, limit, payload.name_of(func), options)

    # -- posting ----------------------------------------------------------------------
    def _check_call(self, func: Callable[..., Any]) -> None:
        if self._closed:
            raise PoolClosedError
        if not callable(func):
            raise TypeError(f"the first argument is a function, not {type(func).__name__}")

    def _options(
        self,
        submitkwargs: Mapping[str, Any] | None,
        jobkwargs: Mapping[str, Any] | None,
    ) -> tuple[JobOptions, Session]:
        submit = {**self.submitkwargs, **description.check(submitkwargs or {})}
        job = {**self.jobkwargs, **_check_jobkwargs(jobkwargs or {})}
        base = Path(job.pop("submitdir")).absolute()
        if base not in self._sessions:
            session = Session(base, self._access_point)
            tracker().follow(session)
            self._sessions[base] = session
            _open_pools.add(self)
        options = JobOptions(
            submitkwargs=submit,
            python=self._python,
            processes=self._processes,
            # Only a pool whose size nobody has set need ask the collector.
            cpus=1 if self._processes else self._count_cpus(),
            linger=self._linger,
            retire_after=self._retire_after,
            maxtasksperchild=self._maxtasksperchild,
            initializer=self._initializer,
            initargs=self._initargs,
            **job,
        )
        return options, self._sessions[base]

    def _post(
        self,
        kind: type[R],
        call: payload.Call,
        items: Sequence[Any],
        chunksize: int,
        callback: Callback | None,
        error_callback: Callback | None,
        submitkwargs: Mapping[str, Any] | None = None,
        jobkwargs: Mapping[str, Any] | None = None,
        on_hold: str | None = None,
        echo: bool | None = None,
        *,
        return_exceptions: bool = False,
    ) -> R:
        self._check_call(call.func)
        held = check_on_hold(on_hold or self._on_hold)
        options, session = self._options(submitkwargs, jobkwargs)
        result = kind(
            session,
            call,
            items,
            chunksize,
            options,
            held,
            callback,
            error_callback,
            echo=self._echo if echo is None else echo,
            return_exceptions=return_exceptions,
        )
        result._post(range(len(items)))  # noqa: SLF001
        self._results = [*self.results, result]
        tracker().look()
        return result

    def _map(
        self,
        func: Callable[..., Any],
        style: payload.Style,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
        **kwargs: Any,
    ) -> MapResult:
        self._check_call(func)
        _positive("chunksize", chunksize)
        items = list(iterable)
        # Chunks whose size nobody chose are split as the calls turn out to be long.
        call = payload.Call(func, style, splits=chunksize is None)
        size = chunksize or self._chunksize(len(items))
        return self._post(MapResult, call, items, size, callback, error_callback, **kwargs)

    def _imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int,
        buffersize: int | None,
        submitkwargs: Mapping[str, Any] | None = None,
        jobkwargs: Mapping[str, Any] | None = None,
        on_hold: str | None = None,
        echo: bool | None = None,
        *,
        ordered: bool,
    ) -> ResultIterator[T]:
        self._check_call(func)
        _positive("chunksize", chunksize)
        ahead = _positive("buffersize", buffersize)
        held = check_on_hold(on_hold or self._on_hold)
        options, session = self._options(submitkwargs, jobkwargs)
        iterator: ResultIterator[T] = ResultIterator(
            session,
            payload.Call(func, "map"),
            iterable,
            chunksize,
            options,
            held,
            ahead or 16 * chunksize * options.limit(is_resident=True),
            ordered=ordered,
            echo=self._echo if echo is None else echo,
        )
        self._iterators.add(iterator)
        tracker().look()
        return iterator

    def _wait(self, result: Result[T]) -> T:
        """Give what a blocking verb returns; an interrupt leaves the jobs alone."""
        try:
            return result.get()
        except KeyboardInterrupt:
            _tell(
                "interrupted; the jobs go on. Their result is pool.results[-1]: "
                ".get() waits again, .remove() ends them"
            )
            raise
        finally:
            self._results = self.results  # values must not pile up here

    def _chunksize(self, calls: int) -> int:
        """Follow multiprocessing's rule: four chunks for each process."""
        return max(1, math.ceil(calls / (4 * (self._processes or self._count_cpus()))))

    def _count_cpus(self) -> int:
        asked, cpus = self._cpus
        if time.monotonic() - asked > 60:
            slots = self._access_point.slots()
            # Dynamic slots are cut out of a partitionable one, which counts them already.
            cpus = sum(
                int(slot.get("TotalSlotCpus", 0))
                for slot in slots
                if slot.get("SlotType") != "Dynamic"
            )
            self._cpus = time.monotonic(), max(1, cpus)
        return self._cpus[1]

    # -- the end -----------------------------------------------------------------------
    def close(self) -> None:
        """Accept no more calls, wait for the jobs and clean up.

        Jobs that are in one of ``killstats``, or come to be, are removed.

        Raises
        ------
        JobFailedError
            Calls failed whose errors nobody has seen; all of them are told.
        """
        self._closed = True
        for iterator in list(self._iterators):
            iterator._hurry()  # noqa: SLF001
        self._end()
        unseen = [r for r in self._results if r._errors and not r._seen]  # noqa: SLF001
        self._results.clear()
        if unseen:
            reports = [f"{r!r}: {r._error()!r}\n{r._error()}" for r in unseen]  # noqa: SLF001
            raise JobFailedError(
                ", ".join(job.id for r in unseen for job in r.jobs) or "(none yet)",
                "Pool.close - failed jobs:\n" + "\n==========\n".join(reports),
            )

    def terminate(self) -> None:
        """Remove every job that has not ended and accept no more calls."""
        self._closed = True
        for result in self._results:
            result._seen = True  # noqa: SLF001 - what is thrown away is no news at the end
        self._stop_feeding()
        for session in self._sessions.values():
            session.terminate()

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
        noted = time.monotonic()

        def note(left: int) -> None:
            nonlocal noted
            if time.monotonic() - noted > _NOTE_INTERVAL:
                noted = time.monotonic()
                _tell(f"waiting for {left} chunks before the pool is closed")

        for session in list(self._sessions.values()):
            session.wait_all(note, patience)
        for base, session in list(self._sessions.items()):
            tracker().unfollow(session)
            session.close_log()
            session.clean()
            del self._sessions[base]
        _open_pools.discard(self)

    def _stop_feeding(self) -> None:
        for iterator in list(self._iterators):
            iterator._stop()  # noqa: SLF001

    @property
    def results(self) -> list[AsyncResult[Any] | MapResult]:
        """The results that have not all ended well, the latest last."""
        return [r for r in self._results if not r._is_ready or r._errors]  # noqa: SLF001

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
            # Whoever interrupts does not want to wait.  The jobs go on.
            self._closed = True
            _tell("the jobs go on; pool.join() waits, pool.terminate() removes them")
            return
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

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        left = sum(len(b.pending) for s in self._sessions.values() for b in s.batches.values())
        return f"<condorpool.Pool at {self._access_point.name}: {state}, {left} chunks left>"


def _tell(line: str) -> None:
    print(f"condorpool: {line}", file=sys.stderr)  # noqa: T201 - what users are owed


def _positive(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}={value}: it must be at least 1")
    return value


def _killstats(states: Iterable[str]) -> tuple[str, ...]:
    chosen = (states,) if isinstance(states, str) else tuple(states)
    for state in chosen:
        if state not in _STATES:
            raise ValueError(f"killstats has {state!r}; the states are {', '.join(_STATES)}")
    return chosen


def _check_jobkwargs(jobkwargs: Mapping[str, Any]) -> dict[str, Any]:
    known = ("submitdir", "killstats", "cleanup", "cleanfailed", "cleanupfiles", "polltime")
    checked = dict(jobkwargs)
    for key in checked:
        if key not in known:
            raise ValueError(f"jobkwargs[{key!r}] is none of {', '.join(known)}")
    checked.pop("polltime", None)  # nothing is polled: the event log tells
    if "killstats" in checked:
        checked["killstats"] = _killstats(checked["killstats"])
    if "cleanupfiles" in checked:
        checked["cleanupfiles"] = tuple(checked["cleanupfiles"])
    return checked


@atexit.register
def _close_open_pools() -> None:
    """Do for pools that nobody closed what leaving ``with`` does."""
    for pool in list(_open_pools):
        try:
            pool._closed = True  # noqa: SLF001
            pool._end(patience=5.0)  # noqa: SLF001 - the program is over: no ten minutes
            pool.close()
        except CondorPoolError as error:
            _tell(str(error))
