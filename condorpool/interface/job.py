"""HTCondor jobs, as users see them: queries and actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from condorpool.access.accesspoint import ACTIONS, any_job
from condorpool.engine.actions import act_on_jobs
from condorpool.engine.jobs import Job
from condorpool.engine.session import Session
from condorpool.engine.texts import Text
from condorpool.engine.why import why
from condorpool.interface.options import checks
from condorpool.interface.tracebacks import for_users
from condorpool.values.events import STATUS_CODES, JobState
from condorpool.values.matching import did_you_mean


class Jobs:
    """Queries about some HTCondor jobs, and actions on them.

    The names are the original CondorPool's.  An action returns the number of jobs that it
    changed.  A job may have taken several calls: an action on it affects them all.
    """

    #: The actions, by their HTCondor numbers.
    actions: ClassVar[Mapping[int, Any]] = MappingProxyType({int(a): a for a in ACTIONS.values()})

    #: The words for HTCondor's ``JobStatus``.
    statuscodes: ClassVar[Mapping[int, str]] = MappingProxyType(STATUS_CODES)

    _session: Session

    def _jobs(self) -> list[Job]:
        """Return the jobs."""
        raise NotImplementedError

    def _act(self, action: str) -> int:
        return act_on_jobs(self._session.state, action, self._jobs())

    # -- actions ---------------------------------------------------------------------
    def hold(self) -> int:
        """Put the jobs on hold: running ones are stopped, and all wait until they are released."""
        return self._act("hold")

    def release(self) -> int:
        """Release held jobs, so that they run again."""
        return self._act("release")

    def remove(self) -> int:
        """Remove the jobs from the queue."""
        return self._act("remove")

    def removex(self) -> int:
        """Drop removed jobs from the queue without waiting for their execution point (``-forcex``)."""
        return self._act("removex")

    def suspend(self) -> int:
        """Suspend running jobs: they keep their slot and memory, and `Continue` resumes them."""
        return self._act("suspend")

    def Continue(self) -> int:  # noqa: N802 - the original's name: continue is Python's
        """Resume suspended jobs."""
        return self._act("continue")

    def vacate(self) -> int:
        """Evict running jobs, with time to shut down; they wait to run again."""
        return self._act("vacate")

    def vacatefast(self) -> int:
        """Evict running jobs at once; they wait to run again."""
        return self._act("vacatefast")

    @for_users
    def act(self, action: Any) -> int:
        """Perform an action: a name (``"hold"``), an ``htcondor2.JobAction`` or its number."""
        named = str(action).lower() if isinstance(action, str) else ""
        for name, known in ACTIONS.items():
            if name == named or known == action:
                verb = "Continue" if name == "continue" else name
                return int(getattr(self, verb)())
        hint = did_you_mean(named, ACTIONS)
        raise ValueError(f"act({action!r}): the actions are {', '.join(ACTIONS)}.{hint}")

    # -- queries ---------------------------------------------------------------------
    @property
    def clusterid(self) -> int | None:
        """The ClusterId of the first job; None if there is no job yet."""
        return next((job.cluster.number for job in self._jobs()), None)

    def constraint(self) -> str:
        """Return a ClassAd expression that is true for these jobs alone."""
        return any_job(job.id for job in self._jobs())

    def query(self, *projection: str, checkhistory: bool = True) -> list[dict[str, Any]]:
        """Ask the access point for attributes of the jobs.

        Parameters
        ----------
        *projection
            Names of attributes; by default ``JobStatus``.
        checkhistory
            Whether to search its history, which may be slow, if none of the jobs is in the
            queue.
        """
        point, wanted = self._session.access_point, projection or ("JobStatus",)
        found = point.query(self.constraint(), wanted)
        return found or (point.history(self.constraint(), wanted) if checkhistory else [])

    def analyze(self) -> str:
        """Return why the jobs are idle or held, as ``condor_q -better-analyze`` does."""
        return "\n".join(why(self._session.access_point, job) for job in self._jobs())

    @classmethod
    def status_from_code(cls, code: int) -> str:
        """Return the word for a ``JobStatus``."""
        return cls.statuscodes[code]

    def stdout(self, tail: int | None = None) -> str | None:
        """Return the standard output of the jobs; None if there is none yet.

        If several calls printed something, a line such as ``call 3 of fit:`` is before the text
        of each.

        Parameters
        ----------
        tail
            Return only the last lines, this many.  Of long lines the last million characters
            are returned.  No more than that is read.
        """
        return self._text(0, tail)

    def stderr(self, tail: int | None = None) -> str | None:
        """Return the standard error of the jobs, as `stdout` does; None if there is none yet."""
        return self._text(1, tail)

    def _text(self, which: int, tail: int | None) -> str | None:
        most = checks.optional_count("tail", tail)
        texts = (self._session.text(job.id, which) for job in self._jobs())
        found = [text.lines(most) for text in texts if text]
        if not found:
            return None
        return found[0] if len(found) == 1 else Text(found).lines(most)

    def log(self) -> str | None:
        """Return the jobs' events from the event log; None if there are none yet."""
        return self._session.directory.events(job.id for job in self._jobs())

    def get_text_output(self, which: str) -> str | None:
        """Return the text of ``"output"``, ``"error"`` or ``"log"``."""
        texts = {"output": self.stdout, "error": self.stderr, "log": self.log}
        if which not in texts:
            hint = did_you_mean(str(which), texts)
            raise ValueError(
                f"get_text_output({which!r}): the outputs are {', '.join(texts)}.{hint}"
            )
        return texts[which]()


class QueuedJob(Jobs):
    r"""One HTCondor job, which makes calls.

    It may make many: then its output is that of all of them, labelled, and the `stdout` of a result
    is that of the result's calls alone.  Its ``state`` comes from the event log, without
    asking the access point.

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
        """The state that the event log gave last."""
        return self._job.state

    @property
    def host(self) -> str:
        """The execution point (slot) where the job runs or ran last; empty before that."""
        return self._job.host

    @property
    def hold_reason(self) -> str:
        """Why HTCondor holds the job; empty if it is not held."""
        return self._job.reason if self.state is JobState.HELD else ""

    @property
    def why_held(self) -> tuple[str, int, int, int]:
        """The hold reason, its code and subcode, and how many times the job has been held."""
        return self._job.reason, self._job.code, self._job.subcode, self._job.holds

    def status(self) -> str:
        """Return the state in HTCondor's words: ``Idle``, ``Running``, ``Held``, and so on."""
        return self.state.value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.state.value}>"


def act(action: str, jobs: Iterable[QueuedJob]) -> int:
    """Perform an action on jobs, with one request for each access point; return how many changed."""
    chosen: dict[Session, list[Job]] = {}
    for job in jobs:
        chosen.setdefault(job._session, []).append(job._job)  # noqa: SLF001 - of the class above
    return sum(act_on_jobs(session.state, action, some) for session, some in chosen.items())
