"""Follows the work in a submit directory, by its event log and by comparison with the queue."""

from __future__ import annotations

import contextlib
import math
import operator
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from condorpool.access.accesspoint import any_cluster
from condorpool.access.eventlog import EventLog
from condorpool.engine import description, rules
from condorpool.engine.batches import Batch
from condorpool.engine.jobs import Cluster, Crew, Job
from condorpool.engine.rules import Then
from condorpool.engine.staffing import Staffing
from condorpool.engine.state import SessionState
from condorpool.engine.submitdir import Token
from condorpool.runner.names import ANNOUNCES
from condorpool.values.events import STATE_OF_STATUS, JobEvent, JobState
from condorpool.values.exceptions import HTCondorError
from condorpool.values.holds import MEMORY
from condorpool.values.locks import uninterrupted

#: Seconds, at most, from the event that a job was evicted to the event that it is held.
HOLD_LAG = 2.0

#: Seconds, at most, for which the end of a session waits for a read of its event log.
READ_LAG = 5.0

#: Seconds that a job may be disconnected before other jobs may take its chunk.
CONTACT_LAG = 60.0

#: Seconds between two looks whether jobs can write their results.
ROOM_INTERVAL = 1.0

# Users' calls can write such events too, so the text is checked.
_ANNOUNCEMENT = re.compile(rf"{ANNOUNCES} (\d+)-(\d+)")

#: Events after which HTCondor runs the job again, maybe much later.
_PUT_BACK = {"JOB_EVICTED", "SHADOW_EXCEPTION", "JOB_RECONNECT_FAILED"}

#: Events after which a job keeps its chunk but does not run.
_STOPS = {"JOB_HELD", "JOB_SUSPENDED"}

#: Events after which a job that was released can run again.
_RUNS_AGAIN = {*_PUT_BACK, "JOB_RELEASED"}

#: The attributes of jobs in the queue that are compared with the events.
_COMPARED = ("ProcId", "JobStatus", "HoldReason", "HoldReasonCode", "HoldReasonSubCode")


