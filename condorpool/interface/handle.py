"""Handles: what users hold of some calls, be it a result or an iterator."""

from __future__ import annotations

from typing import Any

from condorpool import display
from condorpool.display.timeline import calls_dataframe, dataframe, timeline
from condorpool.engine.calls import Calls
from condorpool.engine.chunks import Chunk
from condorpool.engine.counts import CallCounts
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session
from condorpool.interface.job import Jobs, QueuedJob
from condorpool.interface.options import checks
from condorpool.interface.options.keywords import OnHold, Progress
from condorpool.interface.waiting import Waiting
from condorpool.values.text import duration


def not_stopping(error: BaseException) -> BaseException:
    """Return an exception that iterators and futures may raise.

    StopIteration would end them as if there were no more; as in a generator (PEP 479) it
    becomes the cause of a RuntimeError.
    """
    if not isinstance(error, StopIteration):
        return error
    stopped = RuntimeError("a call raised StopIteration")
    stopped.__cause__ = error
    return stopped


class Handle(Jobs):
    """What users hold of some calls: shows how far they are, and acts on their jobs."""

    _calls: Calls

    def __init__(self, calls: Calls, on_hold: OnHold | None) -> None:
        self._calls = calls
        self._waiting = Waiting(calls, on_hold)
        self._progress: Progress | None = None

    @property
    def _spelling(self) -> str:
        return self._calls.spelling

    @property
    def name(self) -> str:
        """The name of the function, or the ``name`` that was given to the calls."""
        return self._calls.name

    @property
    def calls(self) -> int:
        """How many calls there are; for an iterator, how many items it has taken so far."""
        return self._calls.size

    @property
    def calls_ended(self) -> int:
        """How many calls have returned, failed or been removed, and their outcomes have arrived."""
        return self._calls.ended

    @property
    def calls_failed(self) -> int:
        """How many calls have failed: raised, or lost with their job."""
        return self._calls.failed

    @property
    def calls_removed(self) -> int:
        """How many calls were removed with their job, or taken back."""
        return self._calls.removed

    def counts(self) -> CallCounts:
        """Return how many calls are done, failed, removed, running, held and waiting.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.map_async(abs, [-1, 2])
        ...     result.wait()
        ...     print(result.counts())
        2 done
        """
        self._calls.refresh()
        return self._calls.counts()

    @property
    def elapsed(self) -> float:
        """Seconds since the calls were submitted; until the last one ended, once all have."""
        return self._calls.elapsed

    def ready(self) -> bool:
        """Return whether all calls have ended."""
        return self._calls.is_ready

    def show(self, progress: Progress | None = "auto") -> None:
        """Show how the calls proceed, as the ``progress`` of `Pool` says."""
        self._progress = checks.one_of("progress", progress, Progress, None)
        if not self.ready():
            self._waiting.display = display.show(self._to_show(), progress)

    def _to_show(self) -> Calls:
        """Return the calls as a display gets them."""
        return self._calls

    def chunks(self) -> list[Chunk]:
        """Return when, where and with how much memory calls were made.

        There is one entry for the calls that a job took at a time (``chunksize``), in the
        order in which they ended.  Calls that were made again have two.  An iterator has the
        latest 10,000.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.map_async(abs, range(6), chunksize=2)
        ...     result.wait()
        ...     sorted((chunk.first, chunk.calls) for chunk in result.chunks())
        [(0, 2), (2, 2), (4, 2)]
        """
        return self._calls.chunks()

    def printed(self) -> dict[int, str]:
        r"""Return what each call printed that has ended, by its number; the first call is 0.

        A text is the call's standard output, then its standard error.  Of the calls that a job
        took at a time (``chunksize``) the last MiB of each is kept, and of all calls the last
        128 MiB; where more was printed, a text begins with a line that says how many bytes are
        missing.  Calls that printed nothing are not in it, and an iterator has the latest calls
        only.

        Examples
        --------
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.map_async(print, "abc")
        ...     result.wait()
        ...     result.printed()
        {0: 'a\n', 1: 'b\n', 2: 'c\n'}
        """
        return {text.number: text.text for text in self._calls.texts()}

    def to_dataframe(self, *, calls: bool = False) -> Any:
        """Return the entries of `chunks` as a pandas DataFrame, with a row for each.

        The column ``seconds_per_call`` is their mean.

        Parameters
        ----------
        calls
            Return a row for each call that has ended instead: its number, the seconds that it took,
            whether it failed, its job and its host.  Calls of less than a millisecond are not
            measured one by one: each has the mean of those that its job took with it.

        Raises
        ------
        ModuleNotFoundError
            pandas is not installed.

        Examples
        --------
        >>> import time
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.map_async(time.sleep, [0.1, 0.5, 0.1])
        ...     result.wait()
        ...     table = result.to_dataframe(calls=True)
        >>> table.seconds.round(1).tolist(), int(table.seconds.idxmax())
        ([0.1, 0.5, 0.1], 1)
        """
        chunks = self.chunks()
        return calls_dataframe(chunks, self._calls.errors) if calls else dataframe(chunks)

    def timeline(self, ax: Any = None) -> Any:
        """Plot when and where calls were made: one bar for each entry of `chunks`.

        Parameters
        ----------
        ax
            The matplotlib axes to draw into; by default new ones.

        Returns
        -------
        Axes
            The axes; without matplotlib a picture that notebooks show, and whose
            ``str()`` is SVG.
        """
        return timeline(self.chunks(), ax, self._calls.posted_at)

    @property
    def jobs(self) -> list[QueuedJob]:
        """The jobs that make or made the calls, or are held; a call that waits for a job has none."""
        return [QueuedJob(self._session, place) for place in self._calls.holders()]

    def remove(self) -> int:
        """Remove the jobs that make the calls, and take back calls that wait.

        Returns how many calls that removes; those that have ended stay as they are.  An iterator
        takes no more items.

        Examples
        --------
        >>> import time
        >>> from condorpool import Pool
        >>> with Pool() as pool:
        ...     result = pool.map_async(time.sleep, [600] * 40)
        ...     result.remove()
        40
        """
        return super().remove()

    def take_back(self) -> int:
        """Take back calls that no job makes yet; the others continue.

        They raise `JobRemovedError`.  An iterator takes no more items.  Returns how many calls
        were taken back.
        """
        return self._calls.take_back()

    @property
    def _session(self) -> Session:  # type: ignore[override]
        return self._calls.session

    def _jobs(self) -> list[Job]:
        return self._calls.places()

    def _act(self, action: str) -> int:
        return self._calls.remove() if action == "remove" else self._calls.act(action)

    def _repr_html_(self) -> str:
        return display.html([self._calls])

    def __repr__(self) -> str:
        counts = self._calls.counts()
        return f"<{type(self).__name__}: {counts.summary}, {duration(self.elapsed)}>"


def spell(handle: Handle, spelling: str) -> None:
    """Set what texts call a result: where users find it."""
    handle._calls.spelling = spelling  # noqa: SLF001 - a public name would be offered by the Tab key
