"""A session: the work of one pool in one submit directory, from posting to clean-up.

It is longer than other modules since it is the one object that users' threads use for all of this;
what each step decides is in `rules`, `staffing`, `follower`, and `actions`.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from condorpool.access import lookout
from condorpool.access.accesspoint import AccessPoint, any_cluster
from condorpool.engine import actions, payload, rules, submitdir
from condorpool.engine.batches import Batch, Deliver
from condorpool.engine.description import JobOptions
from condorpool.engine.follower import Follower
from condorpool.engine.jobs import Cluster, Crew
from condorpool.engine.printed import Printing, chunks_of, job_parts
from condorpool.engine.records import BatchRecord, Chain
from condorpool.engine.revival import Revival
from condorpool.engine.staffing import Staffing
from condorpool.engine.state import PATIENCE, TERMINATED, SessionState, ignore
from condorpool.engine.submitdir import SubmitDir, Token
from condorpool.engine.texts import Text
from condorpool.engine.why import why_never
from condorpool.values.events import JobState
from condorpool.values.exceptions import HTCondorError, JobRemovedError, PoolClosedError
from condorpool.values.locks import uninterrupted

T = TypeVar("T")

#: Seconds that runners have to exit by themselves when the pool closes.
LEAVE_TIME = 10.0

#: How many chunk records are kept where there is no limit to the number of chunks.
MOST_RECORDS = 10_000


class Session:
    """The work of one pool in one submit directory.

    User threads post, act, read, or wait on ``changed``; the tracker's thread runs the
    ``follower``, and the threads of ``deliveries`` hand outcomes to results.

    Attributes
    ----------
    state
        Its batches and jobs; ``changed`` is the lock that guards them.
    """

    def __init__(self, directory: SubmitDir, access_point: AccessPoint, lease: float = 0.0) -> None:
        self.directory = directory
        self.access_point = access_point
        self.state = SessionState(directory, access_point, lease)
        self.changed = self.state.changed
        self.deliveries = self.state.deliveries
        #: Runs the callbacks of results, one after the other.
        self.callbacks = self.deliveries.lane()
        self.staffing = Staffing(self.state)
        self.follower = Follower(self.state, self.staffing)
        self.revival = Revival(self.state, self.staffing)
        #: When and where the latest chunks were made; a pool gives all its sessions the same.
        self.chunk_records: collections.deque[Any] = collections.deque(maxlen=MOST_RECORDS)
        #: Calls that printed something, as long as their results exist.
        self.printing: weakref.WeakSet[Printing] = weakref.WeakSet()
        #: Whether HTCondor writes nothing more into the directory; known when all jobs have ended.
        self.is_quiet = False
        self._modules: payload.Shared[Any] | None = None
        self._former_crews: dict[int, Crew] = {}  # of the owner before this process
        self._numbers = itertools.count(1)

    @property
    def is_closed(self) -> bool:
        """Whether its event log is no longer followed."""
        return self.follower.is_closed

    def close(self) -> None:
        """Stop following the jobs: what is known of them stays as it is."""
        self.follower.close()
        self.staffing.retire()

    # -- resuming the work of another process ------------------------------------
    @classmethod
    def taken_up(cls, directory: SubmitDir, access_point: AccessPoint) -> Session:
        """Return a session in the directory of an owner that ended; then `take_up` its batches."""
        if directory.manifest.queue != access_point.queue:
            directory.forget_jobs(access_point.queue)
        session = cls(directory, access_point, directory.manifest.lease)
        for number, known in directory.crews().items():
            initializer = payload.RecordedInitializer(directory / submitdir.crew_name(number))
            with directory.reading(submitdir.jobs_name(number)):
                options = JobOptions.restored(known.options, initializer)
                crew = Crew.restored(number, known, options, session.changed)
                session._former_crews[number] = crew
                with session.changed:
                    queue = access_point.queue
                    crew.clusters = [Cluster(crew, *cluster, queue) for cluster in known.clusters]
                    session.state.clusters.update((c.number, c) for c in crew.clusters)
        taken = [*session._former_crews, *directory.batches(), *directory.numbers_shared()]
        session._numbers = itertools.count(max(taken, default=0) + 1)
        return session

    def resumable(self) -> dict[int, Chain]:
        """Return the batches to `take_up`: those whose crews could be read, too."""
        chains = self.directory.chains()
        return {
            root: chain
            for root, chain in chains.items()
            if all(record.crew in self._former_crews for _, record in chain)
        }

    @uninterrupted
    def take_up(self, number: int, record: BatchRecord, deliver: Deliver) -> Batch:
        """Follow a batch of the former owner: deliver what has finished, resume the rest."""
        crew = self._former_crews[record.crew]
        batch = Batch(number, crew, deliver, crew.options, record)
        origins = self.directory.ends(number)
        parts = record.parts or [(first, end, first) for first, end in origins.items()]
        known = {token.first for token in self.directory.tokens(crew.number)}
        if not crew.is_resident:
            known = {first for cluster in crew.clusters for first in cluster.chunks or ()}
        outcomes = self.directory.outcomes(number)
        with self.changed:
            batch.origins, batch.size, batch.is_open = origins, record.calls or 0, False
            batch.pending = {first: end for first, end, _ in parts}
            batch.files = set(batch.pending)
            for first in sorted(known | outcomes):
                batch.split(first)
            self.state.batches[number] = batch
            crew.batches.append(batch)
        for first, known_error in self.directory.errors(number).items():
            self.state.finish(batch, first, known_error.error())
        for first in list(batch.pending):
            self.state.settle(batch, first)
        # Chunks that the former owner had written, but not posted yet.
        origin_of = {first: origin for first, _, origin in parts}
        with self.changed:
            lost = [
                (first, end, origin_of[first])
                for first, end in batch.pending.items()
                if first not in known and first in origin_of
            ]
        self.state.refresh_holders(crew)
        self._post_parts(batch, lost)
        return batch

    # -- posting ------------------------------------------------------------
    def share(self, value: T) -> payload.Shared[T]:
        """Write an object for many calls to use; return what stands for it in them."""
        name = submitdir.shared_name(next(self._numbers))
        with self.directory.explained():
            payload.write_shared(self.directory / name, value)
        with self.changed:
            self.staffing.shared.append(name)
        return payload.Shared(name, value)

    def _share_modules(self, modules: T) -> payload.Shared[T]:
        """Write the user's own modules, unless they are the same as last time."""
        if self._modules is None or self._modules.value is not modules:
            self._modules = self.share(modules)
        return self._modules

    def prepare(
        self,
        call: payload.Call,
        chunks: Iterable[Sequence[Any]],
        deliver: Deliver,
        options: JobOptions,
        calls: int | None,
    ) -> Batch:
        """Write all chunks of a batch; no job makes them before `commit`.

        ``calls`` is the number of calls.  If it is None, the batch is a stream: call `open`
        instead of `commit`, and `add` for each chunk.
        """
        self.state.check_room()
        batch = self._prepare(call, deliver, options, calls)
        try:
            with self.directory.explained():
                self._write(batch, chunks)
        except BaseException:
            self.state.discard(batch)
            raise
        return batch

    @uninterrupted
    def commit(self, batch: Batch) -> None:
        """Post all chunks of a prepared batch, or none and delete its files."""
        try:
            with self.directory.explained():
                self.open(batch)
                self._post_parts(
                    batch, ((first, end, first) for first, end in batch.origins.items())
                )
        except BaseException:
            self.withdraw(batch)
            raise
        self.end(batch)

    def _prepare(
        self, call: payload.Call, deliver: Deliver, options: JobOptions, calls: int | None
    ) -> Batch:
        """Write what the chunks of a batch share."""
        number = next(self._numbers)
        title = payload.name_of(call.func)
        try:
            with self.directory.explained():
                path = self.directory / submitdir.call_name(number)
                payload.write_call(path, call, self._share_modules, options.task_timeout)
                crew = self.staffing.crew(number, title, options)
        except BaseException:
            self.directory.discard_call(number)
            raise
        record = BatchRecord(
            crew=crew.number,
            title=title,
            name=call.name,
            digest=call.digest,
            style=call.style,
            calls=calls,
            time=time.time(),
            cell=payload.number_of_cell(),
            killstats=options.killstats,
            cleanup=options.cleanup,
            cleanfailed=options.cleanfailed,
            cleanupfiles=options.cleanupfiles,
        )
        return Batch(number, crew, deliver, options, record)

    @uninterrupted
    def open(self, batch: Batch) -> Batch:
        """Write down what another process needs to resume a batch, and follow it."""
        with self.directory.explained():
            self.directory.record(submitdir.facts_name(batch.number), batch.record)
        with self.changed:
            self.state.batches[batch.number] = batch
            batch.crew.batches.append(batch)
        return batch

    @uninterrupted
    def repost(
        self, old: Batch, numbers: Sequence[int], deliver: Deliver, posted_at: float
    ) -> Batch:
        """Post some calls of a finished batch again, all or none, as a new batch.

        They keep their numbers.
        """
        if self.is_closed:
            raise PoolClosedError
        self.state.check_room()
        number = next(self._numbers)
        parts = list(_parts(numbers, old.origins))
        with self.directory.explained():
            crew = self.staffing.crew(number, old.record.title, old.options)
            record = replace(
                old.record, crew=crew.number, time=posted_at, reruns=old.number, parts=parts
            )
            batch = Batch(number, crew, deliver, old.options, record)
            with self.changed:
                batch.origins, batch.size = old.origins, old.size
            try:
                self.directory.copy_batch(old.number, number, {origin for *_, origin in parts})
                self.open(batch)
                self._post_parts(batch, parts)
            except BaseException:
                self.withdraw(batch)
                raise
        with self.changed:
            old.successor = batch
        self.end(batch)
        return batch

    def _post_parts(self, batch: Batch, parts: Iterable[tuple[int, int, int]]) -> None:
        """Post parts of chunks, as first call, end, and origin; submit jobs that are missing."""
        tokens = [Token(batch.number, *part) for part in parts]
        with self.changed:
            batch.pending.update((token.first, token.end) for token in tokens)
            batch.files.update(token.first for token in tokens)
            batch.is_posting = True
        try:
            if batch.crew.is_resident:
                self.directory.post(batch.crew.number, tokens)
            # terminate(), in another thread, may have looked before these were posted.
            if self.state.is_terminated:
                error = JobRemovedError("", TERMINATED)
                for token in tokens:
                    if not batch.crew.is_resident or self.directory.take_back(
                        batch.crew.number, token
                    ):
                        self.state.finish(batch, token.first, error)
            elif batch.crew.is_resident:
                self.staffing.submit_missing_runners(batch.crew)
            elif tokens:
                self.staffing.submit_plain(batch.crew, batch, tokens)
        finally:
            with self.changed:
                batch.is_posting = False

    def add(self, batch: Batch, chunks: Iterable[Sequence[Any]]) -> None:
        """Write more chunks of a batch and post them."""
        self.state.check_room()
        with self.directory.explained():
            parts = self._write(batch, chunks)
            self._post_parts(batch, ((first, end, first) for first, end in parts))

    def _write(self, batch: Batch, chunks: Iterable[Sequence[Any]]) -> list[tuple[int, int]]:
        """Write more chunks of a batch; return the first call and the end of each."""
        first, parts = batch.size, []
        for items in chunks:
            path = self.directory / submitdir.chunk_name(batch.number, first)
            with self.changed:  # before it is written: an interrupt may come in the middle
                batch.files.add(first)
            payload.write_chunk(path, items, first)
            parts.append((first, first + len(items)))
            first += len(items)
        with self.changed:
            if not batch.streams:
                batch.origins.update(parts)
            batch.size = first
        return parts

    def end(self, batch: Batch) -> None:
        """Note that no more chunks will come."""
        with self.changed:
            batch.is_open = False
            self.changed.notify_all()

    @uninterrupted
    def withdraw(self, batch: Batch) -> None:
        """Take back the chunks of a batch that no job has taken, and delete its files."""
        with self.changed:
            # A runner may have taken chunks already: their outcomes come too late.
            batch.pending.clear()
            batch.deliver = ignore
            # The tracker may have forgotten it already.
            self.state.batches.pop(batch.number, None)
            batch.crew.batches = [other for other in batch.crew.batches if other is not batch]
        for token in self.directory.tokens(batch.crew.number):
            if token.batch == batch.number and not token.job:
                self.directory.take_back(batch.crew.number, token)
        self.state.discard(batch)

    # -- what calls print -------------------------------------------------------
    def text(self, job: str, which: int) -> Text | None:
        """Return what a job has printed, labelled by call; None if there is nothing yet.

        ``which`` is 0 for its standard output, 1 for its standard error.
        """
        path = self.directory / (submitdir.stderr_name if which else submitdir.stdout_name)(job)
        try:
            size = path.stat().st_size
        except OSError:
            size = -1  # it has not arrived
        with self.changed:
            made = chunks_of(self.printing, job, which)
        if size < 0 and not any(chunk.texts[which] for chunk, _ in made):
            return None
        return Text(job_parts(made, which, max(0, size)), path)

    # -- ending ----------------------------------------------------------------
    @uninterrupted
    def terminate(self) -> None:
        """Take back every chunk, and remove every job that has not ended."""
        with self.changed:
            self.state.is_terminated = True
            batches = [batch for batch in self.state.batches.values() if batch.pending]
            clusters = [c.number for c in self.state.clusters.values() if c.live]
        for batch in batches:
            for token in self.state.recall(batch.crew, batch):
                self.state.finish(batch, token.first, JobRemovedError("", TERMINATED))
        if clusters:
            self._remove(any_cluster(clusters), TERMINATED)
        with self.changed:
            self.changed.notify_all()

    def _remove(self, jobs: str | Sequence[str], why: str) -> bool:
        """Remove jobs; return False if their HTCondor has ended, and they with it."""
        try:
            self.access_point.act("remove", jobs, why)
        except HTCondorError:
            if not self.access_point.has_ended:
                raise
            return False
        return True

    def wait_all(
        self,
        note: Callable[[str], None],
        say: Callable[[str], None] = ignore,
        patience: float = PATIENCE,
    ) -> bool:
        """Wait until the batches to clean up are done; return whether all jobs left the queue.

        Jobs that are in one of their batch's killstats, or enter one, are removed; so are
        those that no slot of the pool can run.

        Parameters
        ----------
        note
            Called once a second with what the wait is for.
        say
            Called with what happens to jobs that no slot can run.
        patience
            Seconds for an access point that does not answer, and for values to be read.
        """
        killed: set[str] = set()
        unmatched: dict[Crew, float] = {}  # since when
        made_at = math.inf  # when the last call was made
        begun = time.monotonic()
        while True:
            with self.changed:
                batches = self.state.batches.values()
                waited = [b for b in batches if b.options.cleanup and b.undelivered]
                calls = sum(b.calls_pending for b in waited)
                doomed = sorted({job for b in waited for job in _killable(b)} - killed)
                crews = {b.crew for b in waited if b.pending}
                waiting = {c: j.id for c in crews if (j := c.waiting_job) and not c.has_started}
                is_made = not calls and not any(b.is_open for b in waited)
                made_at = min(made_at, time.monotonic()) if is_made else math.inf
                if is_made and (self.deliveries.are_over or time.monotonic() > made_at + patience):
                    break
                self.state.check_reach(begun, patience)
                if not doomed:
                    self.changed.wait(1.0)
            if is_made:
                note("values to be read, or callbacks to return")
            elif calls:
                note(f"{calls:,} calls")
            else:
                note("an imap that takes items from its iterable")
            if doomed:
                if self._remove(doomed, "the condorpool Pool was closed"):
                    killed.update(doomed)
                else:
                    time.sleep(1.0)  # the tracker will notice that they are gone
            for crew in crews:
                self._remove_unmatched(crew, waiting.get(crew, ""), unmatched, say)
        return self._dismiss(patience)

    def _remove_unmatched(
        self, crew: Crew, job: str, since: dict[Crew, float], say: Callable[[str], None]
    ) -> None:
        """Remove the jobs of a crew, after saying so, if no slot can run them.

        Parameters
        ----------
        job
            One of them, if all are idle.
        since
            The crews that no slot could run at the last look, and since when.
        """
        fit = lookout.fit_of(self.access_point, job) if job else None
        why = why_never(fit) if fit else ""
        if not why:
            since.pop(crew, None)
        elif crew not in since:
            since[crew] = time.monotonic()
            say(
                f"{crew.name}: {why}. Its calls are removed in {rules.UNMATCHED_AT_CLOSE:.0f} s, "
                "unless such a slot appears"
            )
        elif time.monotonic() - since[crew] > rules.UNMATCHED_AT_CLOSE:
            with contextlib.suppress(HTCondorError):  # the next look tries again
                actions.remove_waiting(self.state, crew, f"{why} (the condorpool Pool was closed)")

    def _dismiss(self, patience: float) -> bool:
        """Have the runners exit; return whether all jobs left the queue in time."""
        known = self.state.active_crews
        crews = [crew for crew in known if not crew.pending]
        for crew in known:
            if crew.is_resident:
                self.directory.close_crew(crew.number)
        begun = time.monotonic()
        while time.monotonic() - begun < min(2 * LEAVE_TIME, 2 * patience):
            with self.changed:
                if self.changed.wait_for(lambda: not any(c.live for c in crews), 0.2):
                    break
                rest = [c.number for crew in crews for c in crew.clusters if c.live]
            constraint = any_cluster(rest)
            is_overdue = time.monotonic() - begun > LEAVE_TIME
            with contextlib.suppress(HTCondorError):
                if not self.access_point.query(constraint, ["ClusterId"]):
                    break  # gone without an event
                act_on = constraint if is_overdue else f"({constraint}) && JobStatus != 2"
                self.access_point.act("remove", act_on, rules.SURPLUS)
        else:
            return False
        # Wait for the last event of each cluster before the folder is deleted: HTCondor
        # would create it again to write that event there (write_user_log.cpp).
        ended = [c for crew in crews for c in crew.clusters]
        with self.changed:
            is_told = self.changed.wait_for(
                lambda: all(c.is_gone for c in ended), min(rules.LAST_EVENT, patience)
            )
        # Where it has ended without a word, its processes may still write.
        self.is_quiet = is_told and not self.access_point.has_ended
        return True

    def clean(self) -> str:
        """Delete what is no longer needed; return why the rest is kept, or an empty text."""
        with self.changed:
            batches = dict(self.state.batches)
        mine = {n: b for n, b in batches.items() if b.options.cleanup}
        self.directory.discard_beside(f for b in mine.values() for f in b.options.cleanupfiles)
        named = {number for number, batch in batches.items() if batch.record.name}
        ended = named | {number for number, batch in mine.items() if batch.is_done}
        failed = {
            (n, first) for n in ended if not batches[n].is_good for first in batches[n].failed
        }
        cleaning = rules.cleaning({n: batches[n].record for n in ended}, named, failed)
        # What could not be read is not known to be done.
        unreadable = self.directory.unreadable
        if len(mine) == len(batches) and not cleaning.why_kept and not unreadable:
            self.directory.remove()
            return ""
        for number, chunks in cleaning.discard.items():
            self.directory.discard_batch(number, chunks)
        if len(mine) < len(batches):
            return "cleanup=False"
        kept = [(batches[n].holders, chunks) for n, chunks in cleaning.discard.items()]
        self.directory.discard_jobs(
            {holders[i].id for holders, chunks in kept for i in chunks if i in holders}
        )
        return cleaning.why_kept or unreadable

    @uninterrupted
    def forget(self, batch: Batch | None) -> None:
        """Stop keeping the results of a batch and its reruns under the user's name for them."""
        while batch:
            with self.changed:
                batch.record = replace(batch.record, name="", digest="")
            with contextlib.suppress(OSError):
                self.directory.record(submitdir.facts_name(batch.number), batch.record)
            if not batch.undelivered:  # else it is deleted once delivered, as without a name
                self.withdraw(batch)
            batch = batch.successor


def _parts(numbers: Sequence[int], origins: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield the parts of chunks with these calls, as first call, end, and origin."""
    wanted = iter(sorted(numbers))
    number = next(wanted, None)
    for origin, end in sorted(origins.items()):
        while number is not None and number < end:
            first = last = number
            number = next(wanted, None)
            while number == last + 1 and number < end:
                last, number = number, next(wanted, None)
            yield first, last + 1, origin


def _killable(batch: Batch) -> list[str]:
    """Return the jobs of a batch's crew that are in one of its killstats."""
    killstats = batch.options.killstats
    clusters = [
        cluster
        for cluster in batch.crew.clusters
        if any(cluster.counts[state] for state in JobState if state.value in killstats)
    ]
    return [job.id for c in clusters for job in c.jobs if job.state.value in killstats]
