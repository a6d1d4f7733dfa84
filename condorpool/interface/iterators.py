"""Iterators over results: what `Pool.imap` and `Pool.imap_unordered` return."""

from __future__ import annotations

from typing import Generic, TypeVar

from condorpool.engine.calls import Calls
from condorpool.engine.streams import Raised, StreamedCalls
from condorpool.interface.handle import Handle, not_stopping
from condorpool.interface.options.keywords import OnHold
from condorpool.interface.tracebacks import for_users, raise_from_call
from condorpool.values import notes
from condorpool.values.text import plural

T = TypeVar("T")


class ResultIterator(Handle, Generic[T]):
    """The results of calls as they come, in order or not.

    A thread takes items from the iterable as you take results.  So the iterable may be
    endless, and memory and disk hold at most ``buffersize`` calls.  When this iterator is
    deleted, the thread takes no more items.

    Examples
    --------
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     numbers = pool.imap(abs, [-1, -2])
    ...     next(numbers), numbers.next(timeout=60)
    (1, 2)
    """

    _calls: StreamedCalls

    def __init__(self, calls: StreamedCalls, on_hold: OnHold | None) -> None:
        super().__init__(calls, on_hold)

    def _to_show(self) -> Calls:
        # A display must not keep them: the thread takes items until they are garbage.
        return self._calls.weakly()

    def next(self, timeout: float | None = None, *, on_hold: OnHold | None = None) -> T:
        """Wait for the next result, at most ``timeout`` seconds, and return it.

        Raises
        ------
        StopIteration
            There are no more results.
        ResultTimeoutError
            It did not come in time.  Call again to wait longer.
        JobHeldError
            Only held jobs remain (``on_hold="raise"``).  They stay in the queue.
        Exception
            What the call raised, or what the iterable raised in its place.
        """
        with for_users:
            return self._next(timeout, on_hold)

    def _next(self, timeout: float | None, on_hold: OnHold | None) -> T:
        calls = self._calls
        if not calls.has_next:
            try:
                self._waiting.until(lambda: calls.has_next or calls.is_ready, timeout, on_hold)
            except KeyboardInterrupt as error:
                if self._spelling:
                    text = f"interrupted; the jobs continue. {self._spelling} has the remaining results"
                    notes.annotate(error, text)
                raise
        if not calls.has_next:
            self._waiting.close_display()
            raise calls.take_end()
        value = calls.take()
        if isinstance(value, Raised):
            raised = not_stopping(value.error)
            if self._spelling:
                where = f"this is call {value.number} (the first is 0)"
                notes.annotate(raised, f"{where}; {self._spelling} has the remaining results")
            raise_from_call(raised)
        return value  # type: ignore[no-any-return]

    def __next__(self) -> T:
        return self.next()

    def __iter__(self) -> ResultIterator[T]:
        return self

    def __repr__(self) -> str:
        shown = super().__repr__().removesuffix(">")
        return f"{shown}, {plural(self._calls.taken, 'result')} taken>"
