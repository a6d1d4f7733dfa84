"""Calls whose values are all kept: those of `map`, `apply` and their like."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from condorpool.engine.batches import Batch
from condorpool.engine.calls import CALLBACK_LAG, Calls
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Job
from condorpool.engine.outcomes import Outcome
from condorpool.engine.payload import Call, expression, name_of, read_item
from condorpool.engine.records import Chain
from condorpool.engine.session import Session
from condorpool.engine.submitdir import chunk_name
from condorpool.values.exceptions import (
    CondorPoolError,
    JobError,
    JobRemovedError,
)
from condorpool.values.locks import uninterrupted
from condorpool.values.logs import logger
from condorpool.values.text import one_line

if TYPE_CHECKING:
    import asyncio


class Keeper(Protocol):
    """Keeps calls as long as the user may ask for them."""

    def release(self, calls: GatheredCalls) -> None:
        """Drop these calls: all have returned, and the user has the values."""

    def forget(self, calls: GatheredCalls) -> None:
        """Stop finding these calls by their name."""


class GatheredCalls(Calls):
    """Calls whose values are all kept.

    Parameters
    ----------
    unposted
        The call, its items and the chunk size, until they are posted.
    is_single
        Whether this is one call, with a value instead of a list.
    digest
        The calls' `fingerprint` if the user gave them a name; else empty.
    callback, error_callback
        Called once with the value, or with the exception.
    return_exceptions
        Whether exceptions are returned as values.
    in_order
        Whether the callback waits for those of the pool's earlier calls.

    Attributes
    ----------
    values
        What the calls returned; None for calls that failed or have not ended.
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
        #: How many threads wait for single calls; `deliver` wakes them.
        self.watchers = 0
        self._arrived = bytearray(size)  # 1 for each call whose outcome is here
        #: Keeps them for the user until the user has the values.
        self.keeper: Keeper | None = None
        self._is_ready = False
        self._ended_at = 0.0
        self._taken_up_at = 0.0
        self._callback = callback
        self._error_callback = error_callback
        self._return_exceptions = return_exceptions
        self._in_order = in_order
        self._unposted = unposted
        self._first: Batch | None = None  # the batch of all calls; later ones are reruns
        self._reruns = False  # failed calls are made again when all have ended
        self._events: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._call_back_by = math.inf  # when a wait stops waiting for the callback to begin
        self._is_calling_back = False

    @classmethod
    def of(
        cls, call: Call, items: Sequence[Any], chunksize: int = 1, **options: Any
    ) -> GatheredCalls:
        """Return calls of a function with these items, not posted yet."""
        name, is_single = call.name or name_of(call.func), call.style == "apply"
        unposted = call, items, chunksize
        return cls(name, len(items), unposted, is_single=is_single, digest=call.digest, **options)

    @classmethod
    @uninterrupted
    def taken_up(cls, session: Session, chain: Chain) -> GatheredCalls:
        """Return the calls that another process posted, in a batch and its reruns."""
        known, is_single = chain[0][1], chain[0][1].style == "apply"
        name, size = known.name or known.title, known.calls or 0
        calls = cls(name, size, is_single=is_single, digest=known.digest)
        calls.take_up(session, chain)
        return calls

    # -- posting -------------------------------------------------------------------
    @property
    def func(self) -> Callable[..., Any]:
        """The function, as long as the calls are not posted."""
        assert self._unposted is not None  # noqa: S101 - it is kept until then
        return self._unposted[0].func

    def take_up(self, session: Session, chain: Chain) -> None:
        """Follow what another process posted, and post what it had no time to."""
        self._session, self._taken_up_at = session, time.time()
        self._reset_missing((), chain[0][1].calls or 0)
        made_again = [
            {n for begin, end, _ in known.parts for n in range(begin, end)} for _, known in chain
        ]
        for i, (number, known) in enumerate(chain):
            # Batches deliver in threads of their own: outcomes may come in any order.
            outdated = set().union(*made_again[i + 1 :])
            deliver = functools.partial(self.deliver, outdated=outdated)
            before, self.batch = self.batch, session.take_up(number, known, deliver)
            if before is None:
                self._first = self.batch
            else:
                with session.changed:
                    before.successor = self.batch

    def prepare(self, session: Session, options: JobOptions) -> Batch | None:
        """Write the calls to disk and return their batch; None if there are no calls.

        Pickling the arguments may run any code of the user's.
        """
        assert self._unposted is not None  # noqa: S101 - calls are posted once
        call, items, size = self._unposted
        self._reset_missing((), len(items))
        if not items:
            return None
        chunks = (items[i : i + size] for i in range(0, len(items), size))
        return session.prepare(call, chunks, self.deliver, options, len(items))

    @uninterrupted
    def commit(self, session: Session, batch: Batch | None) -> None:
        """Post prepared calls."""
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
    def rerun(self, posted_at: float | None = None) -> int:
        """Make the failed calls again; return how many.  If that cannot be posted, change nothing.

        They count as posted at ``posted_at``, by default now.
        """
        numbers = sorted(self.errors)
        if numbers:
            assert self.batch is not None  # noqa: S101 - failed calls were posted
            with self.session.changed:
                before = dict(self.errors), self.removed, self._is_ready, self._ended_at
                self._reset_missing(numbers, len(numbers))
            try:
                self.batch = self.session.repost(
                    self.batch, numbers, self.deliver, posted_at or time.time()
                )
            except BaseException:
                with self.session.changed:
                    self.errors, self.removed, self._is_ready, self._ended_at = before
                    self.missing = 0
                    for number in numbers:
                        self._arrived[number] = 1
                    self.session.changed.notify_all()
                raise
        return len(numbers)

    def rerun_at_end(self) -> None:
        """When all calls have ended, make the failed ones again before the calls count as ready."""
        self._reruns = True

    def forget(self) -> None:
        """Stop keeping the results on disk under the user's name for them."""
        self.session.forget(self._first)
        if self.keeper:
            self.keeper.forget(self)

    def _reset_missing(self, rerun: Sequence[int], missing: int) -> None:
        """Drop the errors of calls that are made again; count ``missing`` as not ended."""
        for number in rerun:
            self.errors.pop(number, None)
            self._arrived[number] = 0
        self.removed, self._ended_at = 0, 0.0  # all calls with errors are made again
        self.missing, self._is_ready = missing, False

    # -- deliveries --------------------------------------------------------------
    def deliver(
        self,
        first: int,
        end: int,
        result: Outcome | JobError,
        job: Job | None,
        outdated: Collection[int] = (),
    ) -> Callable[[], object] | None:
        """Keep the values and errors of a chunk; return the callback if it was the last one.

        The outcomes of ``outdated`` calls are ignored: they were made again before this
        process resumed them.
        """
        self._record(first, end, result, job)
        numbers: Sequence[int] = range(first, end)
        if outdated:
            numbers = [n for n in numbers if n not in outdated]
        errors: dict[int, BaseException] = {}
        if isinstance(result, JobError):
            errors = dict.fromkeys(numbers, result)
        else:
            if outdated:
                for number in numbers:
                    self.values[number] = result.values[number - first]
            else:  # there may be a million
                self.values[first:end] = result.values[: end - first]
            raised = ((first + number, error) for number, error in result.errors.items())
            errors = {n: error for n, error in raised if n < end and n not in outdated}
            if numbers and result.printed:
                self._print(result.printed._replace(outdated=outdated))
        with self.session.changed:  # other threads deliver too, when calls are taken back
            self.errors.update(errors)
            self.removed += len(errors) if isinstance(result, JobRemovedError) else 0
            self.missing -= len(numbers)
            if outdated:
                for number in numbers:
                    self._arrived[number] = 1
            else:
                self._arrived[first:end] = b"\1" * (end - first)
            is_last = bool(numbers) and not self.missing
            if self.watchers:
                self.session.changed.notify_all()
        return self._finish() if is_last and not self._rerun_failed() else None

    def _rerun_failed(self) -> bool:
        """Make failed calls again if the user asked for that; return whether there are any."""
        wanted, self._reruns = self._reruns, False
        if not wanted or not self.errors:
            return False
        try:
            self.rerun(self.posted_at)
        except CondorPoolError:
            logger.exception("condorpool could not make the failed calls again")
            return False
        return True

    def _finish(self) -> Callable[[], object] | None:
        """Wake all waiting threads and event loops; return what to run next, if anything."""
        error = self.error()
        callback = self._callback if error is None else self._error_callback
        with self.session.changed:
            self._ended_at = time.time()
            # Calls that this process has taken up may have ended long before.
            last = max((c.end for c in self.records), default=0.0) if self._taken_up_at else 0.0
            if self.posted_at < last < self._taken_up_at:
                self._ended_at = last
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
        argument = self.value() if error is None else error
        call_back = functools.partial(self._call_back, callback, argument)
        if not self._in_order:
            return call_back
        return functools.partial(self.session.callbacks.put, call_back)

    def _call_back(self, callback: Callable[[Any], object], argument: Any) -> None:
        self._call_back_by = math.inf
        try:
            callback(argument)
        except BaseException:
            logger.exception("a callback given to condorpool raised; the result is not affected")
        finally:
            with self.session.changed:
                self._is_calling_back = False
                self.session.changed.notify_all()

    def mark_reported(self) -> None:
        """Note that the user knows how the calls ended; drop them if all have returned."""
        super().mark_reported()
        self._release()

    def _release(self) -> None:
        if self.keeper and self.is_ready and self.is_reported and not self.errors:
            self.keeper.release(self)

    # -- progress and values ---------------------------------------------------------
    @property
    def size(self) -> int:
        """How many calls there are."""
        return len(self.values)

    @property
    def ended(self) -> int:
        """How many calls have returned, failed or been removed."""
        return len(self.values) - self.missing

    @property
    def failed(self) -> int:
        """How many calls have failed; removed ones do not count."""
        return len(self.errors) - self.removed

    @property
    def ended_at(self) -> float:
        """When the last call ended, in seconds since 1970; 0 as long as not all have."""
        return self._ended_at

    @property
    def is_ready(self) -> bool:
        """Whether all calls have ended, and no failed ones are being made again."""
        return self._is_ready

    @property
    def is_over(self) -> bool:
        """Whether a wait is over: as in multiprocessing, the callback has returned.

        But a wait inside a callback waits for no callback, which could be its own, and a
        callback that is delayed by those of other calls is waited for `CALLBACK_LAG` only.
        """
        return self.is_ready and (
            not self._is_calling_back
            or bool(self.session.deliveries.depth)
            or time.monotonic() > self._call_back_by
        )

    def event(self) -> asyncio.Event:
        """Return an event for the running loop; it is set when all calls have ended."""
        import asyncio  # noqa: PLC0415 - 40 ms and 8 MiB that most users never need

        event = asyncio.Event()
        with self.session.changed:
            self._events.append((asyncio.get_running_loop(), event))
        return event

    @property
    def raises(self) -> bool:
        """Whether a failed call raises its exception, which otherwise is returned like a value."""
        return not self._return_exceptions

    def error(self) -> BaseException | None:
        """Return the error to raise instead of returning `value`: the first in call order."""
        if self._return_exceptions or not self.errors:
            return None
        return self.errors[min(self.errors)]

    def has_ended(self, number: int) -> bool:
        """Return, under the lock, whether a call has ended and is not about to be made again."""
        return bool(self._arrived[number]) and not (self._reruns and number in self.errors)

    def outcome(self, number: int) -> Any:
        """Return what a call that has ended returned, or its exception."""
        return self.errors.get(number, self.values[number])

    def filled(self, missing: Any) -> list[Any]:
        """Return the value of each call; ``missing`` for those that have none, or none yet."""
        with self.session.changed:
            if not self.missing and not self.errors:
                return list(self.values)
            return [
                value if has_arrived and number not in self.errors else missing
                for number, (value, has_arrived) in enumerate(
                    zip(self.values, self._arrived, strict=True)
                )
            ]

    def expression(self, number: int) -> str:
        """Return a call as it could be written, such as ``f(1, 'x')``; empty if that is not known.

        This reads its arguments from the disk, and runs their own code.
        """
        if (batch := self._first) is None:
            return ""
        try:
            origin = max(first for first in batch.origins if first <= number)
            path = self.session.directory / chunk_name(batch.number, origin)
            item = read_item(path, number - origin)
            return one_line(expression(batch.record.title, batch.record.style, item))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - they may be deleted, and their code may raise anything
            return ""

    def value(self) -> Any:
        """Return the value of a single call, or the list of all."""
        if self.is_single:
            return self.errors.get(0, self.values[0])
        if self.errors:
            return [self.errors.get(n, value) for n, value in enumerate(self.values)]
        return self.values

    @property
    def was_rerun(self) -> bool:
        """Whether some calls were made again."""
        return self.batch is not self._first
