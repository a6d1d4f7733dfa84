"""What a display needs of the calls that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from condorpool.engine.batches import Batch
from condorpool.engine.chunks import Chunk
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session


class Source(Protocol):
    """Some calls that a display shows, and whose jobs its buttons act on.

    Any of these may raise `ReferenceError`: the calls are of an iterator that no
    variable has any more.
    """

    @property
    def name(self) -> str:
        """What is called."""
        ...

    @property
    def session(self) -> Session:
        """Where the calls are posted."""
        ...

    @property
    def batch(self) -> Batch | None:
        """The calls that were posted last; None if none were."""
        ...

    @property
    def calls(self) -> int:
        """How many calls there are."""
        ...

    @property
    def calls_ended(self) -> int:
        """How many calls have returned or failed."""
        ...

    @property
    def calls_failed(self) -> int:
        """How many calls have failed."""
        ...

    @property
    def errors(self) -> Mapping[int, BaseException]:
        """The exceptions of calls that have failed, at least of some; another thread adds to it."""
        ...

    @property
    def can_rerun(self) -> bool:
        """Whether failed calls can be made again."""
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
        """Make the calls again that have failed, when all have ended."""
        ...

    def logs(self, job: Job) -> Iterable[tuple[str, str | None]]:
        """Return what there is to read of a job: titles and texts."""
        ...

    def let_go(self) -> None:
        """Keep the calls' values no longer: they live as long as their users want."""
        ...
