"""Results of calls: what the asynchronous verbs of a pool return."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from condorpool.engine.crew import Batch
from condorpool.engine.payload import Outcome
from condorpool.engine.session import Session, logger
from condorpool.interface.job import Job
from condorpool.values.exceptions import JobError, ResultTimeoutError

T = TypeVar("T")

Callback = Callable[[Any], object]

#: What a wait does when nothing but held jobs is left.
ON_HOLD = ("raise", "wait", "remove")


class _Result(Generic[T]):
    """Collects the outcomes of a batch of ``calls`` calls."""

    def __init__(
        self,
        session: Session,
        calls: int,
        on_hold: str,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> None:
        self._session = session
        self._on_hold = on_hold
        self._callback = callback
        self._error_callback = error_callback
        self._values: list[Any] = [None] * calls
        self._errors: dict[int, BaseException] = {}
        self._printed: dict[int, tuple[str, str]] = {}  # by the first call of a chunk
        self._missing = calls
        self._is_ready = not calls
        self._seen = False
        self._batch: Batch | None = None

    # -- the tracker's side ------------------------------------------------------
    def _deliver(self, first: int, end: int, result: Outcome | JobError) -> None:
        if isinstance(result, JobError):
            self._errors.update(dict.fromkeys(range(first, end), result))
        else:
            self._values[first:end] = result.values[: end - first]
            errors = {first + n: e for n, e in result.errors.items() if first + n < end}
            self._errors.update(errors)
            if result.stdout or result.stderr:
                self._printed[first] = result.stdout, result.stderr
        self._missing -= end - first
        if not self._missing:
            self._finish()

    def _finish(self) -> None:
        error = self._error()
        with self._session.changed:
            self._is_ready = True
            self._session.changed.notify_all()
        callback = self._callback if error is None else self._error_callback
        if callback:
            self._seen = True
            try:
                callback(self._value() if error is None else error)
            except Exception:  # noqa: BLE001 - the user's code, in our thread
                logger.exception("a callback of condorpool raised; the result is not affected")

    def _error(self) -> BaseException | None:
        return self._errors[min(self._errors)] if self._errors else None

    def _value(self) -> T:
        raise NotImplementedError

    # -- the user's side -----------------------------------------------------------
    def ready(self) -> bool:
        """Tell whether all calls have ended."""
        return self._is_ready

    def successful(self) -> bool:
        """Tell whether all calls returned.

        Raises
        ------
        ValueError
            Not all calls have ended.
        """
        if not self._is_ready:
            raise ValueError(f"{self!r} not ready")
        return not self._errors

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all calls have ended, at most ``timeout`` seconds."""
        with self._session.changed:
            self._session.changed.wait_for(lambda: self._is_ready, timeout)

    def get(self, timeout: float | None = None, *, on_hold: str | None = None) -> T:
        """Wait for the calls to end and return what they returned.

        May be called again, also after an error.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as it takes.
        on_hold
            What to do when nothing but held jobs is left: ``"raise"``, ``"wait"``
            or ``"remove"``; by default what the pool was told.

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
        on_hold = check_on_hold(on_hold or self._on_hold)
        end = None if timeout is None else time.monotonic() + timeout
        removed = False
        while not self._is_ready:
            with self._session.changed:
                self._session.check_reach()
                batch = self._batch
                stuck = batch is not None and batch.only_held_left and on_hold != "wait"
                if stuck and on_hold == "raise" and batch is not None:
                    self._seen = True
                    raise batch.held_error()
                if not self._is_ready and (not stuck or removed):
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        raise ResultTimeoutError(cast("float", timeout))
                    self._session.changed.wait(left)
                    continue
            if stuck:
                removed = True
                self.remove()
        self._seen = True
        error = self._error()
        if error is not None:
            raise error
        return self._value()

    @property
    def jobs(self) -> list[Job]:
        """The jobs that have, or had, the calls, or are held for them; none for calls that wait."""
        if self._batch is None:
            return []
        self._session.note_takers(self._batch.crew)
        with self._session.changed:
            holders = [self._batch.holders[i] for i in sorted(self._batch.holders)]
            holders = holders or self._batch.held
        return [Job(self._session, cluster, proc) for cluster, proc in dict.fromkeys(holders)]

    def stdout(self) -> str:
        """Return what the calls that have ended printed, in order."""
        return "".join(self._printed[i][0] for i in sorted(self._printed))

    def stderr(self) -> str:
        """Return what the calls that have ended wrote to standard error, in order."""
        return "".join(self._printed[i][1] for i in sorted(self._printed))

    def hold(self) -> int:
        """Put the jobs that have the calls on hold; return how many."""
        return self._act("hold")

    def release(self) -> int:
        """Let the held jobs run again; return how many."""
        return self._act("release")

    def remove(self) -> int:
        """Remove the jobs that have the calls, and take back calls that wait; return how many."""
        self._seen = True  # whoever throws calls away need not be told at the end
        return self._act("remove")

    def _act(self, action: str) -> int:
        if not self._batch or self._is_ready:
            return 0
        return self._session.act(action, self._batch)

    def __repr__(self) -> str:
        calls, left = len(self._values), self._missing
        failed = f", {len(self._errors)} failed" if self._errors else ""
        held = len(self._batch.held) if self._batch and left else 0
        return f"<{type(self).__name__}: {calls - left} of {calls} calls done{failed}" + (
            f", {held} jobs held>" if held else ">"
        )


class AsyncResult(_Result[T]):
    """The result of one call, as `Pool.apply_async` returns it."""

    def _value(self) -> T:
        return cast("T", self._values[0])

    @property
    def job(self) -> Job | None:
        """The job that has, or had, the call; None while the call waits for one."""
        return next(iter(self.jobs), None)


class MapResult(_Result[list[Any]]):
    """The results of a map, in order, as `Pool.map_async` returns them."""

    def _value(self) -> list[Any]:
        return self._values


def check_on_hold(value: str) -> str:
    """Return a policy for held jobs, or say which there are."""
    if value not in ON_HOLD:
        raise ValueError(f"on_hold={value!r} is none of {', '.join(map(repr, ON_HOLD))}")
    return value
