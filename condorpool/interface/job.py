"""One HTCondor job, as users see it."""

from __future__ import annotations

from collections.abc import Iterable

from condorpool.engine import submitdir as names
from condorpool.engine.crew import Cluster, JobRecord
from condorpool.engine.session import Session
from condorpool.engine.why import why
from condorpool.values.events import JobState


class Job:
    r"""An HTCondor job that makes calls.

    A resident runner makes many: what it prints is then of all of them; a
    result's own `stdout` is what its calls printed.  Its ``state`` is what the event log said last; looking at it asks nobody.

    Examples
    --------
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     result = pool.apply_async(print, ("hello",))
    ...     result.wait()
    ...     result.stdout()
    'hello\n'
    """

    def __init__(self, session: Session, cluster: Cluster, proc: int) -> None:
        self._session = session
        self._cluster = cluster
        self._proc = proc

    @property
    def _record(self) -> JobRecord:
        return self._cluster.jobs[self._proc]

    @property
    def id(self) -> str:
        """``ClusterId.ProcId``, as HTCondor prints it."""
        return self._cluster.job_id(self._proc)

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._record.state

    @property
    def host(self) -> str:
        """The execution point (slot) where the job ran last; empty before it runs."""
        return self._record.host

    @property
    def hold_reason(self) -> str:
        """Why HTCondor holds the job; empty if it does not."""
        return self._record.reason if self.state is JobState.HELD else ""

    def status(self) -> str:
        """Return the state in HTCondor's words: ``Idle``, ``Running``, ``Held``, ..."""
        return self.state.value

    def analyze(self) -> str:
        """Say why the job is idle or held, and what to do about it.

        An idle job is matched with the slots of its HTCondor pool, as
        ``condor_q -better-analyze`` does.
        """
        return why(self._session.access_point, self.id, self._record)

    def hold(self) -> bool:
        """Put the job on hold; tell whether it was there to be held."""
        return self._act("hold")

    def release(self) -> bool:
        """Let a held job run again; tell whether it was held."""
        return self._act("release")

    def remove(self) -> bool:
        """Remove the job from the queue; tell whether it was still there."""
        return self._act("remove")

    def _act(self, action: str) -> bool:
        return self._session.act_on(action, [(self._cluster, self._proc)]) == 1

    def stdout(self) -> str | None:
        """Return what the calls printed; None if there is nothing (yet)."""
        return self._session.directory.text(names.stdout_name(self.id))

    def stderr(self) -> str | None:
        """Return what the calls wrote to standard error; None if there is nothing (yet)."""
        return self._session.directory.text(names.stderr_name(self.id))

    def log(self) -> str:
        """Return the events of this job from the event log."""
        text = self._session.directory.text(names.EVENT_LOG) or ""
        mark = f"({self._cluster.number:03d}.{self._proc:03d}."
        events = [event for event in text.split("...\n") if mark in event.partition("\n")[0]]
        return "...\n".join([*events, ""])

    def __repr__(self) -> str:
        return f"<Job {self.id}: {self.state.value}>"


def act(action: str, jobs: Iterable[Job]) -> int:
    """Hold, release or remove jobs, with one request to each access point; return how many."""
    places: dict[Session, list[tuple[Cluster, int]]] = {}
    for job in jobs:
        places.setdefault(job._session, []).append((job._cluster, job._proc))  # noqa: SLF001
    return sum(session.act_on(action, place) for session, place in places.items())