class Follower:
    """Updates the jobs and chunks of a session.

    Only the tracker's thread calls `pump` and `reconcile`; any thread may call `close`.
    """

    def __init__(self, state: SessionState, staffing: Staffing) -> None:
        self._state = state
        self._staffing = staffing
        # Guards the two below: `close` must not close the log while `pump` reads it.
        self._reading = threading.Lock()
        self._log = EventLog(state.directory.log)
        self._is_closed = False
        #: Events of unknown clusters, as long as a submit() has not returned.
        self._early: list[JobEvent] = []
        #: Jobs that keep chunks, and when other jobs may take those.
        self._evicted: list[tuple[Job, float]] = []
        #: Released jobs, and when to nudge them if they are still idle.
        self._released: list[tuple[Job, float]] = []
        self._stopped: list[Job] = []  # by the user
        self._look_at, self._was_displaced = 0.0, False
        interval = rules.renewal_interval(state.lease)
        self._renew_at = time.time() + interval, time.monotonic() + interval

    @property
    def is_closed(self) -> bool:
        """Whether the event log is no longer followed."""
        return self._is_closed

    def close(self) -> None:
        """Stop reading the event log."""
        self._is_closed = True
        with uninterrupted:
            # A read may wait for a network file system that does not answer: then its thread
            # closes the log.
            if self._reading.acquire(timeout=READ_LAG):
                self._log.close()
                self._reading.release()

    def _new_events(self) -> list[JobEvent] | None:
        """Return the events since the last call; None after `close`."""
        with self._reading:
            if self._is_closed:
                return None
            early, self._early = self._early, []
            events = [*early, *self._log.new_events()]
            if self._is_closed:
                self._log.close()
                return None
            return events

    def pump(self) -> None:
        """Process the new events, and what is due by now."""
        events = self._new_events()
        if events is None:
            return
        announced, ended, crews = self._apply(events)
        for crew in crews:
            self._state.refresh_holders(crew)
        if ended:
            self._staffing.note_end()
        for batch, first in announced:
            self._state.settle(batch, first)
        for job in ended:
            self._job_ended(job)
        for job in self._stopped:
            if self._put_back_unmeant(job):
                self._staffing.submit_or_give_up(job.crew, job.id)
        self._stopped = []
        self._put_back_evicted()
        self._nudge_released()
        self._state.settle_late()
        self._look_at_room()
        has_surplus = any(crew.surplus_since < math.inf for crew in self._state.active_crews)
        if events or self._state.waits_for_outcomes or has_surplus:
            self._staffing.replace_held()
            self._forget_finished()
            with self._state.changed:
                self._state.changed.notify_all()

    def _look_at_room(self) -> None:
        """Once a second, look whether jobs can write their results; if never, end their calls."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + ROOM_INTERVAL
        crews = [crew for crew in self._state.active_crews if crew.pending]
        displaced = self._state.directory.displaced if crews else ""
        if not crews:
            self._state.note_trouble("disk", None)
        elif displaced:
            # Twice in a row: it may be moved back at once.
            if self._was_displaced:
                self._abandon(crews, displaced)
        else:
            self._state.look_at_room()
        self._was_displaced = bool(displaced)

    def _apply(
        self, events: Iterable[JobEvent]
    ) -> tuple[list[tuple[Batch, int]], list[Job], set[Crew]]:
        """Apply events; return announced chunks, ended jobs, and crews with stopped ones."""
        announced: list[tuple[Batch, int]] = []
        ended: list[Job] = []
        crews: set[Crew] = set()
        with self._state.changed:
            for event in events:
                if event.kind == "GENERIC":
                    announced.extend(self._announced(event))
                elif cluster := self._state.clusters.get(event.cluster):
                    ended += cluster.apply(event)
                    if 0 <= event.proc < len(cluster.jobs):
                        self._note_run(cluster.jobs[event.proc], event)
                    if event.kind in _STOPS:
                        crews.add(cluster.crew)
                elif self._staffing.submissions:
                    # The event may come before submit() returns.  Others belong to clusters
                    # that are forgotten or were never recorded.
                    self._early.append(event)
        return announced, ended, crews

    def _announced(self, event: JobEvent) -> Iterator[tuple[Batch, int]]:
        """Yield the pending chunk, if any, whose outcome an event announces."""
        found = _ANNOUNCEMENT.fullmatch(str(event.facts.get("Info", "")).strip())
        batch = self._state.batches.get(int(found[1])) if found else None
        if found and batch and batch.split(int(found[2])):
            if job := self._state.job(f"{event.cluster}.{event.proc}"):
                batch.holders[int(found[2])] = job
            yield batch, int(found[2])

    def _note_run(self, job: Job, event: JobEvent) -> None:
        """Note that a job no longer runs, and may have kept a chunk."""
        if event.kind in _RUNS_AGAIN and job.was_released:
            self._released.append((job, time.monotonic() + HOLD_LAG))
        if not job.crew.is_resident:
            return
        if event.kind in _STOPS:
            if job.is_acted_on:
                self._stopped.append(job)
        elif event.kind in _PUT_BACK and _codes(event) not in MEMORY:
            # A job that runs out of memory runs again with more, for this chunk: another
            # job would run out of memory on it too.
            self._evicted.append((job, time.monotonic() + HOLD_LAG))
        elif event.kind == "JOB_DISCONNECTED":
            self._evicted.append((job, time.monotonic() + CONTACT_LAG))

    def _put_back_unmeant(self, job: Job) -> list[Token]:
        """Put back the chunks that a job took after it was acted on or was surplus; return them."""
        is_surplus = rules.is_surplus(job)
        if not (job.is_acted_on or is_surplus):
            return []
        had = self._state.directory.taken_by(job.crew.number, job.id)
        unmeant = [t for t in had if is_surplus or not job.is_meant(t.batch, t.first)]
        for token in unmeant:
            self._state.put_back(job, token)
        return unmeant

    def _put_back_evicted(self) -> None:
        """Put back the chunks of jobs that wait to run again, or are disconnected.

        A job is evicted before it is held, so wait for `HOLD_LAG`: the chunk may be the
        reason for the hold, and must not get the next job held too.
        """
        now, waiting = time.monotonic(), []
        for job, due in self._evicted:
            if now < due:
                waiting.append((job, due))
            elif job.state is JobState.IDLE or job.is_away:
                for token in self._state.directory.taken_by(job.crew.number, job.id):
                    self._state.put_back(job, token)
                self._staffing.submit_or_give_up(job.crew, job.id)
        self._evicted = waiting

    def _nudge_released(self) -> None:
        """Have HTCondor start jobs that were released before their last run had ended.

        HTCondor lists the jobs that can start when one becomes idle, without those whose
        shadow has not exited yet, and lists them again up to 20 minutes later if nothing
        else happens in the queue (qmgmt.cpp, PrioRecRebuildMaxInterval).
        """
        now = time.monotonic()
        due = [job for job, at in self._released if at <= now]
        self._released = [waiting for waiting in self._released if waiting[1] > now]
        idle = [job.id for job in due if job.state is JobState.IDLE]
        if idle:
            with contextlib.suppress(HTCondorError):  # it lists them again when it restarts
                self._state.access_point.nudge_idle(idle[:50])  # a sample is enough

    def _job_ended(self, job: Job) -> None:
        """Finish the chunks of a job that has ended, or put them back."""
        crew = job.crew
        if job.chunk is not None:
            for batch in list(crew.batches):
                if job.chunk in batch.pending:
                    self._state.settle(batch, job.chunk, job)
            return
        self._put_back_unmeant(job)
        had = self._state.directory.taken_by(crew.number, job.id)
        if had:
            # The parts that it has left to other jobs do not end with it.
            self._state.refresh_holders(crew)
        # Not what is posted from now on: the thread that posts it submits its jobs.
        with self._state.changed:
            others = {(batch.number, first) for batch in crew.batches for first in batch.pending}
        others -= {(token.batch, token.first) for token in had}
        for token in had:
            whose = self._state.batches.get(token.batch)
            if whose and token.first in whose.pending:
                with self._state.changed:
                    whose.holders[token.first] = job
                self._state.settle(whose, token.first, job)
            self._state.directory.take_back(crew.number, token)
        if not others or not crew.pending or crew.live > crew.count(JobState.HELD):
            return
        spares_others = job.is_acted_on and not all(job.is_meant(*chunk) for chunk in others)
        then = rules.after_last_runner(job, had_chunk=bool(had), spares_others=spares_others)
        if then is Then.FALL_BACK:
            self._staffing.fall_back(crew)
        elif then is Then.SUBMIT or (then is Then.REPLACE and self._staffing.may_replace(crew)):
            self._staffing.submit_or_give_up(crew, job.id)
        else:
            self._state.give_up(crew, self._state.failure(job))

    def _forget_finished(self) -> None:
        """Forget finished batches and clusters; remove runners that wait for slots in vain."""
        surplus, now = [], time.monotonic()
        with self._state.changed:
            done = [batch for batch in self._state.batches.values() if batch.is_forgettable]
            for crew in self._state.active_crews:
                crew.clusters = [c for c in crew.clusters if c.live or not c.is_gone]
                if crew.is_resident:
                    crew.batches = [batch for batch in crew.batches if not batch.is_done]
                    waiting = crew.count(JobState.IDLE, JobState.UNMATERIALIZED)
                    since = rules.surplus_since(
                        crew.surplus_since, now, waiting=waiting, has_chunks=bool(crew.batches)
                    )
                    crew.surplus_since = since
                    if now > since + rules.SURPLUS_GRACE:
                        surplus += [c.number for c in crew.clusters if c.live]
            gone = [c.number for c in self._state.clusters.values() if c.is_gone and not c.live]
            for number in gone:
                del self._state.clusters[number]
        self._staffing.make_room()
        for batch in done:
            self._state.forget_if_possible(batch)
        if surplus:
            late = f"({any_cluster(surplus)}) && JobStatus == 1"
            with contextlib.suppress(HTCondorError):
                self._state.access_point.act("remove", late, rules.SURPLUS)

    def reconcile(self) -> None:
        """Compare with the disk and the queue: find outcomes, ends and holds without an event."""
        self._renew()
        crews = [crew for crew in self._state.active_crews if crew.pending]
        if not self._state.directory.is_in_place:
            return
        # If the disk is full, HTCondor keeps trying to start jobs that cannot write their log,
        # and reports nothing.
        has_room = not crews or not self._state.look_at_room(probes=True)
        for crew in crews:
            self._state.refresh_holders(crew)
            for batch in list(crew.batches):
                for first in list(batch.pending):
                    if crew.is_resident:
                        self._state.settle(batch, first)
            for cluster in crew.clusters:
                if not cluster.live or not has_room:
                    continue
                try:
                    queue = self._state.access_point.query(
                        f"ClusterId == {cluster.number}", _COMPARED
                    )
                except HTCondorError as error:
                    # The access point may be restarting; it keeps its queue.
                    self._state.note_trouble("queue", error)
                    return
                self._state.note_trouble("queue", None)
                with self._state.changed:
                    lost = _compare(cluster, {int(ad["ProcId"]): ad for ad in queue})
                for job in lost:
                    self._job_ended(job)
        self._staffing.replace_held()
        if crews:
            with self._state.changed:
                self._state.changed.notify_all()

    def _abandon(self, crews: Sequence[Crew], displaced: str) -> None:
        """Finish all calls, and remove their jobs: these would use what is at the path now."""
        with contextlib.suppress(HTCondorError):
            jobs = description.jobs_of(self._state.directory.run)
            self._state.access_point.act("remove", jobs, f"the submit directory {displaced}")
        for crew in crews:
            for batch in list(crew.batches):
                for first in list(batch.pending):
                    self._state.settle(batch, first)  # it may have been made
                    error = self._state.displaced(displaced, batch.holders.get(first))
                    self._state.finish(batch, first, error)

    def _renew(self) -> None:
        """Renew the lease of waiting jobs when it is time."""
        # The monotonic clock stops while a laptop sleeps; the other may be set back.
        now, lease = (time.time(), time.monotonic()), self._state.lease
        if lease and any(map(operator.ge, now, self._renew_at)):
            interval = rules.renewal_interval(lease)
            self._renew_at = now[0] + interval, now[1] + interval
            with self._state.changed:
                is_live = any(cluster.live for cluster in self._state.clusters.values())
            if is_live:
                with contextlib.suppress(HTCondorError):  # the next renewal is early enough
                    description.renew(self._state.access_point, self._state.directory.run, lease)


def _codes(event: JobEvent) -> tuple[object, object]:
    return event.facts.get("ReasonCode"), event.facts.get("ReasonSubCode")


def _compare(cluster: Cluster, queue: Mapping[int, Mapping[str, Any]]) -> list[Job]:
    """Correct the states of jobs by the queue; return those that left it without an event."""
    lost = []
    for job in cluster.jobs:
        ad = queue.get(job.proc)
        if job.state.is_final:
            continue
        if ad is not None:
            job.times_missing = 0
            state = STATE_OF_STATUS[int(ad["JobStatus"])]
            if state is JobState.HELD and job.state is not JobState.HELD:
                job.note_hold(ad)
            if not state.is_final:
                job.set_state(state)
        elif job.state is not JobState.UNMATERIALIZED or not queue:
            # Its event may be on the way: it is gone when it is missing twice in a row.
            job.times_missing += 1
            if job.times_missing > 1:
                job.set_state(JobState.COMPLETED)
                lost.append(job)
    return lost
