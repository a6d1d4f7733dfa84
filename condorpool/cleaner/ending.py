"""The end of submit directories whose owner has ended, each by its own policy."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condorpool import personal
from condorpool.access.accesspoint import AccessPoint
from condorpool.access.eventlog import EventLog, FileWatch
from condorpool.access.remote import RemoteAccessPoint
from condorpool.cleaner import registry
from condorpool.cleaner.registry import Entry
from condorpool.engine import description, ownership, submitdir
from condorpool.engine.records import BatchRecord, CrewRecord
from condorpool.engine.state import SURPLUS
from condorpool.engine.submitdir import SubmitDir
from condorpool.runner.names import EX_NO_CHIRP
from condorpool.values.events import STATE_OF_STATUS, JobEvent, JobState
from condorpool.values.exceptions import CondorPoolError, HTCondorError, SubmitError

#: Seconds between two looks at the queue, at least (when the event log grows) and at most.
SHORTEST, LONGEST = 0.5, 15.0

#: Seconds after which an empty queue stays empty: a submission may be on its way.
SETTLED = 1.0

#: Seconds that the last event of a cluster may take after its last job has left.
LAST_EVENT = 3.0

#: Seconds for which what cannot be done is tried again.
PATIENCE = 86_400.0

#: Attributes of a job in the queue.
Job = Mapping[str, Any]

# What may be left of a directory that was deleted.
_REMAINS = {ownership.OWNER_LOCK, submitdir.EVENT_LOG}

WHY = "condorpool cleaned up: its owner has ended"


def find_access_point(origin: Mapping[str, str]) -> AccessPoint | None:
    """Find an access point again; None if it was a personal HTCondor's, which has ended."""
    if "personal" in origin:
        return personal.running(origin["personal"])
    if "remote" in origin:
        return RemoteAccessPoint.reach(origin["remote"], origin["schedd"], origin.get("collector"))
    return AccessPoint.locate(**origin)


