"""One HTCondor access point: its schedd, and the collector of its pool."""

from __future__ import annotations

import contextlib
import errno
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from condorpool.access import matching
from condorpool.access.bindings import check_descriptors, classad2, htcondor2
from condorpool.values.exceptions import (
    HTCondorError,
    HTCondorNotFoundError,
    SubmitError,
    VersionSkewError,
)
from condorpool.values.locks import uninterrupted

# Bindings and schedds of some versions refuse each other's FS authentication: they
# name its directory in different ways (HTCONDOR-3883).
_SKEW = re.compile(r"FS:1004|Directory name doesn't match")

_FAULTS = (htcondor2.HTCondorException, OSError)

T = TypeVar("T")

#: Seconds, at most, for which one that this user has started may not answer: if a daemon does
#: not come back, it ends after about half of this.
RECOVERY = 20.0

#: Actions on jobs: hold, release, remove, removex, vacate, vacatefast, suspend, continue.
ACTIONS = {action.name.lower(): action for action in htcondor2.JobAction}

#: Submit commands that request the user's Kerberos ticket for a job.
_SENDS_CREDENTIAL = ("my.sendcredential", "+sendcredential", "send_credential")


def _has_memory_max(version: str) -> bool:
    found = re.search(r"\b(\d+)\.(\d+)\.\d", version)
    return found is None or (int(found[1]), int(found[2])) >= (25, 2)


