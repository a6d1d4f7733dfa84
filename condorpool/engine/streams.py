"""Calls with the items of an iterable, maybe endless, whose outcomes are handed out on demand."""

from __future__ import annotations

import itertools
import operator
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from condorpool.engine.batches import Batch
from condorpool.engine.calls import Calls
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Job
from condorpool.engine.outcomes import Outcome
from condorpool.engine.payload import Call, name_of
from condorpool.engine.session import MOST_RECORDS, Session
from condorpool.values.exceptions import JobError, JobRemovedError, PoolClosedError
from condorpool.values.locks import uninterrupted

#: How many exceptions are kept for displays; there is no limit to their number.
MOST_ERRORS = 100

#: Seconds after which a feeder checks again whether outcomes are still wanted.
LOOK = 1.0


class Raised:
    """The exception of a call, in the place of its value."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number = number
        self.error = error


class StreamedCalls(Calls):
    """Calls with the items of an iterable; each outcome is handed out once.

    A thread takes items from the iterable as outcomes are taken from here.  Neither that
    thread nor the batch keeps this object alive: the thread stops when it is garbage.

    Parameters
    ----------
    ahead
        The most calls that are under way, or have ended and wait to be taken.
    ordered
        Whether outcomes come in the order of the items.
    """

    spelling = "pool.last"

    def __init__(
        self,
        session: Session,
        call: Call,
        iterable: Iterable[Any],
        chunksize: int,
        options: JobOptions,
        ahead: float,
        *,
        ordered: bool,
        echo: bool = False,
    ) -> None:
        super().__init__(name_of(call.func), echo=echo, most_records=MOST_RECORDS)
        iterator = iter(iterable)
        self._session = session
        self._is_endless = _is_endless(iterator)
        self.is_ordered = ordered
        self._ended = self._failed = 0
        self._last_end = 0.0
        self._waiting: deque[Any] = deque()
        self._early: dict[int, list[Any]] = {}  # of chunks that wait for earlier ones
        self._next = 0  # the first call whose outcome is not waiting yet
        prepared = session.prepare(call, (), _weakly(self.deliver), options, None)
        with uninterrupted:
            self.batch = self._batch = session.open(prepared)
            self._feed = _Feed(session, prepared, iterator, chunksize, ahead)
            weakref.finalize(self, self._feed.stop).atexit = False
            threading.Thread(target=self._feed.run, name="condorpool-feeder", daemon=True).start()

    @property
    def size(self) -> int:
        """How many items have been taken from the iterable so far."""
        return self._batch.size

    @property
    def ended(self) -> int:
        """How many of their calls have returned, failed or been removed."""
        return self._ended

    @property
    def failed(self) -> int:
        """How many calls have failed; `errors` has only some of their exceptions."""
        return self._failed

    @property
    def ended_at(self) -> float:
        """When the iterable and the last call had ended, in seconds since 1970; else 0."""
        return max(self._last_end, self._feed.ended_at) if self.is_ready else 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the iterable and all calls have ended."""
        return not self._batch.undelivered

    @property
    def has_next(self) -> bool:
        """Whether an outcome waits to be taken."""
        return bool(self._waiting)

    @property
    def taken(self) -> int:
        """How many outcomes were taken."""
        return self._feed.taken

    def take(self) -> Any:
        """Return the next waiting outcome: a value, or `Raised`."""
        value = self._waiting.popleft()
        self._feed.note_taken()
        return value

    def take_end(self) -> BaseException:
        """Return what ended the iterable: the exception that it raised, once, or StopIteration."""
        end, self._feed.end = self._feed.end, StopIteration()
        return end or StopIteration()

    def stop(self, end: BaseException | None = None) -> None:
        """Take no more items, and do not wait for the one that the iterable is producing.

        ``end`` is what the iterator raises then, by default that the pool is closed.
        """
        with self.session.changed:
            self._feed.stop()
            self._feed.end = self._feed.end or end or PoolClosedError()
            self._feed.ended_at = self._feed.ended_at or time.time()
            ends_itself = self._feed.is_adding
        if not ends_itself:
            self.session.end(self._batch)

    def exhaust(self) -> None:
        """Take all remaining items of the iterable; if it is endless, take no more."""
        self.stop() if self._is_endless else self._feed.take_all()

    def take_back(self) -> int:
        """Take no more items, and take back calls that no job has taken; return how many."""
        self.stop(StopIteration())
        return super().take_back()

    def remove(self) -> int:
        """Take no more items, and remove all calls that have not ended; return how many."""
        self.stop(StopIteration())
        return super().remove()

    def deliver(self, first: int, end: int, result: Outcome | JobError, job: Job | None) -> None:
        """Queue the outcomes of a chunk for `take`."""
        self._record(first, end, result, job)
        if isinstance(result, JobError):
            errors: dict[int, BaseException] = dict.fromkeys(range(end - first), result)
            values: list[Any] = [Raised(number, result) for number in range(first, end)]
        else:
            errors, values = dict(result.errors), list(result.values)
            for number, error in errors.items():
                values[number] = Raised(first + number, error)
            if result.printed:
                self._print(result.printed)
        with self.session.changed:
            if len(self.errors) < MOST_ERRORS:
                self.errors.update((first + number, error) for number, error in errors.items())
            is_removed = isinstance(result, JobRemovedError)
            self.removed += len(errors) if is_removed else 0
            self._failed += 0 if is_removed else len(errors)
            self._ended += end - first
            self._last_end = time.time()
            if not self.is_ordered:
                self._waiting.extend(values)
            else:
                self._early[first] = values
                while self._next in self._early:
                    values = self._early.pop(self._next)
                    self._next += len(values)
                    self._waiting.extend(values)
            self.session.changed.notify_all()


