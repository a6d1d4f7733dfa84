"""The pool: multiprocessing's verbs, whose calls run as HTCondor jobs."""

from __future__ import annotations

import atexit
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, TypeVar, cast

from condorpool import display
from condorpool.cleaner import custody, ending
from condorpool.display.notices import mind_hashes, tell
from condorpool.display.timeline import timeline
from condorpool.engine import actions, description, payload
from condorpool.engine.chunks import Chunk
from condorpool.engine.description import JobOptions
from condorpool.engine.fingerprint import fingerprint
from condorpool.engine.session import MOST_MADE, Session
from condorpool.engine.state import PATIENCE
from condorpool.engine.submitdir import SubmitDir
from condorpool.engine.tracker import tracker
from condorpool.interface import sources
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.job import QueuedJob
from condorpool.interface.leftovers import Left, leftovers
from condorpool.interface.locate import find_access_point
from condorpool.interface.onhold import OnHold, check_on_hold
from condorpool.interface.options import checks, resources
from condorpool.interface.results import AsyncResult, Callback, MapResult, Result
from condorpool.personal import PersonalHTCondor
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobFailedError,
    PoolClosedError,
    words_of,
)
from condorpool.values.locks import uninterrupted

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R", AsyncResult[Any], MapResult)

_ON_EXIT = ("wait", "remove", "keep")

_STATES = tuple(state.value for state in JobState)

#: Seconds between the lines that say what a closing pool waits for.
_NOTE_INTERVAL = 10.0

#: Results of blocking verbs that are kept for what else they have, when one of their calls failed.
MOST_RAISED = 5

