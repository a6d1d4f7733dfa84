"""The executor: the interface of `concurrent.futures` to a pool."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from condorpool.display.notices import tell
from condorpool.engine.actions import TAKEN_BACK
from condorpool.engine.payload import Call
from condorpool.interface.handle import not_stopping, spell
from condorpool.interface.iterators import ResultIterator
from condorpool.interface.options import checks
from condorpool.interface.options.given import OF_EXECUTOR, complete
from condorpool.interface.options.keywords import PoolKeywords, takes
from condorpool.interface.pool import Pool, workload_of
from condorpool.interface.results import AsyncResult
from condorpool.interface.tracebacks import for_users
from condorpool.interface.waiting import Waiting
from condorpool.interface.workload import Workload
from condorpool.values.events import JobState
from condorpool.values.exceptions import JobRemovedError, ResultTimeoutError
from condorpool.values.locks import Monitor

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


def _is_cancellation(error: BaseException) -> bool:
    return isinstance(error, JobRemovedError) and error.reason.startswith(TAKEN_BACK)


class Future(concurrent.futures.Future[T]):
    """A call of an `Executor`: it can be cancelled until a job makes it."""

    def __init__(
        self,
        workload: Workload,
        func: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._waiting: Waiting | None = None  # until the call has ended
        # Done-callbacks of a future do not wait for those of others.
        result = workload.post(
            AsyncResult,
            Call(func, "apply"),
            [(args, kwargs)],
            1,
            self._succeed,
            self._fail,
            in_order=False,
            progress=None,
        )
        self._waiting = result._waiting  # noqa: SLF001 - it knows the result's display

    # -- called by deliveries ----------------------------------------------------
    def _succeed(self, value: T) -> None:
        self._waiting = None
        if self.set_running_or_notify_cancel():
            self.set_result(value)

    def _fail(self, error: BaseException) -> None:
        self._waiting = None
        if _is_cancellation(error):
            super().cancel()
        if self.set_running_or_notify_cancel():
            self.set_exception(not_stopping(error))

    # -- called by users -------------------------------------------------------------
    def cancel(self) -> bool:
        """Take the call back unless a job makes or made it; return whether it is cancelled."""
        waiting = self._waiting
        if waiting and waiting.calls.take_back():
            super().cancel()
        return self.cancelled()

    def running(self) -> bool:
        """Return whether a job makes the call now."""
        waiting = self._waiting
        if waiting is None or self.done():
            return False
        jobs = waiting.calls.holders()
        return any(job.state is JobState.RUNNING for job in jobs)

    @for_users
    def result(self, timeout: float | None = None) -> T:
        """Wait for the call to end and return what it returned, or raise what it raised.

        Raises
        ------
        JobHeldError
            Only held jobs remain (``on_hold="raise"``).  They stay in the queue.
        concurrent.futures.CancelledError, TimeoutError
            As in `concurrent.futures`.
        """
        return super().result(self._waited(timeout))

    @for_users
    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the call to end and return what it raised; raises as `result` does."""
        return super().exception(self._waited(timeout))

    def _waited(self, timeout: float | None) -> float | None:
        """Wait as the pool's results do, which check for held jobs; return the remaining time."""
        waiting = self._waiting
        try:
            if waiting:
                waiting.until(lambda: waiting.calls.is_ready, timeout)
        except ResultTimeoutError:
            return 0
        return None


