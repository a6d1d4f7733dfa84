"""Ends submit directories whose owner has ended, each by its own policy (``on_exit``)."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from condorpool import personal
from condorpool.access.accesspoint import AccessPoint
from condorpool.access.eventlog import EventLog, FileWatch
from condorpool.access.matching import Fit
from condorpool.cleaner import registry
from condorpool.cleaner.registry import Entry
from condorpool.engine import description, ownership, rules, submitdir
from condorpool.engine.records import BatchRecord, CrewRecord
from condorpool.engine.submitdir import SubmitDir
from condorpool.engine.why import why_never
from condorpool.personal.configuration import ACCOUNT
from condorpool.runner.names import EX_NO_CHIRP
from condorpool.values.events import STATE_OF_STATUS, JobEvent, JobState
from condorpool.values.exceptions import CondorPoolError, HTCondorError, SubmitError
from condorpool.values.folders import HeldFile, HeldFolder, is_mine
from condorpool.values.text import plural

#: Seconds between two looks at the queue, at least (when the event log grows) and at most.
SHORTEST, LONGEST = 0.5, 15.0

#: Seconds after which an empty queue is assumed to stay empty: a submission may be on its way.
SETTLED = 1.0

#: Seconds, at most, that the processes of a personal HTCondor have to end after its guardian.
DYING = 60.0

#: Seconds after which the cleaner gives up if it can do nothing.
PATIENCE = 86_400.0

#: Seconds, at most, between two looks at whether slots can run the waiting jobs.
MATCH_INTERVAL = 60.0

#: Attributes of a job in the queue.
Job = Mapping[str, Any]

# Files that may remain in a deleted directory, or be made there again.
_REMAINS = {ownership.OWNER_LOCK, submitdir.EVENT_LOG}

WHY = "condorpool cleaned up: its owner has ended"


class History:
    """What the event log says about jobs that have left the queue."""

    def __init__(self, path: HeldFile) -> None:
        self._path = path
        self._log: EventLog | None = None
        # Sets, because after a restart HTCondor may write an event twice.
        self._clusters: set[int] = set()
        self._ended: set[int] = set()
        #: Clusters with jobs that the user, or the end of their lease, has removed.
        self.removed: set[int] = set()
        self.removed_jobs: set[str] = set()
        #: Jobs that have failed.
        self.crashed: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether HTCondor has written the last event of every cluster."""
        return self._clusters <= self._ended

    def update(self) -> None:
        """Read the events since the last time."""
        if not self._path.exists():
            return  # the owner was killed before it made the log
        self._log = self._log or EventLog(self._path)
        for event in self._log.new_events():
            self._clusters.add(event.cluster)
            reason = str(event.facts.get("Reason"))
            if event.kind == "CLUSTER_REMOVE":
                self._ended.add(event.cluster)
            elif event.kind == "JOB_ABORTED" and not reason.startswith(rules.SURPLUS):
                self.removed.add(event.cluster)
                self.removed_jobs.add(f"{event.cluster}.{event.proc}")
            elif event.kind == "JOB_TERMINATED" and not _ended_well(event):
                self.crashed.add(f"{event.cluster}.{event.proc}")

    def close(self) -> None:
        """Close the event log."""
        if self._log:
            self._log.close()