@dataclass
class AccessPoint:
    """Where jobs are submitted, and the collector of the HTCondor pool where they run.

    Parameters
    ----------
    name
        The schedd's name, for messages.
    schedd_address, collector_address
        "Sinful strings", as ``<127.0.0.1:9618>``.
    version
        The schedd's ``CondorVersion``.
    started
        When the schedd started, in seconds since 1970; 0 if unknown.
    max_keep_claim
        Seconds for which a slot is kept for the next call at most: about as long as it
        takes to get another slot.
    memory
        MiB that a job requests by default; None leaves it to HTCondor.
    relocate
        Finds this access point again: a schedd that was restarted has a new address.
    is_over, successor
        Whether one that this user has started has ended, and what returns the one that then
        takes its place, with a queue of its own; it is started if necessary.
    origin
        The access point as plain values, for another process: the arguments of `locate`,
        or the folder of a ``personal`` HTCondor.
    queue
        Identifies its queue: jobs in another queue may have the same numbers.
    """

    name: str
    schedd_address: str
    collector_address: str
    version: str = ""
    started: float = 0.0
    max_keep_claim: float = math.inf
    memory: int | None = None
    relocate: Callable[[], AccessPoint | None] | None = field(default=None, repr=False)
    is_over: Callable[[AccessPoint], bool] | None = field(default=None, repr=False)
    successor: Callable[[AccessPoint], AccessPoint] | None = field(default=None, repr=False)
    origin: Mapping[str, str] = field(default_factory=dict)
    queue: str = ""
    last_cluster: int = 0  # that was submitted here

    def keep_claim(self, seconds: float) -> float:
        """Return how long to keep a slot for the next call, at most the given seconds.

        In its first 10 s a schedd does not use kept claims (``keep_claim_idle``;
        schedd.cpp, RegisterTimers), and the negotiator cannot give their slots to jobs.
        """
        return min(seconds, self.max_keep_claim) if time.time() > self.started + 11 else 0.0

    @classmethod
    @uninterrupted
    def locate(cls, schedd: str | None = None, collector: str | None = None) -> AccessPoint:
        """Return a schedd by name, or the configured one, in the configured or given pool."""
        wanted = f"schedd {schedd!r}" if schedd else "the local schedd"
        pool = f" in the HTCondor pool {collector!r}" if collector else ""
        try:
            check_descriptors()
            central = htcondor2.Collector(collector)
            if schedd is None:
                ad = central.locate(htcondor2.DaemonType.Schedd)
            else:
                ad = central.locate(htcondor2.DaemonType.Schedd, schedd)
        except (*_FAULTS, ValueError) as error:
            raise HTCondorNotFoundError(
                f"cannot find {wanted}{pool}: {error}. Check the name with "
                "`condor_status -schedd`, and that HTCondor is running."
            ) from error
        if ad is None:
            raise HTCondorNotFoundError(
                f"there is no {wanted.removeprefix('the ')}{pool}. "
                "`condor_status -schedd` lists the names."
            )
        where = collector or htcondor2.param.get("COLLECTOR_HOST") or ""
        name = str(ad.get("Name", schedd or "local"))
        return cls(
            name=name,
            schedd_address=str(ad["MyAddress"]),
            collector_address=where,
            version=str(ad.get("CondorVersion", "")),
            relocate=lambda: cls.locate(schedd, collector),
            origin={"schedd": name, **({"collector": collector} if collector else {})},
            queue=name,
        )

    def check_memory_max(self) -> None:
        """Raise unless HTCondor can rerun jobs that need more memory with more.

        The access point does it, as the bindings that submit a job wrote into its ad.
        """
        ours = htcondor2.version()
        if not (_has_memory_max(self.version) and _has_memory_max(ours)):
            raise HTCondorError(
                f"memory_max needs HTCondor 25.2.1 at the access point and in the Python bindings: "
                f"access point {self.name} runs {self.version}, and the bindings are {ours}. "
                "Update the bindings with `pip install -U htcondor`, or leave out memory_max= and "
                "raise memory=."
            )

    def _schedd(self) -> Any:
        sys.audit("htcondor", self.name)  # `values.guards` checks that no lock is held
        check_descriptors()
        location = {"MyAddress": self.schedd_address, "CondorVersion": self.version}
        return htcondor2.Schedd(classad2.ClassAd(location))

    def _collector(self) -> Any:
        sys.audit("htcondor", self.collector_address)
        check_descriptors()
        return htcondor2.Collector(self.collector_address or None)

    @uninterrupted
    def _ask(self, doing: str, operation: Callable[[Any], T]) -> T:
        """Return what an operation on the schedd returns; an error says what it was ``doing``."""
        try:
            return self._try(operation)
        except _FAULTS as error:
            raise self._fault(doing, error) from error

    @uninterrupted
    def _try(self, operation: Callable[[Any], T]) -> T:
        """Return what an operation on the schedd returns; locate it again if it has moved."""
        try:
            return operation(self._schedd())
        except _FAULTS:
            if not self._has_moved():
                raise
        return operation(self._schedd())

    def _has_moved(self) -> bool:
        try:
            found = self.relocate() if self.relocate else None
        except HTCondorError:
            return False
        if found is None or found.schedd_address == self.schedd_address:
            return False
        if found.queue != self.queue:  # the jobs are not there: `restore` says so
            return False
        self._become(found)
        return True

    def _become(self, other: AccessPoint) -> None:
        self.schedd_address, self.version = other.schedd_address, other.version
        self.collector_address, self.started = other.collector_address, other.started
        self.queue = other.queue

    @property
    def has_ended(self) -> bool:
        """Whether it was started by this user and has ended, or another one is in its place."""
        return self.is_over is not None and self.is_over(self)

    @uninterrupted
    def restore(self) -> None:
        """Start it again if it was started here and has ended; its queue is then another one.

        Raises PersonalError where that is impossible, or a person has stopped it.
        """
        if self.has_ended and self.successor:
            self._become(self.successor(self))

    def _recovers(self) -> bool:
        """Wait until one that this user has started answers; start it again if it has ended."""
        end = time.monotonic() + RECOVERY
        while self.is_over and time.monotonic() < end:
            self.restore()
            found = self.relocate() if self.relocate else None
            if found and found.queue == self.queue:
                self._become(found)
                with contextlib.suppress(*_FAULTS):
                    self._schedd().query("false", [])
                    return bool(self._slots())
            time.sleep(0.2)
        return False

    def _fault(self, doing: str, error: Exception) -> HTCondorError:
        """Return an exception of the bindings as ours, which says what to do."""
        if _SKEW.search(str(error)):
            return VersionSkewError(
                f"cannot {doing} at access point {self.name}: it runs HTCondor "
                f"{self.version or 'of another version'}, and these Python bindings are "
                f"{htcondor2.version().split()[1]}; the two authenticate you in different ways. "
                "Install the bindings of the access point's version "
                "(pip install 'htcondor==<its version>'), or set "
                "SEC_FS_ENFORCE_CHANNEL_BINDING = False in your HTCondor configuration."
            )
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            return HTCondorError(
                f"cannot {doing} at access point {self.name}: {error.strerror}. Close files in this "
                "process, or raise its limit (`ulimit -n`)."
            )
        return HTCondorError(
            f"cannot {doing} at access point {self.name}: {error}. "
            "Check that HTCondor is running (`condor_status -schedd`, `condorpool personal status`)."
        )

    @uninterrupted
    def submit(self, description: Mapping[str, str], items: Sequence[Mapping[str, str]]) -> int:
        """Submit one cluster with a job for each item and return its ClusterId."""
        if any(
            description[k].lower() == "true" for k in description if k.lower() in _SENDS_CREDENTIAL
        ):
            add_kerberos_tokens(self.collector_address or None)
        try:
            submit = htcondor2.Submit(dict(description))
            submit.setQArgs("from")  # has no effect with items; 24.0 fails without it
            try:
                done = self._try(lambda schedd: schedd.submit(submit, itemdata=iter(items)))
            except htcondor2.HTCondorException:  # and no fault of this process
                if self._answers() or not self._recovers():
                    raise
                done = self._schedd().submit(submit, itemdata=iter(items))
        except (*_FAULTS, ValueError) as error:
            if _SKEW.search(str(error)) or not self._answers():
                raise self._fault("submit", error) from error
            text = "\n".join(f"    {key} = {value}" for key, value in description.items())
            raise SubmitError(
                f"access point {self.name} refused the jobs: {error}\n"
                f"The submit description was:\n{text}\nNothing was submitted."
            ) from error
        self.last_cluster = int(done.cluster())
        return self.last_cluster

    @uninterrupted
    def _answers(self) -> bool:
        try:
            self._schedd().query("false", [])
        except _FAULTS:
            return False
        return True

    @uninterrupted
    def nudge_cluster(self, cluster: int) -> None:
        """Have the schedd start the jobs of a new cluster now, not at its next interval.

        Any action on a job makes the schedd try the claims that it has kept
        (``keep_claim_idle``) at once, and releasing idle jobs has no other effect;
        rescheduling requests a negotiation cycle.  Without both, a second call
        waits up to a whole cycle.
        """
        try:
            schedd = self._schedd()
            schedd.act(htcondor2.JobAction.Release, f"ClusterId == {cluster}")
            schedd.reschedule()
        except _FAULTS:
            return  # the jobs are in the queue, and start with the next cycle

    def act(self, action: str, jobs: str | Sequence[str], reason: str = "") -> int:
        """Apply one of `ACTIONS` to jobs; return for how many it succeeded.

        Parameters
        ----------
        jobs
            Job ids (``"12.3"``), or one constraint.
        """
        spec = jobs if isinstance(jobs, str) else list(jobs)
        # The bindings drop a reason that is not paired with a subcode.
        why = (reason, 0) if reason else None
        done = self._ask(f"{action} jobs", lambda schedd: schedd.act(ACTIONS[action], spec, why))
        return int(done["TotalSuccess"])

    def edit(self, jobs: str | Sequence[str], attribute: str, value: str) -> int:
        """Change an attribute of jobs, given as for `act`; return how many were changed.

        If one of them has left the queue, none is changed.  Jobs that HTCondor has not
        created yet keep the value they were submitted with: the bindings cannot change it.
        """
        spec = jobs if isinstance(jobs, str) else list(jobs)
        doing = f"change {attribute} of jobs"
        return int(self._ask(doing, lambda schedd: schedd.edit(spec, attribute, value)))

    def nudge_idle(self, jobs: Sequence[str]) -> None:
        """Have the schedd rebuild its list of jobs that can start, if one of these is idle.

        It does so whenever a job's priority is set, even to the same value.
        """
        idle = f"JobStatus == 1 && ({any_job(jobs)})"
        for ad in self.query(idle, ["ClusterId", "ProcId", "JobPrio"])[:1]:
            job = f"{ad['ClusterId']}.{ad['ProcId']}"
            self.edit([job], "JobPrio", str(ad.get("JobPrio", 0)))

    def query(self, constraint: str, projection: Sequence[str]) -> list[dict[str, Any]]:
        """Return these attributes of the jobs in the queue that meet a constraint."""
        wanted = list(projection)
        ads = self._ask("query jobs", lambda schedd: schedd.query(constraint, wanted))
        return [dict(ad) for ad in ads]

    def most_memory(self, jobs: Sequence[str]) -> int:
        """Return the most MiB that any of these jobs requests or has used."""
        ads = self._ask("query jobs", lambda schedd: schedd.query(any_job(jobs)))
        # Both may be expressions over other attributes.
        values = [
            ad.eval(name) for ad in ads for name in ("RequestMemory", "MemoryUsage") if name in ad
        ]
        return max((int(value) for value in values if isinstance(value, int | float)), default=0)

    def history(self, constraint: str, projection: Sequence[str]) -> list[dict[str, Any]]:
        """Return these attributes of jobs that have left the queue; slow."""
        doing, wanted = "ask for the history of jobs", list(projection)
        ads = self._ask(doing, lambda schedd: schedd.history(constraint, wanted))
        return [dict(ad) for ad in ads]

    @uninterrupted
    def slots(self) -> list[dict[str, Any]]:
        """Return the slots that the collector knows: name, resources (memory in MiB), state."""
        try:
            try:
                return self._slots()
            except htcondor2.HTCondorException:
                if not self._recovers():
                    raise
                return self._slots()
        except _FAULTS as error:
            raise self._fault("query the collector for slots", error) from error

    def _slots(self) -> list[dict[str, Any]]:
        projection = ["Name", "Machine", "State", "SlotType"]
        projection += ["TotalSlotCpus", "TotalSlotMemory", "TotalSlotDisk", "TotalSlotGPUs"]
        ads = self._collector().query(htcondor2.AdType.Startd, projection=projection)
        return [dict(ad) for ad in ads]

    @uninterrupted
    def is_met(self, requirements: str) -> bool:
        """Return whether a job's requirements are true, or depend on the job, on any slot."""
        if re.search(r"\bMY\.", requirements, re.IGNORECASE):
            return True
        # The collector evaluates them in a slot's ad, where the slot is not the target.
        here = re.sub(r"\bTARGET\.", "", requirements, flags=re.IGNORECASE)
        # What a partitionable slot has now is what its dynamic slots do not use.
        here = re.sub(r"\b(Cpus|Memory|Disk|GPUs)\b", r"TotalSlot\1", here, flags=re.IGNORECASE)
        try:
            central = self._collector()
            found = central.query(
                htcondor2.AdType.Startd, f'SlotType =!= "Dynamic" && ({here}) =!= false', ["Name"]
            )
        except _FAULTS as error:
            raise self._fault("query the collector for slots", error) from error
        return bool(found)

    @uninterrupted
    def fit(self, job: str | Mapping[str, str]) -> matching.Fit | None:
        """Compare what a job requests with what the slots have; None if it left the queue.

        Parameters
        ----------
        job
            Its id, or the submit description of a job that is not submitted.
        """
        try:
            if isinstance(job, str):
                ads = self._try(lambda schedd: schedd.query(any_job([job])))
            else:
                ads = [matching.ad_of(job)]
            running = self._try(lambda schedd: schedd.query("JobStatus == 2", ["Owner"]))
            central = self._collector()
            slots = central.query(htcondor2.AdType.Startd, 'SlotType =!= "Dynamic"')
        except _FAULTS as error:
            raise self._fault("match a job with slots", error) from error
        owners = [ad.get("Owner") for ad in running]
        return matching.fit(ads[0], slots, owners) if ads else None


