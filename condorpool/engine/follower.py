"""Follows the work in a submit directory: by its event log, and by a look at the queue."""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from condorpool.access.accesspoint import any_cluster
from condorpool.access.eventlog import EventLog
from condorpool.engine import description, submitdir
from condorpool.engine.batches import Batch, Cluster, Crew
from condorpool.engine.staffing import Crews
from condorpool.engine.state import SURPLUS, Work
from condorpool.engine.submitdir import Token
from condorpool.runner.names import ANNOUNCES, EX_NO_CHIRP
from condorpool.values.events import STATE_OF_STATUS, JobEvent, JobState
from condorpool.values.exceptions import HTCondorError, SubmitError
from condorpool.values.holds import MEMORY

#: Seconds between the events that a job was evicted and that it is held, at most.
HOLD_LAG = 2.0

#: Seconds for which a job that the access point has lost contact with may come back.
CONTACT_LAG = 60.0

#: Seconds for which a runner that came too late may still get a slot: the next call may
#: want it, and a job that is removed while HTCondor gives it a slot can leave that unused.
SURPLUS_GRACE = 2.0

# Users' calls may write events too, so nothing is taken on trust.
_ANNOUNCEMENT = re.compile(rf"{ANNOUNCES} (\d+)-(\d+)")

#: Events after which HTCondor runs the job again, maybe much later.
_PUT_BACK = {"JOB_EVICTED", "SHADOW_EXCEPTION", "JOB_RECONNECT_FAILED"}

#: Events after which a job that was released can run again.
_RUNS_AGAIN = {*_PUT_BACK, "JOB_RELEASED"}

#: What the queue is asked for, to compare it with the events.
_COMPARED = ("ProcId", "JobStatus", "HoldReason", "HoldReasonCode", "HoldReasonSubCode")