class Ending:
    """The end of one submit directory, in short steps.

    It relies only on the disk and the queue, and each step reads both again: the owner may
    have been killed at any moment, and this process may be, too.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.directory = SubmitDir(entry.path)
        self.access_point: AccessPoint | None = None
        self.history = History(self.directory.log)
        self.waiting_since = 0.0  # when it became impossible to do anything; 0 if it is possible
        self.empty_since = 0.0  # when the queue had no more jobs
        self.renew_at = 0.0
        self.match_at = 0.0  # when to match waiting jobs with the pool's slots
        #: Crews whose jobs no slot could run at the last look: since when, and why.
        self.unmatched: dict[int, tuple[float, str]] = {}
        #: Number of chunks that were posted when jobs were last submitted, by crew.
        self.posted: dict[int, int] = {}
        #: Crews with jobs that were removed because of their state (``killstats``).
        self.stopped: set[int] = set()

    @property
    def is_stuck(self) -> bool:
        """Whether nothing could be done for so long that waiting is useless."""
        return bool(self.waiting_since) and time.monotonic() - self.waiting_since > PATIENCE

    def step(self, entry: Entry) -> None:
        """Do what can be done now."""
        self.entry = entry
        try:
            if not self._is_ours():
                return
            if entry.on_exit == "keep":
                self._keep("on_exit='keep'")
                return
            jobs = self._jobs()
            self.waiting_since = 0.0
        except FileNotFoundError:
            self._deleted()
        except PermissionError as error:
            if self._is_made_again():
                self._deleted()
            else:
                self._replaced(error)
        except HTCondorError as error:
            self._wait(f"waits for the access point: {error}")
        else:
            self._act(jobs)

    def _wait(self, why: str) -> None:
        self.waiting_since = self.waiting_since or time.monotonic()
        self.entry.say(why)

    def _act(self, jobs: Sequence[Job]) -> None:
        with self.directory.reading(submitdir.EVENT_LOG):
            self.history.update()
        batches, _ = self.directory.batches(), self.directory.crews()
        waits = self.entry.on_exit == "wait"
        if waits and not all(batch.cleanup for batch in batches.values()):
            self._keep("its calls were made with cleanup=False")
        elif waits and self.directory.unreadable:
            self._leave(jobs, self.directory.unreadable)
        elif waits and self._is_working(jobs, list(batches.values())):
            self.empty_since = 0.0
        elif jobs:
            self.empty_since = 0.0
            # Who takes it up meanwhile must not take this for the end of calls.
            why = rules.SURPLUS if waits else WHY
            self._remove(description.jobs_of(self.entry.run), why)
        elif self._is_settled():
            # That nobody answers for the jobs does not mean that their work is done.
            unmade = self._unmade(batches) if waits and self.access_point is None else 0
            if unmade:
                calls = "1 call was" if unmade == 1 else f"{unmade:,} calls were"
                self._keep(
                    f"{calls} not made before their personal HTCondor ended; "
                    "condorpool.attach() resumes them"
                )
            else:
                self._clean(batches)

    def _leave(self, jobs: Sequence[Job], why: str) -> None:
        """Keep a directory in which a file cannot be read, once its jobs have ended."""
        if jobs:
            self.empty_since = 0.0
            self._renew(jobs)
            self.entry.say(f"waits for jobs: {_in_words(jobs)}; {why}")
        elif self._is_settled():
            self._keep(why)

    # -- looking ------------------------------------------------------------------------
    def _is_ours(self) -> bool:
        """Lock the directory and return whether it is ours.

        Raises FileNotFoundError if the user has deleted it.  HTCondor then makes it again,
        for the event log (``write_user_log.cpp``) and the output of jobs.  Raises
        PermissionError if another user has put a folder of his own in its place.
        """
        if not ownership.acquire(self.entry.path):
            self._wait("waits: another process is working on it")
            return False
        HeldFolder(self.entry.path).open()
        if found := SubmitDir.found(self.entry.path):
            self.directory = found
        elif self._is_made_again():
            raise FileNotFoundError(submitdir.MANIFEST)
        else:
            ownership.release(self.entry.path)
            self._keep("it has no manifest; delete it by hand if it is yours")
            return False
        return True

    def _is_made_again(self) -> bool:
        """Return whether HTCondor has made the directory, which holds nothing but its files."""
        path, makers = self.entry.path, {os.geteuid()}
        if os.geteuid() == 0:
            makers.add(ACCOUNT)  # root's personal HTCondor
        try:
            about, names = path.lstat(), [file.name for file in path.iterdir()]
        except OSError:
            return False
        return (
            stat.S_ISDIR(about.st_mode)
            and about.st_uid in makers
            and all(name in _REMAINS or name.startswith("job-") for name in names)
        )

    def _jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of this directory that are in the queue."""
        # A personal HTCondor may have ended since the last step.
        if self.access_point is None or "personal" in self.entry.origin:
            self.access_point = self.entry.access_point(self.directory.manifest.queue)
        if self.access_point is None:
            return []
        wanted = ["ClusterId", "ProcId", "JobStatus", "NumJobStarts", "CondorpoolCrew"]
        return self.access_point.query(description.jobs_of(self.entry.run), wanted)

    def _is_settled(self, *, is_deleted: bool = False) -> bool:
        """Return whether the queue stays empty, and HTCondor has written its last event.

        The events of a directory that was deleted are not known, and the processes of a personal
        HTCondor that was killed may write until they have ended, too.
        """
        now = time.monotonic()
        self.empty_since = self.empty_since or now
        quiet, home = now - self.empty_since, self.entry.origin.get("personal")
        if home and self.access_point is None and quiet < DYING and personal.is_ending(home):
            return False
        is_told = self.history.is_complete and not is_deleted
        return quiet > (SETTLED if is_told else rules.LAST_EVENT)

    # -- acting -------------------------------------------------------------------------
    def _is_working(self, jobs: Sequence[Job], batches: Sequence[BatchRecord]) -> bool:
        """Let the work finish; return whether there is more to wait for."""
        remove: dict[str, set[str]] = {WHY: set(), rules.SURPLUS: set()}
        is_working = False
        doomed = self._unmatched(jobs)
        for number, crew in self.directory.crews().items():
            tokens = list(self.directory.tokens(number))
            self.directory.close_crew(number)
            posted = [token for token in tokens if not token.job]
            end = rules.crew_end(
                crew,
                {_id(job): _state(job) for job in jobs if job.get("CondorpoolCrew") == number},
                tokens,
                rules.killstats([batch for batch in batches if batch.crew == number]),
                may_submit=self._may_submit(number, crew, len(posted)),
                unmatched=doomed,
            )
            remove[WHY if end.kills else rules.SURPLUS] |= end.remove
            if end.kills:
                self.stopped.add(number)
            if end.submit:
                self.posted[number] = len(posted)
                calls = sum(token.end - token.first for token in posted)
                self.entry.say(
                    f"submits {plural(end.submit, 'job')} for {plural(calls, 'call')} without a job"
                )
                is_working |= self._submit(crew, end.submit)
            is_working |= end.has_jobs
        for why, ids in remove.items():
            if ids:
                self._remove(sorted(ids), why)
        if is_working:
            self._renew(jobs)
            unmatched = {why for _, why in self.unmatched.values()}
            why = f" ({'; '.join(sorted(unmatched))})" if unmatched else ""
            self.entry.say(f"waits for jobs: {_in_words(jobs)}{why}")
        return is_working

    def _unmatched(self, jobs: Sequence[Job]) -> set[str]:
        """Return the jobs of crews that never ran, and that no slot could run for a long time."""
        crews: dict[int, list[Job]] = {}
        for job in jobs:
            crews.setdefault(job.get("CondorpoolCrew", 0), []).append(job)
        waiting = {
            number: [_id(job) for job in crew]
            for number, crew in crews.items()
            if all(_state(j) is JobState.IDLE and not j.get("NumJobStarts") for j in crew)
        }
        now, point = time.monotonic(), self.access_point
        if waiting and point and now >= self.match_at:
            self.match_at = now + min(MATCH_INTERVAL, rules.UNMATCHED_AFTER / 2)
            fits: dict[int, Fit | None] = {}
            with contextlib.suppress(HTCondorError):  # a collector that does not answer
                fits = {number: point.fit(ids[0]) for number, ids in waiting.items()}
            self.unmatched = {
                number: (self.unmatched.get(number, (now, ""))[0], why_never(fit))
                for number, fit in fits.items()
                if fit and fit.is_hopeless
            }
        doomed = set()
        self.unmatched = {n: known for n, known in self.unmatched.items() if n in waiting}
        for number, (since, why) in self.unmatched.items():
            if now - since > rules.UNMATCHED_AFTER:
                self.entry.say(f"removes {plural(len(waiting[number]), 'job')}: {why}")
                doomed.update(waiting[number])
        return doomed

    def _may_submit(self, number: int, crew: CrewRecord, posted: int) -> bool:
        """Return whether a crew may get more jobs: as long as fewer chunks are posted each time.

        Not if the user, or the end of the lease, has removed some of its jobs.
        """
        removed = self.history.removed & {cluster.number for cluster in crew.clusters}
        fewer = posted < self.posted.get(number, posted + 1)
        return bool(fewer and not removed and number not in self.stopped and self.access_point)

    def _submit(self, crew: CrewRecord, size: int) -> bool:
        """Submit runners; return whether that was possible."""
        assert self.access_point is not None  # noqa: S101 - see _may_submit
        submit = {**crew.description, "max_materialize": str(size)}
        try:
            self.access_point.submit(submit, [{"runner": str(i)} for i in range(size)])
        except SubmitError as error:
            self.entry.say(str(error))
            return False
        return True

    def _renew(self, jobs: Sequence[Job]) -> None:
        """Renew the lease of waiting jobs as long as a job runs."""
        lease = self.directory.manifest.lease
        runs = any(_state(job) is JobState.RUNNING for job in jobs)
        if lease and runs and time.monotonic() > self.renew_at and self.access_point:
            self.renew_at = time.monotonic() + rules.renewal_interval(lease)
            with contextlib.suppress(HTCondorError):
                description.renew(self.access_point, self.entry.run, lease)

    def _remove(self, jobs: str | list[str], why: str = WHY) -> None:
        with contextlib.suppress(HTCondorError):  # the next step tries again
            if self.access_point and (count := self.access_point.act("remove", jobs, why)):
                self.entry.say(f"removed {plural(count, 'job')}")

    def _clean(self, batches: Mapping[int, BatchRecord]) -> None:
        """Delete the directory, except for what must be kept."""
        self.history.close()
        waits = self.entry.on_exit == "wait"
        chains = self.directory.chains().values() if waits else ()
        if waits and self.directory.unreadable:
            self._keep(self.directory.unreadable)
            return
        self.directory.discard_beside(
            name for batch in batches.values() for name in batch.cleanupfiles
        )
        named = {number for chain in chains for number, batch in chain if batch.name}
        cleaning = rules.cleaning(batches, named, self._failed(batches))
        if cleaning.why_kept:
            for number, failed in cleaning.discard.items():
                self.directory.discard_batch(number, failed)
            keeps_failed = any(cleaning.discard.values())
            self.directory.discard_jobs(self.history.crashed if keeps_failed else ())
            self._keep(cleaning.why_kept)
        else:
            self.directory.remove()
            self.entry.say("cleaned up")
            self.entry.discard()

    def _unmade(self, batches: Mapping[int, BatchRecord]) -> int:
        """Return how many calls have not been made, and were not given up."""
        crews = self.directory.crews()
        _, ended = self.directory.chunks()
        return rules.unmade_calls(
            crews,
            batches,
            {number: list(self.directory.tokens(number)) for number in crews},
            {
                (batch, first): end
                for batch in batches
                for first, end in self.directory.ends(batch).items()
            },
            ended,
            crashed=self.history.crashed,
            removed=self.history.removed_jobs,
        )

    def _failed(self, batches: Mapping[int, BatchRecord]) -> set[rules.Chunk]:
        """Return the chunks whose jobs failed; none if ``on_exit="delete"``."""
        crashed = self.history.crashed
        if not crashed or self.entry.on_exit == "delete":
            return set()
        crews = self.directory.crews()
        tokens = {number: list(self.directory.tokens(number)) for number in crews}
        arguments, outcomes = self.directory.chunks()
        return rules.failed_chunks(crews, batches, tokens, crashed, arguments - outcomes)

    def _keep(self, why: str) -> None:
        self.entry.say(f"kept: {why}")
        with contextlib.suppress(FileNotFoundError):  # another process has taken it up
            self.entry.move(registry.state() / registry.KEPT)
        ownership.release(self.entry.path)

    def _deleted(self) -> None:
        """Remove the jobs of a directory that the user has deleted."""
        owner = self.entry.owner
        if not self.entry.path.parent.exists() or not (owner and owner.is_local):
            self._wait("waits: its file system is not mounted here")
            return
        try:
            jobs = self._jobs()
        except HTCondorError as error:
            self._wait(f"waits for the access point: {error}")
            return
        if jobs:
            self.empty_since = 0.0
            self._remove(description.jobs_of(self.entry.run))
        elif self._is_settled(is_deleted=True):
            # Not the one that is held open: it may have been moved.
            ownership.release(self.entry.path)
            if self._is_made_again():
                shutil.rmtree(self.entry.path, ignore_errors=True)
            self.entry.say("cleaned up: the directory was deleted")
            self.entry.discard()

    def _replaced(self, error: PermissionError) -> None:
        """Keep a directory in whose place is one that others can write to.

        Its jobs are removed, because they would use what is there now, unless it is this
        user's: who shares a project with a group may have opened all folders in it.
        """
        try:
            if not is_mine(self.entry.path) and self._jobs():
                self._remove(description.jobs_of(self.entry.run))
        except HTCondorError as problem:
            self._wait(f"waits for the access point: {problem}")
        else:
            self._keep(
                f"{error.strerror}. Move the submit directory back, or make it private (chmod 700); "
                "then condorpool.attach() resumes it"
            )