class Ending:
    """The end of one submit directory, in steps that take no time.

    Works on what is on the disk and in the queue alone.  An owner that was killed
    may have left anything half-done, and this process may be killed as well: each
    step looks anew.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.directory = SubmitDir(entry.path)
        self.access_point: AccessPoint | None = None
        self.silent_since = 0.0
        self.empty_since = 0.0
        self.renew_at = 0.0
        self.posted: dict[int, int] = {}
        self.stopped: set[int] = set()
        self.submitted: set[int] = set()
        self.gone: set[int] = set()
        self.removed: set[int] = set()
        self.crashed: set[str] = set()
        self.log: EventLog | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether nothing could be done for so long that waiting is no use."""
        return bool(self.silent_since) and time.monotonic() - self.silent_since > PATIENCE

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
            self.silent_since = 0.0
        except FileNotFoundError:
            self._deleted()
        except HTCondorError as error:
            self._wait(f"waits for the access point: {error}")
        else:
            self._act(jobs)

    def _wait(self, why: str) -> None:
        self.silent_since = self.silent_since or time.monotonic()
        self.entry.say(why)

    def _act(self, jobs: Sequence[Job]) -> None:
        self._read_log()
        calls = self.directory.batches()
        waits = self.entry.on_exit == "wait"
        if waits and not all(call.cleanup for call in calls.values()):
            self._keep("its jobs were not to be cleaned up (cleanup=False)")
        elif waits and self._go_on(jobs, list(calls.values())):
            self.empty_since = 0.0
        elif jobs:
            self.empty_since = 0.0
            self._remove(f'CondorpoolRun == "{self.entry.run}"')
        elif self._is_settled():
            self._clean(calls)

    # -- looking ------------------------------------------------------------------------
    def _is_ours(self) -> bool:
        """Own the directory; raise FileNotFoundError if somebody has deleted it.

        HTCondor makes it anew then, for what it has to say of its jobs.
        """
        if not ownership.acquire(self.entry.path):
            self._wait("waits: another process works on it")
            return False
        found = SubmitDir.found(self.entry.path)
        if found:
            self.directory = found
        elif all(
            file.name in _REMAINS or file.name.startswith("job-")
            for file in self.entry.path.iterdir()
        ):
            raise FileNotFoundError(submitdir.MANIFEST)
        else:
            ownership.release(self.entry.path)
            self._keep("nothing proves that it is ours: no manifest, or another user")
            return False
        return True

    def _jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of this directory that are in the queue."""
        if self.access_point is None or "personal" in self.entry.origin:
            self.access_point = find_access_point(self.entry.origin)
        if self.access_point is None:
            return []
        wanted = ["ClusterId", "ProcId", "JobStatus", "CondorpoolCrew"]
        return self.access_point.query(f'CondorpoolRun == "{self.entry.run}"', wanted)

    def _read_log(self) -> None:
        """Learn which jobs have ended badly, and of which clusters the last event was told."""
        if not self.directory.log.exists():
            return  # the owner was killed before it had made it
        self.log = self.log or EventLog(self.directory.log)
        for event in self.log.new_events():
            self.submitted.add(event.cluster)
            if event.kind == "CLUSTER_REMOVE":
                self.gone.add(event.cluster)
            elif event.kind == "JOB_ABORTED":
                if not str(event.facts.get("Reason")).startswith(SURPLUS):
                    self.removed.add(event.cluster)
            elif event.kind == "JOB_TERMINATED" and not _ended_well(event):
                self.crashed.add(f"{event.cluster}.{event.proc}")

    def _is_settled(self) -> bool:
        """Tell whether the queue stays empty, and HTCondor has written its last."""
        now = time.monotonic()
        self.empty_since = self.empty_since or now
        quiet = now - self.empty_since
        return quiet > (SETTLED if self.submitted <= self.gone else LAST_EVENT)

    # -- acting -------------------------------------------------------------------------
    def _go_on(self, jobs: Sequence[Job], calls: Sequence[BatchRecord]) -> bool:
        """Let the work finish; tell whether there is any left."""
        doomed = []
        left = False
        for crew, known in self.directory.crews().items():
            killstats = {s for c in calls if c.crew == crew for s in c.killstats}
            if not any(c.crew == crew for c in calls):  # all is done: its jobs only linger
                killstats = {JobState.HELD.value, JobState.SUSPENDED.value}
            own = [job for job in jobs if job.get("CondorpoolCrew") == crew]
            tokens = list(self.directory.tokens(crew))
            posted = sum(not token.job for token in tokens)
            self.directory.close_crew(crew)
            idle = set()
            if known.is_resident and not posted:
                # What an evicted job has taken only that job makes.
                idle = {_id(job) for job in own if job["JobStatus"] == 1}
                idle -= {token.job for token in tokens}
            kill = {_id(j) for j in own if STATE_OF_STATUS[j["JobStatus"]].value in killstats}
            doomed += sorted(kill | idle)
            if kill:
                self.stopped.add(crew)  # what holds its jobs would hold others too
            if len(own) > len(kill | idle):
                left = True
            elif posted and crew not in self.stopped:
                left = self._man(crew, known, posted) or left
        if doomed:
            self._remove(doomed)
        if left:
            self._renew(jobs)
            counts = Counter(STATE_OF_STATUS[job["JobStatus"]].value.lower() for job in jobs)
            states = ", ".join(f"{n} {state}" for state, n in counts.items())
            self.entry.say(f"waits for jobs: {states}")
        return left

    def _man(self, crew: int, known: CrewRecord, posted: int) -> bool:
        """Submit runners for chunks that no job is left for, as long as they become fewer.

        Not where somebody has removed jobs, or the lease has.
        """
        removed = self.removed & {cluster for cluster, *_ in known.clusters}
        if removed or not self.access_point or posted >= self.posted.get(crew, posted + 1):
            return False
        self.posted[crew] = posted
        size = min(known.limit, posted)
        submit = {**known.description, "max_materialize": str(size)}
        self.entry.say(f"submits {size} jobs for {posted} chunks that no job is left for")
        try:
            self.access_point.submit(submit, [{"runner": str(i)} for i in range(size)])
        except SubmitError as error:
            self.entry.say(str(error))
            return False
        return True

    def _renew(self, jobs: Sequence[Job]) -> None:
        """Renew the lease of what waits as long as something runs."""
        lease = self.directory.manifest.lease
        runs = any(STATE_OF_STATUS[job["JobStatus"]] is JobState.RUNNING for job in jobs)
        if lease and runs and time.monotonic() > self.renew_at and self.access_point:
            self.renew_at = time.monotonic() + lease / 4
            with contextlib.suppress(HTCondorError):
                description.renew(self.access_point, self.entry.run, lease)

    def _remove(self, jobs: str | list[str]) -> None:
        with contextlib.suppress(HTCondorError):  # the next step sees what came of it
            if self.access_point and (done := self.access_point.act("remove", jobs, WHY)):
                self.entry.say(f"removed {done} jobs")

    def _clean(self, calls: Mapping[int, BatchRecord]) -> None:
        """Delete the directory, but for what failed jobs have left (unless told otherwise)."""
        if self.log:
            self.log.close()
        for name in {name for call in calls.values() for name in call.cleanupfiles}:
            (self.entry.path.parent / name).unlink(missing_ok=True)
        failed = self._failed(calls) if self.crashed and self.entry.on_exit != "delete" else set()
        kept = {chunk for chunk in failed if not calls[chunk[0]].cleanfailed}
        chains = self.directory.chains().values() if self.entry.on_exit == "wait" else ()
        named = {number for chain in chains for number, call in chain if call.name}
        if named:
            for batch in calls.keys() - named:
                self.directory.discard_batch(batch)
            self.directory.discard_jobs(())
            self._keep(f"results named {', '.join(sorted({calls[n].name for n in named}))}")
        elif kept:
            for batch in calls:
                self.directory.discard_batch(
                    batch, {chunk for number, chunk in kept if number == batch}
                )
            self.directory.discard_jobs(self.crashed)
            self._keep(f"the files of {len(kept)} chunks whose jobs failed")
        else:
            self.directory.remove()
            self.entry.say("cleaned up")
            self.entry.discard()

    def _failed(self, calls: Mapping[int, BatchRecord]) -> set[tuple[int, int]]:
        """Return the chunks whose jobs failed: not those that were removed, or never begun."""
        spared = set()
        for crew, known in self.directory.crews().items():
            tokens = self.directory.tokens(crew)
            spared |= {(t.batch, t.origin) for t in tokens if t.job not in self.crashed}
            batches = [batch for batch, call in calls.items() if call.crew == crew]
            for cluster, _, chunks in known.clusters:
                for proc, chunk in enumerate(chunks or ()):
                    if f"{cluster}.{proc}" not in self.crashed:
                        spared |= {(batch, chunk) for batch in batches}
        arguments, outcomes = self.directory.chunks()
        return {chunk for chunk in arguments - outcomes - spared if chunk[0] in calls}

    def _keep(self, why: str) -> None:
        self.entry.say(f"kept: {why}")
        with contextlib.suppress(FileNotFoundError):  # somebody has taken it up meanwhile
            self.entry.move(registry.state() / registry.KEPT)
        ownership.release(self.entry.path)

    def _deleted(self) -> None:
        """Remove the jobs of a directory that somebody has deleted."""
        owner = self.entry.owner
        if not self.entry.path.parent.exists() or not (owner and owner.is_of_here):
            self._wait("waits: its file system is not here")
            return
        try:
            jobs = self._jobs()
        except HTCondorError as error:
            self._wait(f"waits for the access point: {error}")
            return
        if jobs:
            self.empty_since = 0.0
            self._remove(f'CondorpoolRun == "{self.entry.run}"')
        elif self._is_settled():
            self.directory.remove()
            self.entry.say("was deleted by somebody")
            self.entry.discard()


def _ended_well(event: JobEvent) -> bool:
    return event.facts.get("ReturnValue") in {0, EX_NO_CHIRP}


def _id(job: Job) -> str:
    return f"{job['ClusterId']}.{job['ProcId']}"


def main(arguments: list[str]) -> None:
    """Clean up what the owners of these folders have left."""
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
            ownership.release(path)  # somebody has taken it up, or it is done with
            del endings[path]
        begun = time.monotonic()
        watch.wait(pause)
        grew = time.monotonic() - begun < pause
        time.sleep(max(0.0, begun + SHORTEST - time.monotonic()))
        pause = SHORTEST if grew else min(pause * 1.5, LONGEST)
    for folder in folders:
        registry.tidy(folder)
