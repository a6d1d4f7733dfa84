"""Calls: some calls of a function and their outcomes, from before posting to the last value.

Results, iterators and futures hold them, and add the user's view.  A batch delivers
outcomes to them in the threads of `deliveries`; a rerun is a new batch of the same calls.
"""

from __future__ import annotations

import contextvars
import itertools
import math
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import ClassVar, cast

from condorpool.engine import actions
from condorpool.engine.batches import Batch, UnderWay
from condorpool.engine.chunks import Chunk, record
from condorpool.engine.counts import CallCounts
from condorpool.engine.jobs import Job
from condorpool.engine.outcomes import Outcome
from condorpool.engine.pace import Pace
from condorpool.engine.printed import CallText, Printed, by_call
from condorpool.engine.session import Session
from condorpool.runner.names import report_interval
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    JobError,
    UnsubmittedError,
)
from condorpool.values.logs import logger
from condorpool.values.text import left_by_terminal

#: Seconds for which a wait lets the callbacks of other calls delay its own.
CALLBACK_LAG = 1.0

#: Chunks whose printed text an iterator keeps.
MOST_PRINTED = 16

#: Characters of printed text that results keep, at most: the latest.
MOST_TEXT = 1 << 27

#: How many of the latest chunks say how long a call takes.
LATELY = 100


