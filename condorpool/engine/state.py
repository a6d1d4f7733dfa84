"""The state of a session: its batches and jobs, and how chunks finish.

The lock rule
-------------
`SessionState.changed` is the one lock of a session.  It guards

* ``batches``, ``clusters``, ``troubles``, ``ended`` and ``is_terminated`` here, and
* every attribute of each `Batch`, `Crew`, `Cluster` and `Job`.

They are written by

* the tracker's thread: jobs and clusters, from the event log and the queue; finished
  chunks; which job holds which chunk; batches that are done;
* user threads: new batches, crews and clusters, and the user's actions on jobs;
* delivery threads: deliveries, and when a job's last chunk ended.

Each of them holds the lock where it writes, and notifies when waits may be over.  Reading
one attribute needs no lock; reading several that belong together, or iterating, does.

Never touch the disk or HTCondor with the lock held: a cell that waits needs it, and a
network file system or an access point may take minutes.  So list a folder first, then
take the lock and check that the listing is still current (`SessionState.refresh_holders`).

With ``CONDORPOOL_DEBUG_LOCKS`` set, a write without the lock raises, and so does work on the
disk, the network or HTCondor with it (`values.guards`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import re
import time
from collections.abc import Callable

from condorpool.access.accesspoint import AccessPoint
from condorpool.engine import outcomes, room, submitdir
from condorpool.engine.batches import Batch, Made
from condorpool.engine.deliveries import Deliveries
from condorpool.engine.jobs import Cluster, Crew, Job
from condorpool.engine.records import ErrorRecord
from condorpool.engine.submitdir import SubmitDir, Token
from condorpool.runner.outcomes import words_of
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobError,
    JobFailedError,
    JobRemovedError,
    SubmitError,
    TaskTimeoutError,
)
from condorpool.values.guards import guarded
from condorpool.values.locks import Monitor
from condorpool.values.logs import logger
from condorpool.values.text import plural

#: Seconds for which a wait tolerates an access point that does not answer.
PATIENCE = 600.0

#: Seconds, at least, between two looks at what the runners of a crew have reported.
LOOK_INTERVAL = 0.5

#: Seconds that an outcome may take to appear on a network file system.
OUTCOME_LAG = 20.0

# The words of CPython's faulthandler, which ends a call that cannot be interrupted.
_OVERTIME = re.compile(r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$", re.MULTILINE)


#: Seconds between two tries to read what could not be read.
READ_INTERVAL = 1.0

#: Why calls of a pool that was terminated have no result.
TERMINATED = "the condorpool Pool was terminated"


def ignore(*_: object) -> None:
    """Replace a batch's ``deliver`` once nothing more is delivered."""


