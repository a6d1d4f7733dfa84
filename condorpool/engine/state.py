"""The work in one submit directory: crews, batches, and what their chunks come to."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import time

from condorpool.access.accesspoint import AccessPoint
from condorpool.engine import payload, submitdir
from condorpool.engine.batches import Batch, Cluster, Crew, JobRecord
from condorpool.engine.deliveries import Deliveries
from condorpool.engine.records import ErrorRecord
from condorpool.engine.submitdir import SubmitDir, Token
from condorpool.values.events import JobState
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobError,
    JobFailedError,
    JobRemovedError,
    TaskTimeoutError,
)
from condorpool.values.locks import Monitor

#: Seconds for which a wait bears an access point that does not answer.
PATIENCE = 600.0

#: How long an outcome may take to show up on a network file system, in seconds.
OUTCOME_LAG = 20.0

#: Why a runner is removed that no chunk is left for.
SURPLUS = "condorpool has no chunk left for this job"

# The words of CPython's faulthandler, which ends a call that cannot be interrupted.
_OVERTIME = re.compile(r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$", re.MULTILINE)


def _nobody(*_: object) -> None:
    """Take what a chunk came to when all has been delivered."""


class Work:
    """What is known of the work in one submit directory.

    ``changed`` guards crews and batches: everyone waits on it, and whoever changes
    something notifies.

    Parameters
    ----------
    lease
        Seconds for which jobs that wait stay in the queue when nobody renews it; 0 for ever.
    """

    def __init__(self, directory: SubmitDir, access_point: AccessPoint, lease: float) -> None:
        self.directory = directory
        self.access_point = access_point
        self.lease = lease
        self.changed = Monitor()
        self.deliveries = Deliveries(self.changed)
        self.batches: dict[int, Batch] = {}
        self.clusters: dict[int, tuple[Crew, Cluster]] = {}
        #: Why, and since when, access point or disk do not do their part.
        self.silent: tuple[CondorPoolError, float] | None = None
        self._late: dict[tuple[int, int], tuple[Cluster, int, float]] = {}

    @property
    def waits_for_outcomes(self) -> bool:
        """Whether jobs have ended well whose outcomes are still to show up."""
        return bool(self._late)

    def manned(self) -> list[Crew]:
        """Return the crews that have jobs in the queue, or had until just now."""
        with self.changed:
            return list(dict.fromkeys(crew for crew, _ in self.clusters.values()))

    def note_takers(self, crew: Crew) -> None:
        """Find out which chunks there are by now, and which job has which."""
        if not crew.is_resident:
            return
        with self.changed:
            for token in self.directory.tokens(crew.number):
                batch = self.batches.get(token.batch)
                if batch and batch.split(token.first) and token.job:
                    cluster, _, proc = token.job.partition(".")
                    known = self.clusters.get(int(cluster))
                    if known:
                        batch.holders[token.first] = known[1], int(proc)

    def recall(self, crew: Crew, batch: Batch | None = None) -> list[Token]:
        """Take the chunks back that no job has, of one batch or all; return what they were."""
        self.note_takers(crew)
        return [
            token
            for token in self.directory.tokens(crew.number)
            if not token.job
            and (batch is None or token.batch == batch.number)
            and self.directory.take_back(crew.number, token)
        ]

    def settle(
        self, batch: Batch, first: int, cluster: Cluster | None = None, proc: int = 0
    ) -> None:
        """Find out what a chunk came to, and deliver it.

        Without an outcome the job is to blame, if it has ended.
        """
        path = self.directory / submitdir.outcome_name(batch.number, first)
        job_id = cluster.job_id(proc) if cluster else ""
        result: payload.Report | JobError | None = payload.look_at_outcome(path, job_id)
        key = (batch.number, first)
        if result is None:
            if cluster is None:
                return
            if cluster.jobs[proc].status == 0:
                # The outcome was written; a network file system may show it later.
                *_, since = self._late.setdefault(key, (cluster, proc, time.monotonic()))
                if time.monotonic() - since < OUTCOME_LAG:
                    return
            result = self.failure(cluster, proc, batch.options.task_timeout)
        self._late.pop(key, None)
        self.finish(batch, first, result)

    def settle_late(self) -> None:
        """Look again for outcomes that a network file system may show later."""
        for (number, first), (cluster, proc, _) in list(self._late.items()):
            if number in self.batches:
                self.settle(self.batches[number], first, cluster, proc)
            else:
                del self._late[number, first]

    def finish(self, batch: Batch, first: int, result: payload.Report | JobError) -> None:
        """Have delivered what a chunk came to, once."""
        with self.changed:
            if first not in batch.pending:
                return
            made = first + result.calls if isinstance(result, payload.Report) else math.inf
            if made < batch.pending[first]:
                batch.split(int(made))  # its job has left the rest to others
            end = batch.pending.pop(first)
            batch.delivering += 1
            if isinstance(result, payload.Report):
                batch.crew.lost = 0  # its jobs do work
            if isinstance(result, JobError) or result.is_flawed:
                batch.is_flawed = not batch.streams
            if isinstance(result, JobFailedError):
                batch.failed.add(first)
            if isinstance(result, JobError):
                batch.errors.add(first)
                with contextlib.suppress(OSError):  # nobody can take it up then
                    name = submitdir.error_name(batch.number, first)
                    self.directory.record(name, ErrorRecord.of(result, end))
            batch.lane = batch.lane or self.deliveries.lane()
        # Now: the job may soon be forgotten.
        job = self.job(result.job_id)
        batch.lane.put(functools.partial(self._deliver, batch, first, end, result, job))

    def _deliver(
        self,
        batch: Batch,
        first: int,
        end: int,
        result: payload.Report | JobError,
        job: JobRecord | None,
    ) -> None:
        """Read what a chunk came to, and tell whoever asked for it."""
        after = None
        try:
            outcome = result if isinstance(result, JobError) else result.outcome(first)
            if isinstance(outcome, JobError) or outcome.errors:
                with self.changed:
                    batch.is_flawed = not batch.streams
            if batch.streams and isinstance(result, payload.Report):
                with self.changed:
                    batch.files.discard(first)
                    batch.holders.pop(first, None)
                self.directory.discard_chunks(batch.number, [first])
            after = batch.deliver(first, end, outcome, job)
            del outcome, result  # values live as long as others want, not as what comes now
        finally:
            with self.changed:
                batch.delivering -= 1
                if not batch.left:
                    batch.deliver = _nobody  # the batch may stay; a result lives as others want
                    self.changed.notify_all()
        if after:
            after()
        # Now, and not with the next event: the next call's files then get their memory.
        self.let_go(batch)

    def let_go(self, batch: Batch) -> None:
        """Forget a batch, and delete its files, if nobody will ask for either any more."""
        with self.changed:
            if not batch.is_forgettable or not self.batches.pop(batch.number, None):
                return
            if batch.crew.is_resident:
                batch.crew.batches = [other for other in batch.crew.batches if other is not batch]
        self.discard(batch)

    def failure(self, cluster: Cluster, proc: int, task_timeout: float | None = None) -> JobError:
        """Say why a job that has ended left no outcome."""
        job, job_id = cluster.jobs[proc], cluster.job_id(proc)
        if job.state is JobState.REMOVED:
            return JobRemovedError(job_id, job.reason or "somebody removed it", host=job.host)
        name = submitdir.stderr_name(job_id)
        stderr = self.directory.tail(name)
        dump = self.directory.tail(name, 1000, 1 << 16) if task_timeout else ""
        if found := _OVERTIME.search(dump):
            reason = f"a call took longer than {task_timeout:g} s, and could not be interrupted"
            where = "\n".join(dump[found.start() :].splitlines()[:12])
            return TaskTimeoutError(job_id, reason, host=job.host, stderr=where)
        reason = job.exit or job.reason or "it left the queue and nobody knows why"
        if not self.directory.path.exists():
            reason = "its submit directory was deleted meanwhile"
        hint = f"Its files are in {self.directory.path}."
        return JobFailedError(job_id, reason, host=job.host, stderr=stderr, hint=hint)

    def give_up(self, crew: Crew, error: JobError) -> None:
        """End the chunks that no job is left for; held jobs keep theirs."""
        self.recall(crew)
        for batch in list(crew.batches):
            for first in sorted(batch.pending):
                cluster, proc = batch.holders.get(first, (None, 0))
                if cluster is None or cluster.jobs[proc].state.is_final:
                    self.finish(batch, first, error)

    def discard(self, batch: Batch) -> None:
        """Delete the files of a batch."""
        self.directory.discard_chunks(batch.number, batch.files | batch.origins.keys())
        for first in batch.errors:
            (self.directory / submitdir.error_name(batch.number, first)).unlink(missing_ok=True)
        self.directory.discard_call(batch.number)

    def job(self, job_id: str) -> JobRecord | None:
        """Return what is known of a job, if it is in the queue, or has just left it."""
        cluster, _, proc = job_id.partition(".")
        known = self.clusters.get(int(cluster)) if proc else None
        return known[1].jobs[int(proc)] if known else None

    def places(self) -> list[tuple[Cluster, int]]:
        """Return the jobs that have not left the queue, those that will be made too."""
        with self.changed:
            return [
                (cluster, proc)
                for _, cluster in self.clusters.values()
                for proc, job in enumerate(cluster.jobs)
                if not job.state.is_final
            ]

    @property
    def is_busy(self) -> bool:
        """Whether there are chunks that have not come to anything."""
        with self.changed:
            return any(not batch.is_done for batch in self.batches.values())

    def check_reach(self, patience: float = PATIENCE) -> None:
        """Raise when access point or disk have not done their part for ``patience`` seconds.

        A restart takes it away for a while, and its queue is on its disk; but a
        wait for one that never comes back would have no end.
        """
        if self.silent and time.monotonic() - self.silent[1] >= patience:
            error, since = self.silent
            raise HTCondorError(
                f"{error} It has been so for {time.monotonic() - since:.0f} s. "
                "The jobs are in the queue: ask again when that is cured."
            ) from error

    def note_silence(self, error: CondorPoolError) -> None:
        """Note that access point or disk do not do their part."""
        with self.changed:
            self.silent = error, self.silent[1] if self.silent else time.monotonic()
            self.changed.notify_all()
