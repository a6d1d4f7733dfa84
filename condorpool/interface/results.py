"""Results of calls: what the asynchronous verbs of a pool return."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast, overload

from condorpool.display.notices import tell
from condorpool.engine.gathered import GatheredCalls
from condorpool.engine.texts import Text
from condorpool.interface.handle import Handle
from condorpool.interface.job import QueuedJob
from condorpool.interface.options import checks
from condorpool.interface.options.keywords import OnHold
from condorpool.interface.tracebacks import for_users, raise_from_call
from condorpool.values import notes
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    JobFailedError,
    JobHeldError,
    JobRemovedError,
    ResultTimeoutError,
)
from condorpool.values.matching import did_you_mean
from condorpool.values.text import plural

T = TypeVar("T")

Callback = Callable[[Any], object]

#: The states of calls; of several the first counts.
_ADVANCED_FIRST = (
    JobState.RUNNING,
    JobState.IDLE,
    JobState.UNMATERIALIZED,
    JobState.SUSPENDED,
    JobState.HELD,
    JobState.REMOVED,
    JobState.COMPLETED,
)

#: Seconds after which these look again, because nothing wakes them: an ``await`` (the stop button of
#: a notebook cancels the task, but does not wake its event loop), and a wait for jobs to start (no
#: event says which job takes a call).
TICK = 0.1


class Result(Handle, Generic[T]):
    """The result of calls that were submitted together."""

    _calls: GatheredCalls

    def __init__(self, calls: GatheredCalls, on_hold: OnHold | None) -> None:
        super().__init__(calls, on_hold)

    @property
    def digest(self) -> str:
        """A fingerprint that is equal for equal calls; empty for calls without a ``name``."""
        return self._calls.digest

    @for_users
    def successful(self) -> bool | None:
        """Return whether all calls returned.

        Raises
        ------
        ValueError
            Not all calls have ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return not self._calls.errors

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
            States, such as ``("Held", "Suspended")``: a job that is in one of them, or
            enters it, is removed, and `JobFailedError` is raised.

        Raises
        ------
        JobHeldError
            Only held jobs remain (``on_hold="raise"``).  They stay in the queue.
        JobFailedError
            A job was removed for its state.
        """
        with for_users:
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
            hint = did_you_mean(str(state), self.statuscodes.values())
            raise ValueError(f"killstats has {state!r}; the states are {known}.{hint}")
        with self._noted():
            self._waiting.until(
                lambda: self._calls.is_over or bool(doomed and doomed & self._statuses()),
                timeout,
                on_hold,
            )
        if not self.ready():
            raise self._kill(doomed)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Add to what ends a wait how users get at the calls."""
        try:
            yield
        except KeyboardInterrupt as error:
            name = self._spelling
            text = f"interrupted; the jobs continue. {name}.get() waits again, {name}.remove() removes them"
            notes.annotate(error, text)
            if not notes.are_printed():
                tell(text)
            raise
        except JobHeldError as error:
            done = self._calls.counts().done
            have = f"; {self._spelling}.values() has the {plural(done, 'value')} so far"
            notes.annotate(
                error,
                f"{self._spelling}.release() or .remove() acts on the jobs, .get() waits again"
                + have * bool(done and not self._calls.is_single),
            )
            raise

    def _kill(self, states: set[str]) -> JobFailedError:
        """Remove the jobs that are in these states; return the error that says so."""
        jobs = [job for job in self.jobs if job.state.original_word in states]
        first = jobs[0] if jobs else None
        error = JobFailedError(
            first.id if first else "",
            f"Status {first.state.original_word if first else self.status()!r} caused it to be killed",
            host=first.host if first else "",
            hint=f"*** Analysis:\n{self.analyze()}",
        )
        if jobs:
            for job in jobs:
                job.remove()
        else:
            self.remove()
        self._calls.mark_reported()
        return error

    def get(
        self,
        timeout: float | None = None,
        polltime: float | None = None,  # noqa: ARG002 - nothing is polled
        killstats: Iterable[str] = (),
        *,
        on_hold: OnHold | None = None,
        return_exceptions: bool | None = None,
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
            What to do when only held jobs remain: ``"raise"``, ``"wait"`` or
            ``"remove"``, or a function that decides for each job, as for `Pool`; by
            default what the pool was given.
        return_exceptions
            Whether the exceptions of calls are returned in their places instead of raised;
            by default as the calls were made.

        Raises
        ------
        ResultTimeoutError
            The time is over (it is also a ``multiprocessing.TimeoutError``).
        JobHeldError
            Only held jobs remain (``on_hold="raise"``).  They stay in the queue.
        HTCondorError
            The access point has not answered for ten minutes.
        JobRemovedError, JobFailedError
            A job ended without leaving an outcome.
        Exception
            What a call raised, with the remote traceback as its cause; the first in
            order if several calls failed.
        """
        with for_users:
            self._wait(timeout, killstats, on_hold)
            raises = self._calls.raises if return_exceptions is None else not return_exceptions
            return self._outcome(raises)

    def _outcome(self, raises: bool) -> T:
        self._close()
        calls = self._calls
        if raises and calls.errors:
            error = calls.errors[min(calls.errors)]
            notes.annotate(error, *self._notes())
            raise_from_call(error)
        return cast("T", calls.value())

    def _close(self) -> None:
        """Note that the user gets to know how the calls ended."""
        self._calls.mark_reported()
        self._waiting.close_display()

    def _notes(self) -> Iterator[str]:
        """Yield what the error of the first call that failed says about the others."""
        calls = self._calls
        if calls.is_single:
            return
        first = min(calls.errors)
        removed = isinstance(calls.errors[first], JobRemovedError)
        expression = f": {words}" if (words := calls.expression(first)) else ""
        yield f"this is call {first} of {calls.size:,} (the first is 0){expression}"
        others = calls.failed - (not removed), calls.removed - removed
        more = [
            f"{n:,} more {word}" for n, word in zip(others, ("failed", "removed"), strict=True) if n
        ]
        ways = [f".exceptions() has all {len(calls.errors):,}"] if any(others) else []
        if values := calls.size - len(calls.errors):
            ways.insert(0, f".values() has the {plural(values, 'value')}")
        if not calls.session.is_closed:
            ways.append(".rerun() makes again what failed")
        yield "; ".join([*more, self._spelling + ", ".join(ways)] if ways else more)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a coroutine, as ``value = await result``."""
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> T:
        import asyncio  # noqa: PLC0415 - 40 ms and 8 MiB that most programs never need

        event, begun = self._calls.event(), time.monotonic()
        on_hold = self._waiting.on_hold
        while not self.ready():
            with self._session.changed:
                is_stuck = self._waiting.is_stuck(on_hold, begun)
            if is_stuck:
                on_hold = self._waiting.resolve(on_hold)
            try:
                await asyncio.wait_for(event.wait(), TICK)
            except asyncio.TimeoutError:
                continue
        with for_users:
            return self._outcome(self._calls.raises)

    @property
    def failed(self) -> list[int]:
        """The numbers of the calls that have failed so far, in order; the first call is 0."""
        return sorted(self._calls.errors)

    def exceptions(self) -> dict[int, BaseException]:
        """Return the exception of each call that has failed so far, by its number."""
        return {number: self._calls.errors[number] for number in self.failed}

    @for_users
    def rerun(self) -> int:
        """Submit the calls that failed again; return how many.

        `get` then waits for them, and callbacks are called again.

        Raises
        ------
        ValueError
            Not all calls have ended, or the pool is closed.
        SubmitError, HTCondorError
            The submit directory cannot be written, or the access point did not answer.  The
            result is as before.

        Examples
        --------
        >>> from pathlib import Path
        >>> from condorpool import Pool
        >>> hello = Path("hello.txt").absolute()
        >>> with Pool() as pool:
        ...     result = pool.apply_async(Path.read_text, (hello,))
        ...     result.wait()  # it fails: there is no such file
        ...     size = hello.write_text("hello")
        ...     result.rerun(), result.get()
        (1, 'hello')
        >>> hello.unlink()
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready: wait() for it before you rerun failed calls")
        count = self._calls.rerun()
        if count:
            self.show(self._progress)
        return count

    def forget(self) -> None:
        """Stop keeping the results on disk under their ``name``."""
        self._calls.forget()

    def rerun_at_end(self) -> None:
        """When all calls have ended, submit those that failed again once, before `get` returns."""
        self._calls.rerun_at_end()

    def stdout(self, tail: int | None = None) -> str:
        """Return what the calls that have ended printed, in order.

        Parameters
        ----------
        tail
            Return only the last lines, this many.  Of long lines the last million characters
            are returned.
        """
        most = checks.optional_count("tail", tail)
        return Text(text.stdout for text in self._calls.texts()).lines(most)

    def stderr(self, tail: int | None = None) -> str:
        """Return what the calls that have ended wrote to standard error, as `stdout` does."""
        most = checks.optional_count("tail", tail)
        return Text(text.stderr for text in self._calls.texts()).lines(most)

    # -- the original CondorPool's names ---------------------------------------------
    def submitted(self) -> bool:
        """Return whether the calls were submitted: always true of a pool's results."""
        return self._calls.is_posted

    def completed(self) -> bool:
        """Return the same as `ready`."""
        return self._calls.is_ready

    def output_exists(self) -> bool:
        """Return whether all calls have returned; false as long as some have not ended."""
        return self._calls.is_ready and not self._calls.errors

    def status(self) -> str | None:
        """Return the state of the calls: ``Idle``, ``Running``, ``Suspended``, ``Held``, ...

        ``Completed`` is for calls that have returned or failed.  With several calls the first
        of these counts: ``Running``, ``Idle``, ``Suspended``, ``Held``.
        """
        self._calls.holders()
        with self._calls.session.changed:
            states = self._calls.states()
        return next(state.original_word for state in _ADVANCED_FIRST if state in states)

    def _statuses(self) -> set[str]:
        """Return, under the lock, the statuses of calls that have not ended."""
        return {state.original_word for state in self._calls.states()}

    def wait_to_start(self, timeout: float | None = None, polltime: float | None = None) -> None:  # noqa: ARG002
        """Wait until a job runs, or until no call is idle any more, at most ``timeout`` seconds."""
        timeout = checks.timeout(timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self.status() == JobState.IDLE.original_word and time.monotonic() < end:
            with self._calls.session.changed:
                self._waiting.pause(min(end, time.monotonic() + TICK))


class AsyncResult(Result[T]):
    """The result of one call, as `Pool.apply_async` returns it.

    Examples
    --------
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     result = pool.apply_async(divmod, (7, 2))
    ...     result.get(), result.successful()
    ((3, 1), True)
    """

    @property
    def job(self) -> QueuedJob | None:
        """The job that makes or made the call; None while the call waits for one."""
        return next(iter(self.jobs), None)


class MapResult(Result[list[Any]], Sequence[Any]):
    """The results of a map, in order, as `Pool.map_async` returns them.

    It is a sequence of what the calls returned.  The exception of a call that failed stands
    in its place and hides no other value.  Getting a value waits for its call, as `get` does
    for all.

    Examples
    --------
    >>> import math
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     result = pool.map_async(math.sqrt, [1, -4, 9])
    ...     len(result), result[0], result[1:], result.values(missing=0)
    (3, 1.0, [ValueError('math domain error'), 3.0], [1.0, 0, 3.0])
    """

    def __len__(self) -> int:
        return self._calls.size

    def __bool__(self) -> bool:
        return True  # as long as it is there: it is no list

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    @for_users
    def __getitem__(self, index: int | slice) -> Any:
        try:
            numbers = range(self._calls.size)[index]
        except IndexError:
            are = "is" if self._calls.size == 1 else "are"
            calls = plural(self._calls.size, "call")
            raise IndexError(f"there {are} {calls}, and none is number {index}") from None
        except TypeError:
            kind = type(index).__name__
            raise TypeError(f"calls have whole numbers, or slices of these, not {kind}") from None
        if isinstance(numbers, range):
            return list(self._outcomes(numbers))
        return next(self._outcomes((numbers,)))

    def __iter__(self) -> Iterator[Any]:
        return self._outcomes(range(self._calls.size))

    def _outcomes(self, numbers: Sequence[int]) -> Iterator[Any]:
        """Yield the outcome of each of these calls when it has ended."""
        calls = self._calls
        for number in numbers:
            with for_users:
                self._wait_for(number)
            outcome = calls.outcome(number)
            if number in calls.errors:
                calls.mark_reported()
            yield outcome
        if len(numbers) == calls.size and calls.is_ready:
            self._close()

    def _wait_for(self, number: int) -> None:
        calls = self._calls
        if calls.is_ready:
            return
        with calls.session.changed:
            calls.watchers += 1
        try:
            with self._noted():
                self._waiting.until(lambda: calls.is_ready or calls.has_ended(number), None)
        finally:
            with calls.session.changed:
                calls.watchers -= 1

    def values(self, missing: Any = None) -> list[Any]:
        """Return what the calls have returned so far, without waiting.

        Parameters
        ----------
        missing
            Takes the place of calls that failed, were removed, or have not ended.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.map_async((10).__floordiv__, [0, 2, 5])
        ...     result.get(return_exceptions=True)[1:], result.values()
        ([5, 2], [None, 5, 2])
        """
        return self._calls.filled(missing)