def any_job(jobs: Iterable[str]) -> str:
    """Return the constraint that only these jobs (``"12.3"``) meet."""
    each = ["ClusterId == {} && ProcId == {}".format(*job.split(".")) for job in jobs]
    return " || ".join(f"({one})" for one in each) if len(each) > 1 else "".join(each) or "false"


def any_cluster(numbers: Iterable[int]) -> str:
    """Return the constraint that only the jobs of these clusters meet."""
    return " || ".join(f"ClusterId == {number}" for number in numbers)


def check_expression(name: str, text: str) -> str:
    """Return a text that HTCondor can parse as a ClassAd expression."""
    try:
        classad2.ExprTree(text)
    except (classad2.ClassAdException, ValueError) as error:
        raise ValueError(f"{name}={text!r} is not a ClassAd expression: {error}") from error
    return text


def is_configured() -> bool:
    """Return whether HTCondor's configuration here names a pool."""
    return bool(htcondor2.param.get("COLLECTOR_HOST"))


@uninterrupted
def add_kerberos_tokens(pool: str | None = None) -> tuple[Any, Any]:
    """Hand the user's Kerberos ticket to HTCondor, for jobs with ``MY.SendCredential``.

    Parameters
    ----------
    pool
        Address of the HTCondor pool's collector; the configured one by default.

    Returns
    -------
    tuple
        The ``htcondor2.Collector`` and ``htcondor2.Credd`` that were used.
    """
    try:
        collector = htcondor2.Collector(pool)
        credd = htcondor2.Credd(collector.locate(htcondor2.DaemonType.Credd))
        credd.add_user_cred(htcondor2.CredType.Kerberos, None)
    except (*_FAULTS, TypeError, ValueError) as error:
        raise HTCondorError(
            f"cannot hand your Kerberos ticket to HTCondor: {error}. Nothing was submitted. It needs "
            "a condor_credd that the collector knows, SEC_CREDENTIAL_PRODUCER in HTCondor's "
            "configuration here, and a valid ticket (`klist`)."
        ) from error
    return collector, credd
