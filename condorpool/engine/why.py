"""Why a job does not run, in sentences that end with the next step."""

from __future__ import annotations

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.matching import Fit
from condorpool.engine.jobs import Job
from condorpool.values.events import JobState
from condorpool.values.exceptions import MOST_REASON
from condorpool.values.holds import cure
from condorpool.values.text import one_line, plural, printable

#: The resources of a slot: how many of HTCondor's units make one of those shown, and its name.
_UNITS = {"Cpus": (1, ""), "Memory": (1024, " GiB"), "Disk": (1024**2, " GiB"), "GPUs": (1, "")}


def why(access_point: AccessPoint, job: Job) -> str:
    """Return why a job is in its state; HTCondor is asked about idle jobs only."""
    fit = access_point.fit(job.id) if job.state is JobState.IDLE else None
    reason = one_line(job.reason, MOST_REASON).rstrip(". ")
    said = {
        JobState.UNMATERIALIZED: "not in the queue yet: HTCondor adds it in a moment, or when "
        "other jobs of its cluster end. Held ones take up room: release or remove them.",
        JobState.IDLE: f"idle: {why_idle(fit)}" if fit else "about to leave the queue.",
        JobState.RUNNING: f"running on {job.host}. There is nothing to do.",
        JobState.SUSPENDED: f"suspended on {job.host}. It resumes when it is continued there.",
        JobState.HELD: f"held: {reason}. {cure(job.code, job.subcode, job.holds)}",
        JobState.COMPLETED: f"completed: {job.exit or reason or 'it has left the queue'}.",
        JobState.REMOVED: f"removed: {reason or 'no reason was given'}.",
    }
    return printable(f"Job {job.id} is {said[job.state]}")


def why_idle(fit: Fit) -> str:
    """Return why an idle job that fits the pool's slots like this does not start."""
    slots = plural(fit.slots, "slot")
    if not fit.slots:
        return "its HTCondor pool has no slots now. `condor_status` shows when there are some."
    if reason := why_never(fit, "it"):
        return f"{reason}. {_advice(fit)}"
    if fit.free:
        return (
            f"{fit.free:,} of {slots} could take it now; HTCondor assigns them at its next "
            "negotiation, within minutes. There is nothing to do."
        )
    return (
        f"the pool is full: {fit.willing:,} of {slots} could run it, but other jobs occupy "
        f"them. {fit.running:,} jobs of this access point are running, {fit.own:,} of them "
        "yours. It starts when enough of them end."
    )


def why_never(fit: Fit, subject: str = "each job") -> str:
    """Return why none of the pool's slots can run jobs like this; empty if one can."""
    slots = plural(fit.slots, "slot")
    if not fit.is_hopeless:
        return ""
    if fit.too_much:
        return _too_much(fit, subject)
    if fit.unmet:
        return f"none of {slots} meets its requirement {fit.unmet[0]}"
    if not fit.acceptable:
        return f"each of its requirements is met by some slot, but none of {slots} meets them all"
    return f"{fit.acceptable:,} of {slots} would fit, but their own requirements refuse it"


def _advice(fit: Fit) -> str:
    if fit.too_much:
        return "Remove it, and submit the calls again with less."
    if fit.unmet:
        return "Remove it, and submit the calls again with other requirements."
    if not fit.acceptable:
        return "Remove it, and submit the calls again with fewer requirements."
    return "Ask their administrators what a job must state."


def _too_much(fit: Fit, subject: str) -> str:
    wanted = []
    for resource, (asked, most) in fit.too_much.items():
        size, unit = _UNITS[resource]
        has = f"more than {_number(most / size)}{unit}" if most else "any"
        command = f"request_{resource.lower()}"
        asks = f"{subject} has {command} = {_number(asked / size)}{unit}"
        wanted.append(f"{asks}, but no slot has {has}")
        subject = "it"
    return "; ".join(wanted)


def _number(value: float) -> str:
    return f"{round(value, 1):,.12g}"
