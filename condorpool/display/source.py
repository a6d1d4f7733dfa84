"""The interface between a display and the calls that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from condorpool.engine.batches import Batch
from condorpool.engine.chunks import Chunk
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session


class Source(Protocol):
    """Calls that a display shows, and on whose jobs its buttons act.

    Any member may raise `ReferenceError`: the calls belong to an iterator that no
    variable refers to any more.
    """

    @property
    def name(self) -> str:
        """The name of the calls."""
        ...

    @property
    def session(self) -> Session:
        """The session that the calls were posted to."""
        ...

    @property
    def batch(self) -> Batch | None:
        """The calls that were posted last; None if none were."""
        ...

    @property
    def calls(self) -> int:
        """The number of calls."""
        ...

    @property
    def calls_ended(self) -> int:
        """The number of calls that have returned or failed."""
        ...

    @property
    def calls_failed(self) -> int:
        """The number of calls that have failed."""
        ...

    @property
    def errors(self) -> Mapping[int, BaseException]:
        """The exceptions of some or all failed calls; another thread adds to this mapping."""
        ...

    @property
    def can_rerun(self) -> bool:
        """Whether failed calls can be rerun."""
        ...

    def ready(self) -> bool:
        """Return whether all calls have ended."""
        ...

    def chunks(self) -> Sequence[Chunk]:
        """Return when and where calls were made."""
        ...

    def act(self, action: str) -> int:
        """Hold, release or remove all jobs of these calls; return how many."""
        ...

    def rerun_at_end(self) -> None:
        """Rerun the failed calls when all have ended."""
        ...

    def logs(self, job: Job) -> Iterable[tuple[str, str | None]]:
        """Return the event log and output of a job, as titles and texts."""
        ...

    def hold_weakly(self) -> None:
        """Refer to the result weakly: the display must not keep the calls' values alive."""
        ...
