"""What a wait does about held jobs when the user gave a function for it."""

from __future__ import annotations

import typing
from collections.abc import Callable

from condorpool.engine.batches import Batch
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session
from condorpool.interface.job import QueuedJob
from condorpool.interface.options.keywords import Decision
from condorpool.values.exceptions import JobHeldError


class Decisions:
    """Asks a function about the held jobs of a batch, once each time that a job is held."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made: set[tuple[Job, int]] = set()

    def due(self, batch: Batch) -> list[Job]:
        """Return the held jobs about which the function was not asked yet."""
        with self._session.changed:
            return [job for job in batch.held if (job, job.holds) not in self._made]

    def make(self, decide: Callable[[QueuedJob], Decision], batch: Batch) -> JobHeldError | None:
        """Ask the function and do what it returns; return the error to raise, if any.

        Called without the session's lock: the function is the user's.
        """
        for held in self.due(batch):
            self._made.add((held, held.holds))
            job = QueuedJob(self._session, held)
            decision = decide(job)
            if decision == "raise":
                with self._session.changed:
                    return batch.held_error(held)
            if decision == "release":
                job.release()
            elif decision == "remove":
                job.remove()
            elif decision != "wait":
                raise ValueError(
                    f"on_hold's function returned {decision!r} for {job!r}; it may return "
                    f"{', '.join(map(repr, typing.get_args(Decision)))}"
                )
        return None