class Executor(concurrent.futures.Executor):
    """A `concurrent.futures.Executor` whose calls run as HTCondor jobs.

    Parameters
    ----------
    max_workers
        The most jobs at once; ``processes`` of `Pool`.
    mp_context
        Accepted for code written for `ProcessPoolExecutor`, and ignored.
    initializer, initargs
        ``initializer(*initargs)`` is called once in each job, before its calls.
    max_tasks_per_child
        Calls that a job makes before it ends.
    **arguments
        The keywords of `Pool`.

    Attributes
    ----------
    pool
        The pool that makes the calls.

    Examples
    --------
    >>> from concurrent.futures import as_completed
    >>> from condorpool import Executor
    >>> with Executor() as executor:
    ...     futures = [executor.submit(pow, 2, n) for n in (3, 4)]
    ...     sorted(future.result() for future in as_completed(futures))
    [8, 16]
    """

    @takes(PoolKeywords)
    @for_users
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,  # noqa: ARG002 - as `context` of Pool
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        **arguments: Unpack[PoolKeywords],
    ) -> None:
        checks.optional_count("max_workers", max_workers)
        checks.optional_count("max_tasks_per_child", max_tasks_per_child)
        complete(PoolKeywords, arguments, OF_EXECUTOR)
        self.pool = Pool(max_workers, initializer, initargs, max_tasks_per_child, **arguments)
        self._workload = workload_of(self.pool)
        self._is_shut_down = False
        self._closer: threading.Thread | None = None
        self._closing = Monitor()
        self._is_closed = False

    def _check(self) -> None:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not threading.main_thread().is_alive():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    @for_users
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit ``fn(*args, **kwargs)`` and return its `Future` at once.

        Raises
        ------
        RuntimeError
            The executor was shut down.
        PayloadError
            The function or an argument cannot be pickled; nothing was submitted.

        Examples
        --------
        >>> from condorpool import Executor
        >>> with Executor() as executor:
        ...     executor.submit(int, "ff", base=16).result()
        255
        """
        self._check()
        return Future(self._workload, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call ``fn`` on items of the iterables and iterate over the results in order.

        Parameters
        ----------
        timeout
            Seconds from now by which all results must have come.
        chunksize
            Calls that a job takes at a time; more than 1 is much faster for short calls.
        buffersize
            With it the iterables may be endless: at most ``buffersize * chunksize`` calls are
            under way or have results that wait to be taken.  By default all items are taken
            now.

        Raises
        ------
        TimeoutError
            The time is over.  Calls that no job makes yet are taken back.

        Examples
        --------
        >>> from condorpool import Executor
        >>> with Executor() as executor:
        ...     list(executor.map(pow, (2, 3), (3, 2)))
        [8, 9]
        """
        self._check()
        end = None if timeout is None else time.monotonic() + timeout
        items: Iterable[Any] = zip(*iterables, strict=False)
        if buffersize is None:
            items = list(items)
            ahead = max(1, len(items))
        else:
            items, ahead = self._while_open(items), buffersize * chunksize
        results = self._workload.stream(fn, "starmap", items, chunksize, ahead, ordered=True)
        spell(results, "")  # the first exception ends the iteration
        return _results(results, end)

    def _while_open(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._check()
            yield item

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and clean up when the last one has ended.

        Parameters
        ----------
        wait
            Whether to wait for that; in a done-callback there is no wait.
        cancel_futures
            Whether to take back the calls that no job makes yet.
        """
        self._is_shut_down = True
        if cancel_futures:
            self._workload.take_back()
        with self._closing:
            if self._closer is None:
                # Not a daemon: as in concurrent.futures, a program ends when its calls have ended.
                self._closer = threading.Thread(target=self._close, name="condorpool-closer")
                self._closer.start()
            # A done-callback would wait for its own end.  Not Thread.join: after an interrupt it
            # takes a running thread for ended (bpo-45274).
            if wait and not self._workload.is_delivering:
                self._closing.wait_for(lambda: self._is_closed)

    def _close(self) -> None:
        try:
            self.pool.close()
        finally:
            with self._closing:
                self._is_closed = True
                self._closing.notify_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt:
            # A user who interrupts does not want to wait.
            tell("the jobs continue; executor.pool.terminate() removes them")
        self.shutdown(wait=kind is not KeyboardInterrupt)


def _results(results: ResultIterator[T], end: float | None) -> Generator[T, None, None]:
    """Yield results until ``end``; take back the remaining calls when no more are wanted."""
    try:
        while True:
            yield results.next(None if end is None else max(0.0, end - time.monotonic()))
    except StopIteration:
        return
    except ResultTimeoutError as error:
        raise concurrent.futures.TimeoutError(str(error)) from None
    except JobRemovedError as error:
        if _is_cancellation(error):
            raise concurrent.futures.CancelledError from None
        raise
    finally:
        results.take_back()
