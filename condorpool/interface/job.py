"""HTCondor jobs, as users see them: what to ask of them, and what to do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from condorpool.access.accesspoint import ACTIONS, any_job
from condorpool.engine import submitdir as names
from condorpool.engine.actions import act_on_jobs
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session
from condorpool.engine.why import why
from condorpool.values.events import STATUS_CODES, JobState


class Jobs:
    """What can be asked of some HTCondor jobs, and done to them.

    The names are the original CondorPool's.  An action returns how many jobs it
    was done to; on a resident runner it touches all calls that the runner has.
    """

    #: What can be done, by HTCondor's number for it.
    actions: ClassVar[Mapping[int, Any]] = MappingProxyType({int(a): a for a in ACTIONS.values()})

    #: The words for HTCondor's ``JobStatus``.
    statuscodes: ClassVar[Mapping[int, str]] = MappingProxyType(STATUS_CODES)

    _session: Session

    def _jobs(self) -> list[Job]:
        """Return which jobs these are."""
        raise NotImplementedError

    def _act(self, action: str) -> int:
        return act_on_jobs(self._session.state, action, self._jobs())

    # -- to be done ------------------------------------------------------------------
    def hold(self) -> int:
        """Put on hold: what runs is stopped, and waits until it is released."""
        return self._act("hold")

    def release(self) -> int:
        """Let held jobs run again."""
        return self._act("release")

    def remove(self) -> int:
        """Remove from the queue."""
        return self._act("remove")

    def removex(self) -> int:
        """Forget jobs that were removed and whose execution point does not say that they ended."""
        return self._act("removex")

    def suspend(self) -> int:
        """Stop in the middle of things; slot and memory stay occupied."""
        return self._act("suspend")

    def Continue(self) -> int:  # noqa: N802 - the original's name: continue is Python's
        """Go on after `suspend`."""
        return self._act("continue")

    def vacate(self) -> int:
        """Send away from the execution point, gently; the job then waits to run again."""
        return self._act("vacate")

    def vacatefast(self) -> int:
        """Send away from the execution point at once; the job then waits to run again."""
        return self._act("vacatefast")

    def act(self, action: Any) -> int:
        """Do what a name (``"hold"``), an ``htcondor2.JobAction`` or its number says."""
        named = str(action).lower() if isinstance(action, str) else ""
        for name, known in ACTIONS.items():
            if name == named or known == action:
                verb = "Continue" if name == "continue" else name
                return int(getattr(self, verb)())
        raise ValueError(f"act({action!r}): the actions are {', '.join(ACTIONS)}")

    # -- to be asked -----------------------------------------------------------------
    @property
    def clusterid(self) -> int | None:
        """The ClusterId of the (first) job; None if there is none yet."""
        return next((job.cluster.number for job in self._jobs()), None)

    def constraint(self) -> str:
        """Return the ClassAd expression that is true of these jobs alone."""
        return any_job(job.id for job in self._jobs())

    def query(self, *projection: str, checkhistory: bool = True) -> list[dict[str, Any]]:
        """Return these attributes of the jobs as the access point has them now.

        Parameters
        ----------
        *projection
            Names of attributes; by default ``JobStatus``.
        checkhistory
            Ask its history, which may be slow, when none of the jobs is in the queue.
        """
        point, wanted = self._session.access_point, projection or ("JobStatus",)
        found = point.query(self.constraint(), wanted)
        return found or (point.history(self.constraint(), wanted) if checkhistory else [])

    def analyze(self) -> str:
        """Say why the jobs are idle or held, as ``condor_q -better-analyze`` does."""
        return "\n".join(why(self._session.access_point, job) for job in self._jobs())

    @classmethod
    def status_from_code(cls, code: int) -> str:
        """Return the word for a ``JobStatus``."""
        return cls.statuscodes[code]

    def stdout(self) -> str | None:
        """Return what the jobs printed; None if there is nothing (yet)."""
        return self._text(names.stdout_name)

    def stderr(self) -> str | None:
        """Return what the jobs wrote to standard error; None if there is nothing (yet)."""
        return self._text(names.stderr_name)

    def _text(self, name_of: Callable[[str], str]) -> str | None:
        texts = [self._session.directory.text(name_of(job.id)) for job in self._jobs()]
        found = [text for text in texts if text is not None]
        return "".join(found) if found else None

    def log(self) -> str | None:
        """Return the jobs' events from the event log; None if there are none (yet)."""
        text = self._session.directory.text(names.EVENT_LOG) or ""
        marks = tuple(f"({job.cluster.number:03d}.{job.proc:03d}." for job in self._jobs())
        events = [e for e in text.split("...\n") if e.partition(" ")[2].startswith(marks)]
        return "...\n".join([*events, ""]) or None

    def get_text_output(self, which: str) -> str | None:
        """Return the text of ``"output"``, ``"error"`` or ``"log"``."""
        texts = {"output": self.stdout, "error": self.stderr, "log": self.log}
        if which not in texts:
            raise ValueError(f"get_text_output({which!r}): there are {', '.join(texts)}")
        return texts[which]()


class QueuedJob(Jobs):
    r"""One HTCondor job, which makes calls.

    A resident runner makes many: what it prints is then of all of them; a
    result's own `stdout` is what its calls printed.  Its ``state`` is what the
    event log said last; looking at it asks nobody.

    Examples
    --------
    >>> from condorpool import Pool
    >>> with Pool() as pool:
    ...     result = pool.apply_async(print, ("hello",))
    ...     result.wait()
    ...     result.stdout()
    'hello\n'
    """

    def __init__(self, session: Session, job: Job) -> None:
        self._session = session
        self._job = job

    def _jobs(self) -> list[Job]:
        return [self._job]

    @property
    def id(self) -> str:
        """``ClusterId.ProcId``, as HTCondor prints it."""
        return self._job.id

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self._job.state

    @property
    def host(self) -> str:
        """The execution point (slot) where the job ran last; empty before it runs."""
        return self._job.host

    @property
    def hold_reason(self) -> str:
        """Why HTCondor holds the job; empty if it does not."""
        return self._job.reason if self.state is JobState.HELD else ""

    def status(self) -> str:
        """Return the state in HTCondor's words: ``Idle``, ``Running``, ``Held``, ..."""
        return self.state.value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.state.value}>"


def act(action: str, jobs: Iterable[QueuedJob]) -> int:
    """Do something to jobs, with one request to each access point; return to how many."""
    chosen: dict[Session, list[Job]] = {}
    for job in jobs:
        chosen.setdefault(job._session, []).append(job._job)  # noqa: SLF001
    return sum(act_on_jobs(session.state, action, some) for session, some in chosen.items())
