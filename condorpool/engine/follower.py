"""Follows the work in a submit directory: by its event log, and by a look at the queue."""

from __future__ import annotations

import contextlib
import math
import operator
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from condorpool.access.accesspoint import any_cluster
from condorpool.access.eventlog import EventLog
from condorpool.engine import description, rules, submitdir
from condorpool.engine.batches import Batch
from condorpool.engine.jobs import Cluster, Crew, Job
from condorpool.engine.rules import Then
from condorpool.engine.staffing import Staffing
from condorpool.engine.state import SessionState
from condorpool.engine.submitdir import Token
from condorpool.runner.names import ANNOUNCES
from condorpool.values.events import STATE_OF_STATUS, JobEvent, JobState
from condorpool.values.exceptions import HTCondorError, SubmitError
from condorpool.values.holds import MEMORY
from condorpool.values.locks import uninterrupted

#: Seconds between the events that a job was evicted and that it is held, at most.
HOLD_LAG = 2.0

#: Seconds for which a job that the access point has lost contact with may come back.
CONTACT_LAG = 60.0

# Users' calls may write events too, so nothing is taken on trust.
_ANNOUNCEMENT = re.compile(rf"{ANNOUNCES} (\d+)-(\d+)")

#: Events after which HTCondor runs the job again, maybe much later.
_PUT_BACK = {"JOB_EVICTED", "SHADOW_EXCEPTION", "JOB_RECONNECT_FAILED"}

#: Events after which a job keeps its chunk, and does not run.
_STOPS = {"JOB_HELD", "JOB_SUSPENDED"}

#: Events after which a job that was released can run again.
_RUNS_AGAIN = {*_PUT_BACK, "JOB_RELEASED"}

#: What the queue is asked for, to compare it with the events.
_COMPARED = ("ProcId", "JobStatus", "HoldReason", "HoldReasonCode", "HoldReasonSubCode")