class Follower:
    """Takes in what happens to the jobs and chunks of some work.

    Only the tracker's thread calls `pump` and `reconcile`.
    """

    def __init__(self, work: Work, crews: Crews) -> None:
        self._work = work
        self._crews = crews
        self._log = EventLog(work.directory.log)
        self._early: list[JobEvent] = []
        self._evicted: list[tuple[Crew, Cluster, int, float]] = []
        self._released: list[tuple[Cluster, int, float]] = []
        self._stopped: list[tuple[Crew, Cluster, int]] = []  # by the user
        self._renew_at = time.time() + work.lease / 4, time.monotonic() + work.lease / 4
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nobody follows the event log any more."""
        return self._closed

    def close(self) -> None:
        """Stop reading the event log."""
        with self._work.changed:
            self._closed = True
            self._log.close()

    def pump(self) -> None:
        """Take in what the event log says since the last time."""
        announced: list[tuple[Batch, int]] = []
        ended: list[tuple[Crew, Cluster, int]] = []
        with self._work.changed:
            if self._closed:
                return
            events = list(itertools.chain(self._early, self._log.new_events()))
            self._early = []
            for event in events:
                if event.kind == "GENERIC":
                    announced.extend(self._announced(event))
                elif event.cluster not in self._work.clusters:
                    # The access point may be quicker than submit() returns.
                    self._early.append(event)
                else:
                    crew, cluster = self._work.clusters[event.cluster]
                    ended.extend((crew, cluster, proc) for proc in cluster.apply(event))
                    self._note_run(crew, cluster, event)
        if ended:
            self._crews.note_end()
        for batch, first in announced:
            self._work.settle(batch, first)
        for crew, cluster, proc in ended:
            self._job_ended(crew, cluster, proc)
        for crew, cluster, proc in self._stopped:
            if self._put_back_innocent(crew, cluster, proc):
                self._crews.man_again(crew, cluster.job_id(proc))
        self._stopped = []
        self._put_back_evicted()
        self._rouse_released()
        self._work.settle_late()
        idles = any(crew.surplus_since < math.inf for crew in self._work.manned())
        if events or self._work.waits_for_outcomes or idles:
            self._crews.make_up_for_held()
            self._let_go()
            with self._work.changed:
                self._work.changed.notify_all()

    def _announced(self, event: JobEvent) -> Iterator[tuple[Batch, int]]:
        """Give the chunk whose outcome an event announces."""
        told = _ANNOUNCEMENT.fullmatch(str(event.facts.get("Info", "")).strip())
        batch = self._work.batches.get(int(told[1])) if told else None
        if told and batch and batch.split(int(told[2])):
            if event.cluster in self._work.clusters:
                batch.holders[int(told[2])] = self._work.clusters[event.cluster][1], event.proc
            yield batch, int(told[2])

    def _note_run(self, crew: Crew, cluster: Cluster, event: JobEvent) -> None:
        """Note that a job does not run any more, and has maybe kept a chunk."""
        if event.kind in _RUNS_AGAIN and cluster.jobs[event.proc].released:
            self._released.append((cluster, event.proc, time.monotonic() + HOLD_LAG))
        if not crew.is_resident:
            return
        if event.kind in ("JOB_HELD", "JOB_SUSPENDED"):
            self._work.note_takers(crew)
            if event.proc in cluster.acted_on:
                self._stopped.append((crew, cluster, event.proc))
        elif event.kind in _PUT_BACK and _codes(event) not in MEMORY:
            # A job that runs out of memory comes back with more, for this chunk:
            # in another's hands it would drive that one out too.
            self._evicted.append((crew, cluster, event.proc, time.monotonic() + HOLD_LAG))
        elif event.kind == "JOB_DISCONNECTED":
            self._evicted.append((crew, cluster, event.proc, time.monotonic() + CONTACT_LAG))

    def _put_back_innocent(self, crew: Crew, cluster: Cluster, proc: int) -> list[Token]:
        """Let others take what a job took when the user had already acted on it."""
        if proc not in cluster.acted_on:
            return []
        had = self._work.directory.taken_by(crew.number, cluster.job_id(proc))
        innocent = [token for token in had if not cluster.is_meant(proc, token.batch, token.first)]
        for token in innocent:
            self._put_back(crew, token)
        return innocent

    def _put_back(self, crew: Crew, token: Token) -> None:
        """Let others take a chunk."""
        if token.batch in self._work.batches:
            self._work.batches[token.batch].holders.pop(token.first, None)
            self._work.directory.put_back(crew.number, token)

    def _put_back_evicted(self) -> None:
        """Let others take the chunks of jobs that wait to run again, or that are lost.

        A job that is held is evicted first: its chunk is what it is held for,
        and must not hold the next job too.
        """
        now, waiting = time.monotonic(), []
        for crew, cluster, proc, due in self._evicted:
            if now < due:
                waiting.append((crew, cluster, proc, due))
            elif cluster.jobs[proc].state is JobState.IDLE or proc in cluster.away:
                for token in self._work.directory.taken_by(crew.number, cluster.job_id(proc)):
                    self._put_back(crew, token)
                self._crews.man_again(crew, cluster.job_id(proc))
        self._evicted = waiting

    def _rouse_released(self) -> None:
        """Have jobs started that were released before their last run had ended.

        HTCondor lists jobs that can start when one becomes idle, without those whose
        shadow has not left yet, and looks again after up to 20 minutes if nothing else
        happens in the queue (qmgmt.cpp, PrioRecRebuildMaxInterval).
        """
        now = time.monotonic()
        due = [(cluster, proc) for cluster, proc, at in self._released if at <= now]
        self._released = [waiting for waiting in self._released if waiting[2] > now]
        idle = [c.job_id(proc) for c, proc in due if c.jobs[proc].state is JobState.IDLE]
        if idle:
            with contextlib.suppress(HTCondorError):  # it makes its list anew when it is back
                self._work.access_point.rouse(idle[:50])  # some tell of all

    def _job_ended(self, crew: Crew, cluster: Cluster, proc: int) -> None:
        """Find out what became of the chunks of a job that has ended."""
        if cluster.chunks is not None:
            first = cluster.chunks[proc]
            for batch in crew.batches:
                if first in batch.pending:
                    self._work.settle(batch, first, cluster, proc)
            return
        job = cluster.jobs[proc]
        self._put_back_innocent(crew, cluster, proc)
        had = self._work.directory.taken_by(crew.number, cluster.job_id(proc))
        if had:
            self._work.note_takers(crew)  # what it has left to others is not its own any more
        # Whoever posts a chunk from now on, maybe told of this end, sees to its jobs.
        with self._work.changed:
            others = {(batch.number, first) for batch in crew.batches for first in batch.pending}
        others -= {(token.batch, token.first) for token in had}
        for token in had:
            whose = self._work.batches.get(token.batch)
            if whose and token.first in whose.pending:
                whose.holders[token.first] = cluster, proc
                self._work.settle(whose, token.first, cluster, proc)
            self._work.directory.take_back(crew.number, token)
        if not others or not crew.pending or crew.live > crew.count(JobState.HELD):
            return
        if job.status == EX_NO_CHIRP:
            self._crews.fall_back(crew)
        elif (
            job.state is JobState.REMOVED
            and not job.reason.startswith(SURPLUS)
            and (
                proc not in cluster.acted_on
                or all(cluster.is_meant(proc, batch, first) for batch, first in others)
            )
        ):
            self._work.give_up(crew, self._work.failure(cluster, proc))
        elif (
            had
            or job.status == 0
            or job.state is JobState.REMOVED
            or self._crews.replaces(crew, job)
        ):
            self._crews.man_again(crew, cluster.job_id(proc))
        else:
            self._work.give_up(crew, self._work.failure(cluster, proc))

    def _let_go(self) -> None:
        """Forget batches that are done; remove runners from the queue that came too late."""
        surplus = []
        with self._work.changed:
            done = [batch for batch in self._work.batches.values() if batch.is_forgettable]
            for crew in self._work.manned():
                crew.clusters = [c for c in crew.clusters if c.live or not c.is_gone]
                if crew.is_resident:
                    crew.batches = [batch for batch in crew.batches if not batch.is_done]
                    waiting = crew.count(JobState.IDLE, JobState.UNMATERIALIZED)
                    if not waiting or crew.batches:
                        crew.surplus_since = math.inf
                    elif time.monotonic() > crew.surplus_since + SURPLUS_GRACE:
                        surplus += [c.number for c in crew.clusters if c.live]
                    else:
                        crew.surplus_since = min(crew.surplus_since, time.monotonic())
            for number in [
                n for n, (_, c) in self._work.clusters.items() if c.is_gone and not c.live
            ]:
                del self._work.clusters[number]
        self._crews.make_room()
        for batch in done:
            self._work.let_go(batch)
        if surplus:
            late = f"({any_cluster(surplus)}) && JobStatus == 1"
            with contextlib.suppress(HTCondorError):
                self._work.access_point.act("remove", late, SURPLUS)

    def reconcile(self) -> None:
        """Compare with disk and queue: find outcomes, ends and holds that no event told."""
        self._renew()
        crews = [crew for crew in self._work.manned() if crew.pending]
        for crew in crews:
            self._work.note_takers(crew)
            for batch in list(crew.batches):
                for first in list(batch.pending):
                    if crew.is_resident:
                        self._work.settle(batch, first)
            for cluster in crew.clusters:
                if not cluster.live:
                    continue
                try:
                    # HTCondor tries again and again, without a word, to start jobs
                    # that cannot write their log.
                    with self._work.directory.explained():
                        self._work.directory.write(submitdir.PROBE, bytes(4096))
                    queue = self._work.access_point.query(
                        f"ClusterId == {cluster.number}", _COMPARED
                    )
                except (HTCondorError, SubmitError) as error:
                    # The access point may be restarting; its queue is on its disk.
                    self._work.note_silence(error)
                    return
                with self._work.changed:
                    self._work.silent = None
                    lost = _compare(cluster, {int(ad["ProcId"]): ad for ad in queue})
                for proc in lost:
                    self._job_ended(crew, cluster, proc)
        self._crews.make_up_for_held()
        if crews:
            with self._work.changed:
                self._work.changed.notify_all()

    def _renew(self) -> None:
        """Tell the access point in time that somebody still wants the jobs that wait."""
        # One clock stands still while a laptop sleeps, the other may be set back.
        now = time.time(), time.monotonic()
        if self._work.lease and any(map(operator.ge, now, self._renew_at)):
            self._renew_at = now[0] + self._work.lease / 4, now[1] + self._work.lease / 4
            with self._work.changed:
                live = any(cluster.live for _, cluster in self._work.clusters.values())
            if live:
                with contextlib.suppress(HTCondorError):  # next time
                    description.renew(
                        self._work.access_point, self._work.directory.run, self._work.lease
                    )


def _codes(event: JobEvent) -> tuple[object, object]:
    return event.facts.get("ReasonCode"), event.facts.get("ReasonSubCode")


def _compare(cluster: Cluster, queue: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Correct what the events did not tell; return the jobs that are gone."""
    lost = []
    for proc, job in enumerate(cluster.jobs):
        ad = queue.get(proc)
        if job.state.is_final:
            continue
        if ad is not None:
            job.missed = 0
            state = STATE_OF_STATUS[int(ad["JobStatus"])]
            if state is JobState.HELD and job.state is not JobState.HELD:
                cluster.note_hold(proc, ad)
            if not state.is_final:
                cluster.set_state(proc, state)
        elif job.state is not JobState.UNMATERIALIZED or not queue:
            # An event may be on its way: gone twice is gone.
            job.missed += 1
            if job.missed > 1:
                cluster.set_state(proc, JobState.COMPLETED)
                lost.append(proc)
    return lost
