"""Results of calls: what the asynchronous verbs of a pool return."""

from __future__ import annotations

import contextvars
import functools
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from condorpool.display import Display
from condorpool.display.timeline import dataframe, timeline
from condorpool.engine import actions
from condorpool.engine.batches import Batch, Cluster, JobRecord
from condorpool.engine.chunks import Chunk, record
from condorpool.engine.description import JobOptions
from condorpool.engine.payload import Call, Outcome, name_of
from condorpool.engine.session import Session
from condorpool.engine.tracker import tracker
from condorpool.interface import sources
from condorpool.interface.job import Jobs, QueuedJob
from condorpool.interface.onhold import Decisions, OnHold, check_on_hold
from condorpool.interface.options import checks
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    CondorPoolError,
    JobError,
    JobFailedError,
    ResultTimeoutError,
)
from condorpool.values.locks import uninterrupted

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Callback = Callable[[Any], object]

logger = logging.getLogger("condorpool")


#: The original's words for states; of several the first counts.
_STATUS = {
    JobState.RUNNING: "Running",
    JobState.IDLE: "Idle",
    JobState.UNMATERIALIZED: "Idle",
    JobState.SUSPENDED: "Suspended",
    JobState.HELD: "Held",
    JobState.REMOVED: "Removing",
    JobState.COMPLETED: "Completed",
}

#: Seconds after which an ``await`` looks up: the stop button of a notebook cancels
#: the task, and does not wake its event loop.
TICK = 0.1

#: Seconds for which a wait bears that callbacks of other results keep this one's waiting.
CALLBACK_LAG = 1.0

#: Seconds after which a wait looks whether there is anybody to wake it.
LOOK = 1.0


def not_stopping(error: BaseException) -> BaseException:
    """Return an exception that iterators and futures may raise.

    StopIteration would end them as if there were no more; as in a generator (PEP 479) it
    is the cause of a RuntimeError.
    """
    if not isinstance(error, StopIteration):
        return error
    stopped = RuntimeError("a call raised StopIteration")
    stopped.__cause__ = error
    return stopped