@guarded(by="changed")
class SessionState:
    """The batches and jobs of one session.

    Parameters
    ----------
    lease
        Seconds for which waiting jobs stay in the queue without renewal; 0 for no limit.
    """

    def __init__(self, directory: SubmitDir, access_point: AccessPoint, lease: float) -> None:
        self.directory = directory
        self.access_point = access_point
        self.lease = lease
        #: Guards what the lock rule above says.
        self.changed = Monitor()
        self.deliveries = Deliveries(self.changed)
        self.batches: dict[int, Batch] = {}
        self.clusters: dict[int, Cluster] = {}
        #: What keeps results from arriving, and since when, by its kind: "queue" while the access
        #: point does not answer, "disk", "reading".
        self.troubles: dict[str, tuple[CondorPoolError, float]] = {}
        #: Why HTCondor, which was started here, has ended and cannot be started again.
        self.ended: CondorPoolError | None = None
        #: When that was last tried, and whether to try it again at once.
        self.tried_at, self.retries = -math.inf, False
        self.is_terminated = False
        #: Chunks whose jobs exited with 0 but whose outcomes are not visible, and since when.
        self._late: dict[tuple[int, int], tuple[Job, float]] = {}
        #: Damaged outcomes whose job was not known yet.
        self._nameless: set[tuple[int, int]] = set()
        #: What could not be read for lack of memory, descriptors or a disk, and is tried again.
        self._unread: dict[tuple[int, int], Callable[[], object]] = {}
        self._read_again_at = 0.0
        self._times_put_back = 0  # a listing of tokens from before the last time is stale

    @property
    def waits_for_outcomes(self) -> bool:
        """Whether outcomes of jobs that have ended are not visible yet, or could not be read."""
        return bool(self._late or self._unread)

    @property
    def calls_pending(self) -> int:
        """How many calls have not ended."""
        return sum(batch.calls_pending for batch in list(self.batches.values()))

    @property
    def active_crews(self) -> list[Crew]:
        """The crews that have jobs in the queue, or had until just now."""
        with self.changed:
            return list(dict.fromkeys(cluster.crew for cluster in self.clusters.values()))

    @property
    def live_jobs(self) -> list[Job]:
        """The jobs that are in the queue, and those that HTCondor has not made yet."""
        with self.changed:
            jobs = (job for cluster in self.clusters.values() for job in cluster.jobs)
            return [job for job in jobs if not job.state.is_final]

    @property
    def is_busy(self) -> bool:
        """Whether there are chunks that have not finished."""
        with self.changed:
            return any(not batch.is_done for batch in self.batches.values())

    def job(self, job_id: str) -> Job | None:
        """Return the job with this id, if it is in the queue or has just left it."""
        cluster, _, proc = job_id.partition(".")
        known = self.clusters.get(int(cluster)) if proc else None
        return known.jobs[int(proc)] if known and int(proc) < len(known.jobs) else None

    # -- which job holds which chunk -----------------------------------------------
    def refresh_holders(self, crew: Crew) -> None:
        """Look up which chunks have been split, and which job holds which chunk."""
        if not crew.is_resident:
            return
        is_current = False
        while not is_current:
            times = self._times_put_back
            tokens = list(self.directory.tokens(crew.number))
            with self.changed:
                # If a chunk was put back since, the listing may name its former holder:
                # list again.
                is_current = times == self._times_put_back
                for token in tokens if is_current else ():
                    batch = self.batches.get(token.batch)
                    if batch and batch.split(token.first) and (job := self.job(token.job)):
                        batch.holders[token.first] = job

    def refresh_made(self, crew: Crew) -> None:
        """Look up how far the runners are with their chunks, unless that was done a moment ago."""
        now = time.monotonic()
        if not crew.is_resident or now < crew.looked_at + LOOK_INTERVAL:
            return
        with self.changed:
            crew.looked_at, times = now, self._times_put_back
        taken = list(self.directory.taken(crew.number))
        with self.changed:
            if times != self._times_put_back:
                return  # as in `refresh_holders`; but the next look is early enough
            for batch in crew.batches:
                batch.made = {}
            for each in taken:
                first, batch_number = each.token.first, each.token.batch
                known, job = self.batches.get(batch_number), self.job(each.token.job)
                if not known or not job or not known.split(first):
                    continue
                known.holders[first] = job
                # What it reported before it was evicted does not count: it begins again.
                made = each.made, each.failed, each.seconds
                if each.reported < job.began:
                    made = 0, 0, 0.0
                known.made[first] = Made(job, job.attempts, *made, max(each.since, job.began))

    def put_back(self, job: Job, token: Token) -> None:
        """Put back a chunk that this job has taken, so that another can take it."""
        batch = self.batches.get(token.batch)
        if not batch:
            return
        self.directory.put_back(job.crew.number, token)
        with self.changed:
            self._times_put_back += 1
            if batch.holders.get(token.first) is job:  # another job may hold it by now
                del batch.holders[token.first]

    def recall(self, crew: Crew, batch: Batch | None = None) -> list[Token]:
        """Take back the chunks that no job has taken, of one batch or all; return their tokens."""
        self.refresh_holders(crew)
        # The last first, since runners take the first first: so none takes a later chunk
        # after an earlier one was taken back.
        back = [
            token
            for token in sorted(self.directory.tokens(crew.number), reverse=True)
            if not token.job
            and (batch is None or token.batch == batch.number)
            and self.directory.take_back(crew.number, token)
        ]
        return back[::-1]

    # -- chunks that finish --------------------------------------------------------
    def settle(self, batch: Batch, first: int, job: Job | None = None) -> None:
        """Finish a chunk if it has an outcome, or if ``job``, which held it, has ended."""
        key = (batch.number, first)
        path = self.directory / submitdir.outcome_name(*key)
        holder = job or batch.holders.get(first)
        result: outcomes.Report | JobError | None
        try:
            most = end - first if (end := batch.pending.get(first)) else None
            result = outcomes.look_at(path, holder.id if holder else "", most)
        except (OSError, MemoryError) as error:
            self._read_later(key, functools.partial(self.settle, batch, first, job), error)
            return
        self._note_read(key)
        if isinstance(result, JobError):
            if batch.crew.is_resident:
                self._find_parts(batch)  # what its job has left to others is not damaged
                if not holder and not self._stays_nameless(batch, first):
                    return
            else:
                result = None  # HTCondor may be in the middle of writing it
        if result is None:
            if job is None:
                return
            if job.exit_code == 0:
                # The outcome was written, but a network file system may show it later.
                with self.changed:
                    _, since = self._late.setdefault(key, (job, time.monotonic()))
                if time.monotonic() - since < OUTCOME_LAG:
                    return
            result = self.failure(job, batch.options.task_timeout)
        if key in self._late:
            with self.changed:
                self._late.pop(key, None)
        self.finish(batch, first, result)

    def _stays_nameless(self, batch: Batch, first: int) -> bool:
        """Return whether a damaged outcome must be settled without its job; else settle it with it.

        The event that names the job comes a moment later; the second look does without.
        """
        key = (batch.number, first)
        if first in batch.holders:
            self.settle(batch, first)
            return False
        with self.changed:
            is_known = key in self._nameless
            self._nameless.add(key)
        return is_known

    def _find_parts(self, batch: Batch) -> None:
        """Look up which chunks of a batch have been split, also those whose parts have ended."""
        self.refresh_holders(batch.crew)
        found = self.directory.outcomes(batch.number)
        with self.changed:
            for first in sorted(found):
                batch.split(first)

    def _read_later(
        self, key: tuple[int, int], again: Callable[[], object], error: Exception
    ) -> None:
        """Have an outcome read again that needs what there is not now: memory, descriptors, a disk."""
        number = getattr(error, "errno", errno.ENOMEM)
        cure = submitdir.LACKS.get(number, "Check the disk")
        said = os.strerror(number) if number else words_of(error)
        name = self.directory / submitdir.outcome_name(*key)
        why = f"a result cannot be read: {said}. {cure}: {name} is read again."
        with self.changed:
            self._unread[key] = again
            self._read_again_at = time.monotonic() + READ_INTERVAL
        self.note_trouble("reading", CondorPoolError(why))

    def _note_read(self, key: tuple[int, int]) -> None:
        """Note that an outcome could be read."""
        if key in self._unread:
            with self.changed:
                self._unread.pop(key, None)
            if not self._unread:
                self.note_trouble("reading", None)

    def settle_late(self) -> None:
        """Look again for outcomes that could not be read, or that a network file system may delay."""
        if self._unread and time.monotonic() > self._read_again_at:
            with self.changed:
                unread, self._unread = self._unread, dict.fromkeys(self._unread, ignore)
            for again in unread.values():
                again()
        for (number, first), (job, _) in list(self._late.items()):
            if number in self.batches:
                self.settle(self.batches[number], first, job)
            else:
                with self.changed:
                    del self._late[number, first]

    def finish(self, batch: Batch, first: int, result: outcomes.Report | JobError) -> int:
        """Have the outcome of a chunk delivered, once; return how many calls it ends.

        Later calls for it do nothing.
        """
        with self.changed:
            # It may be found by its event, by the end of its job, by a look at the disk,
            # or by a user's thread that takes it back.
            if first not in batch.pending:
                return 0
            made = first + result.calls if isinstance(result, outcomes.Report) else math.inf
            if made < batch.pending[first]:
                batch.split(int(made))  # its job has left the rest to others
            end = batch.pending.pop(first)
            batch.delivering += 1
            if isinstance(result, outcomes.Report):
                batch.crew.replaced = batch.crew.restarts = 0  # its jobs work
                batch.crew.has_worked = True
            if isinstance(result, JobError) or result.has_failures:
                batch.has_failures = not batch.streams
            if isinstance(result, JobFailedError):
                batch.failed.add(first)
            if isinstance(result, JobError):
                batch.errors.add(first)
            batch.lane = lane = batch.lane or self.deliveries.lane()
            # Not later: the cluster may be forgotten before the delivery.
            job = self.job(result.job_id)
        if isinstance(result, JobError):
            # Not later: after the delivery the batch and its files may be deleted.
            with contextlib.suppress(OSError):  # then another process cannot read the error
                name = submitdir.error_name(batch.number, first)
                self.directory.record(name, ErrorRecord.of(result, end))
        lane.put(functools.partial(self._deliver, batch, first, end, result, job))
        return end - first

    def _deliver(
        self,
        batch: Batch,
        first: int,
        end: int,
        result: outcomes.Report | JobError,
        job: Job | None,
    ) -> None:
        """Read an outcome and hand it to its calls."""
        key, after = (batch.number, first), None
        try:
            outcome = result if isinstance(result, JobError) else result.outcome(first)
        except (OSError, MemoryError) as error:
            deliver = functools.partial(self._deliver, batch, first, end, result, job)
            lane = batch.lane or self.deliveries.lane()
            self._read_later(key, functools.partial(lane.put, deliver), error)
            return
        self._note_read(key)
        try:
            if isinstance(outcome, JobError) or outcome.errors:
                with self.changed:
                    batch.has_failures = not batch.streams
                    if isinstance(outcome, JobFailedError):
                        batch.failed.add(first)
            if batch.streams and not isinstance(outcome, JobError):
                with self.changed:
                    batch.files.discard(first)
                    batch.holders.pop(first, None)
                self.directory.discard_chunks(batch.number, [first])
            after = batch.deliver(first, end, outcome, job)
            del outcome, result  # else the values would live until this method returns
        finally:
            with self.changed:
                batch.delivering -= 1
                if not batch.undelivered:
                    batch.deliver = ignore  # the batch may outlive its calls: let them go
                    self.changed.notify_all()
        if after:
            after()
        # Now, not at the next event: the memory of these files is free for the next call's.
        self.forget_if_possible(batch)

    def forget_if_possible(self, batch: Batch) -> None:
        """Forget a batch and delete its files, if neither will be needed again."""
        with self.changed:
            # The tracker and a delivery may both come here: only one of them gets the batch.
            if not batch.is_forgettable or not self.batches.pop(batch.number, None):
                return
            if batch.crew.is_resident:
                batch.crew.batches = [other for other in batch.crew.batches if other is not batch]
        self.discard(batch)

    def discard(self, batch: Batch) -> None:
        """Delete the files of a batch."""
        self.directory.discard_chunks(batch.number, batch.files | batch.origins.keys())
        for first in batch.errors:
            self.directory.discard(submitdir.error_name(batch.number, first))
        self.directory.discard_call(batch.number)

    # -- what went wrong -----------------------------------------------------------
    def failure(self, job: Job, task_timeout: float | None = None) -> JobError:
        """Return the error that says why a job that has ended wrote no outcome."""
        if job.state is JobState.REMOVED:
            return JobRemovedError(job.id, job.reason or "no reason was given", host=job.host)
        name = submitdir.stderr_name(job.id)
        stderr = self.directory.tail(name)
        dump = self.directory.tail(name, 1000, 1 << 16) if task_timeout else ""
        if found := _OVERTIME.search(dump):
            reason = f"a call took longer than {task_timeout:g} s, and could not be interrupted"
            where = "\n".join(dump[found.start() :].splitlines()[:12])
            return TaskTimeoutError(job.id, reason, host=job.host, stderr=where)
        if displaced := self.directory.displaced:
            return self.displaced(displaced, job)
        reason = job.exit or job.reason or "it left the queue for an unknown reason"
        hint = f"Its files are in {self.directory.path}."
        return JobFailedError(job.id, reason, host=job.host, stderr=stderr, hint=hint)

    @staticmethod
    def displaced(what: str, job: Job | None = None) -> JobFailedError:
        """Return the error of calls whose submit directory was deleted or moved, as ``what`` says."""
        hint = "Make these calls again in a new Pool, in a folder that only you can change."
        reason = f"its submit directory {what}"
        return JobFailedError(
            job.id if job else "", reason, host=job.host if job else "", hint=hint
        )

    def look_at_room(self, *, probes: bool = False) -> CondorPoolError | None:
        """Return why jobs cannot write their results, if they cannot; note it."""
        error = room.trouble(
            self.directory, self._residents, probes=probes or "disk" in self.troubles
        )
        self.note_trouble("disk", error)
        return error

    @property
    def _residents(self) -> list[int]:
        return [crew.number for crew in self.active_crews if crew.is_resident]

    def check_room(self) -> None:
        """Raise if jobs could not write the results of new calls."""
        self.directory.check_place()
        if error := room.trouble(self.directory, self._residents):
            raise SubmitError(f"{error} Nothing was submitted.")

    def give_up(self, crew: Crew, error: JobError) -> None:
        """Finish with an error the chunks for which no job remains; held jobs keep theirs."""
        self.recall(crew)
        with self.changed:
            lost = [
                (batch, first)
                for batch in crew.batches
                for first in sorted(batch.pending)
                if first not in batch.holders or batch.holders[first].state.is_final
            ]
        for batch, first in lost:
            self.finish(batch, first, error)

    def end_all(self, error: JobError) -> None:
        """Finish all chunks that have not finished with an error."""
        with self.changed:
            rest = [(batch, first) for batch in self.batches.values() for first in batch.pending]
        for batch, first in rest:
            self.finish(batch, first, error)

    def check_reach(self, since: float = -math.inf, patience: float = PATIENCE) -> None:
        """Raise if something has kept results from arriving for ``patience`` seconds.

        An access point that restarts keeps its queue, and there may be room on the disk again,
        so a wait continues meanwhile; but it must end if that lasts.  It ends at once if HTCondor was
        started here, has ended, and cannot be started again: that was tried after ``since``,
        when the wait began.  Called with the lock held.
        """
        calls = self.calls_pending if self.ended else 0
        if calls and self.tried_at < since:
            self.retries = True
        elif calls:
            why, line, logs = str(self.ended).partition("\n")
            raise HTCondorError(
                f"{plural(calls, 'call')} cannot be made now: {why}\n"
                f"Nothing is lost: they are kept in {self.directory.path}, and continue when "
                "HTCondor runs again. Then wait for them once more, or resume them in another "
                f"process with condorpool.attach().{line}{logs}"
            ) from self.ended
        for kind, (error, begun) in list(self.troubles.items()):
            if time.monotonic() - begun >= patience:
                lasted = f"{error} This has lasted {time.monotonic() - begun:.0f} s."
                if kind != "queue":
                    raise CondorPoolError(f"{lasted} Then call get() again.") from error
                raise HTCondorError(
                    f"{lasted} The jobs are still in the queue: try again when it answers."
                ) from error

    def note_trouble(self, kind: str, error: CondorPoolError | None) -> None:
        """Note what keeps results from arriving, or that it no longer does."""
        known = self.troubles.get(kind)
        if not known and not error:
            return
        if error and not known and kind != "queue":
            logger.warning("condorpool: %s", error)
        with self.changed:
            if error:
                self.troubles[kind] = error, known[1] if known else time.monotonic()
            else:
                self.troubles.pop(kind, None)
            self.changed.notify_all()