#: Seconds for which going on with calls waits until the values are read that are there.
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
        Chunks that a job makes before it ends.  1 is a job for every chunk.
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
        Defaults for what becomes of jobs: ``submitdir``, ``killstats``,
        ``cleanup``, ``cleanfailed``, ``cleanupfiles``.
    killstats
        States whose jobs are removed when the pool closes.
    submitdir
        Where the pool makes its private submit directory; by default the
        working directory.
    on_hold
        What a wait does when nothing but held jobs is left: ``"raise"``
        `JobHeldError`, ``"wait"``, or ``"remove"`` them; by default ``"wait"`` while
        the widget with its buttons is seen, else ``"raise"``.  Or a function, which the
        wait calls with the `QueuedJob` each time that one is held, and which says what
        to do with that: ``"raise"``, ``"wait"``, ``"remove"`` or ``"release"``.
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
    progress
        How calls are shown that take longer than a moment: ``"widget"`` in a
        notebook, ``"text"``, or None for not at all.  By default what suits the
        place, which is nothing where standard error is no terminal.
    on_exit
        What becomes of work that is not done when this process ends without closing
        the pool, however it ends: ``"wait"``, the work is finished and what leaving
        ``with`` does is done by another process; ``"remove"`` all jobs; or
        ``"keep"`` everything as it is, to be taken up again.

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
        remote: str | None = None,
        memory: str | float | None = None,
        memory_max: str | float | None = None,
        disk: str | float | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        task_timeout: float | None = None,
        container_image: str | os.PathLike[str] | None = None,
        requirements: str | None = None,
        python: str | os.PathLike[str] | None = None,
        submitkwargs: Mapping[str, Any] | None = None,
        jobkwargs: Mapping[str, Any] | None = None,
        killstats: Iterable[str] = ("Held", "Suspended"),
        submitdir: str | os.PathLike[str] = ".",
        on_hold: OnHold | None = None,
        linger: float = 10.0,
        retire_after: float = math.inf,
        echo: bool = False,
        progress: str | None = "auto",
        on_exit: Literal["wait", "remove", "keep"] = "wait",
    ) -> None:
        self._processes = _positive("processes", processes)
        try:
            self._maxtasksperchild = _positive("maxtasksperchild", maxtasksperchild)
        except TypeError as error:  # as multiprocessing has it, for this one alone
            raise ValueError(str(error)) from None
        self._initializer = checks.function("initializer", initializer)
        self._initargs = checks.positional("initargs", initargs)
        self.submitkwargs = description.check({} if submitkwargs is None else submitkwargs)
        given = {
            "memory": memory,
            "memory_max": memory_max,
            "disk": disk,
            "cpus": cpus,
            "gpus": gpus,
            "task_timeout": task_timeout,
            "container_image": container_image,
            "requirements": requirements,
            "python": python,
        }
        self._resources = resources.check(given, self.submitkwargs)
        resources.commands(self._resources, self.submitkwargs)
        self.killstats = _killstats(killstats)
        self.jobkwargs = {
            **_check_jobkwargs({"submitdir": submitdir}),
            "killstats": self.killstats,
            **_check_jobkwargs(jobkwargs),
        }
        self._on_hold = check_on_hold(on_hold)
        self._linger = checks.seconds("linger", linger)
        self._retire_after = checks.seconds(
            "retire_after", retire_after, least=0.001, may_be_infinite=True
        )
        for name, value in (("schedd", schedd), ("collector", collector), ("remote", remote)):
            checks.kind(name, value, (str, type(None)), "a string")
        kinds = (PersonalHTCondor, str, os.PathLike, bool, type(None))
        checks.kind("personal", personal, kinds, "a bool, a folder or a PersonalHTCondor")
        if on_exit not in _ON_EXIT:
            raise ValueError(f"on_exit={on_exit!r} is none of {', '.join(_ON_EXIT)}")
        self._on_exit = on_exit
        custody.sweep_once()
        self.remote = remote
        self._access_point = find_access_point(schedd, collector, personal, remote)
        self._cpus: tuple[float, int] = (-math.inf, 1)
        self._sessions: dict[Path, Session] = {}
        #: Those that somebody may ask for here, in order: all others leave by themselves.
        self._results: dict[Result[Any], None] = {}
        self._raised: deque[Result[Any]] = deque()  # of blocking verbs, whose user has the error
        self._named: dict[str, Result[Any]] = {}
        self._made: deque[Chunk] = deque(maxlen=MOST_MADE)
        self._iterators: weakref.WeakSet[ResultIterator[Any]] = weakref.WeakSet()
        self._echo = checks.kind("echo", echo, bool, "True or False")
        self._progress = display.check_kind(progress)
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
        kwargs.setdefault("progress", self._progress)
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
        """
        keywords = checks.keywords("kwds", {} if kwds is None else kwds)
        items = [(checks.positional("args", args), keywords)]
        call = payload.Call(func, "apply")
        kwargs.setdefault("progress", None)
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
        items = map(_unpacked, checks.iterable("iterable", iterable))
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
        return self._options()[1].share(value)

    def submit_description(
        self,
        func: Callable[..., Any],
        calls: int = 1,
        chunksize: int | None = None,
        **kwargs: Any,
    ) -> dict[str, str]:
        """Return exactly what HTCondor would get for a map of this many calls.

        Nothing is submitted.  Takes what describes jobs, as `apply_async` does.
        """
        self._check_call(func)
        _positive("calls", calls)
        _positive("chunksize", chunksize)
        options, session = self._options(**kwargs)
        jobs = math.ceil(calls / (chunksize or self._chunksize(calls)))
        resident = session.crews.is_resident(options)
        limit = min(jobs, options.limit(is_resident=resident))
        batch, name = None if resident else 0, payload.name_of(func)
        return session.crews.describe(0, batch, limit, name, options)

    @property
    def queue(self) -> list[QueuedJob]:
        """The HTCondor jobs of this pool that have not left the queue."""
        return [
            QueuedJob(session, *place)
            for session in list(self._sessions.values())
            for place in session.places()
        ]

    def timeline(self, ax: Any = None) -> Any:
        """Plot when each of the latest 10,000 chunks was made, and where; as for a result."""
        return timeline(list(self._made), ax)

    # -- posting ----------------------------------------------------------------------
    def _check_call(self, func: Callable[..., Any]) -> None:
        if self._closed:
            raise PoolClosedError
        if not callable(func):
            raise TypeError(f"the first argument is a function, not {type(func).__name__}")
        mind_hashes(func)

    def _options(
        self,
        submitkwargs: Mapping[str, Any] | None = None,
        jobkwargs: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> tuple[JobOptions, Session]:
        submit = description.check({} if submitkwargs is None else submitkwargs)
        asked = {**self._resources, **resources.check(given, submit)}
        commands = resources.commands(asked, {**self.submitkwargs, **submit})
        if "memory_max" in asked:
            self._access_point.check_memory_max()
        job = {**self.jobkwargs, **_check_jobkwargs(jobkwargs)}
        base = Path(job.pop("submitdir")).absolute()
        session = self._sessions.get(base) or self._begin(base)
        options = JobOptions(
            submitkwargs={**self.submitkwargs, **commands, **submit},
            python=asked.get("python"),
            task_timeout=asked.get("task_timeout"),
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
        return options, session

    @uninterrupted
    def _begin(self, base: Path) -> Session:
        """Make a submit directory, which is cleaned up whatever becomes of this process."""
        directory = SubmitDir.new(base)
        custody.register(directory.path, self._access_point, self._on_exit)
        lease = 0.0 if self._on_exit == "keep" else description.LEASE
        try:
            directory.make(
                lease=lease,
                queue=self._access_point.queue,
                kernel=custody.kernel(),
                notebook=custody.notebook(),
            )
            session = Session(directory, self._access_point, lease)
        except BaseException:
            custody.unregister(directory.path)
            raise
        session.made = self._made
        tracker().follow(session)
        _open_pools.add(self)
        self._sessions[base] = session
        return session

    def _post(
        self,
        kind: Callable[..., R],
        call: payload.Call,
        items: Sequence[Any],
        chunksize: int,
        callback: Callback | None,
        error_callback: Callback | None,
        on_hold: OnHold | None = None,
        echo: bool | None = None,
        progress: str | None = "auto",
        maxtries: int = 5,
        name: str | None = None,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> R:
        self._check_call(call.func)
        checks.function("callback", callback)
        checks.function("error_callback", error_callback)
        if name is not None:
            checks.calls_name(name)
            call = replace(call, name=name, digest=fingerprint(call.func, call.style, items))
            if known := self._known(call):
                return cast("R", known)
            batch_name = description.title(name)
            kwargs["submitkwargs"] = {
                "batch_name": batch_name,
                **(kwargs.get("submitkwargs") or {}),
            }
        held = check_on_hold(on_hold or self._on_hold)
        shown = display.check_kind(self._progress if progress == "auto" else progress)
        options, session = self._options(**kwargs)
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
        self._start(result, maxtries)
        if name is not None:
            self._named[name] = result
            result._names = self._named  # noqa: SLF001
        result.show(shown)
        return result

    def _known(self, call: payload.Call) -> Result[Any] | None:
        """Return the result of the same calls under the same name; None if there is none.

        Says so, and has made again what failed.
        """
        mine = [pool._named[call.name] for pool in _open_pools if call.name in pool._named]  # noqa: SLF001
        found = [left for left in leftovers() if left.digest and left.name == call.name]
        if mine:
            digest = mine[-1].digest
        elif found:
            digest = found[-1].digest
        else:
            return None
        rid = "result.forget()" if mine else f"`condorpool rm {found[-1].run}`"
        if digest != call.digest:
            raise ValueError(
                f"name={call.name!r} has the results of other calls (another function, other "
                "functions, classes or globals that it uses, or other items): choose another "
                f"name, or get rid of them by {rid}"
            )
        if not mine and found[-1].in_use:
            raise ValueError(f"name={call.name!r} is {found[-1].in_use}: choose another name")
        result = mine[-1] if mine else self.take_up(found[-1])
        if result.ready():
            result.rerun()
        tell(
            f"{call.name!r} was begun before: {result.calls_ended} of {result.calls} calls "
            f"are not made again ({rid.replace('`', '')} gets rid of their results)"
        )
        return result

    @uninterrupted
    def take_up(self, left: Left) -> Result[Any]:
        """Go on with calls that another process has left; return their result.

        All that is in the same submit directory is this pool's then.

        Parameters
        ----------
        left
            One of those that `condorpool.attach` lists.

        Raises
        ------
        CondorPoolError
            Another process was quicker, or still works on it; or the jobs are in the
            queue of another access point than this pool's.
        """
        if self._closed:
            raise PoolClosedError
        here, origin = self._access_point, left.entry.origin
        there = here if origin == here.origin else ending.find_access_point(origin)
        if there and there.queue != here.queue:
            raise CondorPoolError(
                f"the jobs of {left.name!r} are at {there.name}, and this pool's at "
                f"{here.name}: condorpool.attach({left.name!r}) makes a pool there."
            )
        directory = custody.take_up(left.entry, self._on_exit, here.origin)
        session = Session.taken_up(directory, here)
        session.made = self._made
        results = {}
        for root, chain in directory.chains().items():
            facts = chain[0][1]
            kind: type[Result[Any]] = AsyncResult if facts["style"] == "apply" else MapResult
            stub: Any = SimpleNamespace(__name__=facts["title"])
            call = payload.Call(stub, facts["style"], name=facts["name"], digest=facts["digest"])
            items = range(facts["calls"])
            result = kind(session, call, items, 1, JobOptions(), self._on_hold, None, None)
            result._take_up(chain)  # noqa: SLF001
            results[root] = result
            if facts["name"]:
                self._named[facts["name"]] = result
                result._names = self._named  # noqa: SLF001
        self._keep(*results.values())
        self._sessions[session.directory.path] = session
        _open_pools.add(self)
        tracker().follow(session)
        tracker().look()
        session.deliveries.wait(READ_TIME)  # what has ended is read first
        return results[left.chain[0][0]]

    def _start(self, result: Result[Any], maxtries: int, wait: float = 20.0) -> None:
        """Post calls; when the access point does not answer, try again after ``wait`` seconds."""
        wait = checks.seconds("wait", wait)
        for left in reversed(range(checks.count("maxtries", maxtries))):
            batch = result._prepare()  # noqa: SLF001
            try:
                # From here on an interrupt leaves the calls posted, and their result here.
                with uninterrupted:
                    self._keep(result)
                    try:
                        result._commit(batch)  # noqa: SLF001
                    except BaseException:
                        del self._results[result]
                        raise
                break
            except HTCondorError as error:
                if not left:
                    raise
                tell(f"{error} Trying again in {wait:g} s.")
            time.sleep(wait)
        tracker().look()

    def _keep(self, *results: Result[Any]) -> None:
        """Have results in `jobs` as long as somebody may ask for them there."""
        for result in results:
            result._kept = self._results  # noqa: SLF001
            self._results[result] = None

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
        items = list(checks.iterable("iterable", iterable))
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
        on_hold: OnHold | None = None,
        echo: bool | None = None,
        progress: str | None = "auto",
        *,
        ordered: bool,
        style: payload.Style = "map",
        **kwargs: Any,
    ) -> ResultIterator[T]:
        self._check_call(func)
        _positive("chunksize", chunksize)
        ahead = _positive("buffersize", buffersize)
        checks.iterable("iterable", iterable)
        held = check_on_hold(on_hold or self._on_hold)
        shown = display.check_kind(self._progress if progress == "auto" else progress)
        options, session = self._options(**kwargs)
        iterator: ResultIterator[T] = ResultIterator(
            session,
            payload.Call(func, style),
            iterable,
            chunksize,
            options,
            held,
            ahead or 16 * chunksize * options.limit(is_resident=True),
            ordered=ordered,
            echo=self._echo if echo is None else echo,
        )
        self._iterators.add(iterator)
        iterator.show(shown)
        tracker().look()
        return iterator

    def _wait(self, result: Result[T]) -> T:
        """Give what a blocking verb returns; an interrupt leaves the jobs alone."""
        try:
            return result.get()
        except KeyboardInterrupt:
            if not result.ready():  # else the call has raised it
                tell(
                    "interrupted; the jobs go on. Their result is pool.results[-1]: "
                    ".get() waits again, .remove() ends them"
                )
            raise
        finally:
            if result.ready() and result._errors:  # noqa: SLF001
                # What is raised has all frames that it comes through, with what is in them.
                self._raised.append(result)
                if len(self._raised) > MOST_RAISED:
                    self._drop([self._raised.popleft()])

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
            iterator._exhaust()  # noqa: SLF001
        self._end()
        unseen = [r for r in list(self._results) if r._errors and not r._seen]  # noqa: SLF001
        self._results.clear()
        self._raised.clear()
        self._named.clear()
        if unseen:
            errors = [(r, cast("BaseException", r._error())) for r in unseen]  # noqa: SLF001
            reports = [f"{r!r}: {words_of(e, repr)}\n{words_of(e)}" for r, e in errors]
            raise JobFailedError(
                ", ".join(job.id for r in unseen for job in r.jobs) or "(none yet)",
                "Pool.close - failed jobs:\n" + "\n==========\n".join(reports),
            )

    def terminate(self) -> None:
        """Remove every job that has not ended and accept no more calls."""
        self._closed = True
        for result in list(self._results):
            result._see()  # noqa: SLF001 - what is thrown away is no news at the end
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

        def note(what: str) -> None:
            nonlocal noted
            if time.monotonic() - noted > _NOTE_INTERVAL:
                noted = time.monotonic()
                tell(f"waiting for {what} before the pool is closed")

        sessions = list(self._sessions.items())
        have_left = [session.wait_all(note, patience) for _, session in sessions]
        with uninterrupted:
            for (base, session), is_over in zip(sessions, have_left, strict=True):
                if self._sessions.pop(base, None):  # no other thread closes it too
                    self._leave(session, is_over=is_over)
            _open_pools.discard(self)

    @staticmethod
    def _leave(session: Session, *, is_over: bool) -> None:
        """Clean up after a session whose calls have ended."""
        tracker().unfollow(session)
        session.follower.close()
        if is_over:
            custody.unregister(session.directory.path, session.clean())
        else:
            tell(f"jobs have not left yet: {session.directory.path} is cleaned up later")
            custody.hand_over(session.directory.path)

    def _stop_feeding(self) -> None:
        for iterator in list(self._iterators):
            iterator._stop()  # noqa: SLF001

    def _take_back(self) -> None:
        self._stop_feeding()
        for session in self._sessions.values():
            actions.take_back(session)

    @property
    def jobs(self) -> list[Result[Any]]:
        """The results that nobody has got yet, or that failed, the latest last.

        Those of the original CondorPool; a result has the jobs that make its calls.
        """
        return list(self._results)

    def clear_completed(self) -> None:
        """Take from `jobs` what has ended."""
        self._drop(r for r in self.jobs if r.ready())

    def clear_successful(self) -> None:
        """Take from `jobs` what has ended well."""
        self._drop(r for r in self.jobs if r.ready() and not r._errors)  # noqa: SLF001

    def _drop(self, results: Iterable[Result[Any]]) -> None:
        for result in list(results):
            self._results.pop(result, None)

    def closed(self) -> bool:
        """Tell whether the pool accepts no more calls."""
        return self._closed

    @property
    def results(self) -> list[Result[Any]]:
        """The results that have not all ended well, the latest last."""
        return [r for r in self.jobs if not r._is_ready or r._errors]  # noqa: SLF001

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
            tell("the jobs go on; pool.join() waits, pool.terminate() removes them")
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
        left = sum(len(b.pending) for s in self._sessions.values() for b in s.batches.values())
        return f"<condorpool.Pool at {self._access_point.name}: {state}, {left} chunks left>"


def _positive(name: str, value: int | None) -> int | None:
    return None if value is None else checks.count(name, value)


def _unpacked(item: Any) -> tuple[Any, ...]:
    try:
        return tuple(item)
    except TypeError as error:
        raise TypeError(f"each item of starmap's iterable is unpacked: {error}") from error


def _killstats(states: Iterable[str]) -> tuple[str, ...]:
    chosen = (states,) if isinstance(states, str) else checks.iterable("killstats", states)
    for state in chosen:
        if state not in _STATES:
            raise ValueError(f"killstats has {state!r}; the states are {', '.join(_STATES)}")
    return tuple(chosen)


#: The keys of jobkwargs, and what they take.
_JOBKWARGS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "submitdir": ((str, os.PathLike), "a folder"),
    "killstats": (Iterable, "a state or several"),
    "cleanup": (bool, "True or False"),
    "cleanfailed": (bool, "True or False"),
    "cleanupfiles": ((list, tuple, set, frozenset), "a list of file names"),
    "polltime": ((int, float), "a number of seconds"),
}


def _check_jobkwargs(jobkwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    given = {} if jobkwargs is None else jobkwargs
    checked = dict(checks.kind("jobkwargs", given, Mapping, "a mapping"))
    for key, value in checked.items():
        if key not in _JOBKWARGS:
            raise ValueError(f"jobkwargs[{key!r}] is none of {', '.join(_JOBKWARGS)}")
        checks.kind(key, value, *_JOBKWARGS[key])
    checked.pop("polltime", None)  # nothing is polled: the event log tells
    if "killstats" in checked:
        checked["killstats"] = _killstats(checked["killstats"])
    if "cleanupfiles" in checked:
        checked["cleanupfiles"] = tuple(checked["cleanupfiles"])
    return checked


def open_pools() -> list[Pool]:
    """Return the pools of this process that have, or had, jobs and are not cleaned up."""
    return list(_open_pools)


@atexit.register
def _close_open_pools() -> None:
    """Do for pools that nobody closed what leaving ``with`` does.

    A kernel has no time for that: what is not done there is its cleaner's.
    """
    hurries = bool(custody.kernel())
    for pool in list(_open_pools):
        on_exit, sessions = pool._on_exit, pool._sessions.values()  # noqa: SLF001
        is_busy = any(session.is_busy for session in sessions)
        if on_exit == "keep" or (on_exit == "wait" and hurries and is_busy):
            continue
        try:
            pool._stop_feeding()  # noqa: SLF001 - nobody takes what more there is
            if on_exit == "remove":
                pool.terminate()
            pool._closed = True  # noqa: SLF001
            # The program is over: no ten minutes for an access point that is silent.
            pool._end(patience=0.5 if hurries else 5.0)  # noqa: SLF001
            pool.close()
        except CondorPoolError as error:
            tell(str(error))


def _forget() -> None:
    # What a forked child has is its parent's, and only its parent may end it.
    for pool in _open_pools:
        pool._closed = True  # noqa: SLF001
        pool._sessions = {}  # noqa: SLF001
        pool._results = {}  # noqa: SLF001
    _open_pools.clear()


os.register_at_fork(after_in_child=_forget)