class _Feed:
    """Takes items from an iterable, in a thread, as the outcomes of their calls are taken."""

    def __init__(
        self, session: Session, batch: Batch, iterator: Iterator[Any], chunksize: int, ahead: float
    ) -> None:
        self._session, self._batch = session, batch
        self._iterator, self._chunksize = iterator, chunksize
        self._ahead = ahead
        self.taken = 0
        self.end: BaseException | None = None  # how the iterable ended
        self.ended_at = 0.0
        #: Whether it is posting a chunk, after which it ends the batch if it was stopped.
        self.is_adding = False
        self._is_stopped = False
        self._waits = False  # for room: only then does `note_taken` wake it

    def run(self) -> None:
        """Take items until the iterable ends, or no more are wanted."""
        end: BaseException = StopIteration()
        try:
            while self._wait_for_room():
                items = list(itertools.islice(self._iterator, self._chunksize))
                with self._session.changed:
                    self.is_adding = bool(items) and not self._is_stopped
                if not self.is_adding:
                    break
                self._session.add(self._batch, [items])
                with self._session.changed:
                    self.is_adding = False
            else:
                end = PoolClosedError()
        except BaseException as error:  # noqa: BLE001 - from the iterable; `take_end` returns it
            end = error
        with self._session.changed:
            self.end, self.ended_at = self.end or end, self.ended_at or time.time()
        self._session.end(self._batch)

    def _wait_for_room(self) -> bool:
        """Wait until there is room for a chunk; return False if no more are wanted."""
        with self._session.changed:
            while not self._is_stopped and not self._has_room:
                self._waits = True
                self._session.changed.wait(LOOK)
            self._waits = False
            return not self._is_stopped

    @property
    def _has_room(self) -> bool:
        return self._batch.size - self.taken < self._ahead

    def note_taken(self) -> None:
        """Note that an outcome was taken."""
        # Without the lock, which costs time: a missed wake-up delays the feeder by `LOOK`.
        self.taken += 1
        if self._waits and self._has_room:
            with self._session.changed:
                self._session.changed.notify_all()

    def stop(self) -> None:
        """Take no more items.

        It takes no lock: the garbage collector may call it in a thread that has the lock.
        """
        self._is_stopped = True

    def take_all(self) -> None:
        """Take all remaining items without waiting for room."""
        with self._session.changed:
            self._ahead = float("inf")
            self._session.changed.notify_all()


def _weakly(deliver: Any) -> Callable[..., None]:
    """Return a function that calls this method as long as its object exists."""
    method = weakref.WeakMethod(deliver)

    def deliver_weakly(*args: Any) -> None:
        if method_now := method():
            method_now(*args)

    return deliver_weakly


def _is_endless(iterator: Iterator[Any]) -> bool:
    """Return whether an iterator is known to have no end."""
    if isinstance(iterator, itertools.repeat):
        return operator.length_hint(iterator, -1) < 0
    return isinstance(iterator, (itertools.count, itertools.cycle))