def _ended_well(event: JobEvent) -> bool:
    return event.facts.get("ReturnValue") in {0, EX_NO_CHIRP}


def _id(job: Job) -> str:
    return f"{job['ClusterId']}.{job['ProcId']}"


def _state(job: Job) -> JobState:
    return STATE_OF_STATUS[job["JobStatus"]]


def _in_words(jobs: Iterable[Job]) -> str:
    """Return the number of jobs in each state, as text."""
    counts = Counter(_state(job).word for job in jobs)
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())


def main(arguments: list[str]) -> None:
    """End the submit directories of these owners, given by their folders in the registry."""
    folders = [Path(argument) for argument in arguments]
    folders = [folder for folder in folders if registry.claim(folder)]
    endings: dict[Path, Ending] = {}
    watch = FileWatch()
    for folder in folders:
        watch.add(folder)
    pause = SHORTEST
    while entries := [entry for folder in folders for entry in registry.entries(folder)]:
        for entry in entries:
            if entry.path not in endings:
                endings[entry.path] = Ending(entry)
                watch.add(endings[entry.path].directory.log)
            try:
                endings[entry.path].step(entry)
            except (OSError, CondorPoolError) as error:
                entry.say(repr(error))
        if all(endings[entry.path].is_stuck for entry in entries):
            break
        for path in endings.keys() - {entry.path for entry in entries}:
            ownership.release(path)  # it was taken up, or has ended
            del endings[path]
        begun = time.monotonic()
        watch.wait(pause)
        grew = time.monotonic() - begun < pause
        time.sleep(max(0.0, begun + SHORTEST - time.monotonic()))
        pause = SHORTEST if grew else min(pause * 1.5, LONGEST)
    for folder in folders:
        registry.tidy(folder)