class Calls:
    """Calls, their jobs, and the errors of those that failed.

    Attributes
    ----------
    batch
        The batch that was posted last; None if none was.
    errors
        The exceptions of the failed and removed calls by call number; the first call is 0.
    removed
        How many calls were removed with their job, or taken back.
    records
        When and where chunks of calls were made, in the order in which they ended.
    printed
        What the calls of chunks printed, in the same order; of an iterator the latest only.
    is_reported
        Whether the user knows how the calls ended, or removed them.
    """

    #: Where users find the calls' result, in texts that say what they can do next; if empty,
    #: they have none.
    spelling = "result"

    def __init__(self, name: str, *, echo: bool = False, most_records: int | None = None) -> None:
        self.name = name
        self.batch: Batch | None = None
        self.errors: dict[int, BaseException] = {}
        self.removed = 0
        self.records: deque[Chunk] = deque(maxlen=most_records)
        self.printed: deque[Printed] = deque(maxlen=most_records and MOST_PRINTED)
        self._text_size = self._emptied = 0  # characters kept, and chunks whose text is not
        self.is_reported = False
        self._session: Session | None = None
        # What is printed in this context appears in the cell that made the calls.
        self._echo = contextvars.copy_context() if echo else None

    @property
    def session(self) -> Session:
        """The session in which the calls are posted.

        Raises
        ------
        UnsubmittedError
            They have not been posted.
        """
        if self._session is None:
            raise UnsubmittedError("the job has not been submitted: call its submit() first")
        return self._session

    @property
    def size(self) -> int:
        """How many calls there are."""
        raise NotImplementedError

    @property
    def ended(self) -> int:
        """How many calls have returned, failed or been removed."""
        raise NotImplementedError

    @property
    def failed(self) -> int:
        """How many calls have failed; removed ones do not count."""
        raise NotImplementedError

    def counts(self) -> CallCounts:
        """Return how many calls are in each state, as of the last `refresh`."""
        if self._session is None:
            return CallCounts(waiting=self.size)
        with self._session.changed:
            failed, removed = self.failed, self.removed
            done = self.ended - failed - removed
            now = self.batch.under_way if self.batch else UnderWay()
            waiting = self.size - self.ended - sum(now)
        return CallCounts(
            done + now.done, failed + now.failed, removed, now.running, now.held, waiting
        )

    def refresh(self) -> None:
        """Look up how far jobs are with the calls that they have taken; may wait for the disk."""
        if self.batch and not self.batch.is_done:
            self.session.state.refresh_made(self.batch.crew)

    def pace(self) -> Pace:
        """Return how quickly calls are made, as of the last `refresh`."""
        now, batch = time.time(), self.batch
        if batch is None:
            return Pace(None, (), 0, math.inf, now)
        with self.session.changed:
            ended = itertools.islice(reversed(self.records), LATELY)
            made = [(c.calls, c.seconds) for c in ended if c.seconds is not None]
            made += [(report.calls, report.seconds) for report in batch.reports]
            calls, seconds = (sum(each) for each in zip(*made, strict=True)) if made else (0, 0.0)
            running, untaken, crew = batch.running, batch.untaken, batch.crew
        silence = report_interval(crew.limit) if crew.is_resident else math.inf
        return Pace(seconds / calls if calls else None, running, untaken, silence, now)

    @property
    def posted_at(self) -> float:
        """When the calls, or those of the latest rerun, were posted, in seconds since 1970; else 0."""
        return self.batch.record.time if self.batch else 0.0

    @property
    def ended_at(self) -> float:
        """When the last call ended, in seconds since 1970; 0 as long as not all have."""
        raise NotImplementedError

    @property
    def elapsed(self) -> float:
        """Seconds from posting until now, or until the last call ended."""
        return max(0.0, (self.ended_at or time.time()) - self.posted_at) if self.posted_at else 0.0

    @property
    def is_ready(self) -> bool:
        """Whether all calls have ended, and their outcomes have arrived."""
        raise NotImplementedError

    @property
    def is_posted(self) -> bool:
        """Whether the calls were posted, or ended without need for a job."""
        return self.batch is not None or self.is_ready

    #: Whether this is one call, with a value instead of a list.
    is_single: bool = False

    #: Whether failed calls can be made again.
    can_rerun: ClassVar[bool] = False

    def rerun_at_end(self) -> None:
        """When all calls have ended, make the failed ones again before the calls count as ready."""
        raise NotImplementedError

    def mark_reported(self) -> None:
        """Note that the user knows how the calls ended."""
        self.is_reported = True

    def chunks(self) -> list[Chunk]:
        """Return when and where chunks of calls were made, in the order in which they ended."""
        with self.session.changed:
            return list(self.records)

    @property
    def was_rerun(self) -> bool:
        """Whether some calls were made again."""
        return False

    def texts(self) -> Iterator[CallText]:
        """Yield what each call printed that has ended, in call order."""
        if self._session is None:
            return iter(())
        with self._session.changed:
            printed = list(self.printed)
        return by_call(printed, made_again=self.was_rerun)

    @property
    def calls_printed(self) -> int:
        """How many calls have printed something, as far as that is kept."""
        if self.was_rerun:
            return sum(1 for _ in self.texts())
        with self.session.changed:
            return sum(len(chunk.marks) for chunk in self.printed)

    @property
    def echoes(self) -> bool:
        """Whether what calls print is shown in the notebook as they end."""
        return self._echo is not None

    def weakly(self) -> Calls:
        """Return a proxy that does not keep these calls alive; later it raises ReferenceError."""
        return cast("Calls", weakref.proxy(self))

    # -- their jobs ----------------------------------------------------------------
    def holders(self) -> list[Job]:
        """Return the jobs that make or made the calls; if none, the held jobs that block them."""
        if self.batch is None:
            return []
        self.session.state.refresh_holders(self.batch.crew)
        with self.session.changed:
            holders = [self.batch.holders[i] for i in sorted(self.batch.holders)]
            return list(dict.fromkeys(holders or self.batch.held))

    def places(self) -> list[Job]:
        """Return the `holders`; if no job has taken a call yet, the jobs that may."""
        holders = self.holders()
        if holders or self.batch is None or self.batch.is_done:
            return holders
        return self.batch.crew.jobs

    def states(self) -> set[JobState]:
        """Return the states of the calls' jobs, COMPLETED if all calls have ended.

        The caller holds the lock.
        """
        batch = self.batch
        if batch is None or not batch.pending:
            return {JobState.COMPLETED}
        jobs = [batch.holders[i] for i in batch.pending if i in batch.holders]
        states = {job.state for job in jobs}
        if len(jobs) < len(batch.pending):
            states.add(JobState.HELD if batch.is_stuck else JobState.IDLE)
        return states

    def act(self, action: str) -> int:
        """Hold, release or otherwise act on the jobs of unfinished calls; return on how many.

        "remove" also takes back the calls that wait for a job, and returns how many calls.
        """
        count = 0
        if action == "remove":
            self.mark_reported()  # the user asked for it: no notice when the calls end
        if self.batch and not self.batch.is_done:
            count = actions.act_on_batch(self.session.state, action, self.batch)
        if self.batch and action == "remove":
            self.session.deliveries.wait(CALLBACK_LAG)  # until calls taken back have ended
        return count

    def remove(self) -> int:
        """Remove all calls that have not ended; return how many."""
        return self.act("remove")

    def take_back(self) -> int:
        """Take back the calls that no job has taken yet; return how many."""
        if not self.batch or self.batch.is_done:
            return 0
        self.mark_reported()
        return actions.take_back(self.session.state, self.batch)

    # -- deliveries --------------------------------------------------------------
    def deliver(
        self, first: int, end: int, result: Outcome | JobError, job: Job | None
    ) -> Callable[[], object] | None:
        """Take the outcome of a chunk; return what to run once it counts as delivered."""
        raise NotImplementedError

    def _record(self, first: int, end: int, result: Outcome | JobError, job: Job | None) -> None:
        """Keep when and where a chunk was made."""
        chunk = record(first, end, result, job)
        with self.session.changed:
            if job:
                job.last_chunk_end = max(job.last_chunk_end, chunk.end)
            self.records.append(chunk)
            self.session.chunk_records.append(chunk)

    def _empty_earliest(self, more: int) -> None:
        """Drop the earliest texts, now that so many characters more are kept."""
        self._text_size += more
        while self._text_size > MOST_TEXT and self._emptied < len(self.printed) - 1:
            earliest = self.printed[self._emptied]
            self.printed[self._emptied] = earliest.emptied()
            self._text_size -= earliest.size
            self._emptied += 1

    def _print(self, printed: Printed) -> None:
        """Keep what the calls of a chunk printed, and print it if the user wants that."""
        with self.session.changed:
            self.printed.append(printed)
            if self.printed.maxlen is None:
                self._empty_earliest(printed.size)
            self.session.printing.add(self)
        if self._echo is None:  # an empty context counts as false
            return
        for stream, text in zip((sys.stdout, sys.stderr), printed.texts, strict=True):
            if text:
                try:
                    self._echo.run(stream.write, left_by_terminal(text))
                except Exception:  # the user may have replaced the stream; the values are safe
                    logger.exception("condorpool could not print the output of some calls")
