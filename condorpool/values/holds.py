"""Why HTCondor holds jobs, by its codes, and what helps."""

from __future__ import annotations

_MEMORY = (
    "Give memory= more, or memory_max= so that HTCondor tries again with more by itself; "
    "remove() what is held."
)
_DISK = "Give disk= more and remove() what is held."
_TRANSFER = "Put the file in place, or correct the list of files, and release() or remove()."
_SIZE = "Transfer less, or raise the limit in submitkwargs; remove() what is held."
_TIME = (
    "Make chunks that take less time (chunksize=), or raise the limit in submitkwargs; "
    "remove() what is held."
)
_POLICY = "The site's rules did that: its administrators know which; release() or remove()."

#: A job that used more memory than it asked for: the machine's policy, or a cgroup's limit.
MEMORY = frozenset({(21, 102), (34, 102)})

#: What to do, by ``HoldReasonCode``, or that and ``HoldReasonSubCode``
#: (HTCondor's manual, "Job ClassAd attributes", HoldReasonCode).
_CURES: dict[int | tuple[int, int], str] = {
    1: "Somebody held it: release() it to go on, or remove() it.",
    3: "A condition in submitkwargs (periodic_hold, on_exit_hold) did that: release() or remove().",
    6: "The execution point could not start /bin/sh: choose another with requirements=; release().",
    7: "Give a submitdir= that execution points can write; remove() what is held.",
    12: _TRANSFER,
    13: _TRANSFER,
    14: "Give a submitdir= that execution points can enter; remove() what is held.",
    21: "The execution point's rules did that: choose another with requirements=, or release().",
    (21, 104): _DISK,
    26: _POLICY,
    27: _POLICY,
    32: _SIZE,
    33: _SIZE,
    **dict.fromkeys(MEMORY, _MEMORY),
    (34, 104): _DISK,
    35: "Correct the image in submitkwargs; remove() what is held.",
    45: "The execution point's container runtime is broken: choose another with requirements=.",
    46: _TIME,
    47: _TIME,
}

_ANY = "Cure the cause and release() the result or its job, or remove() it."


def cure(code: int, subcode: int = 0) -> str:
    """Return what to do about a job that is held for this reason."""
    return _CURES.get((code, subcode)) or _CURES.get(code, _ANY)
