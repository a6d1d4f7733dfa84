"""Events of the event log, and the states of jobs with all their words and numbers."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class JobState(enum.Enum):
    """The state of a job, in HTCondor's words."""

    UNMATERIALIZED = "Queued"  # HTCondor creates the job when the queue has room for it
    IDLE = "Idle"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    HELD = "Held"
    COMPLETED = "Completed"
    REMOVED = "Removed"

    @property
    def is_final(self) -> bool:
        """Whether the job has left the queue for good."""
        return self in _FINAL

    @property
    def word(self) -> str:
        """The state in the middle of a sentence."""
        return self.value.lower()

    @property
    def original_word(self) -> str:
        """The original CondorPool's word for the state."""
        return _ORIGINAL_WORDS.get(self, self.value)


_FINAL = frozenset({JobState.COMPLETED, JobState.REMOVED})

#: Where the original's word is another one.
_ORIGINAL_WORDS = {JobState.UNMATERIALIZED: "Idle", JobState.REMOVED: "Removing"}

#: By default, jobs in these states are removed when their pool is closed.
KILLSTATS = (JobState.HELD.value, JobState.SUSPENDED.value)

#: The state for each of HTCondor's ``JobStatus`` numbers, which the queue shows.
STATE_OF_STATUS = {
    1: JobState.IDLE,
    2: JobState.RUNNING,
    3: JobState.REMOVED,
    4: JobState.COMPLETED,
    5: JobState.HELD,
    6: JobState.RUNNING,
    7: JobState.SUSPENDED,
}

#: The original CondorPool's word for each ``JobStatus``.
STATUS_CODES = {
    **{code: state.original_word for code, state in STATE_OF_STATUS.items()},
    6: "Transferring Output",
}

#: The state that an event leaves a job in; any other event changes nothing.
STATE_AFTER = {
    "SUBMIT": JobState.IDLE,
    "EXECUTE": JobState.RUNNING,
    "JOB_EVICTED": JobState.IDLE,
    "SHADOW_EXCEPTION": JobState.IDLE,
    "JOB_RECONNECT_FAILED": JobState.IDLE,
    "JOB_SUSPENDED": JobState.SUSPENDED,
    "JOB_UNSUSPENDED": JobState.RUNNING,
    "JOB_HELD": JobState.HELD,
    "JOB_RELEASED": JobState.IDLE,
    "JOB_TERMINATED": JobState.COMPLETED,
    "JOB_ABORTED": JobState.REMOVED,
}


def state_after(state: JobState, kind: str) -> JobState:
    """Return the state that an event of this kind leaves a job in.

    A final state absorbs everything: after a restart the access point may
    write an event twice, and a job never leaves ``COMPLETED`` or ``REMOVED``.
    A held job stays held when an event reports the end of its run late.
    """
    if state.is_final:
        return state
    if state is JobState.HELD and kind in ("SHADOW_EXCEPTION", "JOB_EVICTED"):
        return state
    return STATE_AFTER.get(kind, state)


@dataclass(frozen=True)
class JobEvent:
    """One event of the event log.

    Parameters
    ----------
    kind
        HTCondor's name, as ``JOB_HELD``.
    cluster, proc
        The job; ``proc`` is -1 for events of a whole cluster.
    facts
        The event's attributes that are used here, under HTCondor's names.
    time
        When it happened, in whole seconds since 1970.
    """

    kind: str
    cluster: int
    proc: int = -1
    facts: Mapping[str, Any] = field(default_factory=dict)
    time: int = 0
