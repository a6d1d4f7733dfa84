"""One HTCondor access point: its schedd, and the collector of its pool."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from condorpool.access import matching
from condorpool.access.bindings import classad2, htcondor2
from condorpool.values.exceptions import (
    HTCondorError,
    HTCondorNotFoundError,
    SubmitError,
    VersionSkewError,
)
from condorpool.values.locks import uninterrupted

# The versions of bindings and schedds between these refuse each other's way of
# naming the folder by which they prove who they are (HTCONDOR-3883).
_SKEW = re.compile(r"FS:1004|Directory name doesn't match")

_FAULTS = (htcondor2.HTCondorException, OSError)

T = TypeVar("T")

#: What can be done to jobs: hold, release, remove, removex, vacate, vacatefast, suspend, continue.
ACTIONS = {action.name.lower(): action for action in htcondor2.JobAction}

#: Submit commands by which a job asks for its user's Kerberos ticket.
_SENDS_CREDENTIAL = ("my.sendcredential", "+sendcredential", "send_credential")


def _has_memory_max(version: str) -> bool:
    found = re.search(r"\b(\d+)\.(\d+)\.\d", version)
    return found is None or (int(found[1]), int(found[2])) >= (25, 2)


@dataclass
class AccessPoint:
    """Where jobs are submitted, and which HTCondor pool they go to.

    Parameters
    ----------
    name
        The schedd's name, for messages.
    schedd_address, collector_address
        "Sinful strings", as ``<127.0.0.1:9618>``.
    version
        The schedd's ``CondorVersion``.
    started
        When the schedd started, in seconds since 1970, if that is known.
    claims
        Seconds for which it pays at most to keep a slot from other jobs: more than it
        takes to be given another does not.
    memory
        MiB that a job asks for unless its user says; None leaves it to HTCondor.
    relocate
        Finds this access point again: a schedd that was restarted has a new address.
    origin
        The same as plain values, for another process: the arguments of `locate`, or
        the folder of a ``personal`` HTCondor.
    queue
        Names its queue, so that no other is taken for it whose jobs have the same numbers.
    """

    name: str
    schedd_address: str
    collector_address: str
    version: str = ""
    started: float = 0.0
    claims: float = math.inf
    memory: int | None = None
    relocate: Callable[[], AccessPoint | None] | None = field(default=None, repr=False)
    origin: Mapping[str, str] = field(default_factory=dict)
    queue: str = ""

    def keep_claim(self, seconds: float) -> float:
        """Return for how long a slot is best kept for the next call, if its user says so long.

        In its first 10 s a schedd does not look at kept claims (``keep_claim_idle``;
        schedd.cpp, RegisterTimers), while the negotiator finds their slots taken.
        """
        return min(seconds, self.claims) if time.time() > self.started + 11 else 0.0

    @classmethod
    @uninterrupted
    def locate(cls, schedd: str | None = None, collector: str | None = None) -> AccessPoint:
        """Find a schedd by name, or the configured one, in the configured or given pool."""
        wanted = f"schedd {schedd!r}" if schedd else "the local schedd"
        pool = f" in the HTCondor pool {collector!r}" if collector else ""
        try:
            central = htcondor2.Collector(collector)
            if schedd is None:
                ad = central.locate(htcondor2.DaemonType.Schedd)
            else:
                ad = central.locate(htcondor2.DaemonType.Schedd, schedd)
        except (*_FAULTS, ValueError) as error:
            raise HTCondorNotFoundError(
                f"no answer for {wanted}{pool}: {error}. Check the name with "
                "`condor_status -schedd`, and that HTCondor is up."
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
        """Raise unless jobs that need more memory can be run again with more.

        The access point does it, and the bindings write into the job how.
        """
        ours = htcondor2.version()
        if not (_has_memory_max(self.version) and _has_memory_max(ours)):
            raise HTCondorError(
                f"memory_max needs HTCondor 25.2.1 at the access point and in the Python bindings: "
                f"access point {self.name} runs {self.version}, and the bindings are {ours}. "
                "`pip install -U htcondor` brings new bindings; or leave memory_max out and give "
                "memory= more."
            )

    def _schedd(self) -> Any:
        location = {"MyAddress": self.schedd_address, "CondorVersion": self.version}
        return htcondor2.Schedd(classad2.ClassAd(location))

    @uninterrupted
    def _ask(self, doing: str, operation: Callable[[Any], T]) -> T:
        """Do something with the schedd, or tell what could not be done."""
        try:
            return self._try(operation)
        except _FAULTS as error:
            raise self._fault(doing, error) from error

    @uninterrupted
    def _try(self, operation: Callable[[Any], T]) -> T:
        """Do something with the schedd; find it again if it has moved."""
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
        self.schedd_address, self.version = found.schedd_address, found.version
        self.collector_address, self.started = found.collector_address, found.started
        return True

    def _fault(self, doing: str, error: Exception) -> HTCondorError:
        """Turn what the bindings raised into an error with its cure."""
        if _SKEW.search(str(error)):
            return VersionSkewError(
                f"cannot {doing} at access point {self.name}: it runs HTCondor "
                f"{self.version or 'of another version'}, and these Python bindings are "
                f"{htcondor2.version().split()[1]}; the two prove who you are in different ways. "
                "Either install the bindings of the access point's own version "
                "(pip install 'htcondor==<its version>'), or set "
                "SEC_FS_ENFORCE_CHANNEL_BINDING = False in your HTCondor configuration."
            )
        return HTCondorError(
            f"cannot {doing} at access point {self.name}: {error}. "
            "Is HTCondor up (`condor_status -schedd`, `condorpool personal status`)?"
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
            submit.setQArgs("from")  # of no effect beside items; 24.0 fails without
            done = self._try(lambda schedd: schedd.submit(submit, itemdata=iter(items)))
            return int(done.cluster())
        except (*_FAULTS, ValueError) as error:
            if _SKEW.search(str(error)) or not self._answers():
                raise self._fault("submit", error) from error
            text = "\n".join(f"    {key} = {value}" for key, value in description.items())
            raise SubmitError(
                f"access point {self.name} did not take the jobs: {error}\n"
                f"The submit description was:\n{text}\nNothing was submitted."
            ) from error

    @uninterrupted
    def _answers(self) -> bool:
        try:
            self._schedd().query("false", [])
        except _FAULTS:
            return False
        return True

    @uninterrupted
    def hurry(self, cluster: int) -> None:
        """Have a new cluster looked at now instead of at the next interval.

        An action that touches a job makes the schedd try the claims that it has
        kept (``keep_claim_idle``) at once, and releasing jobs that are idle
        already does nothing else; rescheduling asks for a negotiation cycle.
        Without the two a second call waits up to a whole cycle.
        """
        try:
            schedd = self._schedd()
            schedd.act(htcondor2.JobAction.Release, f"ClusterId == {cluster}")
            schedd.reschedule()
        except _FAULTS:
            return  # the jobs are in the queue, and start with the next cycle

    def act(self, action: str, jobs: str | Sequence[str], reason: str = "") -> int:
        """Do one of `ACTIONS` to jobs; return to how many.

        Parameters
        ----------
        jobs
            Job ids (``"12.3"``), or one constraint.
        """
        spec = jobs if isinstance(jobs, str) else list(jobs)
        # The bindings drop a reason that is not in a pair with its subcode.
        why = (reason, 0) if reason else None
        done = self._ask(f"{action} jobs", lambda schedd: schedd.act(ACTIONS[action], spec, why))
        return int(done["TotalSuccess"])

    def edit(self, jobs: str | Sequence[str], attribute: str, value: str) -> int:
        """Change an attribute of jobs, given as for `act`; return of how many.

        If one of them has left the queue, none is changed.  Jobs that HTCondor has
        not made yet keep what they were described with: the bindings cannot change that.
        """
        spec = jobs if isinstance(jobs, str) else list(jobs)
        doing = f"change {attribute} of jobs"
        return int(self._ask(doing, lambda schedd: schedd.edit(spec, attribute, value)))

    def rouse(self, jobs: Sequence[str]) -> None:
        """Have the schedd list anew what can start, if one of these jobs waits.

        It does so when it is told a priority, also one that the job has.
        """
        waits = f"JobStatus == 1 && ({any_job(jobs)})"
        for ad in self.query(waits, ["ClusterId", "ProcId", "JobPrio"])[:1]:
            job = f"{ad['ClusterId']}.{ad['ProcId']}"
            self.edit([job], "JobPrio", str(ad.get("JobPrio", 0)))

    def query(self, constraint: str, projection: Sequence[str]) -> list[dict[str, Any]]:
        """Return these attributes of the jobs that are in the queue."""
        wanted = list(projection)
        ads = self._ask("query jobs", lambda schedd: schedd.query(constraint, wanted))
        return [dict(ad) for ad in ads]

    def most_memory(self, jobs: Sequence[str]) -> int:
        """Return the most MiB that one of these jobs asks for, or has used."""
        ads = self._ask("query jobs", lambda schedd: schedd.query(any_job(jobs)))
        # Both may be expressions over other attributes.
        told = [
            ad.eval(name) for ad in ads for name in ("RequestMemory", "MemoryUsage") if name in ad
        ]
        return max((int(value) for value in told if isinstance(value, int | float)), default=0)

    def history(self, constraint: str, projection: Sequence[str]) -> list[dict[str, Any]]:
        """Return these attributes of the jobs that have left the queue; slow."""
        doing, wanted = "ask for the history of jobs", list(projection)
        ads = self._ask(doing, lambda schedd: schedd.history(constraint, wanted))
        return [dict(ad) for ad in ads]

    def slots(self) -> Iterator[dict[str, Any]]:
        """Give the slots that the collector knows: name, CPUs, memory (MiB), state."""
        projection = ["Name", "Machine", "TotalSlotCpus", "TotalSlotMemory", "State", "SlotType"]
        try:
            with uninterrupted:
                central = htcondor2.Collector(self.collector_address or None)
                ads = central.query(htcondor2.AdType.Startd, projection=projection)
            yield from map(dict, ads)
        except _FAULTS as error:
            raise self._fault("ask the collector for slots", error) from error

    @uninterrupted
    def fit(self, job: str | Mapping[str, str]) -> matching.Fit | None:
        """Compare what a job asks for with what the slots have; None if it left the queue.

        Parameters
        ----------
        job
            Its id, or the submit description of one that is not submitted.
        """
        try:
            if isinstance(job, str):
                ads = self._try(lambda schedd: schedd.query(any_job([job])))
            else:
                ads = [matching.ad_of(job)]
            running = self._try(lambda schedd: schedd.query("JobStatus == 2", ["Owner"]))
            central = htcondor2.Collector(self.collector_address or None)
            slots = central.query(htcondor2.AdType.Startd, 'SlotType =!= "Dynamic"')
        except _FAULTS as error:
            raise self._fault("match a job with slots", error) from error
        owners = [ad.get("Owner") for ad in running]
        return matching.fit(ads[0], slots, owners) if ads else None


def any_job(jobs: Iterable[str]) -> str:
    """Return the constraint that is true of these jobs (``"12.3"``) alone."""
    each = ["ClusterId == {} && ProcId == {}".format(*job.split(".")) for job in jobs]
    return " || ".join(f"({one})" for one in each) if len(each) > 1 else "".join(each) or "false"


def any_cluster(numbers: Iterable[int]) -> str:
    """Return the constraint that is true of the jobs of these clusters."""
    return " || ".join(f"ClusterId == {number}" for number in numbers)


def check_expression(name: str, text: str) -> str:
    """Return a ClassAd expression that HTCondor can read."""
    try:
        classad2.ExprTree(text)
    except (classad2.ClassAdException, ValueError) as error:
        raise ValueError(f"{name}={text!r} is not a ClassAd expression: {error}") from error
    return text


def is_configured() -> bool:
    """Tell whether a configuration names an HTCondor pool here."""
    return bool(htcondor2.param.get("COLLECTOR_HOST"))


@uninterrupted
def add_kerberos_tokens(pool: str | None = None) -> tuple[Any, Any]:
    """Hand the user's Kerberos ticket to HTCondor, for jobs with ``MY.SendCredential``.

    Parameters
    ----------
    pool
        Address of the HTCondor pool's collector; by default of the configured one.

    Returns
    -------
    tuple
        The ``htcondor2.Collector`` and ``htcondor2.Credd`` that were asked.
    """
    try:
        collector = htcondor2.Collector(pool)
        credd = htcondor2.Credd(collector.locate(htcondor2.DaemonType.Credd))
        credd.add_user_cred(htcondor2.CredType.Kerberos, None)
    except (*_FAULTS, TypeError, ValueError) as error:
        raise HTCondorError(
            f"cannot hand your Kerberos ticket to HTCondor: {error}. Nothing was submitted. It takes "
            "a condor_credd that the collector knows, SEC_CREDENTIAL_PRODUCER in HTCondor's "
            "configuration here, and a valid ticket (`klist`)."
        ) from error
    return collector, credd
