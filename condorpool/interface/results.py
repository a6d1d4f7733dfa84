"""Results of calls: what the asynchronous verbs of a pool return."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar, cast

from condorpool.display.timeline import dataframe, timeline
from condorpool.engine.calls import Calls, GatheredCalls
from condorpool.engine.chunks import Chunk
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session
from condorpool.interface import sources
from condorpool.interface.job import Jobs, QueuedJob
from condorpool.interface.options.keywords import OnHold
from condorpool.interface.verbs import OriginalVerbs
from condorpool.interface.waiting import Waiting
from condorpool.values.exceptions import JobFailedError, ResultTimeoutError

T = TypeVar("T")

Callback = Callable[[Any], object]

#: Seconds after which an ``await`` checks for held jobs: the stop button of a notebook cancels
#: the task, and does not wake its event loop.
TICK = 0.1


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
    """What users have of some calls: to see them, and to act on their jobs."""

    _calls: Calls

    def __init__(self, calls: Calls, on_hold: OnHold | None) -> None:
        self._calls = calls
        self._waiting = Waiting(calls, on_hold)
        self._progress: str | None = None

    @property
    def name(self) -> str:
        """What is called."""
        return self._calls.name

    @property
    def calls(self) -> int:
        """How many calls there are; of an iterator, how many items it has taken so far."""
        return self._calls.size

    @property
    def calls_ended(self) -> int:
        """How many calls have returned or failed."""
        return self._calls.ended

    @property
    def calls_failed(self) -> int:
        """How many calls have failed."""
        return self._calls.failed

    def ready(self) -> bool:
        """Return whether all calls have ended."""
        return self._calls.is_ready

    def show(self, progress: str | None) -> None:
        """Show how the calls proceed, as the ``progress`` of `Pool` says."""
        self._progress = progress
        if not self.ready():
            self._waiting.display = sources.show(self, progress)

    def chunks(self) -> list[Chunk]:
        """Return how the chunks of calls were made that have come to something, in that order.

        When, where, how long, and with what memory; those that were made again are
        there twice.  An iterator has the latest 10,000.
        """
        with self._session.changed:
            return list(self._calls.records)

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

    @property
    def jobs(self) -> list[QueuedJob]:
        """The jobs that have, or had, the calls, or are held for them; none for calls that wait."""
        return [QueuedJob(self._session, place) for place in self._calls.holders()]

    def remove(self) -> int:
        """Remove the jobs that have the calls, and take back calls that wait; return how many."""
        return super().remove()

    def take_back(self) -> int:
        """Take back calls that no job makes yet; return in how many chunks.

        Unlike `remove`, it leaves the others alone.  An iterator takes no more items.
        """
        return self._calls.take_back()

    @property
    def _session(self) -> Session:  # type: ignore[override]
        return self._calls.session

    def _jobs(self) -> list[Job]:
        return self._calls.places()

    def _act(self, action: str) -> int:
        return self._calls.act(action)

    def _repr_html_(self) -> str:
        return sources.html([self])


class Result(OriginalVerbs, Handle, Generic[T]):
    """The outcome of calls that were posted together."""

    _calls: GatheredCalls

    def __init__(self, calls: GatheredCalls, on_hold: OnHold | None) -> None:
        super().__init__(calls, on_hold)

    @property
    def digest(self) -> str:
        """What is the same for the same calls, if they have a name."""
        return self._calls.digest

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
        self._waiting.until(
            lambda: self._calls.is_over or bool(doomed and doomed & self._statuses()),
            timeout,
            on_hold,
        )
        if not self.ready():
            raise self._kill(doomed)

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
        self._calls.mark_reported()
        self._waiting.close_display()
        error = self._calls.error()
        if error is not None:
            raise error
        return cast("T", self._calls.value())

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a coroutine, as ``value = await result``."""
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> T:
        import asyncio  # noqa: PLC0415 - 40 ms and 8 MiB that most never need

        event = self._calls.event()
        on_hold = self._waiting.on_hold
        while not self.ready():
            with self._session.changed:
                is_stuck = self._waiting.is_stuck(on_hold)
            if is_stuck:
                on_hold = self._waiting.resolve(on_hold)
            try:
                await asyncio.wait_for(event.wait(), TICK)
            except asyncio.TimeoutError:
                continue
        return self._outcome()

    @property
    def failed(self) -> list[int]:
        """The numbers of the calls that have failed so far, in order; the first call is 0."""
        return sorted(self._calls.errors)

    def exceptions(self) -> dict[int, BaseException]:
        """Return the exception of each call that has failed so far, by its number."""
        return {number: self._calls.errors[number] for number in self.failed}

    def rerun(self) -> int:
        """Make the calls again that failed; return how many.

        The result is then as if they had just been submitted for the first time:
        `get` waits for them, and callbacks are called again.

        Raises
        ------
        ValueError
            Not all calls have ended, or the pool is closed.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready: wait() for it before you rerun what failed")
        count = self._calls.rerun()
        if count:
            self.show(self._progress)
        return count

    def forget(self) -> None:
        """Keep the results no longer for which a ``name`` was given."""
        self._calls.forget()

    def rerun_at_end(self) -> None:
        """Make the calls again that have failed when all have ended, before `get` returns."""
        self._calls.rerun_at_end()

    def stdout(self) -> str:
        """Return what the calls that have ended printed, in order."""
        return self._calls.printed(0)

    def stderr(self) -> str:
        """Return what the calls that have ended wrote to standard error, in order."""
        return self._calls.printed(1)

    def __repr__(self) -> str:
        calls, batch = self._calls, self._calls.batch
        failed = f", {calls.failed} failed" if calls.failed else ""
        held = len(batch.held) if batch and calls.missing else 0
        return f"<{type(self).__name__}: {calls.ended} of {calls.size} calls done{failed}" + (
            f", {held} jobs held>" if held else ">"
        )


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
        """The job that has, or had, the call; None while the call waits for one."""
        return next(iter(self.jobs), None)


class MapResult(Result[list[Any]]):
    """The results of a map, in order, as `Pool.map_async` returns them.

    Examples
    --------
    >>> import math
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     result = pool.map_async(math.sqrt, [1, 4, 9])
    ...     result.wait()
    ...     result.get(), result.calls_ended
    ([1.0, 2.0, 3.0], 3)
    """
