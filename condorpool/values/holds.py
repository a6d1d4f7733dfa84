"""What to do about held jobs, by HTCondor's hold codes."""

from __future__ import annotations

from typing import Literal

#: What a wait does when only held jobs remain.
Policy = Literal["raise", "wait", "remove"]

_MEMORY = (
    "Raise memory=, or set memory_max= so that HTCondor retries with more memory; "
    "remove() the held jobs."
)
_DISK = "Raise disk=, and remove() the held jobs."
_TRANSFER = "Put the file in place and release() the job, or correct the list of files and remove() the job."
_DENIED = (
    "Make the file readable for you and release() the job; if it is, name its folder in "
    "limit_directory_access=, and remove() the held jobs."
)
_SIZE = "Transfer less, or raise the limit in submitkwargs; remove() the held jobs."
_TIME = (
    "Run fewer calls in each job (chunksize=), or raise the limit in submitkwargs; "
    "remove() the held jobs."
)
_POLICY = (
    "A policy of the access point put the job on hold: ask its administrators which, "
    "and release() or remove() the job."
)

#: A job that used more memory than it asked for: the machine's policy, or a cgroup's limit.
MEMORY = frozenset({(21, 102), (34, 102)})

#: What to do, by ``HoldReasonCode``, or that and ``HoldReasonSubCode``
#: (HTCondor's manual, "Job ClassAd attributes", HoldReasonCode).
_CURES: dict[int | tuple[int, int], str] = {
    1: "A user put the job on hold: release() it to resume, or remove() it.",
    3: "A condition in submitkwargs (periodic_hold, on_exit_hold) put the job on hold: "
    "release() or remove() it.",
    6: "The execution point could not start /bin/sh: release() the job, and exclude that machine "
    "with requirements= in later calls.",
    7: "Choose a submitdir= that execution points can write to; remove() the held jobs.",
    12: _TRANSFER,
    13: _TRANSFER,
    (13, 13): _DENIED,
    14: "Choose a submitdir= that execution points can enter; remove() the held jobs.",
    21: "A policy of the execution point put the job on hold: release() the job, or choose other "
    "execution points with requirements=.",
    (21, 104): _DISK,
    26: _POLICY,
    27: _POLICY,
    32: _SIZE,
    33: _SIZE,
    **dict.fromkeys(MEMORY, _MEMORY),
    (34, 104): _DISK,
    35: "Correct the image (container_image=); remove() the held jobs.",
    45: "The execution point's container runtime is broken: choose other execution points with "
    "requirements=.",
    46: _TIME,
    47: _TIME,
}

_ANY = "Fix the cause and release() the job, or remove() it."


def again(times: int) -> str:
    """Return a sentence that says how often a job has been held; empty if this is the first time."""
    if times < 2:
        return ""
    last = times % 10 if times % 100 not in (11, 12, 13) else 0
    ending = {1: "st", 2: "nd", 3: "rd"}.get(last, "th")
    return f" Held again after release, {times:,}{ending} time."


def cure(code: int, subcode: int = 0, times: int = 1) -> str:
    """Return what to do about a job that is held for this reason, and how often it has been held."""
    return (_CURES.get((code, subcode)) or _CURES.get(code, _ANY)) + again(times)