class Handle(Jobs):
    """What a caller has of some calls: to wait for them, and to act on their jobs."""

    def __init__(self, session: Session, on_hold: OnHold | None, *, echo: bool) -> None:
        self._session = session
        self._display: Display | None = None
        self._progress: str | None = None
        self._on_hold = on_hold
        self._decisions = Decisions(session)
        self._batch: Batch | None = None
        self._seen = False  # whoever has the calls knows how they ended
        self._chunks: deque[Chunk] = deque()
        # What is printed in this context belongs to the cell that made the calls.
        self._echo = contextvars.copy_context() if echo else None

    def ready(self) -> bool:
        """Tell whether all calls have ended."""
        raise NotImplementedError

    def _see(self) -> None:
        """Note that whoever has the calls knows how they ended."""
        self._seen = True

    def show(self, progress: str | None) -> None:
        """Show how the calls go on, as the ``progress`` of `Pool` says."""
        self._progress = progress
        if not self.ready():
            self._display = sources.show(self, progress)

    def chunks(self) -> list[Chunk]:
        """Return how the chunks of calls were made that have come to something, in that order.

        When, where, how long, and with what memory; those that were made again are
        there twice.  An iterator has the latest 10,000.
        """
        with self._session.changed:
            return list(self._chunks)

    def to_dataframe(self) -> Any:
        """Return the `chunks` as a pandas DataFrame.

        Raises
        ------
        ModuleNotFoundError
            There is no pandas.
        """
        return dataframe(self.chunks())

    def timeline(self, ax: Any = None) -> Any:
        """Plot when each chunk was made, and where.

        Parameters
        ----------
        ax
            The matplotlib axes to draw into; by default new ones.

        Returns
        -------
        Axes
            What was drawn into; without matplotlib a picture that notebooks show,
            and whose ``str()`` is SVG.
        """
        return timeline(self.chunks(), ax)

    def _note(
        self, first: int, end: int, result: Outcome | JobError, job: JobRecord | None
    ) -> None:
        """Keep when and where a chunk was made."""
        noted = record(first, end, result, job)
        with self._session.changed:
            if job:
                job.free = max(job.free, noted.end)
            self._chunks.append(noted)
            self._session.made.append(noted)

    def _show(self, outcome: Outcome) -> None:
        """Print what the calls of a chunk printed, if that is wanted."""
        if self._echo:
            for stream, text in ((sys.stdout, outcome.stdout), (sys.stderr, outcome.stderr)):
                if text:
                    try:
                        self._echo.run(stream.write, text)
                    except Exception:  # a stream of the user's; the values are there all the same
                        logger.exception("condorpool could not print what calls have printed")

    def _is_stuck(self, on_hold: OnHold | None) -> bool:
        """Tell, under the lock, whether to `_resolve` that jobs are held; raise if told to."""
        self._session.check_reach()
        if not self.ready():
            tracker().check(self._session)
        if on_hold is None:
            has_viewer = self._display is not None and self._display.has_viewer()
            on_hold = "wait" if has_viewer else "raise"
        if self._batch is None:
            return False
        if callable(on_hold):
            return bool(self._decisions.due(self._batch))
        if on_hold == "wait" or not self._batch.only_held_left:
            return False
        if on_hold == "raise":
            self._see()
            raise self._batch.held_error()
        return True

    def _resolve(self, on_hold: OnHold | None) -> OnHold:
        """Do what is to be done about held jobs; return what is from now on."""
        if not callable(on_hold):
            self.remove()
            return "wait"
        error = self._decisions.make(on_hold, self._batch) if self._batch else None
        if error:
            self._see()
            raise error
        return on_hold

    def _until(
        self, over: Callable[[], bool], timeout: float | None, on_hold: OnHold | None
    ) -> None:
        """Wait until ``over()``, which is asked under the lock."""
        on_hold, timeout = check_on_hold(on_hold or self._on_hold), checks.timeout(timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._session.changed:
                if over():
                    return
                if not self._is_stuck(on_hold):
                    if time.monotonic() >= end:
                        raise ResultTimeoutError(cast("float", timeout))
                    self._pause(end)
                    continue
            on_hold = self._resolve(on_hold)

    def _pause(self, end: float) -> None:
        """Wait for news under the lock, at most until ``end``."""
        if self._display:
            # It may have clicks that only this thread can read, or have lost its viewer.
            end = min(end, time.monotonic() + self._display.poll_interval)
        self._session.changed.wait(max(0.0, min(LOOK, end - time.monotonic())))
        if self._display:
            self._display.poll_clicks()

    @property
    def jobs(self) -> list[QueuedJob]:
        """The jobs that have, or had, the calls, or are held for them; none for calls that wait."""
        return [QueuedJob(self._session, cluster, proc) for cluster, proc in self._holders()]

    def _holders(self) -> list[tuple[Cluster, int]]:
        if self._batch is None:
            return []
        self._session.note_takers(self._batch.crew)
        with self._session.changed:
            holders = [self._batch.holders[i] for i in sorted(self._batch.holders)]
            return list(dict.fromkeys(holders or self._batch.held))

    def _places(self) -> list[tuple[Cluster, int]]:
        holders = self._holders()
        if holders or self._batch is None or self._batch.is_done:
            return holders
        return self._batch.crew.jobs  # one of them will take the calls

    def remove(self) -> int:
        """Remove the jobs that have the calls, and take back calls that wait; return how many."""
        self._see()  # whoever throws calls away need not be told at the end
        count = super().remove()
        self._session.deliveries.wait(CALLBACK_LAG)  # calls that no job had have ended
        return count

    def take_back(self) -> int:
        """Take back calls that no job makes yet; return in how many chunks.

        Unlike `remove`, it leaves the others alone.
        """
        if not self._batch or self._batch.is_done:
            return 0
        self._see()
        return actions.take_back(self._session, self._batch)

    def _act(self, action: str) -> int:
        if not self._batch or self._batch.is_done:
            return 0
        return actions.act(self._session, action, self._batch)


class Result(Handle, Generic[T]):
    """Collects the outcomes of calls."""

    def __init__(
        self,
        session: Session,
        call: Call,
        items: Sequence[Any],
        chunksize: int,
        options: JobOptions,
        on_hold: OnHold | None,
        callback: Callback | None,
        error_callback: Callback | None,
        *,
        echo: bool = False,
        return_exceptions: bool = False,
        in_order: bool = True,
    ) -> None:
        super().__init__(session, on_hold, echo=echo)
        self._in_order = in_order  # its callback waits for those of other results
        self._call: Call | None = call  # until it is posted
        self._items, self._chunksize, self._options = items, chunksize, options
        self._title = call.name or name_of(call.func)
        self._digest = call.digest
        self._first: Batch | None = None  # the one of all calls
        self._callback = callback
        self._error_callback = error_callback
        self._return_exceptions = return_exceptions
        self._values: list[Any] = [None] * len(items)
        self._errors: dict[int, BaseException] = {}
        self._printed: dict[int, tuple[str, str]] = {}  # by the first call of a chunk
        self._awaited: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._missing = 0
        self._is_ready = False
        self._reruns = False
        self._call_back_by = math.inf  # by when the callback is to have begun
        self._is_calling_back = False
        #: The pool's results: this one is there as long as somebody may ask for it there.
        self._kept: dict[Result[Any], None] = {}
        self._names: dict[str, Result[Any]] = {}  # the pool's results that have one

    def _prepare(self) -> Batch | None:
        """Write the calls to disk, which may run any code of the user's; None if there are none."""
        items, size = self._items, self._chunksize
        chunks = (items[i : i + size] for i in range(0, len(items), size))
        self._missing, self._is_ready = len(items), False
        if not items:
            return None
        assert self._call is not None  # noqa: S101 - it is there until they are posted
        return self._session.prepare(self._call, chunks, self._deliver, self._options, len(items))

    @uninterrupted
    def _commit(self, batch: Batch | None) -> None:
        """Post calls that are prepared."""
        if batch:
            self._first = self._batch = batch
            try:
                self._session.commit(batch)
            except BaseException:
                self._first = self._batch = None
                raise
        self._call, self._items = None, ()  # they are on the disk
        if not batch and (after := self._finish()):
            self._session.deliveries.lane().put(after)

    @uninterrupted
    def _repost(self, numbers: Sequence[int]) -> None:
        """Make these calls again."""
        assert self._batch is not None  # noqa: S101 - what has failed was posted
        for number in numbers:
            self._errors.pop(number, None)
        self._missing, self._is_ready = len(numbers), False
        self._batch = self._session.repost(self._batch, numbers, self._deliver)

    def _take_up(self, parts: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Follow what a former owner has left: a batch, and those that made calls of it again."""
        for number, facts in parts:
            again = [n for first, end, _ in facts.get("parts", ()) for n in range(first, end)]
            for n in again:
                self._errors.pop(n, None)
            self._missing, self._is_ready = len(again) or facts["calls"], False
            before, self._batch = self._batch, self._session.take_up(number, facts, self._deliver)
            if before is None:
                self._first = self._batch
            else:
                before.successor = self._batch

    # -- the deliveries' side ------------------------------------------------------
    def _deliver(
        self, first: int, end: int, result: Outcome | JobError, job: JobRecord | None
    ) -> Callable[[], object] | None:
        self._note(first, end, result, job)
        if isinstance(result, JobError):
            self._errors.update(dict.fromkeys(range(first, end), result))
        else:
            self._values[first:end] = result.values[: end - first]
            self._errors.update(
                (first + n, error) for n, error in result.errors.items() if first + n < end
            )
            if result.stdout or result.stderr:
                self._printed[first] = result.stdout, result.stderr
                self._show(result)
        with self._session.changed:  # whoever takes calls back is here too
            self._missing -= end - first
            is_last = not self._missing
        return self._finish() if is_last and not self._makes_good() else None

    def _makes_good(self) -> bool:
        """Make failed calls again, if somebody has asked for it; tell whether any are made."""
        wanted, self._reruns = self._reruns, False
        if not wanted or not self._errors:
            return False
        errors = dict(self._errors)
        try:
            self._repost(sorted(errors))
        except CondorPoolError:
            logger.exception("condorpool could not make the failed calls again")
            self._errors = errors
            return False
        return True

    def _see(self) -> None:
        super()._see()
        self._let_go()

    def _let_go(self) -> None:
        """Have the pool keep this no longer, if it ended well and its values were had."""
        if self._is_ready and self._seen and not self._errors:
            self._kept.pop(self, None)

    def _finish(self) -> Callable[[], object] | None:
        """Tell all who wait; return what is still to be told."""
        error = self._error()
        callback = self._callback if error is None else self._error_callback
        with self._session.changed:
            self._is_ready, self._is_calling_back = True, callback is not None
            self._call_back_by = time.monotonic() + CALLBACK_LAG
            self._session.changed.notify_all()
            awaited, self._awaited = self._awaited, []
        for loop, event in awaited:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
        if callback is None:
            self._let_go()
            return None
        self._see()
        told = self._value() if error is None else error
        call_back = functools.partial(self._call_back, callback, told)
        if not self._in_order:
            return call_back
        return functools.partial(self._session.callbacks.put, call_back)

    def _call_back(self, callback: Callback, told: Any) -> None:
        self._call_back_by = math.inf
        try:
            callback(told)
        except BaseException:
            logger.exception("a callback of condorpool raised; the result is not affected")
        finally:
            with self._session.changed:
                self._is_calling_back = False
                self._session.changed.notify_all()

    def _is_over(self) -> bool:
        """Return whether a wait is over: as in multiprocessing, the callback has returned.

        But in a callback nobody waits for one, nor for long where another keeps it waiting.
        """
        return self._is_ready and (
            not self._is_calling_back
            or bool(self._session.deliveries.depth)
            or time.monotonic() > self._call_back_by
        )

    def _error(self) -> BaseException | None:
        if self._return_exceptions or not self._errors:
            return None
        return self._errors[min(self._errors)]

    def _value(self) -> T:
        raise NotImplementedError

    # -- the user's side -----------------------------------------------------------
    @property
    def name(self) -> str:
        """What is called."""
        return self._title

    @property
    def digest(self) -> str:
        """What is the same for the same calls, if they have a name."""
        return self._digest

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return len(self._values)

    @property
    def calls_ended(self) -> int:
        """How many calls have returned or failed."""
        return len(self._values) - self._missing

    @property
    def calls_failed(self) -> int:
        """How many calls have failed."""
        return len(self._errors)

    def ready(self) -> bool:
        """Tell whether all calls have ended."""
        return self._is_ready

    def submitted(self) -> bool:
        """Tell whether the calls were submitted: what a pool gives, was."""
        return self._batch is not None or self._is_ready

    def completed(self) -> bool:
        """Tell the same as `ready`."""
        return self._is_ready

    def output_exists(self) -> bool:
        """Tell whether all calls have returned, at any time."""
        return self._is_ready and not self._errors

    def status(self) -> str | None:
        """Return where the calls stand: ``Idle``, ``Running``, ``Suspended``, ``Held``, ...

        ``Completed`` is what has ended in any way; of several calls the one that is
        furthest counts.
        """
        self._holders()
        with self._session.changed:
            states = self._states()
        return next(status for status in _STATUS.values() if status in states)

    def _states(self) -> set[str]:
        """Return, under the lock, where the calls stand that have not ended."""
        batch = self._batch
        if batch is None or not batch.pending:
            return {_STATUS[JobState.COMPLETED]}
        jobs = [batch.holders[i] for i in batch.pending if i in batch.holders]
        states = {cluster.jobs[proc].state for cluster, proc in jobs}
        if len(jobs) < len(batch.pending):
            states.add(JobState.HELD if batch.only_held_left else JobState.IDLE)
        return {_STATUS[state] for state in states}

    def successful(self) -> bool | None:
        """Tell whether all calls returned.

        Raises
        ------
        ValueError
            Not all calls have ended.
        """
        if not self._is_ready:
            raise ValueError(f"{self!r} not ready")
        return not self._errors

    def wait_to_start(self, timeout: float | None = None, polltime: float | None = None) -> None:  # noqa: ARG002
        """Wait until no call is idle any more, at most ``timeout`` seconds."""
        timeout = checks.timeout(timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self.status() == _STATUS[JobState.IDLE] and time.monotonic() < end:
            with self._session.changed:
                self._pause(min(end, time.monotonic() + TICK))  # no event tells who takes a call

    def wait(
        self,
        timeout: float | None = None,
        polltime: float | None = None,  # noqa: ARG002 - nothing is polled
        timeouterror: bool = False,
        killstats: Iterable[str] | None = None,
    ) -> None:
        """Wait until all calls have ended, at most ``timeout`` seconds.

        Parameters
        ----------
        polltime
            Accepted for code written for the original CondorPool; nothing is polled.
        timeouterror
            Raise `ResultTimeoutError` when the time is over.
        killstats
            States, as ``("Held", "Suspended")``: a job that is in one of them, or comes
            to be, is removed, and its error raised.

        Raises
        ------
        JobHeldError
            Only held jobs are left (``on_hold="raise"``).  They stay in the queue.
        JobFailedError
            A job was removed for its state.
        """
        try:
            self._wait(timeout, killstats or ())
        except ResultTimeoutError:
            if timeouterror:
                raise

    def _wait(
        self, timeout: float | None, killstats: Iterable[str], on_hold: OnHold | None = None
    ) -> None:
        doomed = {killstats} if isinstance(killstats, str) else set(killstats)
        for state in doomed - set(self.statuscodes.values()):
            known = ", ".join(self.statuscodes.values())
            raise ValueError(f"killstats has {state!r}; the states are {known}")
        self._until(
            lambda: self._is_over() or bool(doomed and doomed & self._states()), timeout, on_hold
        )
        if not self._is_ready:
            raise self._kill(doomed)

    def _kill(self, states: set[str]) -> JobFailedError:
        """Remove the jobs that are in these states; return the error that says so."""
        jobs = [job for job in self.jobs if _STATUS[job.state] in states]
        first = jobs[0] if jobs else None
        error = JobFailedError(
            first.id if first else "(none yet)",
            f"Status {_STATUS[first.state] if first else self.status()!r} caused it to be killed",
            host=first.host if first else "",
            hint=f"*** Analysis:\n{self.analyze()}",
        )
        if jobs:
            for job in jobs:
                job.remove()
        else:
            self.remove()
        self._see()
        return error

    def get(
        self,
        timeout: float | None = None,
        polltime: float | None = None,  # noqa: ARG002 - nothing is polled
        killstats: Iterable[str] = (),
        *,
        on_hold: OnHold | None = None,
    ) -> T:
        """Wait for the calls to end and return what they returned.

        May be called again, also after an error.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as it takes.
        polltime, killstats
            As for `wait`.
        on_hold
            What to do when nothing but held jobs is left: ``"raise"``, ``"wait"``
            or ``"remove"``, or a function that decides for each job, as for `Pool`;
            by default what the pool was told.  Where nobody has said so, ``"wait"``
            while the widget with its buttons is seen, else ``"raise"``.

        Raises
        ------
        ResultTimeoutError
            The time is over (it is also a ``multiprocessing.TimeoutError``).
        JobHeldError
            Only held jobs are left (``on_hold="raise"``).  They stay in the queue.
        HTCondorError
            The access point has not answered for ten minutes.
        JobRemovedError, JobFailedError
            A job ended without leaving an outcome.
        Exception
            Whatever a call raised, with the remote traceback as its cause; of
            several the first in order.
        """
        self._wait(timeout, killstats, on_hold)
        return self._outcome()

    def _outcome(self) -> T:
        self._see()
        if self._display:
            self._display.close()
        error = self._error()
        if error is not None:
            raise error
        return self._value()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a coroutine, as ``value = await result``."""
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> T:
        import asyncio  # noqa: PLC0415 - 40 ms and 8 MiB that most never need

        event = asyncio.Event()
        with self._session.changed:
            self._awaited.append((asyncio.get_running_loop(), event))
        on_hold = self._on_hold
        while not self._is_ready:
            with self._session.changed:
                stuck = self._is_stuck(on_hold)
            if stuck:
                on_hold = self._resolve(on_hold)
            try:
                await asyncio.wait_for(event.wait(), TICK)
            except asyncio.TimeoutError:
                continue
        return self._outcome()

    @property
    def failed(self) -> list[int]:
        """The numbers of the calls that have failed so far, in order; the first call is 0."""
        return sorted(self._errors)

    def exceptions(self) -> dict[int, BaseException]:
        """Return the exception of each call that has failed so far, by its number."""
        return {number: self._errors[number] for number in self.failed}

    def rerun(self) -> int:
        """Make the calls again that failed; return how many.

        The result is then as if they had just been submitted for the first time:
        `get` waits for them, and callbacks are called again.

        Raises
        ------
        ValueError
            Not all calls have ended, or the pool is closed.
        """
        if not self._is_ready:
            raise ValueError(f"{self!r} not ready: wait() for it before you rerun what failed")
        failed = self.failed
        if failed:
            self._repost(failed)
            self.show(self._progress)
        return len(failed)

    def forget(self) -> None:
        """Keep the results no longer for which a ``name`` was given."""
        self._session.forget(self._first)
        self._names.pop(self._title, None)

    def rerun_at_end(self) -> None:
        """Make the calls again that have failed when all have ended, before `get` returns."""
        self._reruns = True

    def stdout(self) -> str:
        """Return what the calls that have ended printed, in order."""
        return "".join(self._printed[i][0] for i in sorted(self._printed))

    def stderr(self) -> str:
        """Return what the calls that have ended wrote to standard error, in order."""
        return "".join(self._printed[i][1] for i in sorted(self._printed))

    def _repr_html_(self) -> str:
        return sources.html([self])

    def __repr__(self) -> str:
        calls, left = len(self._values), self._missing
        failed = f", {len(self._errors)} failed" if self._errors else ""
        held = len(self._batch.held) if self._batch and left else 0
        return f"<{type(self).__name__}: {calls - left} of {calls} calls done{failed}" + (
            f", {held} jobs held>" if held else ">"
        )


class AsyncResult(Result[T]):
    """The result of one call, as `Pool.apply_async` returns it."""

    def _value(self) -> T:
        return cast("T", self._errors.get(0, self._values[0]))

    @property
    def job(self) -> QueuedJob | None:
        """The job that has, or had, the call; None while the call waits for one."""
        return next(iter(self.jobs), None)


class MapResult(Result[list[Any]]):
    """The results of a map, in order, as `Pool.map_async` returns them."""

    def _value(self) -> list[Any]:
        if self._errors:
            return [self._errors.get(n, value) for n, value in enumerate(self._values)]
        return self._values
