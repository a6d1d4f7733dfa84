"""A session: one submit directory, the access point it submits to, and its batches."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.eventlog import EventLog
from condorpool.engine import description, payload, submitdir
from condorpool.engine.batch import Batch, Deliver
from condorpool.engine.submitdir import SubmitDir
from condorpool.values.events import STATE_OF_STATUS, JobEvent, JobState
from condorpool.values.exceptions import (
    HTCondorError,
    JobError,
    JobFailedError,
    JobRemovedError,
)

logger = logging.getLogger("condorpool")

#: Jobs of a map that are in the queue at once, at least, when the user sets no limit.
#: Ten times as many keep the access point, and all who ask it, waiting for a second.
QUEUE_LIMIT = 1_000

#: Seconds from the event that a job has ended until its slot takes another.
SHADOW_EXIT = 0.03

#: Seconds for which a wait bears an access point that does not answer.
PATIENCE = 600.0

#: How long an outcome may take to show up on a network file system, in seconds.
OUTCOME_LAG = 20.0


@dataclass(frozen=True)
class JobOptions:
    """How the jobs of one batch are described and what becomes of them."""

    submitkwargs: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    queue_limit: int = QUEUE_LIMIT
    linger: float = 0.0
    killstats: tuple[str, ...] = ("Held", "Suspended")
    cleanup: bool = True
    cleanfailed: bool = False
    cleanupfiles: tuple[str, ...] = ()


class Session:
    """What one pool has in one submit directory.

    ``changed`` guards all batches.  Only the tracker's thread calls `pump` and
    `reconcile`; everyone else posts, acts, reads, or waits on ``changed``.
    """

    def __init__(self, base: Path, access_point: AccessPoint) -> None:
        self.base = base
        self.access_point = access_point
        self.directory = SubmitDir.create(base)
        self.changed = threading.Condition()
        self.batches: dict[int, Batch] = {}
        self.silent: tuple[HTCondorError, float] | None = None
        self._numbers = itertools.count(1)
        self._early: list[JobEvent] = []
        self._late: dict[tuple[int, int], float] = {}
        self._log = EventLog(self.directory.log)
        self._closed = False
        self._last_end = -math.inf

    # -- posting ------------------------------------------------------------
    def describe(self, number: int, size: int, name: str, options: JobOptions) -> dict[str, str]:
        """Return what HTCondor would get for a batch of this size."""
        memory = self.access_point.memory
        return description.build(
            directory=self.directory.path,
            batch=number,
            batch_name=name,
            run=self.directory.run,
            python=options.python,
            queue_limit=max(1, min(size, options.queue_limit)),
            linger=options.linger if self.access_point.keeps_claims else 0.0,
            defaults={"request_memory": str(memory)} if memory else {},
            submitkwargs=options.submitkwargs,
        )

    def post(
        self,
        call: payload.Call,
        chunks: Iterable[Sequence[Any]],
        deliver: Deliver,
        options: JobOptions,
    ) -> Batch:
        """Write the payload of a batch, submit its jobs and follow them."""
        number = next(self._numbers)
        try:
            with self.directory.explained():
                size = self._write(number, call, chunks, options)
            submit = self.describe(number, size, payload.name_of(call.func), options)
            batch = Batch(
                number,
                size,
                int(submit["max_materialize"]),
                deliver,
                killstats=options.killstats,
                cleanup=options.cleanup,
                cleanfailed=options.cleanfailed,
                cleanupfiles=options.cleanupfiles,
            )
            # A slot kept for the next call is only looked at when jobs come in, and
            # it takes its last job's shadow this long to let go of it: jobs that
            # come earlier wait up to 8 s for a slot that stands ready.
            time.sleep(max(0.0, self._last_end + SHADOW_EXIT - time.monotonic()))
            batch.cluster = self.access_point.submit(
                submit, [{"chunk": str(index)} for index in range(size)]
            )
        except BaseException:
            self.directory.discard_batch(number)
            raise
        with self.changed:
            self.batches[batch.cluster] = batch
        self.access_point.hurry(batch.cluster)
        return batch

    def _write(
        self,
        number: int,
        call: payload.Call,
        chunks: Iterable[Sequence[Any]],
        options: JobOptions,
    ) -> int:
        sends = description.sends_environment(options.submitkwargs)
        environment = payload.environment_to_send() if sends else {}
        path = self.directory / submitdir.call_name(number)
        payload.write_call(path, call, environment, self.base)
        first = size = 0
        for size, items in enumerate(chunks, 1):
            path = self.directory / submitdir.chunk_name(number, size - 1)
            payload.write_chunk(path, items, first)
            first += len(items)
        return size

    # -- following: the tracker's thread ---------------------------------------
    def pump(self) -> None:
        """Take in what the event log says since the last time."""
        ended: list[tuple[Batch, int]] = []
        with self.changed:
            if self._closed:
                return
            events = list(itertools.chain(self._early, self._log.new_events()))
            self._early = []
            for event in events:
                batch = self.batches.get(event.cluster)
                if batch is None:
                    # The access point may be quicker than submit() returns.
                    self._early.append(event)
                    continue
                ended.extend((batch, index) for index in self._take(batch, event))
        late = [(self.batches[c], i) for c, i in self._late if c in self.batches]
        if ended:
            self._last_end = time.monotonic()
        for batch, index in [*ended, *late]:
            self._settle(batch, index)
        if events or late:
            with self.changed:
                self.changed.notify_all()

    @staticmethod
    def _take(batch: Batch, event: JobEvent) -> list[int]:
        """Apply an event; return the chunks whose jobs it ended."""
        if event.kind == "CLUSTER_REMOVE":
            # The jobs that the factory had not made yet leave no event of their own.
            rest = [i for i in batch.pending if batch.jobs[i].state is JobState.UNMATERIALIZED]
            for index in rest:
                batch.jobs[index].reason = "it was removed before it was in the queue"
                batch.set_state(index, JobState.REMOVED)
            return rest
        batch.apply(event)
        index = event.proc
        return [index] if index in batch.pending and batch.jobs[index].state.is_final else []

    def _settle(self, batch: Batch, index: int) -> None:
        """Find out what a chunk came to whose job has ended, and deliver it."""
        result: payload.Outcome | JobError | None
        result = payload.read_outcome(self.directory / submitdir.outcome_name(batch.number, index))
        if result is None:
            job, key = batch.jobs[index], (batch.cluster, index)
            if job.exit.endswith("code 0"):
                # The outcome was written; a network file system may show it later.
                since = self._late.setdefault(key, time.monotonic())
                if time.monotonic() - since < OUTCOME_LAG:
                    return
            result = self._failure(batch, index)
        self._late.pop((batch.cluster, index), None)
        with self.changed:
            if index not in batch.pending:
                return
            batch.pending.discard(index)
            if isinstance(result, JobFailedError):
                batch.failed.add(index)
        batch.deliver(index, result)

    def _failure(self, batch: Batch, index: int) -> JobError:
        job, job_id = batch.jobs[index], batch.job_id(index)
        if job.state is JobState.REMOVED:
            return JobRemovedError(job_id, job.reason or "somebody removed it", host=job.host)
        stderr = self.directory.tail(submitdir.stderr_name(batch.number, index))
        hint = (
            f"Its files are in {self.directory.path}."
            if batch.cleanup and not batch.cleanfailed
            else ""
        )
        reason = job.exit or job.reason or "it left the queue and nobody knows why"
        return JobFailedError(job_id, reason, host=job.host, stderr=stderr, hint=hint)

    def reconcile(self) -> None:
        """Compare with the queue: find jobs that ended, or were held, without an event."""
        with self.changed:
            open_batches = [batch for batch in self.batches.values() if batch.pending]
        for batch in open_batches:
            wanted = ["ProcId", "JobStatus", "HoldReason", "HoldReasonCode", "HoldReasonSubCode"]
            try:
                queue = self.access_point.query(f"ClusterId == {batch.cluster}", wanted)
            except HTCondorError as error:
                # The access point may be restarting; its queue is on its disk.
                with self.changed:
                    since = self.silent[1] if self.silent else time.monotonic()
                    self.silent = error, since
                    self.changed.notify_all()
                return
            with self.changed:
                self.silent = None
                lost = self._compare(batch, {int(ad["ProcId"]): ad for ad in queue})
            for index in lost:
                self._settle(batch, index)
            with self.changed:
                self.changed.notify_all()

    @staticmethod
    def _compare(batch: Batch, queue: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """Correct what the events did not tell; return the chunks whose jobs are gone."""
        lost = []
        for index in batch.pending:
            job, ad = batch.jobs[index], queue.get(index)
            if ad is not None:
                job.missed = 0
                state = STATE_OF_STATUS[int(ad["JobStatus"])]
                if state is JobState.HELD and job.state is not JobState.HELD:
                    batch.note_hold(index, ad)
                if not state.is_final:
                    batch.set_state(index, state)
            elif job.state is not JobState.UNMATERIALIZED or not queue:
                # An event may be on its way: gone twice is gone.
                job.missed += 1
                if job.missed > 1:
                    batch.set_state(index, JobState.COMPLETED)
                    lost.append(index)
        return lost

    def check_reach(self, patience: float = PATIENCE) -> None:
        """Raise when the access point has not answered for ``patience`` seconds.

        A restart takes it away for a while, and its queue is on its disk; but a
        wait for one that never comes back would have no end.
        """
        if self.silent and time.monotonic() - self.silent[1] >= patience:
            error, since = self.silent
            raise HTCondorError(
                f"{error} It has not answered for {time.monotonic() - since:.0f} s. "
                "The jobs are in its queue: ask again once it is back."
            ) from error

    # -- acting -----------------------------------------------------------------
    def act(self, action: str, batch: Batch, index: int | None = None) -> int:
        """Hold, release or remove the job of a chunk, or all of a batch; return how many."""
        why = "asked for by condorpool's user"
        if index is None:
            jobs = f"ClusterId == {batch.cluster}"
            done = self.access_point.act(action, f"{jobs} && ProcId >= 0", why)
            # The factory that makes the jobs counts as one too: it is acted on by itself.
            self.access_point.act(action, jobs, why)
        else:
            done = self.access_point.act(action, [batch.job_id(index)], why)
        after = {"release": JobState.IDLE, "remove": JobState.REMOVED}.get(action)
        if after and done:
            # A wait that begins now must not take jobs for held whose event is on its way.
            with self.changed:
                for held in batch.held() if index is None else [index]:
                    if batch.jobs[held].state is JobState.HELD:
                        batch.set_state(held, after)
        return done

    # -- ending ----------------------------------------------------------------
    def remove(self, batches: Iterable[Batch], reason: str) -> None:
        """Remove every job of these batches that has not ended."""
        clusters = [batch.cluster for batch in batches if batch.pending]
        if clusters:
            constraint = " || ".join(f"ClusterId == {cluster}" for cluster in clusters)
            self.access_point.act("remove", constraint, reason)

    def wait_all(self, note: Callable[[int], None], patience: float = PATIENCE) -> None:
        """Wait until every batch that is to be cleaned up is done.

        Jobs that are in one of their batch's killstats, or come to be, are removed.

        Parameters
        ----------
        note
            Called once a second with the number of jobs that are waited for.
        """
        killed: set[str] = set()
        while True:
            with self.changed:
                waited = [b for b in self.batches.values() if b.cleanup and b.pending]
                left = sum(len(b.pending) for b in waited)
                doomed = [
                    b.job_id(i)
                    for b in waited
                    if any(b.counts[s] for s in JobState if s.value in b.killstats)
                    for i in b.pending
                    if b.jobs[i].state.value in b.killstats
                ]
                doomed = [job for job in doomed if job not in killed]
                if not left:
                    return
                self.check_reach(patience)
                if not doomed:
                    self.changed.wait(1.0)
            note(left)
            if doomed:
                self.access_point.act("remove", doomed, "the condorpool Pool was closed")
                killed.update(doomed)

    def clean(self) -> None:
        """Delete what nobody needs any more; keep files of failed jobs, unless told otherwise."""
        with self.changed:
            batches = list(self.batches.values())
        for batch in batches:
            if batch.cleanup and not batch.pending:
                for name in batch.cleanupfiles:
                    (self.base / name).unlink(missing_ok=True)
                self.directory.discard_batch(
                    batch.number, () if batch.cleanfailed else batch.failed
                )
        if all(b.cleanup and (b.cleanfailed or not b.failed) for b in batches):
            self.directory.remove()

    def close_log(self) -> None:
        """Stop reading the event log."""
        with self.changed:
            self._closed = True
            self._log.close()