class Follower:
    """Takes in what happens to the jobs and chunks of a session.

    Only the tracker's thread calls `pump` and `reconcile`; another may call `close`.
    """

    def __init__(self, state: SessionState, staffing: Staffing) -> None:
        self._state = state
        self._staffing = staffing
        self._reading = threading.Lock()  # guards the event log and whether it is closed
        self._log = EventLog(state.directory.log)
        self._is_closed = False
        self._early: list[JobEvent] = []
        #: Jobs that keep chunks which others may have from a time on.
        self._evicted: list[tuple[Job, float]] = []
        self._released: list[tuple[Job, float]] = []
        self._stopped: list[Job] = []  # by the user
        interval = rules.renewal_interval(state.lease)
        self._renew_at = time.time() + interval, time.monotonic() + interval

    @property
    def is_closed(self) -> bool:
        """Whether the event log is not followed any more."""
        return self._is_closed

    def close(self) -> None:
        """Stop reading the event log."""
        with uninterrupted, self._reading:
            self._is_closed = True
            self._log.close()

    def _new_events(self) -> list[JobEvent] | None:
        """Return the events since the last time; None once it is closed."""
        with self._reading:
            if self._is_closed:
                return None
            early, self._early = self._early, []
            return [*early, *self._log.new_events()]

    def pump(self) -> None:
        """Take in what the event log says since the last time."""
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
            if self._put_back_innocent(job):
                self._staffing.submit_or_give_up(job.crew, job.id)
        self._stopped = []
        self._put_back_evicted()
        self._nudge_released()
        self._state.settle_late()
        has_surplus = any(crew.surplus_since < math.inf for crew in self._state.active_crews)
        if events or self._state.waits_for_outcomes or has_surplus:
            self._staffing.replace_held()
            self._forget_finished()
            with self._state.changed:
                self._state.changed.notify_all()

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
                else:
                    # The access point may be quicker than submit() returns.
                    self._early.append(event)
        return announced, ended, crews

    def _announced(self, event: JobEvent) -> Iterator[tuple[Batch, int]]:
        """Give the chunk whose outcome an event announces."""
        told = _ANNOUNCEMENT.fullmatch(str(event.facts.get("Info", "")).strip())
        batch = self._state.batches.get(int(told[1])) if told else None
        if told and batch and batch.split(int(told[2])):
            if job := self._state.job(f"{event.cluster}.{event.proc}"):
                batch.holders[int(told[2])] = job
            yield batch, int(told[2])

    def _note_run(self, job: Job, event: JobEvent) -> None:
        """Note that a job does not run any more, and has maybe kept a chunk."""
        if event.kind in _RUNS_AGAIN and job.was_released:
            self._released.append((job, time.monotonic() + HOLD_LAG))
        if not job.crew.is_resident:
            return
        if event.kind in _STOPS:
            if job.is_acted_on:
                self._stopped.append(job)
        elif event.kind in _PUT_BACK and _codes(event) not in MEMORY:
            # A job that runs out of memory comes back with more, for this chunk:
            # in another's hands it would drive that one out too.
            self._evicted.append((job, time.monotonic() + HOLD_LAG))
        elif event.kind == "JOB_DISCONNECTED":
            self._evicted.append((job, time.monotonic() + CONTACT_LAG))

    def _put_back_innocent(self, job: Job) -> list[Token]:
        """Let others take what a job took when the user had already acted on it."""
        if not job.is_acted_on:
            return []
        had = self._state.directory.taken_by(job.crew.number, job.id)
        innocent = [token for token in had if not job.is_meant(token.batch, token.first)]
        for token in innocent:
            self._state.put_back(job, token)
        return innocent

    def _put_back_evicted(self) -> None:
        """Let others take the chunks of jobs that wait to run again, or that are lost.

        A job that is held is evicted first: its chunk is what it is held for,
        and must not hold the next job too.
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
        """Have jobs started that were released before their last run had ended.

        HTCondor lists jobs that can start when one becomes idle, without those whose
        shadow has not left yet, and looks again after up to 20 minutes if nothing else
        happens in the queue (qmgmt.cpp, PrioRecRebuildMaxInterval).
        """
        now = time.monotonic()
        due = [job for job, at in self._released if at <= now]
        self._released = [waiting for waiting in self._released if waiting[1] > now]
        idle = [job.id for job in due if job.state is JobState.IDLE]
        if idle:
            with contextlib.suppress(HTCondorError):  # it makes its list anew when it is back
                self._state.access_point.nudge_idle(idle[:50])  # a sample is enough

    def _job_ended(self, job: Job) -> None:
        """Finish, or hand to others, the chunks of a job that has ended."""
        crew = job.crew
        if job.chunk is not None:
            for batch in list(crew.batches):
                if job.chunk in batch.pending:
                    self._state.settle(batch, job.chunk, job)
            return
        self._put_back_innocent(job)
        had = self._state.directory.taken_by(crew.number, job.id)
        if had:
            # What it has left to others is not its own any more.
            self._state.refresh_holders(crew)
        # A thread that posts a chunk from now on, maybe told of this end, sees to its jobs.
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
        """Forget batches that are done; remove runners from the queue that came too late."""
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
        """Compare with disk and queue: find outcomes, ends and holds that no event told."""
        self._renew()
        crews = [crew for crew in self._state.active_crews if crew.pending]
        for crew in crews:
            self._state.refresh_holders(crew)
            for batch in list(crew.batches):
                for first in list(batch.pending):
                    if crew.is_resident:
                        self._state.settle(batch, first)
            for cluster in crew.clusters:
                if not cluster.live:
                    continue
                try:
                    # HTCondor tries again and again, without a word, to start jobs
                    # that cannot write their log.
                    with self._state.directory.explained():
                        self._state.directory.write(submitdir.PROBE, bytes(4096))
                    queue = self._state.access_point.query(
                        f"ClusterId == {cluster.number}", _COMPARED
                    )
                except (HTCondorError, SubmitError) as error:
                    # The access point may be restarting; its queue is on its disk.
                    self._state.note_unreachable(error)
                    return
                with self._state.changed:
                    self._state.unreachable = None
                    lost = _compare(cluster, {int(ad["ProcId"]): ad for ad in queue})
                for job in lost:
                    self._job_ended(job)
        self._staffing.replace_held()
        if crews:
            with self._state.changed:
                self._state.changed.notify_all()

    def _renew(self) -> None:
        """Tell the access point in time that jobs that wait are still wanted."""
        # One clock stands still while a laptop sleeps, the other may be set back.
        now, lease = (time.time(), time.monotonic()), self._state.lease
        if lease and any(map(operator.ge, now, self._renew_at)):
            interval = rules.renewal_interval(lease)
            self._renew_at = now[0] + interval, now[1] + interval
            with self._state.changed:
                is_live = any(cluster.live for cluster in self._state.clusters.values())
            if is_live:
                with contextlib.suppress(HTCondorError):  # next time
                    description.renew(self._state.access_point, self._state.directory.run, lease)


def _codes(event: JobEvent) -> tuple[object, object]:
    return event.facts.get("ReasonCode"), event.facts.get("ReasonSubCode")


def _compare(cluster: Cluster, queue: Mapping[int, Mapping[str, Any]]) -> list[Job]:
    """Correct what the events did not tell; return the jobs that are gone."""
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
            # An event may be on its way: gone twice is gone.
            job.times_missing += 1
            if job.times_missing > 1:
                job.set_state(JobState.COMPLETED)
                lost.append(job)
    return lost
