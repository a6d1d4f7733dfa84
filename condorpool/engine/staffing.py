"""Staffing: the crews of a submit directory, and enough jobs for each."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence

from condorpool.engine import description, payload, rules, secrets, submitdir
from condorpool.engine.batches import Batch
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Cluster, Crew
from condorpool.engine.records import CrewRecord, Submission
from condorpool.engine.state import SessionState
from condorpool.engine.submitdir import Token
from condorpool.values.events import JobState
from condorpool.values.exceptions import HTCondorError, JobFailedError, SubmitError
from condorpool.values.guards import guarded
from condorpool.values.locks import uninterrupted

#: Seconds from the event that a job has ended until its slot takes another job.
SHADOW_EXIT = 0.03

#: All of this process: the idle runners of one keep slots that another may need.
_all: weakref.WeakSet[Staffing] = weakref.WeakSet()
os.register_at_fork(after_in_child=_all.clear)

#: When a job of this process last ended, and when idle runners last had to exit.
_last_end = _last_dismissal = -math.inf


@guarded(by="_state.changed")
class Staffing:
    """Submits jobs for chunks that no other job would take."""

    def __init__(self, state: SessionState) -> None:
        #: Whether jobs can use chirp here, which runners need; True until one cannot.
        self.has_chirp = True
        #: The files of shared objects.
        self.shared: list[str] = []
        self._state = state
        #: Resident crews that take more batches, by what their jobs have in common.
        self._crews: dict[object, Crew] = {}
        # Held from counting the missing runners until they are submitted: else two threads
        # would submit the same ones.  `_state.changed` is taken inside of it, never outside.
        self._submitting = threading.Lock()
        #: Submissions under way: HTCondor may write events of a cluster before it is known here.
        self.submissions = 0
        _all.add(self)

    def retire(self) -> None:
        """Neither make room for other sessions from now on, nor have them make room."""
        _all.discard(self)

    def describe(
        self, crew: int, batch: int | None, limit: int, name: str, options: JobOptions
    ) -> dict[str, str]:
        """Return the submit description of such jobs."""
        memory = self._state.access_point.memory
        return description.build(
            directory=self._state.directory.path,
            crew=crew,
            batch=batch,
            limit=max(1, limit),
            keep_claim=self._state.access_point.keep_claim(options.linger),
            batch_name=name,
            run=self._state.directory.run,
            lease=self._state.lease if options.cleanup else 0.0,
            # A runner fetches them when it needs them; a plain job cannot.
            shared=() if batch is None else tuple(self.shared),
            options=options,
            defaults={"request_memory": str(memory)} if memory else {},
        )

    def is_resident(self, options: JobOptions) -> bool:
        """Return whether jobs with these options take one chunk after the other."""
        return self.has_chirp and options.maxtasksperchild != 1

    def crew(self, number: int, name: str, options: JobOptions) -> Crew:
        """Return the crew for calls with these options: an open one, or a new one."""
        environment = secrets.environment_to_send(
            options.secrets, description.getenv_of(options.submitkwargs)
        )
        resident = self.is_resident(options)
        commands = tuple(sorted(options.submitkwargs.items()))
        reached = options.limit_directory_access
        key = (commands, options.python, reached, tuple(environment.items()), options.cleanup)
        with self._state.changed:  # the tracker may dismiss it meanwhile
            known = self._crews.get(key) if resident else None
        if known:
            return known
        limit = options.limit(is_resident=resident)
        crew = Crew(number, name, limit, options, is_resident=resident, lock=self._state.changed)
        directory = self._state.directory
        path, base = directory / submitdir.crew_name(number), directory.path.parent
        payload.write_crew(path, options.initializer, options.initargs, environment, base)
        if resident:
            directory.make_crew(number)
            with self._state.changed:
                self._crews[key] = crew
        return crew

    def submit_missing_runners(self, crew: Crew) -> None:
        """Submit the runners that a resident crew lacks."""
        with uninterrupted, self._submitting:
            with self._state.changed:
                missing = rules.runners_missing(crew.limit, crew.pending, crew.reliable)
            if not missing:
                return
            submit = self.describe(crew.number, None, missing, crew.name, crew.options)
            self._submit(crew, submit, [{"runner": str(n)} for n in range(missing)])

    def submit_or_give_up(self, crew: Crew, job_id: str = "") -> None:
        """Submit the runners that a crew lacks; if that fails, give up its chunks.

        ``job_id`` is the job, if any, whose end is the reason.
        """
        try:
            self.submit_missing_runners(crew)
        except (SubmitError, HTCondorError) as error:
            if self._state.access_point.has_ended:
                return  # another one will make them
            if displaced := self._state.directory.displaced:
                failure = self._state.displaced(displaced, self._state.job(job_id))
            else:
                failure = JobFailedError(job_id, str(error))
            self._state.give_up(crew, failure)

    def replace_held(self) -> None:
        """Submit runners for chunks that were posted for a lingering runner that is held now."""
        for crew in self._state.active_crews:
            with self._state.changed:
                is_needed = crew.is_resident and crew.pending and crew.needs_replacement
                crew.replaced += bool(is_needed)
            if is_needed:
                self.submit_or_give_up(crew)

    def may_replace(self, crew: Crew) -> bool:
        """Count a job that ended without a reason; return whether to replace it."""
        if not (self._state.directory / submitdir.crew_name(crew.number)).exists():
            return False
        with self._state.changed:
            crew.replaced += 1
            return crew.replaced <= rules.MAX_REPLACED

    def waits_for_slots(self) -> bool:
        """Return whether a crew has idle jobs, and chunks that no running job makes."""
        with self._state.changed:
            return any(
                crew.count(JobState.IDLE) and crew.pending > crew.count(JobState.RUNNING)
                for crew in self._state.active_crews
            )

    def make_room(self) -> None:
        """Dismiss idle runners if a session of this process waits for slots."""
        if any(other.waits_for_slots() for other in list(_all)):
            self.dismiss_idle()

    def dismiss_idle(self, keep: Crew | None = None) -> None:
        """Have lingering runners of all crews but ``keep`` exit, since their slots are needed."""
        with self._state.changed:
            idle = {k: c for k, c in self._crews.items() if c is not keep and c.live and c.is_idle}
            for key in idle:
                del self._crews[key]
        if idle:
            global _last_dismissal  # noqa: PLW0603 - slots are shared by all sessions
            _last_dismissal = time.monotonic()
        for crew in idle.values():
            self._state.directory.close_crew(crew.number)

    def submit_plain(self, crew: Crew, batch: Batch, tokens: Sequence[Token]) -> None:
        """Submit a job for each of these chunks."""
        limit = min(len(tokens), crew.limit)
        submit = self.describe(crew.number, batch.number, limit, crew.name, crew.options)
        items = [{"first": str(t.first), "end": str(t.end), "chunk": str(t.origin)} for t in tokens]
        chunks = [token.first for token in tokens]
        cluster = self._submit(crew, submit, items, chunks)
        with self._state.changed:
            batch.holders.update(zip(chunks, cluster.jobs, strict=True))

    def fall_back(self, crew: Crew) -> None:
        """Give every chunk a job of its own: this site forbids chirp, which runners need."""
        with self._state.changed:
            self.has_chirp = False
        back = self._state.recall(crew)
        for batch in crew.batches:
            tokens = sorted(token for token in back if token.batch == batch.number)
            limit = crew.options.limit(is_resident=False)
            with self._state.changed:
                plain = Crew(
                    crew.number,
                    crew.name,
                    limit,
                    crew.options,
                    is_resident=False,
                    lock=self._state.changed,
                )
                plain.batches, batch.crew = [batch], plain
            if tokens:
                self.submit_plain(plain, batch, tokens)
        with self._state.changed:
            crew.batches = []

    @staticmethod
    def made_room(seconds: float) -> bool:
        """Return whether idle runners of this process had slots in the last seconds."""
        return time.monotonic() - _last_dismissal < seconds

    @staticmethod
    def note_end() -> None:
        """Note that a job has just ended."""
        global _last_end  # noqa: PLW0603 - slots are shared by all sessions
        _last_end = time.monotonic()

    def _submit(
        self,
        crew: Crew,
        submit: Mapping[str, str],
        items: Sequence[Mapping[str, str]],
        chunks: Sequence[int] | None = None,
    ) -> Cluster:
        self._state.directory.check_place()
        for other in list(_all):
            other.dismiss_idle(crew)
        self._state.access_point.restore()
        # Before the jobs exist: should this process die before it can record their cluster,
        # the cleaner has the crew's record, and finds the jobs by their attributes.
        self._record(crew, submit)
        # HTCondor looks for a slot kept for the next call only when jobs come in, and the
        # last job's shadow takes this long to release it: jobs that come earlier wait up
        # to 8 s for a slot that is ready.
        time.sleep(max(0.0, _last_end + SHADOW_EXIT - time.monotonic()))
        with self._state.changed:
            self.submissions += 1
        cluster = None
        try:
            number = self._state.access_point.submit(submit, items)
            queue = self._state.access_point.queue
            cluster = Cluster(crew, number, len(items), chunks, queue)
        finally:
            with self._state.changed:
                self.submissions -= 1
                if cluster:
                    self._state.clusters[number] = cluster
                    crew.clusters.append(cluster)
        with contextlib.suppress(SubmitError):
            self._record(crew, submit)
        self._state.access_point.nudge_cluster(number)
        return cluster

    def _record(self, crew: Crew, submit: Mapping[str, str]) -> None:
        """Write down the jobs of a crew, so that another process can resume them."""
        with self._state.changed:
            clusters = [Submission(c.number, len(c.jobs), c.chunks) for c in crew.clusters]
        with self._state.directory.explained():
            record = CrewRecord(
                name=crew.name,
                limit=crew.limit,
                is_resident=crew.is_resident,
                options=crew.options.recorded(),
                description=dict(submit),
                clusters=clusters,
            )
            self._state.directory.record(submitdir.jobs_name(crew.number), record)
