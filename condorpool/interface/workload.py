"""The work of one pool: posts calls, keeps their results, and ends their jobs.

`Pool` is its face to users; executors and the original's jobs post calls here, too.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from condorpool import display
from condorpool.access.capacity import total_cpus
from condorpool.access.matching import first_look, requests_of
from condorpool.display.notices import tell, warn_of_hash
from condorpool.engine import actions, payload
from condorpool.engine.calls import Calls
from condorpool.engine.description import JobOptions
from condorpool.engine.fingerprint import fingerprint
from condorpool.engine.gathered import GatheredCalls
from condorpool.engine.records import Style
from condorpool.engine.session import Session
from condorpool.engine.state import PATIENCE
from condorpool.engine.streams import StreamedCalls
from condorpool.engine.tracker import tracker
from condorpool.engine.why import why_never
from condorpool.interface import names, openpools
from condorpool.interface.handle import Handle
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.kept import KeptResults
from condorpool.interface.leftovers import Leftover
from condorpool.interface.locate import find_access_point
from condorpool.interface.options import checks
from condorpool.interface.options.keywords import CallKeywords, JobKeywords, ResultKeywords
from condorpool.interface.options.settings import CallOptions, Settings
from condorpool.interface.results import AsyncResult, Callback, MapResult, Result
from condorpool.interface.sessions import Sessions
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobFailedError,
    PersonalError,
    PoolClosedError,
    words_of,
)
from condorpool.values.locks import uninterrupted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from condorpool.interface.pool import Pool

R = TypeVar("R", AsyncResult[Any], MapResult)

#: Seconds for which resuming calls waits until the results that exist are read.
READ_TIME = 60.0

#: Seconds for which the number of CPUs of the HTCondor pool is not asked for again.
_COUNT_INTERVAL = 60.0


class Workload:
    """The work of one pool.

    Attributes
    ----------
    pool
        The pool that users hold.
    sessions
        Its submit directories.
    results
        The results that users may ask for.
    iterators
        The iterators that are in use, and the calls of each.
    is_closed
        Whether the pool accepts no more calls.
    """

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool = pool
        self.settings = settings
        self.access_point = find_access_point(
            settings.schedd, settings.collector, settings.personal, settings.remote
        )
        self.sessions = Sessions(self.access_point, settings.on_exit)
        self.results = KeptResults()
        self.iterators: weakref.WeakKeyDictionary[ResultIterator[Any], StreamedCalls] = (
            weakref.WeakKeyDictionary()
        )
        self.is_closed = False
        #: When the pool's slots were asked for, and what they were.
        self._slots: tuple[float, list[dict[str, Any]]] = (-math.inf, [])
        #: When a first look at what jobs request was last taken, by those commands.
        self._looks: dict[tuple[tuple[str, str], ...], float] = {}

    # -- posting -------------------------------------------------------------------
    def check_open(self) -> None:
        """Raise `PoolClosedError` if the pool is closed."""
        if self.is_closed:
            raise PoolClosedError

    def check_call(self, func: Callable[..., Any]) -> None:
        """Check that the pool accepts calls of this function."""
        self.check_open()
        warn_of_hash(checks.called(func))

    def options(self, kind: type, keywords: Mapping[str, Any]) -> CallOptions:
        """Return the options of a call; ``kind`` says which keywords it takes, as `ResultKeywords`."""
        # Only a pool without a size of its own needs to ask the collector.
        cpus = 1 if self.settings.processes else self.count_cpus()
        return self.settings.of_call(kind, keywords, self.access_point, cpus)

    def session(self, base: Path) -> Session:
        """Return where calls whose submit directory is in this folder are posted."""
        openpools.add(self)
        return self.sessions.get(base)

    def post(
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
        """Post calls with these items and return their result, of this kind."""
        self.check_call(call.func)
        checks.function("callback", callback)
        checks.function("error_callback", error_callback)
        options = self.options(ResultKeywords, keywords)
        name, replaced = options.name, list[names.Kept]()
        if name is not None:
            call = replace(call, name=name, digest=fingerprint(call.func, call.style, items))
            if options.overwrite:
                replaced = [kept for kept in names.find(name) if kept.is_here]
                names.check_use(name, replaced)
            elif known := self._known(call):
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
        session = self.session(options.base)
        # Nothing else keeps the value of a future, whose callbacks come in any order.
        self.start(calls, result, session, options.job, options.maxtries, is_last=in_order)
        if name is not None:
            self.results.add_name(calls, result)
        for kept in replaced:  # only now: nothing is lost if the calls cannot be posted
            kept.forget()
        result.show(options.progress)
        if options.progress is None and call.style == "apply" and self.settings.progress:
            display.watch(calls)
        return result

    def post_map(
        self,
        func: Callable[..., Any],
        style: Style,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
        **keywords: Unpack[ResultKeywords],
    ) -> MapResult:
        """Post a call for each item of an iterable and return their result."""
        self.check_call(func)
        checks.optional_count("chunksize", chunksize)
        items = list(checks.iterable("iterable", iterable))
        # Chunks whose size the user did not choose are split when calls turn out to be long.
        call = payload.Call(func, style, splits=chunksize is None)
        size = chunksize or self._chunksize(len(items))
        return self.post(MapResult, call, items, size, callback, error_callback, **keywords)

    def stream(
        self,
        func: Callable[..., Any],
        style: Style,
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
        *,
        ordered: bool,
        **keywords: Unpack[CallKeywords],
    ) -> ResultIterator[Any]:
        """Return an iterator over the results of a call for each item, which it posts in turn."""
        self.check_call(func)
        checks.count("chunksize", chunksize)
        ahead = checks.optional_count("buffersize", buffersize)
        checks.iterable("iterable", iterable)
        options = self.options(CallKeywords, keywords)
        self._look_ahead(options.job)
        calls = StreamedCalls(
            self.session(options.base),
            payload.Call(func, style),
            iterable,
            chunksize,
            options.job,
            ahead or 16 * chunksize * options.job.limit(is_resident=True),
            ordered=ordered,
            echo=options.echo,
        )
        iterator: ResultIterator[Any] = ResultIterator(calls, options.on_hold)
        self.iterators[iterator] = calls
        self.results.set_last(iterator)
        iterator.show(options.progress)
        tracker().look()
        return iterator

    def start(
        self,
        calls: GatheredCalls,
        result: Result[Any],
        session: Session,
        options: JobOptions,
        maxtries: int,
        wait: float = 20.0,
        *,
        is_last: bool = True,
    ) -> None:
        """Post calls; when the access point does not answer, try again after ``wait`` seconds.

        ``is_last`` says whether their result is `Pool.last` then.
        """
        wait = checks.seconds("wait", wait)
        self._look_ahead(options)
        for remaining in reversed(range(checks.count("maxtries", maxtries))):
            batch = calls.prepare(session, options)
            try:
                # From here on an interrupt leaves the calls posted, and their result here.
                with uninterrupted:
                    self.results.add(calls, result)
                    try:
                        calls.commit(session, batch)
                    except BaseException:
                        self.results.release(calls)
                        raise
                    if is_last:
                        self.results.set_last(result)
                break
            except HTCondorError as error:
                # A personal HTCondor that was not started just now will not start later.
                if not remaining or isinstance(error, PersonalError):
                    raise
                tell(f"{error} Trying again in {wait:g} s.")
            time.sleep(wait)
        tracker().look()

    def describe(
        self,
        func: Callable[..., Any],
        calls: int,
        chunksize: int | None,
        keywords: Mapping[str, Any],
    ) -> dict[str, str]:
        """Return the submit description of a map; nothing is submitted or written."""
        self.check_call(func)
        checks.count("calls", calls)
        checks.optional_count("chunksize", chunksize)
        options = self.options(JobKeywords, keywords)
        staffing = self.sessions.staffing(options.base)
        jobs = math.ceil(calls / (chunksize or self._chunksize(calls)))
        resident = staffing.is_resident(options.job)
        limit = min(jobs, options.job.limit(is_resident=resident))
        batch, name = None if resident else 0, payload.name_of(func)
        return staffing.describe(0, batch, limit, name, options.job)

    def _chunksize(self, calls: int) -> int:
        """Follow multiprocessing's rule: four chunks for each process."""
        return max(1, math.ceil(calls / (4 * (self.settings.processes or self.count_cpus()))))

    def count_cpus(self) -> int:
        """Return how many CPUs the HTCondor pool has; at least 1."""
        return max(1, total_cpus(self._known_slots()))

    def _known_slots(self) -> list[dict[str, Any]]:
        """Return the pool's slots of at most `_COUNT_INTERVAL` ago."""
        asked, slots = self._slots
        if time.monotonic() - asked > _COUNT_INTERVAL:
            slots = self.access_point.slots()
            self._slots = time.monotonic(), slots
        return slots

    def _look_ahead(self, options: JobOptions) -> None:
        """Print a notice if no slot can run jobs with these options; slots may still come.

        A pool of a size of its own asks the collector only if the jobs request something.
        """
        wanted = requests_of(options.submitkwargs)
        key, now = tuple(sorted(wanted.items())), time.monotonic()
        if now - self._looks.get(key, -math.inf) < _COUNT_INTERVAL:
            return
        if not wanted and now - self._slots[0] > _COUNT_INTERVAL:
            return
        self._looks[key] = now
        if self.access_point.memory:
            wanted.setdefault("request_memory", str(self.access_point.memory))
        # Without an answer there is nothing to warn of; what is no expression HTCondor refuses.
        with contextlib.suppress(HTCondorError, ValueError):
            slots = self._known_slots()
            requirements = wanted.get("requirements", "") if slots else ""
            is_unmet = bool(requirements) and not self.access_point.is_met(requirements)
            if why := why_never(first_look(wanted, slots, is_unmet=is_unmet)):
                tell(f"{why}. The calls wait until such a slot appears or you remove() them.")

    # -- resuming ------------------------------------------------------------------
    def _known(self, call: payload.Call) -> Result[Any] | None:
        """Return the result of the same calls under the same name; None if there is none.

        Prints a notice, and reruns calls that failed.
        """
        kept = names.same(call.name, call.digest)
        if kept is None:
            return None
        try:
            result = kept.result or self.take_up(cast("Leftover", kept.leftover))
        except CondorPoolError:
            if kept.is_here:
                raise
            return None  # another notebook's: they may be at another access point
        if result.ready():
            result.rerun()
        names.tell_reuse(call.name, kept, result)
        self.results.set_last(result)
        return result

    @uninterrupted
    def take_up(self, leftover: Leftover) -> Result[Any]:
        """Resume calls of a process that has ended; return their result."""
        self.check_open()
        if not leftover.survey.can_be_resumed(leftover.chain):
            raise CondorPoolError(
                f"{leftover.name!r} cannot be resumed: the record of its jobs in {leftover.run} "
                f"cannot be read. `condorpool results {leftover.run}` shows the values so far."
            )
        session = self.sessions.take_over(leftover)
        results = {}
        for root, chain in session.resumable().items():
            calls = GatheredCalls.taken_up(session, chain)
            kind: type[Result[Any]] = AsyncResult if calls.is_single else MapResult
            results[root] = result = kind(calls, self.settings.on_hold)
            self.results.add(calls, result)
            if calls.digest:
                self.results.add_name(calls, result)
        openpools.add(self)
        self.sessions.follow(session)
        tracker().look()
        session.deliveries.wait(READ_TIME)  # what has ended is read first
        self.results.set_last(results[leftover.chain[0][0]])
        return results[leftover.chain[0][0]]

    # -- what is under way -----------------------------------------------------------
    def handles(self) -> dict[Calls, Handle]:
        """Return, by their calls, the results that have not ended or have errors, and iterators."""
        handles: dict[Calls, Handle] = dict(self.results.unsettled.items())
        handles.update((calls, iterator) for iterator, calls in list(self.iterators.items()))
        return handles

    @property
    def calls_pending(self) -> int:
        """How many calls have not ended."""
        return sum(session.state.calls_pending for session in self.sessions)

    @property
    def is_busy(self) -> bool:
        """Whether calls have not ended."""
        return any(session.state.is_busy for session in self.sessions)

    @property
    def is_delivering(self) -> bool:
        """Whether this thread is in the middle of a delivery, as in a callback."""
        return any(session.deliveries.depth for session in self.sessions)

    # -- the end ---------------------------------------------------------------------
    def stop_feeding(self) -> None:
        """Have iterators take no more items."""
        for calls in list(self.iterators.values()):
            calls.stop()

    def take_back(self) -> None:
        """Take back calls that no job makes yet."""
        self.stop_feeding()
        for session in self.sessions:
            actions.take_back(session.state)

    def close(self) -> None:
        """Accept no more calls, wait for the jobs, clean up; raise what was not reported."""
        self.is_closed = True
        self.results.release_last()
        for stream in list(self.iterators.values()):
            stream.exhaust()
        self.end()
        unreported = self.results.unreported()
        jobs = [job.id for result, _ in unreported for job in result.jobs]
        self.results.clear()
        if unreported:
            reports = [f"{r!r}: {words_of(e, repr)}\n{words_of(e)}" for r, e in unreported]
            raise JobFailedError(
                ", ".join(jobs) or "",
                "Pool.close - failed jobs:\n" + "\n==========\n".join(reports),
            )

    def terminate(self) -> None:
        """Remove every job that has not ended and accept no more calls."""
        self.is_closed = True
        self.results.mark_reported()
        self.stop_feeding()
        self.sessions.terminate()

    def end(self, patience: float = PATIENCE) -> None:
        """Wait for the jobs and clean up.

        Parameters
        ----------
        patience
            Seconds for an access point that does not answer, and for values to be read.
        """
        self.sessions.end(patience)
        openpools.discard(self)

    def disown(self) -> None:
        """Have nothing to do with the jobs: they are those of a parent process."""
        self.is_closed = True
        self.sessions.forget()
        self.results = KeptResults()
