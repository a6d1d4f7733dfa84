"""How far the calls in a submit directory are, read from its files alone.

The directory may belong to another process: nothing is changed, and no job is asked.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

from condorpool.access.eventlog import EventLog
from condorpool.engine import outcomes, rules, submitdir
from condorpool.engine.batches import Batch, UnderWay
from condorpool.engine.counts import CallCounts
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Cluster, Crew, Job
from condorpool.engine.records import MOST_RUNNERS, Chain
from condorpool.engine.state import SessionState, ignore
from condorpool.engine.submitdir import SubmitDir
from condorpool.runner.names import EX_NO_CHIRP
from condorpool.values.events import JobEvent, JobState
from condorpool.values.exceptions import JobError, JobRemovedError

if TYPE_CHECKING:
    from condorpool.access.accesspoint import AccessPoint

# What is known of each call.
_OPEN, _DONE, _FAILED, _REMOVED = range(4)


class Ended(NamedTuple):
    """Calls that have ended, ``first`` to ``end`` (not included), and how."""

    first: int
    end: int
    result: outcomes.Report | JobError


class Survey:
    """How far the calls in a submit directory are, as of when that is first asked.

    Parameters
    ----------
    has_queue
        Whether the queue of its jobs still exists; if not, none of them runs or is held.
    """

    def __init__(self, directory: SubmitDir, *, has_queue: bool = True) -> None:
        self._directory = directory
        self._has_queue = has_queue
        # The access point is not asked.
        self._state = SessionState(directory, cast("AccessPoint", None), 0.0)
        self._crews: dict[int, Crew] = {}

    def counts(self, chain: Chain) -> CallCounts:
        """Return how many calls of a batch and its reruns are in each state.

        Values are not unpickled: one that cannot be rebuilt here counts as done.
        """
        marks = bytearray(chain[0][1].calls or 0)
        for number, record in chain:
            for first, end, _ in record.parts:  # these calls are made again
                marks[first:end] = bytes(end - first)
            for first, end, result in self._ended.get(number, ()):
                if isinstance(result, JobError):
                    mark = _REMOVED if isinstance(result, JobRemovedError) else _FAILED
                    marks[first:end] = bytes([mark]) * (end - first)
                else:
                    marks[first:end] = bytes([_DONE]) * (end - first)
                    for call in result.failed:
                        marks[first + call] = _FAILED
        now = UnderWay()
        if _OPEN in marks and self._has_queue:
            with self._state.changed:
                last = self._state.batches.get(chain[-1][0])
                now = last.under_way if last else now
        return CallCounts(
            done=marks.count(_DONE) + now.done,
            failed=marks.count(_FAILED) + now.failed,
            removed=marks.count(_REMOVED),
            running=now.running,
            held=now.held,
            waiting=marks.count(_OPEN) - sum(now),
        )

    def ended(self, chain: Chain) -> Iterator[Ended]:
        """Yield the calls of a batch and its reruns that have ended; a later one replaces earlier ones."""
        for number, _ in chain:
            yield from self._ended.get(number, ())

    def can_be_resumed(self, chain: Chain) -> bool:
        """Return whether the records of the jobs of a batch and its reruns can be read."""
        return bool(self._ended) and all(record.crew in self._crews for _, record in chain)

    @functools.cached_property
    def _ended(self) -> dict[int, list[Ended]]:
        """The calls that have ended, by their batch, in order."""
        # In this order: what a job has done before its event, or the listing of what it took,
        # is found by what follows.
        events = self._events()
        self._add_crews(events)
        self._add_batches()
        with self._state.changed:
            for event in events:
                if cluster := self._state.clusters.get(event.cluster):
                    cluster.apply(event)
        for crew in self._state.active_crews:
            self._state.refresh_holders(crew)
            self._state.refresh_made(crew)
        found = {number: self._look(batch) for number, batch in self._state.batches.items()}
        self._directory.close()  # users may keep many of these
        return found

    def _events(self) -> list[JobEvent]:
        if not self._directory.log.exists():
            return []
        events: list[JobEvent] = []
        with (
            self._directory.reading(submitdir.EVENT_LOG),
            contextlib.closing(EventLog(self._directory.log)) as log,
        ):
            events.extend(log.new_events())
        return events

    def _add_crews(self, events: list[JobEvent]) -> None:
        sizes: dict[int, int] = {}
        for event in events:
            sizes[event.cluster] = max(sizes.get(event.cluster, 0), event.proc + 1)
        state = self._state
        for number, known in self._directory.crews().items():
            options: JobOptions | None = None
            with self._directory.reading(submitdir.jobs_name(number)):
                options = JobOptions.restored(known.options)
            if options is None:
                continue
            crew = Crew.restored(number, known, options, state.changed)
            clusters = {each.number: Cluster(crew, *each) for each in known.clusters}
            for token in self._directory.tokens(number) if known.is_resident else ():
                cluster = int(token.job.partition(".")[0] or -1)
                if (
                    sizes.get(cluster, MOST_RUNNERS) < MOST_RUNNERS
                ):  # the cleaner submits jobs, too, and does not record them
                    clusters.setdefault(cluster, Cluster(crew, cluster, sizes[cluster]))
            with state.changed:
                crew.clusters = list(clusters.values())
                state.clusters.update(clusters)
            self._crews[number] = crew

    def _add_batches(self) -> None:
        for number, record in self._directory.batches().items():
            crew = self._crews.get(record.crew)
            if crew is None or record.calls is None:
                continue  # a stream, or it was posted just now
            batch = Batch(number, crew, ignore, crew.options, record)
            ends = self._directory.ends(number)
            parts = record.parts or [(first, end, first) for first, end in ends.items()]
            with self._state.changed:
                batch.origins, batch.size, batch.is_open = ends, record.calls, False
                batch.pending = {first: end for first, end, _ in parts}
                for cluster in crew.clusters:
                    for job, first in zip(cluster.jobs, cluster.chunks or (), strict=False):
                        if batch.split(first):
                            batch.holders[first] = job
                crew.batches.append(batch)
                self._state.batches[number] = batch

    def _look(self, batch: Batch) -> list[Ended]:
        """Return the calls of a batch that have ended, and count them as pending no more."""
        found, damaged = [], {}
        for first in sorted(self._directory.outcomes(batch.number)):
            name, report = submitdir.outcome_name(batch.number, first), None
            with self._directory.reading(name):
                report = outcomes.look_at(self._directory / name, most=batch.size - first)
            if isinstance(report, outcomes.Report):
                found.append(Ended(first, first + report.calls, report))
            elif report:
                damaged[first] = report  # it does not say how many calls it has
        records = self._directory.errors(batch.number)
        found += [
            Ended(first, min(each.end, batch.size), each.error()) for first, each in records.items()
        ]
        with self._state.changed:
            for first, end, _ in found:
                batch.split(first)
                batch.split(end)  # its job has left the rest to others
                batch.pending.pop(first, None)
            known = [first for first in damaged if batch.split(first)]
            found += [Ended(first, batch.pending.pop(first), damaged[first]) for first in known]
            lost = [
                (first, batch.pending.pop(first), job)
                for first in list(batch.pending)
                if (job := batch.holders.get(first)) and _is_lost_with(job)
            ]
        for first, end, job in lost:
            error = self._state.failure(job, batch.options.task_timeout)
            found.append(Ended(first, end, error))
        return sorted(found, key=lambda each: each.first)


def _is_lost_with(job: Job) -> bool:
    """Return whether the chunk that a job has taken ends with it, though no process recorded that."""
    if job.state is JobState.REMOVED:
        return not job.reason.startswith(rules.SURPLUS)
    return job.state.is_final and job.exit_code not in (0, EX_NO_CHIRP)
