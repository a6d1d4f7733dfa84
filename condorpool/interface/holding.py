"""What a wait does about held jobs."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Literal

from condorpool.engine.batches import Batch, Cluster
from condorpool.engine.session import Session
from condorpool.interface.job import QueuedJob
from condorpool.values.exceptions import JobHeldError

#: What to do when nothing but held jobs is left.
Policy = Literal["raise", "wait", "remove"]

#: What a function may say that is asked about one held job.
Decision = Literal["raise", "wait", "remove", "release"]

OnHold = Policy | Callable[[QueuedJob], Decision]


def check_on_hold(value: OnHold | None) -> OnHold | None:
    """Return a policy for held jobs, or say which there are."""
    policies = typing.get_args(Policy)
    if value is not None and not callable(value) and value not in policies:
        known = ", ".join(map(repr, policies))
        raise ValueError(f"on_hold={value!r} is none of {known}, and no function")
    return value


class Decisions:
    """Asks a function about the held jobs of a batch: once for each time that one is held."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made: set[tuple[int, int, int]] = set()

    def due(self, batch: Batch) -> list[tuple[Cluster, int]]:
        """Return the held jobs that nobody was asked about."""
        with self._session.changed:
            return [
                (cluster, proc)
                for cluster, proc in batch.held
                if (cluster.number, proc, cluster.jobs[proc].holds) not in self._made
            ]

    def make(self, decide: Callable[[QueuedJob], Decision], batch: Batch) -> JobHeldError | None:
        """Ask, and do what is said; return the error that is to be raised.

        Called without the session's lock.
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
                    f"on_hold's function said {decision!r} of {job!r}; it may say "
                    f"{', '.join(map(repr, typing.get_args(Decision)))}"
                )
        return None
