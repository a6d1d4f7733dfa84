"""A session: what one pool has in one submit directory, posted, followed and ended."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from condorpool.access.accesspoint import AccessPoint, any_cluster
from condorpool.engine import payload, submitdir
from condorpool.engine.batches import Batch, Cluster, Crew, Deliver
from condorpool.engine.description import JobOptions
from condorpool.engine.follower import Follower
from condorpool.engine.records import BatchRecord
from condorpool.engine.staffing import Crews
from condorpool.engine.state import PATIENCE, SURPLUS, Work
from condorpool.engine.submitdir import SubmitDir, Token
from condorpool.values.events import JobState
from condorpool.values.exceptions import HTCondorError, JobRemovedError
from condorpool.values.locks import uninterrupted

T = TypeVar("T")

#: Seconds that the last event of a cluster may take after its last job's.
LAST_EVENT = 3.0

#: Seconds that runners get to leave by themselves when the pool closes.
LEAVE_TIME = 10.0

#: Chunks of which is kept when and where they were made, where there may be any number.
MOST_MADE = 10_000

TERMINATED = "the condorpool Pool was terminated"


class Session(Work):
    """The work of one pool in one submit directory.

    Whoever has one posts, acts, reads, or waits on ``changed``; the tracker's thread
    has its ``follower``, and the threads of ``deliveries`` tell who asked for calls.
    """

    def __init__(self, directory: SubmitDir, access_point: AccessPoint, lease: float = 0.0) -> None:
        super().__init__(directory, access_point, lease)
        #: The callbacks of results, one after the other.
        self.callbacks = self.deliveries.lane()
        self.crews = Crews(self)
        self.follower = Follower(self, self.crews)
        #: When and where the latest chunks were made, for whoever has several sessions.
        self.made: collections.deque[Any] = collections.deque(maxlen=MOST_MADE)
        self._modules: payload.Shared[Any] | None = None
        self._left: dict[int, Crew] = {}  # of a former owner
        self._numbers = itertools.count(1)
        self._is_terminated = False

    @property
    def is_closed(self) -> bool:
        """Whether nobody follows it any more."""
        return self.follower.is_closed

    # -- taking up what another process has left ---------------------------------
    @classmethod
    def taken_up(cls, directory: SubmitDir, access_point: AccessPoint) -> Session:
        """Go on in the submit directory of an owner that has ended; its batches follow."""
        if directory.manifest.queue != access_point.queue:
            directory.forget_jobs(access_point.queue)
        session = cls(directory, access_point, directory.manifest.lease)
        for number, known in directory.crews().items():
            initializer = payload.read_initializer(directory / submitdir.crew_name(number))
            options = JobOptions.restored(known.options, *initializer)
            resident = known.is_resident
            crew = Crew(number, known.name, known.limit, options, is_resident=resident)
            crew.clusters = [Cluster(*cluster) for cluster in known.clusters]
            session._left[number] = crew
            session.clusters.update((c.number, (crew, c)) for c in crew.clusters)
        taken = [*session._left, *directory.batches(), *directory.numbers_shared()]
        session._numbers = itertools.count(max(taken, default=0) + 1)
        return session

    @uninterrupted
    def take_up(self, number: int, record: BatchRecord, deliver: Deliver) -> Batch:
        """Follow a batch of the former owner: deliver what it has come to, go on with the rest."""
        crew = self._left[record.crew]
        batch = Batch(number, crew, deliver, crew.options, record)
        batch.origins = self.directory.ends(number)
        batch.size = record.calls or 0
        batch.is_open = False
        parts = record.parts or [(first, end, first) for first, end in batch.origins.items()]
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
            self.finish(batch, first, error)
        for first in list(batch.pending):
            self.settle(batch, first)
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

    # -- posting ------------------------------------------------------------
    def share(self, value: T) -> payload.Shared[T]:
        """Write an object that calls share."""
        name = submitdir.shared_name(next(self._numbers))
        with self.directory.explained():
            payload.write_shared(self.directory / name, value)
        self.crews.shared.append(name)
        return payload.Shared(name, value)

    def _share_modules(self, modules: T) -> payload.Shared[T]:
        """Write the user's own modules, unless they are the same as the last time."""
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
        """Write all chunks of a batch of so many calls; no job makes them before `commit`.

        With ``calls`` as None chunks come and go: `open` follows it, and `add` posts them.
        """
        batch = self._prepare(call, deliver, options, calls)
        try:
            with self.directory.explained():
                self._write(batch, chunks)
        except BaseException:
            self.discard(batch)
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
                crew = self.crews.crew(number, title, options)
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
        """Write down what others need to go on with a batch, and follow it."""
        with self.directory.explained():
            self.directory.record(submitdir.facts_name(batch.number), batch.record)
        with self.changed:
            self.batches[batch.number] = batch
            batch.crew.batches.append(batch)
        return batch

    @uninterrupted
    def repost(self, old: Batch, numbers: Sequence[int], deliver: Deliver) -> Batch:
        """Make some calls of a batch that is done again, as a batch of their own.

        Its calls have the numbers that they had.
        """
        number = next(self._numbers)
        parts = list(_parts(numbers, old.origins))
        with self.directory.explained():
            self.directory.copy_batch(old.number, number, {origin for *_, origin in parts})
            crew = self.crews.crew(number, old.record.title, old.options)
            record = replace(
                old.record, crew=crew.number, time=time.time(), reruns=old.number, parts=parts
            )
            batch = self.open(Batch(number, crew, deliver, old.options, record))
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
            batch.is_posting = True
        try:
            if batch.crew.is_resident:
                self.directory.post(batch.crew.number, tokens)
            if self._is_terminated:  # maybe after it has looked for what there is
                for token in tokens:
                    if not batch.crew.is_resident or self.directory.take_back(
                        batch.crew.number, token
                    ):
                        error = JobRemovedError("(none yet)", TERMINATED)
                        self.finish(batch, token.first, error)
            elif batch.crew.is_resident:
                self.crews.man(batch.crew)
            elif tokens:
                self.crews.submit_plain(batch.crew, batch, tokens)
        finally:
            with self.changed:
                batch.is_posting = False

    def add(self, batch: Batch, chunks: Iterable[Sequence[Any]]) -> None:
        """Write more chunks of a batch and see that there are jobs for them."""
        with self.directory.explained():
            parts = self._write(batch, chunks)
            self._post_parts(batch, ((first, end, first) for first, end in parts))

    def _write(self, batch: Batch, chunks: Iterable[Sequence[Any]]) -> list[tuple[int, int]]:
        """Write more chunks of a batch; return first call and end of each."""
        first, parts = batch.size, []
        for items in chunks:
            path = self.directory / submitdir.chunk_name(batch.number, first)
            batch.files.add(first)
            payload.write_chunk(path, items, first)
            parts.append((first, first + len(items)))
            first += len(items)
        if not batch.streams:
            batch.origins.update(parts)
        batch.size = first
        return parts

    def end(self, batch: Batch) -> None:
        """No more chunks will come."""
        with self.changed:
            batch.is_open = False
            self.changed.notify_all()

    @uninterrupted
    def withdraw(self, batch: Batch) -> None:
        """Take back what no job has of a batch, and delete its files."""
        with self.changed:
            self.batches.pop(batch.number, None)
            # The tracker may have let go of it already.
            batch.crew.batches = [other for other in batch.crew.batches if other is not batch]
        for token in self.directory.tokens(batch.crew.number):
            if token.batch == batch.number and not token.job:
                self.directory.take_back(batch.crew.number, token)
        self.discard(batch)

    # -- ending ----------------------------------------------------------------
    @uninterrupted
    def terminate(self) -> None:
        """Take back every chunk, and remove every job that has not ended."""
        with self.changed:
            self._is_terminated = True
            batches = [batch for batch in self.batches.values() if batch.pending]
            clusters = [c.number for _, c in self.clusters.values() if c.live]
        for batch in batches:
            for token in self.recall(batch.crew, batch):
                self.finish(batch, token.first, JobRemovedError("(none yet)", TERMINATED))
        if clusters:
            self.access_point.act("remove", any_cluster(clusters), TERMINATED)
        with self.changed:
            self.changed.notify_all()

    def wait_all(self, note: Callable[[str], None], patience: float = PATIENCE) -> bool:
        """Wait until every batch that is to be cleaned up is done, and its jobs have left.

        Jobs that are in one of their batch's killstats, or come to be, are removed.
        Tell whether all jobs have left.

        Parameters
        ----------
        note
            Called once a second with what is waited for.
        patience
            Seconds for an access point that does not answer, and for values to be read.
        """
        killed: set[str] = set()
        made_at = math.inf  # when the last call was made
        while True:
            with self.changed:
                waited = [b for b in self.batches.values() if b.options.cleanup and b.left]
                calls = sum(b.calls_left for b in waited)
                doomed = sorted({job for b in waited for job in _killable(b)} - killed)
                is_made = not calls and not any(b.is_open for b in waited)
                made_at = min(made_at, time.monotonic()) if is_made else math.inf
                if is_made and (self.deliveries.are_over or time.monotonic() > made_at + patience):
                    break
                self.check_reach(patience)
                if not doomed:
                    self.changed.wait(1.0)
            if is_made:
                note("values to be read, or callbacks to return")
            elif calls:
                note(f"{calls:,} calls")
            else:
                note("an imap that takes items from its iterable")
            if doomed:
                self.access_point.act("remove", doomed, "the condorpool Pool was closed")
                killed.update(doomed)
        return self._dismiss(patience)

    def _dismiss(self, patience: float) -> bool:
        """Have the runners leave, and wait until HTCondor has done with all jobs that ended."""
        known = self.manned()
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
                (self.directory.path.parent / name).unlink(missing_ok=True)
            if batch.record.name:
                named.add(batch.record.name)
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

    @uninterrupted
    def forget(self, batch: Batch | None) -> None:
        """Keep no results of a batch, and of those that made calls of it again."""
        while batch:
            batch.record = replace(batch.record, name="")
            with contextlib.suppress(OSError):
                self.directory.record(submitdir.facts_name(batch.number), batch.record)
            if not batch.left:  # else it goes as all without a name do
                self.withdraw(batch)
            batch = batch.successor


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
