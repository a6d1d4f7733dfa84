"""Iterators over results: what `Pool.imap` and `Pool.imap_unordered` return."""

from __future__ import annotations

import itertools
import operator
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from condorpool.engine.batches import Batch
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Job
from condorpool.engine.payload import Call, Outcome, name_of
from condorpool.engine.session import MOST_MADE, Session
from condorpool.interface.options.keywords import OnHold
from condorpool.interface.results import Handle, not_stopping
from condorpool.values.exceptions import JobError, PoolClosedError
from condorpool.values.locks import uninterrupted

T = TypeVar("T")


#: Exceptions that are kept to be told of in displays; there may be any number.
MOST_ERRORS = 100


class _Raise:
    """Stands for the exception of a call among values."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


#: Seconds after which a feeder looks whether anybody still wants results.
LOOK = 1.0


class _Feed:
    """Takes items from an iterable, in a thread, as their results are taken."""

    def __init__(
        self, session: Session, batch: Batch, iterator: Iterator[Any], chunksize: int, ahead: float
    ) -> None:
        self._session, self._batch = session, batch
        self._iterator, self._chunksize = iterator, chunksize
        self.ahead = ahead
        self.taken = 0
        self.stopped = False
        self.waits = False  # for room: only then whoever takes a result has to wake it
        self.end: BaseException | None = None  # how the iterable ended

    def run(self) -> None:
        """Take items to the end, or until nobody wants more."""
        end: BaseException = StopIteration()
        try:
            while self._has_room():
                items = list(itertools.islice(self._iterator, self._chunksize))
                if not items or self.stopped:
                    break
                self._session.add(self._batch, [items])
            else:
                end = PoolClosedError()
        except BaseException as error:  # noqa: BLE001 - the user's iterable; told where it belongs
            end = error
        with self._session.changed:
            self.end = self.end or end
        self._session.end(self._batch)

    def _has_room(self) -> bool:
        """Wait until there is room for a chunk; return whether it is still wanted."""
        with self._session.changed:
            while not self.stopped and not self.has_room:
                self.waits = True
                self._session.changed.wait(LOOK)
            self.waits = False
            return not self.stopped

    @property
    def has_room(self) -> bool:
        """Whether more calls may be under way, or wait to be taken."""
        return self._batch.size - self.taken < self.ahead

    def stop(self) -> None:
        """Take no more from the iterable.  The garbage collector may call it: it takes no lock."""
        self.stopped = True

    def hurry(self) -> None:
        """Take all that is left in the iterable, whether results are taken or not."""
        with self._session.changed:
            self.ahead = float("inf")
            self._session.changed.notify_all()


class ResultIterator(Handle, Generic[T]):
    """The results of calls as they come, in order or not.

    A thread takes items from the iterable as results are taken from here, so
    that it may be endless, and that memory and disk have no more than
    ``ahead`` calls.  It takes no more when this iterator is gone.

    Parameters
    ----------
    ahead
        The most calls that are under way, or have ended and wait to be taken.

    Examples
    --------
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     numbers = pool.imap(abs, [-1, -2])
    ...     next(numbers), numbers.next(timeout=60)
    (1, 2)
    """

    def __init__(
        self,
        session: Session,
        call: Call,
        iterable: Iterable[Any],
        chunksize: int,
        options: JobOptions,
        on_hold: OnHold | None,
        ahead: float,
        *,
        ordered: bool,
        echo: bool = False,
    ) -> None:
        super().__init__(session, on_hold, echo=echo)
        iterator = iter(iterable)
        self._is_endless = _is_endless(iterator)
        self._ordered = ordered
        self._ready: deque[Any] = deque()
        self._early: dict[int, list[Any]] = {}  # ended before those that come first
        self._next = 0  # the call that comes next in order
        self.name = name_of(call.func)
        self.calls_failed = 0
        self._errors: dict[int, BaseException] = {}  # some of them
        self._chunks = deque(maxlen=MOST_MADE)
        batch = session.prepare(call, (), _weakly(self._deliver), options, None)
        with uninterrupted:
            self._mine = self._batch = session.open(batch)
            self._feed = _Feed(session, batch, iterator, chunksize, ahead)
            weakref.finalize(self, self._feed.stop).atexit = False
            threading.Thread(target=self._feed.run, name="condorpool-feeder", daemon=True).start()

    def _stop(self) -> None:
        """Take no more from the iterable, and do not wait for what it is about to give."""
        with self._session.changed:
            self._feed.stop()
            self._feed.end = self._feed.end or PoolClosedError()
        self._session.end(self._mine)

    def _exhaust(self) -> None:
        """Take all that is left in the iterable, unless it has no end."""
        self._stop() if self._is_endless else self._feed.hurry()

    # -- the deliveries' side ----------------------------------------------------
    def _deliver(self, first: int, end: int, result: Outcome | JobError, job: Job | None) -> None:
        self._note(first, end, result, job)
        if isinstance(result, JobError):
            errors: Mapping[int, BaseException] = dict.fromkeys(range(end - first), result)
            values: list[Any] = [_Raise(result)] * (end - first)
        else:
            errors, values = result.errors, list(result.values)
            for number, error in errors.items():
                values[number] = _Raise(error)
            self._show(result)
        self.calls_failed += len(errors)
        if len(self._errors) < MOST_ERRORS:
            self._errors.update((first + number, error) for number, error in errors.items())
        with self._session.changed:
            if not self._ordered:
                self._ready.extend(values)
            else:
                self._early[first] = values
                while self._next in self._early:
                    values = self._early.pop(self._next)
                    self._next += len(values)
                    self._ready.extend(values)
            self._session.changed.notify_all()

    # -- the user's side -----------------------------------------------------------
    @property
    def calls(self) -> int:
        """How many items have been taken from the iterable so far."""
        return self._mine.size

    @property
    def calls_ended(self) -> int:
        """How many of their calls have ended."""
        with self._session.changed:
            return self.calls - self._mine.calls_pending

    def ready(self) -> bool:
        """Tell whether the iterable and all calls have ended."""
        return not self._mine.undelivered

    def next(self, timeout: float | None = None, *, on_hold: OnHold | None = None) -> T:
        """Return the next result; waits for it at most ``timeout`` seconds.

        Raises
        ------
        StopIteration
            There are no more.
        ResultTimeoutError
            It did not come in time; ask again.
        JobHeldError
            Only held jobs are left (``on_hold="raise"``).  They stay in the queue.
        Exception
            What the call raised, or in its place what the iterable raised.
        """
        if not self._ready:
            self._until(self._has_something, timeout, on_hold)
        if not self._ready:
            if self._display:
                self._display.close()
            end, self._feed.end = self._feed.end, StopIteration()
            raise end or StopIteration
        value = self._ready.popleft()
        self._feed.taken += 1
        if self._feed.waits and self._feed.has_room:
            with self._session.changed:
                self._session.changed.notify_all()
        if isinstance(value, _Raise):
            raise not_stopping(value.error)
        return value  # type: ignore[no-any-return]

    def take_back(self) -> int:
        """Take no more items, and back what no job makes yet; return how many chunks."""
        self._stop()
        return super().take_back()

    def _has_something(self) -> bool:
        return bool(self._ready) or self.ready()

    def __next__(self) -> T:
        return self.next()

    def __iter__(self) -> ResultIterator[T]:
        return self

    def __repr__(self) -> str:
        return (
            f"<ResultIterator: {self._feed.taken} results taken, "
            f"{self.calls - self.calls_ended} calls left>"
        )


def _weakly(deliver: Any) -> Any:
    """Deliver as long as somebody has the iterator whose method this is."""
    method = weakref.WeakMethod(deliver)

    def deliver_weakly(*told: Any) -> None:
        if method_now := method():
            method_now(*told)

    return deliver_weakly


def _is_endless(iterator: Iterator[Any]) -> bool:
    """Return whether an iterator is known to have no end."""
    if isinstance(iterator, itertools.repeat):
        return operator.length_hint(iterator, -1) < 0
    return isinstance(iterator, (itertools.count, itertools.cycle))
