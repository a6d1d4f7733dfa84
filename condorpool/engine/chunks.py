"""Chunks that have ended: when, where and how their calls were made."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from condorpool.engine.jobs import Job
from condorpool.engine.outcomes import Outcome
from condorpool.values.exceptions import JobError
from condorpool.values.text import one_line

#: Seconds below which a call is not measured.
SHORT = 1e-3


class Chunk(NamedTuple):
    """A chunk of calls that has ended.

    Parameters
    ----------
    first, calls
        The number of its first call, and how many it has.
    failed
        How many of them raised, or were lost with their job.
    job, host
        The job that made the calls, and its machine; empty if no job did.
    started, seconds
        When, in seconds since 1970 by that machine's clock, and for how long; None
        if not known.
    exit
        How the job ended; empty while it makes other calls.
    attempts
        How often HTCondor had started the job.
    memory
        MiB that the job used when HTCondor last reported it.
    call_seconds
        Seconds of its calls, up to the last one that took a millisecond or more; 0 for shorter
        ones.  None if not known.
    """

    first: int
    calls: int
    failed: int
    job: str
    host: str
    started: float | None = None
    seconds: float | None = None
    exit: str = ""
    attempts: int | None = None
    memory: int | None = None
    call_seconds: tuple[float, ...] | None = None

    @property
    def end(self) -> float:
        """When it ended."""
        return (self.started or 0.0) + (self.seconds or 0.0)

    @property
    def seconds_of_calls(self) -> list[float | None]:
        """The seconds of each call, as far as known; those under a millisecond share a mean."""
        if self.seconds is None or self.calls == 1:
            return [self.seconds] * self.calls
        known = self.call_seconds
        if known is None:
            return [None] * self.calls
        short = self.calls - sum(map(bool, known))
        mean = max(0.0, min(SHORT, (self.seconds - sum(known)) / max(1, short)))
        return [seconds or mean for seconds in (*known, *[0.0] * (self.calls - len(known)))]


def record(first: int, end: int, result: Outcome | JobError, job: Job | None) -> Chunk:
    """Return the record of a chunk that has ended."""
    known: dict[str, Any] = {}
    if job:
        known = {
            "exit": job.exit.removeprefix("it "),
            "attempts": job.attempts or None,
            "memory": job.memory or None,
        }
    calls = end - first
    if isinstance(result, Outcome):
        failed = sum(number < calls for number in result.errors)
        name, host = result.job, result.host
        if result.started:
            times = result.started, result.seconds, result.call_seconds
            known.update(zip(("started", "seconds", "call_seconds"), times, strict=True))
    else:
        failed, name, host = calls, result.job_id, result.host.rpartition("@")[2]
        if job and job.began:
            # The job may have made other chunks before it was lost with this one.
            started = max(float(job.began), job.last_chunk_end)
            known.update(started=started, seconds=max(0.0, job.ended - started))
    # Interned: there may be 100,000 chunks, of a few jobs.
    return Chunk(
        first, calls, failed, sys.intern(one_line(name)), sys.intern(one_line(host)), **known
    )
