"""A session: one submit directory, the access point it submits to, crews and batches."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import math
import operator
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.eventlog import EventLog
from condorpool.engine import description, payload, submitdir
from condorpool.engine.crew import MAX_LOST, Batch, Cluster, Crew, Deliver, JobRecord
from condorpool.engine.description import JobOptions
from condorpool.engine.submitdir import SubmitDir, Token
from condorpool.runner import program
from condorpool.values.events import STATE_OF_STATUS, JobEvent, JobState
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobError,
    JobFailedError,
    JobRemovedError,
    SubmitError,
    TaskTimeoutError,
)
from condorpool.values.holds import MEMORY

T = TypeVar("T")

logger = logging.getLogger("condorpool")

#: Seconds from the event that a job has ended until its slot takes another.
SHADOW_EXIT = 0.03

#: Seconds for which a wait bears an access point that does not answer.
PATIENCE = 600.0

#: How long an outcome may take to show up on a network file system, in seconds.
OUTCOME_LAG = 20.0

#: Seconds that the last event of a cluster may take after its last job's.
LAST_EVENT = 3.0

#: Seconds between the events that a job was evicted and that it is held, at most.
HOLD_LAG = 2.0

#: Seconds for which a job that the access point has lost contact with may come back.
CONTACT_LAG = 60.0

#: Seconds that runners get to leave by themselves when the pool closes.
LEAVE_TIME = 10.0

#: Seconds for which a runner that came too late may still get a slot: the next call may
#: want it, and a job that is removed while HTCondor gives it a slot can leave that unused.
SURPLUS_GRACE = 2.0

#: Chunks of which is kept when and where they were made, where there may be any number.
MOST_MADE = 10_000

#: Why a runner is removed that no chunk is left for.
SURPLUS = "condorpool has no chunk left for this job"

TERMINATED = "the condorpool Pool was terminated"

#: Why a call is not made that was taken back in time.
TAKEN_BACK = "it was taken back before a job made it"

# Users' calls may write events too, so nothing is taken on trust.
_ANNOUNCEMENT = re.compile(rf"{program.ANNOUNCES} (\d+)-(\d+)")

# The words of CPython's faulthandler, which ends a call that cannot be interrupted.
_OVERTIME = re.compile(r"^Timeout \(\d+:\d\d:\d\d(\.\d+)?\)!$", re.MULTILINE)

#: What a factory that makes jobs understands.
_FACTORY_ACTIONS = ("hold", "release", "remove")

#: Events after which HTCondor runs the job again, maybe much later.
_PUT_BACK = {"JOB_EVICTED", "SHADOW_EXCEPTION", "JOB_RECONNECT_FAILED"}

#: Events after which a job that was released can run again.
_RUNS_AGAIN = {*_PUT_BACK, "JOB_RELEASED"}

#: Options that whoever ends the work of a dead owner goes by.
_FOR_THE_END = ("killstats", "cleanup", "cleanfailed", "cleanupfiles")

#: Sessions of this process: their idle runners keep slots that others may want.
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
os.register_at_fork(after_in_child=_sessions.clear)

#: When a job of this process has ended last.
_last_end = -math.inf


class Session:
    """What one pool has in one submit directory.

    ``changed`` guards crews and batches.  Only the tracker's thread calls `pump`
    and `reconcile`; everyone else posts, acts, reads, or waits on ``changed``.
    """

    def __init__(self, directory: SubmitDir, access_point: AccessPoint, lease: float = 0.0) -> None:
        self.base = directory.path.parent
        self.access_point = access_point
        self.directory = directory
        self.lease = lease
        self.changed = threading.Condition()
        self.batches: dict[int, Batch] = {}
        self.silent: tuple[CondorPoolError, float] | None = None
        self.has_chirp = True
        #: When and where the latest chunks were made, for whoever has several sessions.
        self.made: collections.deque[Any] = collections.deque(maxlen=MOST_MADE)
        self._shared: list[str] = []
        self._modules: payload.Shared[Any] | None = None
        self._clusters: dict[int, tuple[Crew, Cluster]] = {}
        self._crews: dict[object, Crew] = {}
        self._left: dict[int, Crew] = {}  # of a former owner
        self._numbers = itertools.count(1)
        self._manning = threading.Lock()
        self._early: list[JobEvent] = []
        self._evicted: list[tuple[Crew, Cluster, int, float]] = []
        self._released: list[tuple[Cluster, int, float]] = []
        self._late: dict[tuple[int, int], tuple[Cluster, int, float]] = {}
        self._log = EventLog(self.directory.log)
        self._renew_at = time.time() + lease / 4, time.monotonic() + lease / 4
        self._closed = False
        self._is_terminated = False
        _sessions.add(self)

    # -- taking up what another process has left ---------------------------------
    @classmethod
    def taken_up(cls, directory: SubmitDir, access_point: AccessPoint) -> Session:
        """Go on in the submit directory of an owner that has ended; its batches follow."""
        if directory.facts["queue"] != access_point.queue:
            directory.forget_jobs(access_point.queue)
        session = cls(directory, access_point, directory.facts["lease"])
        for number, known in directory.recorded("jobs").items():
            initializer = payload.read_initializer(directory / submitdir.crew_name(number))
            options = JobOptions.restored(known["options"], *initializer)
            resident = known["is_resident"]
            crew = Crew(number, known["name"], known["limit"], options, is_resident=resident)
            crew.clusters = [Cluster(*cluster) for cluster in known["clusters"]]
            session._left[number] = crew
            session._clusters.update((c.number, (crew, c)) for c in crew.clusters)
        batches = directory.recorded("facts")
        taken = [*session._left, *batches, *directory.numbers_shared()]
        session._numbers = itertools.count(max(taken, default=0) + 1)
        return session

    def take_up(self, number: int, facts: Mapping[str, Any], deliver: Deliver) -> Batch:
        """Follow a batch of the former owner: deliver what it has come to, go on with the rest."""
        crew = self._left[facts["crew"]]
        batch = Batch(number, crew, deliver, crew.options, facts)
        batch.origins = self.directory.ends(number)
        batch.size = facts["calls"]
        batch.is_open = False
        parts = facts.get("parts") or [(first, end, first) for first, end in batch.origins.items()]
        batch.pending = {first: end for first, end, _ in parts}
        batch.files = set(batch.pending)
        known = {token.first for token in self.directory.tokens(crew.number)}
        if not crew.is_resident:
            known = {first for cluster in crew.clusters for first in cluster.chunks or ()}
        for first in sorted(known | self.directory.outcomes(number)):
            batch.split(first)
        with self.changed:
            self.batches[number] = batch
            crew.batches.append(batch)
        for first, error in self.directory.errors(number).items():
            self._finish(batch, first, error)
        for first in list(batch.pending):
            self._settle(batch, first)
        # What the owner had no time to post is in nobody's hands.
        origins = {first: origin for first, _, origin in parts}
        lost = [
            (first, end, origins[first])
            for first, end in batch.pending.items()
            if first not in known and first in origins
        ]
        self.note_takers(crew)
        self._post_parts(batch, lost)
        return batch

    @property
    def is_closed(self) -> bool:
        """Whether nobody follows the event log any more."""
        return self._closed

    def share(self, value: T) -> payload.Shared[T]:
        """Write an object that calls share."""
        name = submitdir.shared_name(next(self._numbers))
        with self.directory.explained():
            payload.write_shared(self.directory / name, value)
        self._shared.append(name)
        return payload.Shared(name, value)

    def _share_modules(self, modules: T) -> payload.Shared[T]:
        """Write the user's own modules, unless they are the same as the last time."""
        if self._modules is None or self._modules.value is not modules:
            self._modules = self.share(modules)
        return self._modules

    # -- posting ------------------------------------------------------------
    def describe(
        self, crew: int, batch: int | None, limit: int, name: str, options: JobOptions
    ) -> dict[str, str]:
        """Return what HTCondor would get for such jobs."""
        memory = self.access_point.memory
        return description.build(
            directory=self.directory.path,
            crew=crew,
            batch=batch,
            limit=max(1, limit),
            keep_claim=self.access_point.keep_claim(options.linger),
            batch_name=name,
            run=self.directory.run,
            lease=self.lease if options.cleanup else 0.0,
            # A plain job has no channel by which to ask for them.
            shared=() if batch is None else tuple(self._shared),
            options=options,
            defaults={"request_memory": str(memory)} if memory else {},
        )

    def is_resident(self, options: JobOptions) -> bool:
        """Tell whether jobs with these options take one chunk after the other."""
        return self.has_chirp and options.maxtasksperchild != 1

    def post(
        self,
        call: payload.Call,
        chunks: Iterable[Sequence[Any]],
        deliver: Deliver,
        options: JobOptions,
        calls: int,
    ) -> Batch:
        """Post all chunks of a batch of so many calls, or none."""
        batch = self.begin(call, deliver, options, calls)
        try:
            self.add(batch, chunks)
        except BaseException:
            self.withdraw(batch)
            raise
        self.end(batch)
        return batch

    def begin(
        self, call: payload.Call, deliver: Deliver, options: JobOptions, calls: int | None = None
    ) -> Batch:
        """Write what the chunks of a batch share, and follow it."""
        number = next(self._numbers)
        title = payload.name_of(call.func)
        try:
            with self.directory.explained():
                path = self.directory / submitdir.call_name(number)
                payload.write_call(path, call, self._share_modules, options.task_timeout)
                crew = self._crew(number, title, options)
                batch = self._open(
                    Batch(
                        number,
                        crew,
                        deliver,
                        options,
                        {
                            "crew": crew.number,
                            "title": title,
                            "name": call.name,
                            "digest": call.digest,
                            "style": call.style,
                            "calls": calls,
                            "time": time.time(),
                            "cell": payload.number_of_cell(),
                            **{option: getattr(options, option) for option in _FOR_THE_END},
                        },
                    )
                )
        except BaseException:
            self.directory.discard_call(number)
            raise
        return batch

    def _open(self, batch: Batch) -> Batch:
        """Write down what others need to go on with a batch, and follow it."""
        self.directory.record(submitdir.facts_name(batch.number), **batch.facts)
        with self.changed:
            self.batches[batch.number] = batch
            batch.crew.batches.append(batch)
        return batch

    def repost(self, old: Batch, numbers: Sequence[int], deliver: Deliver) -> Batch:
        """Make some calls of a batch that is done again, as a batch of their own.

        Its calls have the numbers that they had.
        """
        number = next(self._numbers)
        parts = list(_parts(numbers, old.origins))
        with self.directory.explained():
            self.directory.copy_batch(old.number, number, {origin for *_, origin in parts})
            crew = self._crew(number, old.facts["title"], old.options)
            facts = {
                **old.facts,
                "crew": crew.number,
                "time": time.time(),
                "reruns": old.number,
                "parts": parts,
            }
            batch = self._open(Batch(number, crew, deliver, old.options, facts))
            batch.origins, batch.size = old.origins, old.size
            self._post_parts(batch, parts)
        old.successor = batch
        self.end(batch)
        return batch

    def _post_parts(self, batch: Batch, parts: Iterable[tuple[int, int, int]]) -> None:
        """Post parts of chunks, as first call, end, and origin; see that there are jobs."""
        tokens = [Token(batch.number, *part) for part in parts]
        with self.changed:
            batch.pending.update((token.first, token.end) for token in tokens)
            batch.files.update(token.first for token in tokens)
        if batch.crew.is_resident:
            self.directory.post(batch.crew.number, tokens)
        if self._is_terminated:  # maybe after it has looked for what there is
            for token in tokens:
                if not batch.crew.is_resident or self.directory.take_back(batch.crew.number, token):
                    self._finish(batch, token.first, JobRemovedError("(none yet)", TERMINATED))
        elif batch.crew.is_resident:
            self._man(batch.crew)
        elif tokens:
            self._submit_plain(batch.crew, batch, tokens)

    def add(self, batch: Batch, chunks: Iterable[Sequence[Any]]) -> None:
        """Write more chunks of a batch and see that there are jobs for them."""
        first, parts = batch.size, []
        with self.directory.explained():
            for items in chunks:
                path = self.directory / submitdir.chunk_name(batch.number, first)
                batch.files.add(first)
                payload.write_chunk(path, items, first)
                parts.append((first, first + len(items), first))
                first += len(items)
            if not batch.streams:
                batch.origins.update((origin, end) for origin, end, _ in parts)
            batch.size = first
            self._post_parts(batch, parts)

    def end(self, batch: Batch) -> None:
        """No more chunks will come."""
        with self.changed:
            batch.is_open = False
            self.changed.notify_all()

    def withdraw(self, batch: Batch) -> None:
        """Take back what no job has of a batch, and delete its files."""
        with self.changed:
            self.batches.pop(batch.number, None)
            # The tracker may have let go of it already.
            batch.crew.batches = [other for other in batch.crew.batches if other is not batch]
        for token in self.directory.tokens(batch.crew.number):
            if token.batch == batch.number and not token.job:
                self.directory.take_back(batch.crew.number, token)
        self._discard(batch)

    def _discard(self, batch: Batch) -> None:
        """Delete the files of a batch."""
        self.directory.discard_chunks(batch.number, batch.files | batch.origins.keys())
        for first in batch.errors:
            (self.directory / submitdir.error_name(batch.number, first)).unlink(missing_ok=True)
        self.directory.discard_call(batch.number)

    def _crew(self, number: int, name: str, options: JobOptions) -> Crew:
        """Return the crew for such calls: the one that there is, or a new one."""
        sends = description.sends_environment(options.submitkwargs)
        environment = payload.environment_to_send() if sends else {}
        resident = self.is_resident(options)
        commands = tuple(sorted(options.submitkwargs.items()))
        key = (commands, options.python, tuple(environment.items()), options.cleanup)
        if resident and key in self._crews:
            return self._crews[key]
        limit = options.limit(is_resident=resident)
        crew = Crew(number, name, limit, options, is_resident=resident)
        path = self.directory / submitdir.crew_name(number)
        payload.write_crew(path, options.initializer, options.initargs, environment, self.base)
        if resident:
            self.directory.make_crew(number)
            with self.changed:
                self._crews[key] = crew
        return crew

    def _man(self, crew: Crew) -> None:
        """Submit the runners that a resident crew lacks."""
        with self._manning:
            with self.changed:
                away = sum(len(cluster.away) for cluster in crew.clusters)
                here = crew.live - crew.count(JobState.HELD) - away
                missing = min(crew.limit, crew.pending) - here
            if missing <= 0:
                return
            for session in list(_sessions):
                session._dismiss_idle_crews(crew)  # noqa: SLF001
            submit = self.describe(crew.number, None, missing, crew.name, crew.options)
            self._submit(crew, submit, [{"runner": str(n)} for n in range(missing)])

    def starves(self) -> bool:
        """Tell whether a crew has chunks, and all its jobs wait for slots."""
        with self.changed:
            return any(
                crew.pending and crew.count(JobState.IDLE) and not crew.count(JobState.RUNNING)
                for crew in self._crews.values()
            )

    def _dismiss_idle_crews(self, but: Crew | None = None) -> None:
        """Have the runners of other crews leave that only linger: their slots are wanted."""
        with self.changed:
            idle = {k: c for k, c in self._crews.items() if c is not but and c.live and c.is_idle}
            for key in idle:
                del self._crews[key]
        for crew in idle.values():
            self.directory.close_crew(crew.number)

    def _submit_plain(self, crew: Crew, batch: Batch, tokens: Sequence[Token]) -> None:
        """Submit a job for each of these chunks."""
        limit = min(len(tokens), crew.limit)
        submit = self.describe(crew.number, batch.number, limit, crew.name, crew.options)
        items = [{"first": str(t.first), "end": str(t.end), "chunk": str(t.origin)} for t in tokens]
        chunks = [token.first for token in tokens]
        cluster = self._submit(crew, submit, items, chunks)
        with self.changed:
            batch.holders.update((first, (cluster, proc)) for proc, first in enumerate(chunks))

    def _submit(
        self,
        crew: Crew,
        submit: Mapping[str, str],
        items: Sequence[Mapping[str, str]],
        chunks: Sequence[int] | None = None,
    ) -> Cluster:
        # Whoever ends our work finds the jobs by their attributes, recorded or not.
        self._record(crew, submit)
        # A slot kept for the next call is only looked at when jobs come in, and
        # it takes its last job's shadow this long to let go of it: jobs that
        # come earlier wait up to 8 s for a slot that stands ready.
        time.sleep(max(0.0, _last_end + SHADOW_EXIT - time.monotonic()))
        cluster = Cluster(self.access_point.submit(submit, items), len(items), chunks)
        with self.changed:
            self._clusters[cluster.number] = crew, cluster
            crew.clusters.append(cluster)
        with contextlib.suppress(SubmitError):
            self._record(crew, submit)
        self.access_point.hurry(cluster.number)
        return cluster

    def _record(self, crew: Crew, submit: Mapping[str, str]) -> None:
        """Write down the jobs of a crew, so that others could go on with them."""
        with self.changed:
            clusters = [[c.number, len(c.jobs), c.chunks] for c in crew.clusters]
        with self.directory.explained():
            self.directory.record(
                submitdir.jobs_name(crew.number),
                name=crew.name,
                limit=crew.limit,
                is_resident=crew.is_resident,
                options=crew.options.recorded(),
                description=dict(submit),
                clusters=clusters,
            )

    # -- following: the tracker's thread ---------------------------------------
    def pump(self) -> None:
        """Take in what the event log says since the last time."""
        announced: list[tuple[Batch, int]] = []
        ended: list[tuple[Crew, Cluster, int]] = []
        with self.changed:
            if self._closed:
                return
            events = list(itertools.chain(self._early, self._log.new_events()))
            self._early = []
            for event in events:
                if event.kind == "GENERIC":
                    announced.extend(self._announced(event))
                elif event.cluster not in self._clusters:
                    # The access point may be quicker than submit() returns.
                    self._early.append(event)
                else:
                    crew, cluster = self._clusters[event.cluster]
                    ended.extend((crew, cluster, proc) for proc in cluster.apply(event))
                    self._note_run(crew, cluster, event)
        if ended:
            global _last_end  # noqa: PLW0603 - slots are shared by all sessions
            _last_end = time.monotonic()
        for batch, first in announced:
            self._settle(batch, first)
        for crew, cluster, proc in ended:
            self._job_ended(crew, cluster, proc)
        self._put_back_evicted()
        self._rouse_released()
        self._settle_late()
        with self.changed:
            idles = any(crew.surplus_since < math.inf for crew, _ in self._clusters.values())
        if events or self._late or idles:
            self._make_up_for_held()
            self._let_go()
            with self.changed:
                self.changed.notify_all()

    def _settle_late(self) -> None:
        """Look again for outcomes that a network file system may show later."""
        for (number, first), (cluster, proc, _) in list(self._late.items()):
            if number in self.batches:
                self._settle(self.batches[number], first, cluster, proc)
            else:
                del self._late[number, first]

    def _announced(self, event: JobEvent) -> Iterator[tuple[Batch, int]]:
        """Give the chunk whose outcome an event announces."""
        told = _ANNOUNCEMENT.fullmatch(str(event.facts.get("Info", "")).strip())
        batch = self.batches.get(int(told[1])) if told else None
        if told and batch and batch.split(int(told[2])):
            if event.cluster in self._clusters:
                batch.holders[int(told[2])] = self._clusters[event.cluster][1], event.proc
            yield batch, int(told[2])

    def _note_run(self, crew: Crew, cluster: Cluster, event: JobEvent) -> None:
        """Note that a job does not run any more, and has maybe kept a chunk."""
        if event.kind in _RUNS_AGAIN and cluster.jobs[event.proc].released:
            self._released.append((cluster, event.proc, time.monotonic() + HOLD_LAG))
        if not crew.is_resident:
            return
        if event.kind in ("JOB_HELD", "JOB_SUSPENDED"):
            self.note_takers(crew)
        elif event.kind in _PUT_BACK and _codes(event) not in MEMORY:
            # A job that runs out of memory comes back with more, for this chunk:
            # in another's hands it would drive that one out too.
            self._evicted.append((crew, cluster, event.proc, time.monotonic() + HOLD_LAG))
        elif event.kind == "JOB_DISCONNECTED":
            self._evicted.append((crew, cluster, event.proc, time.monotonic() + CONTACT_LAG))

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
                for token in self.directory.taken_by(crew.number, cluster.job_id(proc)):
                    if token.batch in self.batches:
                        self.batches[token.batch].holders.pop(token.first, None)
                        self.directory.put_back(crew.number, token)
                self._man_again(crew, cluster.job_id(proc))
        self._evicted = waiting

    def _rouse_released(self) -> None:
        """Have jobs started that were released before their last run had ended.

        HTCondor lists jobs that can start when one becomes idle, without those whose
        shadow has not left yet, and looks again after up to 20 minutes if nothing else
        happens in the queue (qmgmt.cpp, PrioRecRebuildMaxInterval).
        """
        now = time.monotonic()
        due = [(cluster, proc) for cluster, proc, at in self._released if at <= now]
        if not due:
            return
        self._released = [waiting for waiting in self._released if waiting[2] > now]
        idle = [c.job_id(proc) for c, proc in due if c.jobs[proc].state is JobState.IDLE]
        with contextlib.suppress(HTCondorError):  # it makes its list anew when it is back
            self.access_point.rouse(idle)

    def note_takers(self, crew: Crew) -> None:
        """Find out which chunks there are by now, and which job has which."""
        if not crew.is_resident:
            return
        with self.changed:
            for token in self.directory.tokens(crew.number):
                batch = self.batches.get(token.batch)
                if batch and batch.split(token.first) and token.job:
                    cluster, _, proc = token.job.partition(".")
                    known = self._clusters.get(int(cluster))
                    if known:
                        batch.holders[token.first] = known[1], int(proc)

    def _job_ended(self, crew: Crew, cluster: Cluster, proc: int) -> None:
        """Find out what became of the chunks of a job that has ended."""
        if cluster.chunks is not None:
            first = cluster.chunks[proc]
            for batch in crew.batches:
                if first in batch.pending:
                    self._settle(batch, first, cluster, proc)
            return
        job = cluster.jobs[proc]
        had = self.directory.taken_by(crew.number, cluster.job_id(proc))
        if had:
            self.note_takers(crew)  # what it has left to others is not its own any more
        # Whoever posts a chunk from now on, maybe told of this end, sees to its jobs.
        with self.changed:
            others = {(batch.number, first) for batch in crew.batches for first in batch.pending}
        others -= {(token.batch, token.first) for token in had}
        for token in had:
            whose = self.batches.get(token.batch)
            if whose and token.first in whose.pending:
                whose.holders[token.first] = cluster, proc
                self._settle(whose, token.first, cluster, proc)
            self.directory.take_back(crew.number, token)
        if not others or not crew.pending or crew.live > crew.count(JobState.HELD):
            return
        if job.status == program.EX_NO_CHIRP:
            self._fall_back(crew)
        elif job.state is JobState.REMOVED and not job.reason.startswith(SURPLUS):
            self._give_up(crew, self._failure(cluster, proc))
        elif had or job.status == 0 or job.state is JobState.REMOVED or self._replaces(crew, job):
            self._man_again(crew, cluster.job_id(proc))
        else:
            self._give_up(crew, self._failure(cluster, proc))

    def _man_again(self, crew: Crew, job_id: str) -> None:
        try:
            self._man(crew)
        except (SubmitError, HTCondorError) as error:
            self._give_up(crew, JobFailedError(job_id, str(error)))

    def _make_up_for_held(self) -> None:
        """Submit a runner where a call was posted for one that lingered, and it is held instead."""
        with self.changed:
            crews = {id(crew): crew for crew, _ in self._clusters.values() if crew.pending}
        for crew in crews.values():
            if crew.is_resident and crew.is_replaceable:
                crew.lost += 1
                self._man_again(crew, "(none yet)")

    def _replaces(self, crew: Crew, job: JobRecord) -> bool:
        """Tell whether to make up for a job that left the queue without a word: not for ever."""
        if job.exit or not (self.directory / submitdir.crew_name(crew.number)).exists():
            return False
        crew.lost += 1
        return crew.lost <= MAX_LOST

    def _give_up(self, crew: Crew, error: JobError) -> None:
        """End the chunks that no job is left for; held jobs keep theirs."""
        self._take_back(crew)
        for batch in list(crew.batches):
            for first in sorted(batch.pending):
                cluster, proc = batch.holders.get(first, (None, 0))
                if cluster is None or cluster.jobs[proc].state.is_final:
                    self._finish(batch, first, error)

    def _take_back(self, crew: Crew, batch: Batch | None = None) -> list[Token]:
        """Take the chunks back that no job has, of one batch or all; return what they were."""
        self.note_takers(crew)
        return [
            token
            for token in self.directory.tokens(crew.number)
            if not token.job
            and (batch is None or token.batch == batch.number)
            and self.directory.take_back(crew.number, token)
        ]

    def _fall_back(self, crew: Crew) -> None:
        """Give every chunk a job of its own: this site forbids the channel that runners need."""
        self.has_chirp = False
        back = self._take_back(crew)
        for batch in crew.batches:
            tokens = sorted(token for token in back if token.batch == batch.number)
            limit = crew.options.limit(is_resident=False)
            plain = Crew(crew.number, crew.name, limit, crew.options, is_resident=False)
            with self.changed:
                plain.batches, batch.crew = [batch], plain
            if tokens:
                self._submit_plain(plain, batch, tokens)
        with self.changed:
            crew.batches = []

    def _settle(
        self, batch: Batch, first: int, cluster: Cluster | None = None, proc: int = 0
    ) -> None:
        """Find out what a chunk came to, and deliver it.

        Without an outcome the job is to blame, if it has ended.
        """
        result: payload.Outcome | JobError | None
        path = self.directory / submitdir.outcome_name(batch.number, first)
        job_id = cluster.job_id(proc) if cluster else ""
        result = payload.read_outcome(path, first, job_id)
        key = (batch.number, first)
        if result is None:
            if cluster is None:
                return
            if cluster.jobs[proc].status == 0:
                # The outcome was written; a network file system may show it later.
                *_, since = self._late.setdefault(key, (cluster, proc, time.monotonic()))
                if time.monotonic() - since < OUTCOME_LAG:
                    return
            result = self._failure(cluster, proc, batch.options.task_timeout)
        self._late.pop(key, None)
        self._finish(batch, first, result)

    def _finish(self, batch: Batch, first: int, result: payload.Outcome | JobError) -> None:
        with self.changed:
            if first not in batch.pending:
                return
            made = first + len(result.values) if isinstance(result, payload.Outcome) else math.inf
            if made < batch.pending[first]:
                batch.split(int(made))  # its job has left the rest to others
            end = batch.pending.pop(first)
            batch.delivering += 1
            if isinstance(result, JobError) or result.errors:
                batch.is_flawed = not batch.streams
            if isinstance(result, JobFailedError):
                batch.failed.add(first)
            if isinstance(result, JobError):
                batch.errors.add(first)
                with contextlib.suppress(OSError):  # nobody can take it up then
                    name = submitdir.error_name(batch.number, first)
                    self.directory.record(name, end=end, **result.facts())
            elif batch.streams:
                batch.files.discard(first)
                batch.holders.pop(first, None)
                self.directory.discard_chunks(batch.number, [first])
        try:
            batch.deliver(first, end, result)
        finally:
            with self.changed:
                batch.delivering -= 1
                if not batch.left:
                    self.changed.notify_all()

    def _failure(self, cluster: Cluster, proc: int, task_timeout: float | None = None) -> JobError:
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

    def _let_go(self) -> None:
        """Forget batches that are done; remove runners from the queue that came too late."""
        surplus = []
        with self.changed:
            done = [batch for batch in self.batches.values() if batch.is_forgettable]
            for batch in done:
                del self.batches[batch.number]
            for crew in {id(crew): crew for crew, _ in self._clusters.values()}.values():
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
            for number in [n for n, (_, c) in self._clusters.items() if c.is_gone and not c.live]:
                del self._clusters[number]
        if any(session.starves() for session in list(_sessions)):
            self._dismiss_idle_crews()
        for batch in done:
            self._discard(batch)
        if surplus:
            constraint = " || ".join(f"ClusterId == {number}" for number in surplus)
            with contextlib.suppress(HTCondorError):
                self.access_point.act("remove", f"({constraint}) && JobStatus == 1", SURPLUS)

    def reconcile(self) -> None:
        """Compare with disk and queue: find outcomes, ends and holds that no event told."""
        self._renew()
        with self.changed:
            crews = {id(crew): crew for crew, _ in self._clusters.values() if crew.pending}
        for crew in crews.values():
            self.note_takers(crew)
            for batch in list(crew.batches):
                for first in list(batch.pending):
                    if crew.is_resident:
                        self._settle(batch, first)
            for cluster in crew.clusters:
                if not cluster.live:
                    continue
                wanted = [
                    "ProcId",
                    "JobStatus",
                    "HoldReason",
                    "HoldReasonCode",
                    "HoldReasonSubCode",
                ]
                try:
                    # HTCondor tries again and again, without a word, to start jobs
                    # that cannot write their log.
                    with self.directory.explained():
                        self.directory.write(submitdir.PROBE, bytes(4096))
                    queue = self.access_point.query(f"ClusterId == {cluster.number}", wanted)
                except (HTCondorError, SubmitError) as error:
                    # The access point may be restarting; its queue is on its disk.
                    self._is_silent(error)
                    return
                with self.changed:
                    self.silent = None
                    lost = _compare(cluster, {int(ad["ProcId"]): ad for ad in queue})
                for proc in lost:
                    self._job_ended(crew, cluster, proc)
        self._make_up_for_held()
        if crews:
            with self.changed:
                self.changed.notify_all()

    def _is_silent(self, error: CondorPoolError) -> None:
        with self.changed:
            self.silent = error, self.silent[1] if self.silent else time.monotonic()
            self.changed.notify_all()

    def _renew(self) -> None:
        """Tell the access point in time that somebody still wants the jobs that wait."""
        # One clock stands still while a laptop sleeps, the other may be set back.
        now = time.time(), time.monotonic()
        if self.lease and any(map(operator.ge, now, self._renew_at)):
            self._renew_at = now[0] + self.lease / 4, now[1] + self.lease / 4
            with self.changed:
                live = any(cluster.live for _, cluster in self._clusters.values())
            if live:
                with contextlib.suppress(HTCondorError):  # next time
                    description.renew(self.access_point, self.directory.run, self.lease)

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

    def job(self, job_id: str) -> JobRecord | None:
        """Return what is known of a job, if it is in the queue, or has just left it."""
        cluster, _, proc = job_id.partition(".")
        known = self._clusters.get(int(cluster)) if proc else None
        return known[1].jobs[int(proc)] if known else None

    # -- acting -----------------------------------------------------------------
    def places(self) -> list[tuple[Cluster, int]]:
        """Return the jobs that have not left the queue, those that will be made too."""
        with self.changed:
            return [
                (cluster, proc)
                for _, cluster in self._clusters.values()
                for proc, job in enumerate(cluster.jobs)
                if not job.state.is_final
            ]

    def act(self, action: str, batch: Batch) -> int:
        """Do something to the jobs that make the chunks of a batch; return to how many.

        "remove" counts chunks, and takes those back that no job has yet; the
        others count jobs.
        """
        crew = batch.crew
        if not crew.is_resident:
            return sum(self._act_on_cluster(action, cluster) for cluster in crew.clusters)
        if action == "remove":
            return self._remove_chunks(batch)
        self.note_takers(crew)
        with self.changed:
            jobs = [batch.holders[i] for i in batch.pending if i in batch.holders]
            jobs = jobs or [(c, p) for c in crew.clusters for p in range(len(c.jobs))]
        return self.act_on(action, jobs)

    def _act_on_cluster(self, action: str, cluster: Cluster) -> int:
        jobs, why = f"ClusterId == {cluster.number}", "asked for by condorpool's user"
        done = self.access_point.act(action, f"{jobs} && ProcId >= 0", why)
        if action in _FACTORY_ACTIONS:
            # The factory that makes the jobs counts as one too: it is acted on by itself.
            self.access_point.act(action, jobs, why)
        if done:
            self._foresee(action, [(cluster, proc) for proc in range(len(cluster.jobs))])
        return done

    def take_back(self, batch: Batch | None = None) -> int:
        """Take back the chunks that no job makes yet, of a batch or of all; return how many."""
        with self.changed:
            batches = [batch] if batch else list(self.batches.values())
            crews = {id(batch.crew): batch.crew for batch in batches if batch.pending}
        count = 0
        for crew in crews.values():
            if crew.is_resident:
                error = JobRemovedError("(none yet)", TAKEN_BACK)
                for token in self._take_back(crew, batch):
                    if whose := self.batches.get(token.batch):
                        self._finish(whose, token.first, error)
                        count += 1
            elif clusters := " || ".join(f"ClusterId == {c.number}" for c in crew.clusters):
                # Jobs that the factory has not made yet stay: they may run by now.
                waiting = f"({clusters}) && ProcId >= 0 && JobStatus != 2"
                count += self.access_point.act("remove", waiting, TAKEN_BACK)
        with self.changed:
            self.changed.notify_all()
        return count

    def _remove_chunks(self, batch: Batch) -> int:
        crew = batch.crew
        error = JobRemovedError("(none yet)", TAKEN_BACK)
        back = self._take_back(crew, batch)
        with self.changed:
            stuck = batch.held if batch.only_held_left else []
        if stuck:
            cluster, proc = stuck[0]
            error = JobRemovedError(cluster.job_id(proc), cluster.jobs[proc].reason)
        for token in back:
            if stuck:
                batch.holders.setdefault(token.first, stuck[0])
            self._finish(batch, token.first, error)
        self.note_takers(crew)
        with self.changed:
            taken = [batch.holders[i] for i in batch.pending if i in batch.holders]
            unused = [] if crew.pending else [job for job in stuck if job not in taken]
            self.changed.notify_all()
        self.act_on("remove", unused)
        return len(back) + self.act_on("remove", taken)

    def act_on(self, action: str, jobs: Sequence[tuple[Cluster, int]]) -> int:
        """Do something to these jobs, those that have not ended; return to how many."""
        ids = [c.job_id(proc) for c, proc in jobs if not c.jobs[proc].state.is_final]
        if not ids:
            return 0
        done = self.access_point.act(action, ids, "asked for by condorpool's user")
        if done:
            self._foresee(action, jobs)
        return done

    def release_with_memory(self, jobs: Sequence[tuple[Cluster, int]]) -> tuple[int, int]:
        """Release held jobs with twice the memory; return how many, and the MiB of each."""
        ids = [c.job_id(proc) for c, proc in jobs if c.jobs[proc].state is JobState.HELD]
        # Jobs of one call ask for the same; some tell of all.
        memory = 2 * self.access_point.most_memory(ids[:50]) if ids else 0
        if not memory:
            return 0, 0
        where = " || ".join(f"ClusterId == {n}" for n in {c.number for c, _ in jobs})
        there = self.access_point.query(f"JobStatus == 5 && ({where})", ["ClusterId", "ProcId"])
        held = {f"{ad['ClusterId']}.{ad['ProcId']}" for ad in there}
        ids = [job for job in ids if job in held]
        if ids:
            self.access_point.edit(ids, "RequestMemory", str(memory))
        return self.act_on("release", jobs), memory

    def _foresee(self, action: str, jobs: Iterable[tuple[Cluster, int]]) -> None:
        """Change the state of held jobs at once.

        A wait that begins now must not take jobs for held whose event is on its way.
        """
        if action not in ("release", "remove"):
            return
        with self.changed:
            for cluster, proc in jobs:
                if cluster.jobs[proc].state is JobState.HELD:
                    # A removed job is REMOVED by its event, which also ends its chunk.
                    cluster.set_state(proc, JobState.IDLE)

    # -- ending ----------------------------------------------------------------
    def terminate(self) -> None:
        """Take back every chunk, and remove every job that has not ended."""
        with self.changed:
            self._is_terminated = True
            batches = [batch for batch in self.batches.values() if batch.pending]
            clusters = [c.number for _, c in self._clusters.values() if c.live]
        for batch in batches:
            for token in self._take_back(batch.crew, batch):
                self._finish(batch, token.first, JobRemovedError("(none yet)", TERMINATED))
        if clusters:
            constraint = " || ".join(f"ClusterId == {number}" for number in clusters)
            self.access_point.act("remove", constraint, TERMINATED)
        with self.changed:
            self.changed.notify_all()

    @property
    def is_busy(self) -> bool:
        """Whether there are chunks that have not come to anything."""
        with self.changed:
            return any(not batch.is_done for batch in self.batches.values())

    def wait_all(self, note: Callable[[int], None], patience: float = PATIENCE) -> bool:
        """Wait until every batch that is to be cleaned up is done, and its jobs have left.

        Jobs that are in one of their batch's killstats, or come to be, are removed.
        Tell whether all jobs have left.

        Parameters
        ----------
        note
            Called once a second with the number of chunks that are waited for.
        """
        killed: set[str] = set()
        while True:
            with self.changed:
                waited = [b for b in self.batches.values() if b.options.cleanup and b.left]
                left = sum(b.left for b in waited)
                doomed = sorted({job for b in waited for job in _killable(b)} - killed)
                if not left:
                    break
                self.check_reach(patience)
                if not doomed:
                    self.changed.wait(1.0)
            note(left)
            if doomed:
                self.access_point.act("remove", doomed, "the condorpool Pool was closed")
                killed.update(doomed)
        return self._dismiss(patience)

    def _dismiss(self, patience: float) -> bool:
        """Have the runners leave, and wait until HTCondor has done with all jobs that ended."""
        with self.changed:
            known = {id(crew): crew for crew, _ in self._clusters.values()}
        crews = [crew for crew in known.values() if not crew.pending]
        for crew in known.values():
            if crew.is_resident:
                self.directory.close_crew(crew.number)
        begun = time.monotonic()
        while time.monotonic() - begun < min(2 * LEAVE_TIME, 2 * patience):
            with self.changed:
                if self.changed.wait_for(lambda: not any(c.live for c in crews), 0.2):
                    break
                rest = [c.number for crew in crews for c in crew.clusters if c.live]
            constraint = " || ".join(f"ClusterId == {number}" for number in rest)
            hesitates = time.monotonic() - begun > LEAVE_TIME
            with contextlib.suppress(HTCondorError):
                if not self.access_point.query(constraint, ["ClusterId"]):
                    return True  # gone, and the event log was not told
                act_on = constraint if hesitates else f"({constraint}) && JobStatus != 2"
                self.access_point.act("remove", act_on, SURPLUS)
        else:
            return False
        # HTCondor makes a folder anew to write the last event of a cluster there
        # (write_user_log.cpp): so it is not deleted before.
        ended = [c for crew in crews for c in crew.clusters]
        with self.changed:
            self.changed.wait_for(lambda: all(c.is_gone for c in ended), min(LAST_EVENT, patience))
        return True

    def clean(self) -> str:
        """Delete what nobody needs any more; say what is kept, and why."""
        with self.changed:
            batches = list(self.batches.values())
        kept_jobs, named, failures = set(), set(), 0
        for batch in batches:
            options, failed = batch.options, batch.failed
            for name in options.cleanupfiles if options.cleanup else ():
                (self.base / name).unlink(missing_ok=True)
            if batch.facts["name"]:
                named.add(batch.facts["name"])
            elif options.cleanup and batch.is_done:
                failed = set() if options.cleanfailed or batch.is_good else failed
                self.directory.discard_batch(batch.number, failed)
                holders = [batch.holders[i] for i in failed if i in batch.holders]
                kept_jobs |= {cluster.job_id(proc) for cluster, proc in holders}
                failures += len(failed)
        if not all(batch.options.cleanup for batch in batches):
            return "cleanup=False"
        if not named and not failures:
            self.directory.remove()
            return ""
        self.directory.discard_jobs(kept_jobs)
        return f"results named {', '.join(sorted(named))}" if named else "files of jobs that failed"

    def forget(self, batch: Batch | None) -> None:
        """Keep no results of a batch, and of those that made calls of it again."""
        while batch:
            batch.facts = {**batch.facts, "name": ""}
            with contextlib.suppress(OSError):
                self.directory.record(submitdir.facts_name(batch.number), **batch.facts)
            if batch.is_done:
                self.withdraw(batch)
            batch = batch.successor

    def close_log(self) -> None:
        """Stop reading the event log."""
        with self.changed:
            self._closed = True
            self._log.close()


def _parts(numbers: Sequence[int], origins: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """Give the parts of chunks that have these calls, as first call, end, and origin."""
    wanted = iter(sorted(numbers))
    number = next(wanted, None)
    for origin, end in sorted(origins.items()):
        while number is not None and number < end:
            first = last = number
            number = next(wanted, None)
            while number == last + 1 and number < end:
                last, number = number, next(wanted, None)
            yield first, last + 1, origin


def _codes(event: JobEvent) -> tuple[object, object]:
    return event.facts.get("ReasonCode"), event.facts.get("ReasonSubCode")


def _killable(batch: Batch) -> list[str]:
    """Return the jobs of a batch's crew that are in one of its killstats."""
    return [
        cluster.job_id(proc)
        for cluster in batch.crew.clusters
        if any(
            cluster.counts[state] for state in JobState if state.value in batch.options.killstats
        )
        for proc, job in enumerate(cluster.jobs)
        if job.state.value in batch.options.killstats
    ]


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
