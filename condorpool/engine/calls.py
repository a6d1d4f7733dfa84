"""Calls: what is known of some calls of a function, from before they are posted to their values.

Results, iterators and futures hold them, and add what users say and see.  A batch delivers
outcomes to them, in a thread of its own (`deliveries`); a rerun is a new batch of the
same calls.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import math
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from condorpool.engine import actions
from condorpool.engine.batches import Batch
from condorpool.engine.chunks import Chunk, record
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Job
from condorpool.engine.payload import Call, Outcome, name_of
from condorpool.engine.records import Chain
from condorpool.engine.session import Session
from condorpool.values.events import JobState
from condorpool.values.exceptions import CondorPoolError, JobError, UnsubmittedError
from condorpool.values.locks import uninterrupted

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("condorpool")

#: Seconds for which a wait accepts that callbacks of other calls delay those of its own.
CALLBACK_LAG = 1.0


class Calls:
    """Calls, their jobs, and the errors of those that failed.

    Attributes
    ----------
    batch
        The batch that was posted last; None if none was.
    errors
        The exceptions of calls that failed, by the calls' numbers; the first call is 0.
    records
        When and where chunks of calls were made, in the order in which they ended.
    is_reported
        Whether the user knows how the calls ended, or removed them.
    """

    def __init__(self, name: str, *, echo: bool = False, most_records: int | None = None) -> None:
        self.name = name
        self.batch: Batch | None = None
        self.errors: dict[int, BaseException] = {}
        self.records: deque[Chunk] = deque(maxlen=most_records)
        self.is_reported = False
        self._session: Session | None = None
        # What is printed in this context appears in the cell that made the calls.
        self._echo = contextvars.copy_context() if echo else None

    @property
    def session(self) -> Session:
        """Where the calls are posted.

        Raises
        ------
        UnsubmittedError
            They are not.
        """
        if self._session is None:
            raise UnsubmittedError("the job was not submitted: submit() it first")
        return self._session

    @property
    def size(self) -> int:
        """How many calls there are."""
        raise NotImplementedError

    @property
    def ended(self) -> int:
        """How many calls have returned or failed."""
        raise NotImplementedError

    @property
    def failed(self) -> int:
        """How many calls have failed."""
        return len(self.errors)

    @property
    def is_ready(self) -> bool:
        """Whether all calls have ended, and their outcomes are here."""
        raise NotImplementedError

    @property
    def is_posted(self) -> bool:
        """Whether jobs make the calls, or have made them."""
        return self.batch is not None or self.is_ready

    #: Whether failed calls can be made again.
    can_rerun: ClassVar[bool] = False

    def rerun_at_end(self) -> None:
        """Make the calls again that have failed when all have ended, before they count as ready."""
        raise NotImplementedError

    def mark_reported(self) -> None:
        """Note that the user knows how the calls ended."""
        self.is_reported = True

    def chunks(self) -> list[Chunk]:
        """Return when and where chunks of calls were made, in the order in which they ended."""
        with self.session.changed:
            return list(self.records)

    def weakly(self) -> Calls:
        """Return a proxy that does not keep these calls: it raises ReferenceError when they are gone."""
        return cast("Calls", weakref.proxy(self))

    # -- their jobs ----------------------------------------------------------------
    def holders(self) -> list[Job]:
        """Return the jobs that make, or made, the calls, or are held for them."""
        if self.batch is None:
            return []
        self.session.state.refresh_holders(self.batch.crew)
        with self.session.changed:
            holders = [self.batch.holders[i] for i in sorted(self.batch.holders)]
            return list(dict.fromkeys(holders or self.batch.held))

    def places(self) -> list[Job]:
        """Return the `holders`; for calls that wait for a job, the jobs that may take them."""
        holders = self.holders()
        if holders or self.batch is None or self.batch.is_done:
            return holders
        return self.batch.crew.jobs

    def states(self) -> set[JobState]:
        """Return, under the lock, the states of calls: COMPLETED if all have ended."""
        batch = self.batch
        if batch is None or not batch.pending:
            return {JobState.COMPLETED}
        jobs = [batch.holders[i] for i in batch.pending if i in batch.holders]
        states = {job.state for job in jobs}
        if len(jobs) < len(batch.pending):
            states.add(JobState.HELD if batch.is_stuck else JobState.IDLE)
        return states

    def act(self, action: str) -> int:
        """Do something to the jobs of calls that have not ended; return to how many.

        "remove" takes back calls that wait for a job, too.
        """
        count = 0
        if action == "remove":
            self.mark_reported()  # the end of these calls is no news for the user
        if self.batch and not self.batch.is_done:
            count = actions.act_on_batch(self.session.state, action, self.batch)
        if self.batch and action == "remove":
            self.session.deliveries.wait(CALLBACK_LAG)  # calls that no job had have ended
        return count

    def take_back(self) -> int:
        """Take back calls that no job makes yet; return in how many chunks."""
        if not self.batch or self.batch.is_done:
            return 0
        self.mark_reported()
        return actions.take_back(self.session.state, self.batch)

    # -- what the deliveries bring -----------------------------------------------
    def deliver(
        self, first: int, end: int, result: Outcome | JobError, job: Job | None
    ) -> Callable[[], object] | None:
        """Take the outcome of a chunk; return what is to be done once that counts as delivered."""
        raise NotImplementedError

    def _record(self, first: int, end: int, result: Outcome | JobError, job: Job | None) -> None:
        """Keep when and where a chunk was made."""
        chunk = record(first, end, result, job)
        with self.session.changed:
            if job:
                job.last_chunk_end = max(job.last_chunk_end, chunk.end)
            self.records.append(chunk)
            self.session.made.append(chunk)

    def _print(self, outcome: Outcome) -> None:
        """Print what the calls of a chunk printed, if that is wanted."""
        if not self._echo:
            return
        for stream, text in ((sys.stdout, outcome.stdout), (sys.stderr, outcome.stderr)):
            if text:
                try:
                    self._echo.run(stream.write, text)
                except Exception:  # a stream of the user's; the values are there all the same
                    logger.exception("condorpool could not print what calls have printed")


class Keeper(Protocol):
    """Keeps calls as long as users may ask for them."""

    def release(self, calls: GatheredCalls) -> None:
        """Keep these no longer: all have returned, and their user has the values."""

    def forget(self, calls: GatheredCalls) -> None:
        """Do not find these by their name any more."""


class GatheredCalls(Calls):
    """A number of calls whose values are all kept.

    Parameters
    ----------
    unposted
        The call, its arguments and how many make a chunk, until they are posted.
    is_single
        Whether this is one call, whose value is no list.
    digest
        Equal for equal calls, if the user gave them a name; else empty.
    callback, error_callback
        Called once with the value, or with the exception.
    return_exceptions
        Whether exceptions are values.
    in_order
        Whether the callback waits for those of other calls of the pool.

    Attributes
    ----------
    values
        What the calls returned; None for those that have not, or have failed.
    """

    can_rerun = True

    def __init__(
        self,
        name: str,
        size: int,
        unposted: tuple[Call, Sequence[Any], int] | None = None,
        *,
        is_single: bool,
        digest: str = "",
        echo: bool = False,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[Any], object] | None = None,
        return_exceptions: bool = False,
        in_order: bool = True,
    ) -> None:
        super().__init__(name, echo=echo)
        self.is_single = is_single
        self.digest = digest
        self.values: list[Any] = [None] * size
        self.missing = size
        #: What keeps them for the user, until the values were returned.
        self.keeper: Keeper | None = None
        self._is_ready = False
        self._printed: dict[int, tuple[str, str]] = {}  # by the first call of a chunk
        self._callback = callback
        self._error_callback = error_callback
        self._return_exceptions = return_exceptions
        self._in_order = in_order
        self._unposted = unposted
        self._first: Batch | None = None  # the one of all calls
        self._reruns = False
        self._events: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._call_back_by = math.inf  # by when the callback is to have begun
        self._is_calling_back = False

    @classmethod
    def of(
        cls, call: Call, items: Sequence[Any], chunksize: int = 1, **options: Any
    ) -> GatheredCalls:
        """Return the calls of a function with these arguments, to be posted."""
        name, is_single = call.name or name_of(call.func), call.style == "apply"
        unposted = call, items, chunksize
        return cls(name, len(items), unposted, is_single=is_single, digest=call.digest, **options)

    @classmethod
    @uninterrupted
    def taken_up(cls, session: Session, chain: Chain) -> GatheredCalls:
        """Return the calls that another process has posted, in a batch and its reruns."""
        known, is_single = chain[0][1], chain[0][1].style == "apply"
        name, size = known.name or known.title, known.calls or 0
        calls = cls(name, size, is_single=is_single, digest=known.digest)
        calls.take_up(session, chain)
        return calls

    # -- posting -------------------------------------------------------------------
    @property
    def func(self) -> Callable[..., Any]:
        """What is called, until it is posted."""
        assert self._unposted is not None  # noqa: S101 - it is kept until then
        return self._unposted[0].func

    def take_up(self, session: Session, chain: Chain) -> None:
        """Follow what another process has posted, and repost what it could not."""
        self._session = session
        for number, known in chain:
            rerun = [n for begin, end, _ in known.parts for n in range(begin, end)]
            self._expect(rerun, len(rerun) or known.calls or 0)
            before, self.batch = self.batch, session.take_up(number, known, self.deliver)
            if before is None:
                self._first = self.batch
            else:
                before.successor = self.batch

    def prepare(self, session: Session, options: JobOptions) -> Batch | None:
        """Write the calls to disk, which may run any code of the user's; None if there are none."""
        assert self._unposted is not None  # noqa: S101 - nobody posts calls twice
        call, items, size = self._unposted
        self._expect((), len(items))
        if not items:
            return None
        chunks = (items[i : i + size] for i in range(0, len(items), size))
        return session.prepare(call, chunks, self.deliver, options, len(items))

    @uninterrupted
    def commit(self, session: Session, batch: Batch | None) -> None:
        """Post calls that are prepared."""
        self._session = session
        if batch:
            self._first = self.batch = batch
            try:
                session.commit(batch)
            except BaseException:
                self._first = self.batch = self._session = None
                raise
        self._unposted = None  # the arguments are on the disk
        if not batch and (after := self._finish()):
            session.deliveries.lane().put(after)

    @uninterrupted
    def rerun(self) -> int:
        """Make the calls again that failed; return how many.  If none can be posted, all is as before."""
        numbers = sorted(self.errors)
        if numbers:
            assert self.batch is not None  # noqa: S101 - what has failed was posted
            failed, was_ready = dict(self.errors), self._is_ready
            self._expect(numbers, len(numbers))
            try:
                self.batch = self.session.repost(self.batch, numbers, self.deliver)
            except BaseException:
                with self.session.changed:
                    self.errors, self.missing, self._is_ready = failed, 0, was_ready
                    self.session.changed.notify_all()
                raise
        return len(numbers)

    def rerun_at_end(self) -> None:
        """Make the calls again that have failed when all have ended, before they count as ready."""
        self._reruns = True

    def forget(self) -> None:
        """Keep no results on disk for which the user gave a name."""
        self.session.forget(self._first)
        if self.keeper:
            self.keeper.forget(self)

    def _expect(self, numbers: Sequence[int], missing: int) -> None:
        """Expect these outcomes again, and so many in all."""
        for number in numbers:
            self.errors.pop(number, None)
        self.missing, self._is_ready = missing, False

    # -- what the deliveries bring -----------------------------------------------
    def deliver(
        self, first: int, end: int, result: Outcome | JobError, job: Job | None
    ) -> Callable[[], object] | None:
        """Keep the values and errors of a chunk; return the callback if it was the last one."""
        self._record(first, end, result, job)
        if isinstance(result, JobError):
            self.errors.update(dict.fromkeys(range(first, end), result))
        else:
            self.values[first:end] = result.values[: end - first]
            self.errors.update(
                (first + n, error) for n, error in result.errors.items() if first + n < end
            )
            if result.stdout or result.stderr:
                self._printed[first] = result.stdout, result.stderr
                self._print(result)
        with self.session.changed:  # other threads deliver, too: calls that are taken back
            self.missing -= end - first
            is_last = not self.missing
        return self._finish() if is_last and not self._rerun_failed() else None

    def _rerun_failed(self) -> bool:
        """Make failed calls again, if that was asked for; return whether any are made."""
        wanted, self._reruns = self._reruns, False
        if not wanted or not self.errors:
            return False
        try:
            self.rerun()
        except CondorPoolError:
            logger.exception("condorpool could not make the failed calls again")
            return False
        return True

    def _finish(self) -> Callable[[], object] | None:
        """Wake all who wait; return the callback that is to be called."""
        error = self.error()
        callback = self._callback if error is None else self._error_callback
        with self.session.changed:
            self._is_ready, self._is_calling_back = True, callback is not None
            self._call_back_by = time.monotonic() + CALLBACK_LAG
            self.session.changed.notify_all()
            events, self._events = self._events, []
        for loop, event in events:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
        if callback is None:
            self._release()
            return None
        self.mark_reported()
        told = self.value() if error is None else error
        call_back = functools.partial(self._call_back, callback, told)
        if not self._in_order:
            return call_back
        return functools.partial(self.session.callbacks.put, call_back)

    def _call_back(self, callback: Callable[[Any], object], told: Any) -> None:
        self._call_back_by = math.inf
        try:
            callback(told)
        except BaseException:
            logger.exception("a callback of condorpool raised; the result is not affected")
        finally:
            with self.session.changed:
                self._is_calling_back = False
                self.session.changed.notify_all()

    def mark_reported(self) -> None:
        """Note that the user knows how the calls ended: they need not be kept for that."""
        super().mark_reported()
        self._release()

    def _release(self) -> None:
        if self.keeper and self.is_ready and self.is_reported and not self.errors:
            self.keeper.release(self)

    # -- what is asked of them -------------------------------------------------------
    @property
    def size(self) -> int:
        """How many calls there are."""
        return len(self.values)

    @property
    def ended(self) -> int:
        """How many calls have returned or failed."""
        return len(self.values) - self.missing

    @property
    def is_ready(self) -> bool:
        """Whether all calls have ended, and no failed ones are made again."""
        return self._is_ready

    @property
    def is_over(self) -> bool:
        """Whether a wait is over: as in multiprocessing, the callback has returned.

        But a wait in a callback waits for no other, and no wait waits long for a callback
        that those of other calls delay.
        """
        return self.is_ready and (
            not self._is_calling_back
            or bool(self.session.deliveries.depth)
            or time.monotonic() > self._call_back_by
        )

    def event(self) -> asyncio.Event:
        """Return an event for the running loop, which is set when all calls have ended."""
        import asyncio  # noqa: PLC0415 - 40 ms and 8 MiB that most never need

        event = asyncio.Event()
        with self.session.changed:
            self._events.append((asyncio.get_running_loop(), event))
        return event

    def error(self) -> BaseException | None:
        """Return what is raised instead of returning the `value`: the first error in order."""
        if self._return_exceptions or not self.errors:
            return None
        return self.errors[min(self.errors)]

    def value(self) -> Any:
        """Return the value of a single call, or the list of all."""
        if self.is_single:
            return self.errors.get(0, self.values[0])
        if self.errors:
            return [self.errors.get(n, value) for n, value in enumerate(self.values)]
        return self.values

    def printed(self, stream: int) -> str:
        """Return what calls printed that have ended, in order; 0 for stdout and 1 for stderr."""
        return "".join(self._printed[first][stream] for first in sorted(self._printed))
