"""Why a job does not run, in sentences that end with the next step."""

from __future__ import annotations

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.matching import Fit
from condorpool.engine.jobs import Job
from condorpool.values.events import JobState
from condorpool.values.holds import cure

#: The resources of a slot: how many of HTCondor's units make one of those shown, and its name.
_UNITS = {"Cpus": (1, ""), "Memory": (1024, " GiB"), "Disk": (1024**2, " GiB"), "GPUs": (1, "")}


def why(access_point: AccessPoint, job: Job) -> str:
    """Return why a job is in its state; HTCondor is asked about idle jobs only."""
    fit = access_point.fit(job.id) if job.state is JobState.IDLE else None
    said = {
        JobState.UNMATERIALIZED: "not in the queue yet: HTCondor adds it in a moment, or when "
        "other jobs of its cluster end. Held ones take up room: release or remove them.",
        JobState.IDLE: f"idle: {why_idle(fit)}" if fit else "about to leave the queue.",
        JobState.RUNNING: f"running on {job.host}. There is nothing to do.",
        JobState.SUSPENDED: f"suspended on {job.host}. It resumes when it is continued there.",
        JobState.HELD: f"held: {job.reason.rstrip('. ')}. {cure(job.code, job.subcode)}",
        JobState.COMPLETED: f"completed: {job.exit or job.reason or 'it has left the queue'}.",
        JobState.REMOVED: f"removed: {job.reason.rstrip('. ') or 'no reason was given'}.",
    }
    return f"Job {job.id} is {said[job.state]}"


def why_idle(fit: Fit) -> str:
    """Return why an idle job that fits the pool's slots like this does not start."""
    slots = f"{fit.slots:,} slot{'' if fit.slots == 1 else 's'}"
    if not fit.slots:
        why = "its HTCondor pool has no slots now. `condor_status` shows when there are some."
    elif fit.too_much:
        why = _too_much(fit)
    elif fit.unmet:
        why = (
            f"none of {slots} meets its requirement {fit.unmet[0]}. "
            "Remove it, and submit the calls again with other requirements."
        )
    elif not fit.acceptable:
        why = (
            f"each of its requirements is met by some slot, but none of {slots} meets them all. "
            "Remove it, and submit the calls again with fewer requirements."
        )
    elif not fit.willing:
        why = (
            f"{fit.acceptable:,} of {slots} would fit, but their own requirements refuse it. "
            "Ask their administrators what a job must state."
        )
    elif fit.free:
        why = (
            f"{fit.free:,} of {slots} could take it now; HTCondor assigns them at its next "
            "negotiation, within minutes. There is nothing to do."
        )
    else:
        why = (
            f"the pool is full: {fit.willing:,} of {slots} could run it, but other jobs occupy "
            f"them. {fit.running:,} jobs of this access point are running, {fit.own:,} of them "
            "yours. It starts when enough of them end."
        )
    return why


def _too_much(fit: Fit) -> str:
    wanted = []
    for resource, (asked, most) in fit.too_much.items():
        size, unit = _UNITS[resource]
        has = f"more than {_number(most / size)}{unit}" if most else "any"
        command = f"request_{resource.lower()}"
        wanted.append(f"it has {command} = {_number(asked / size)}{unit}, but no slot has {has}")
    return f"{'; '.join(wanted)}. Remove it, and submit the calls again with less."


def _number(value: float) -> str:
    return f"{round(value, 1):,.12g}"
