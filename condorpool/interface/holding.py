"""What a wait does about held jobs."""

from __future__ import annotations

import typing
from collections.abc import Callable

from condorpool.engine.batches import Batch, Cluster
from condorpool.engine.session import Session
from condorpool.interface.job import QueuedJob
from condorpool.interface.options.keywords import Decision
from condorpool.values.exceptions import JobHeldError


class Decisions:
    """Asks a function about the held jobs of a batch: once for each time that one is held."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made: set[tuple[int, int, int]] = set()

    def due(self, batch: Batch) -> list[tuple[Cluster, int]]:
        """Return the held jobs about which the function was not asked."""
        with self._session.changed:
            return [
                (cluster, proc)
                for cluster, proc in batch.held
                if (cluster.number, proc, cluster.jobs[proc].holds) not in self._made
            ]

    def make(self, decide: Callable[[QueuedJob], Decision], batch: Batch) -> JobHeldError | None:
        """Ask, and do what the function answers; return the error that is to be raised.

        Called without the session's lock: the function is the user's.
        """
        for cluster, proc in self.due(batch):
            self._made.add((cluster.number, proc, cluster.jobs[proc].holds))
            job = QueuedJob(self._session, cluster, proc)
            decision = decide(job)
            if decision == "raise":
                return batch.held_error((cluster, proc))
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
