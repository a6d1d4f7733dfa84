"""What results hand to the display."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from condorpool import display
from condorpool.engine.batches import Batch
from condorpool.engine.chunks import Chunk
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session
from condorpool.interface.job import QueuedJob

if TYPE_CHECKING:
    from condorpool.display.source import Source


def source_of(handle: Any) -> Source:
    """Return what a display needs of a result or an iterator."""
    return _ResultSource(handle)


def show(handle: Any, kind: str | None) -> display.Display | None:
    """Show a result or an iterator from now on."""
    return display.show(source_of(handle), kind)


def html(handles: Iterable[Any], title: str = "") -> str:
    """Return HTML that shows how far results are."""
    return display.html(map(source_of, handles), title)


class _ResultSource:
    """A result or an iterator, as a `~condorpool.display.source.Source`."""

    def __init__(self, handle: Any) -> None:
        self.can_rerun = not isinstance(handle, Iterator)
        self._handle = handle
        if not self.can_rerun:
            # An iterator that its user has dropped takes no more items: a display must not keep it.
            self.hold_weakly()

    def hold_weakly(self) -> None:
        if type(self._handle) not in weakref.ProxyTypes:
            self._handle = weakref.proxy(self._handle)

    @property
    def name(self) -> str:
        return str(self._handle.name)

    @property
    def session(self) -> Session:
        return self._handle._calls.session  # type: ignore[no-any-return] # noqa: SLF001

    @property
    def batch(self) -> Batch | None:
        return self._handle._calls.batch  # type: ignore[no-any-return] # noqa: SLF001

    @property
    def calls(self) -> int:
        return int(self._handle.calls)

    @property
    def calls_ended(self) -> int:
        return int(self._handle.calls_ended)

    @property
    def calls_failed(self) -> int:
        return int(self._handle.calls_failed)

    @property
    def errors(self) -> Mapping[int, BaseException]:
        return self._handle._calls.errors  # type: ignore[no-any-return] # noqa: SLF001

    def ready(self) -> bool:
        return bool(self._handle.ready())

    def chunks(self) -> Sequence[Chunk]:
        return self._handle.chunks()  # type: ignore[no-any-return]

    def act(self, action: str) -> int:
        return int(getattr(self._handle, action)())

    def rerun_at_end(self) -> None:
        self._handle.rerun_at_end()

    def logs(self, job: Job) -> Iterator[tuple[str, str | None]]:
        queued = QueuedJob(self.session, job)
        yield "events", queued.log()
        yield "standard error", queued.stderr()
        yield "output", queued.stdout()
