"""What happens to the work of a session when the HTCondor that this user has started ends.

Its jobs have ended with it, and so has its queue; the calls are in the submit directory.
Another HTCondor is started, by the first process that notices, and new jobs make the
remaining calls.  Where that is impossible, every wait says why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from condorpool.engine import rules
from condorpool.engine.batches import Batch
from condorpool.engine.jobs import Crew
from condorpool.engine.staffing import Staffing
from condorpool.engine.state import TERMINATED, SessionState, ignore
from condorpool.engine.submitdir import Token
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobFailedError,
    JobRemovedError,
    SubmitError,
)
from condorpool.values.text import plural

#: Seconds between two looks at whether the HTCondor runs.
LOOK_INTERVAL = 1.0

#: How many times as long as an attempt to start it the pause before the next one is.
PAUSE = 10.0

#: Why jobs have ended.
GONE = "its HTCondor has ended"


class Revival:
    """Notices the end of an HTCondor, and moves the work of a session to another one.

    Only the tracker's thread calls `look`.

    Attributes
    ----------
    on_change
        Called with a line for the user when its HTCondor has ended, and when another one runs.
    """

    def __init__(self, state: SessionState, staffing: Staffing) -> None:
        self.on_change: Callable[[str], object] = ignore
        self._state = state
        self._staffing = staffing
        #: The queue that the jobs are in.
        self._queue = state.access_point.queue
        self._look_at = self._retry_at = 0.0
        #: Starts another one: that takes seconds, and the tracker follows other sessions, too.
        self._starter: threading.Thread | None = None
        self._error: CondorPoolError | None = None
        #: Crews without enough jobs; for each chunk of a plain crew its batch and token.
        self._short: dict[Crew, list[tuple[Batch, Token]]] = {}

    def look(self) -> None:
        """Move the work if the HTCondor has ended, once another one runs."""
        now, point = time.monotonic(), self._state.access_point
        if point.is_over is None or now < self._look_at:
            return
        self._look_at = now + LOOK_INTERVAL
        try:
            has_ended = point.has_ended
        except OSError:  # too many open files, for example: the next look may see it
            return
        if self._starter:
            self._finish_start()
        elif self._queue != point.queue and not has_ended:
            self._error = None  # another session has started it
            self._move()
        elif not has_ended:
            if self._short:
                self._submit()
        elif not self._state.is_busy:
            self._lose()  # the next call has it started
        elif now >= self._retry_at or self._state.retries:
            self._starter = threading.Thread(
                target=self._start, name="condorpool-restart", daemon=True
            )
            self._starter.start()
            self._finish_start()

    def _finish_start(self) -> None:
        assert self._starter is not None  # noqa: S101 - see look
        self._starter.join(0.1)  # one that a person has stopped is not started
        if not self._starter.is_alive():
            self._starter = None
            self._move()

    def _start(self) -> None:
        begun = time.monotonic()
        try:
            self._state.access_point.restore()
            self._error = None
        except CondorPoolError as error:
            self._error = error
        except BaseException as error:  # noqa: BLE001 - a wait must learn of it
            self._error = HTCondorError(f"HTCondor has ended and cannot be started: {error!r}.")
        self._retry_at = time.monotonic() + PAUSE * (time.monotonic() - begun)

    def _move(self) -> None:
        """Do what is due now that another one runs, or could not be started."""
        state, error, queue = self._state, self._error, self._state.access_point.queue
        self._lose()
        if state.is_terminated:
            state.end_all(JobRemovedError("", TERMINATED))
        was_known = state.ended is not None
        with state.changed:
            state.ended, state.retries, state.tried_at = error, False, time.monotonic()
            state.troubles.pop("queue", None)
            calls = state.calls_pending
            state.changed.notify_all()
        line = ""
        if error and calls and not was_known:
            why = str(error).partition("\n")[0]
            line = f"{plural(calls, 'call')} cannot be made now: {why}"
        elif not error and queue != self._queue:
            self._queue = queue
            self._note_restart()
            with contextlib.suppress(OSError):  # then other processes take the work for lost
                state.directory.note_queue(queue)
            makes = f"; a new one makes the other {plural(calls, 'call')}" if calls else ""
            line = f"the {state.access_point.name} has ended and was started again{makes}"
        if not error:
            self._submit()
        if line:
            self.on_change(line)

    def _lose(self) -> None:
        """End the jobs whose queue is gone, and put back what they had taken."""
        state, queue = self._state, self._state.access_point.queue
        with state.changed:
            gone = [
                c for c in state.clusters.values() if c.queue == self._queue or c.queue != queue
            ]
            jobs = {job.id: job for c in gone for job in c.jobs if not job.state.is_final}
            for job in jobs.values():
                job.reason = GONE
                job.set_state(JobState.REMOVED)
            for cluster in gone:
                cluster.crew.clusters = [c for c in cluster.crew.clusters if c is not cluster]
                del state.clusters[cluster.number]
        for crew in dict.fromkeys(cluster.crew for cluster in gone):
            for batch in list(crew.batches):
                for first in list(batch.pending):
                    state.settle(batch, first)  # its event may not have been written
            if crew.is_resident:
                for token in list(state.directory.tokens(crew.number)):
                    if token.job in jobs:
                        state.put_back(jobs[token.job], token)
            chunks = {job.chunk for job in jobs.values() if job.crew is crew}
            with state.changed:
                lost = [
                    (batch, Token(batch.number, first, end, _origin(batch, first)))
                    for batch in crew.batches
                    for first, end in batch.pending.items()
                    if first in chunks
                ]
                for batch, token in lost:
                    batch.holders.pop(token.first, None)
            self._short.setdefault(crew, []).extend(lost)

    def _note_restart(self) -> None:
        """Count a restart, and end the calls during which HTCondor has ended too often."""
        state = self._state
        with state.changed:
            crews = dict.fromkeys(b.crew for b in state.batches.values() if b.pending)
            for crew in crews:
                crew.restarts += 1
                self._short.setdefault(crew, [])
        for crew in crews:
            if crew.restarts > rules.MAX_RESTARTS:
                why = f"HTCondor has ended {crew.restarts} times, and no call has ended meanwhile"
                state.give_up(crew, JobFailedError("", why))

    def _submit(self) -> None:
        """Submit the jobs that crews lack."""
        for crew, chunks in list(self._short.items()):
            try:
                if crew.is_resident:
                    self._staffing.submit_missing_runners(crew)
                for batch in dict.fromkeys(batch for batch, _ in chunks):
                    tokens = [t for b, t in chunks if b is batch and t.first in batch.pending]
                    if tokens:
                        self._staffing.submit_plain(crew, batch, tokens)
            except SubmitError as error:
                self._state.give_up(crew, JobFailedError("", str(error)))
            except HTCondorError:
                return  # it has ended again
            del self._short[crew]


def _origin(batch: Batch, first: int) -> int:
    """Return the first call of the file with the arguments of a chunk."""
    return max((origin for origin in batch.origins if origin <= first), default=first)
