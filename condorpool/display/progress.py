"""How far a result's calls have come, as plain values."""

from __future__ import annotations

import collections
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from condorpool.access.outlook import Outlook, lookout
from condorpool.engine.jobs import Cluster, Job
from condorpool.interface.job import QueuedJob
from condorpool.values import holds
from condorpool.values.events import JobState
from condorpool.values.exceptions import JobError

if TYPE_CHECKING:
    from typing import TypeAlias

    from condorpool.interface.iterators import ResultIterator
    from condorpool.interface.results import AsyncResult, MapResult

    Result: TypeAlias = AsyncResult[Any] | MapResult | ResultIterator[Any]

#: What jobs are called while they are in the queue, in the order of their life.
WORDS = {
    "queued": JobState.UNMATERIALIZED,
    "idle": JobState.IDLE,
    "transferring": None,
    "running": JobState.RUNNING,
    "suspended": JobState.SUSPENDED,
    "held": JobState.HELD,
}

#: Seconds over which the rate is taken.
WINDOW = 60.0

#: Seconds within which nobody wonders why a job does not run.
SHORT = 3.0

#: Reasons and messages are cut: somebody's whole standard error may be in one.
LONGEST = 400

#: Groups of held jobs, or of failed calls, that are told apart.
MOST_GROUPS = 20

# The order matters: a slot has a host in it, and a host has numbers.
_VARYING = re.compile(
    r"""<\d[^>\s]*>                      # <127.0.0.1:9618?addrs=...>
    |   \S*@[\w.-]+                      # slot1_2@host.example.org
    |   (?<!\w)/[^\s,;:()'"]+            # /path/of/a/file
    |   \b[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b  # host.example.org
    |   \d+(?:\.\d+)*
    |   …""",
    re.VERBOSE,
)


def fold(reason: str) -> str:
    """Return a hold reason with an ellipsis for each host, slot, path and number.

    Reasons of jobs that are held for the same cause are then the same.
    """
    return _VARYING.sub("…", reason[:LONGEST])


def common(one: str, other: str) -> str:
    """Return what two reasons that fold alike have in common, with ellipses for the rest."""
    parts = iter(_VARYING.findall(other[:LONGEST]))
    return _VARYING.sub(lambda m: m[0] if m[0] == next(parts, "") else "…", one[:LONGEST])


@dataclass(frozen=True)
class Held:
    """Jobs that are held for the same cause; ``reason`` is what theirs have in common."""

    key: str
    reason: str
    code: int
    subcode: int
    count: int
    cure: str
    needs_memory: bool


@dataclass(frozen=True)
class Failed:
    """Calls that failed alike; ``message`` is what theirs have in common."""

    kind: str
    message: str
    count: int


@dataclass(frozen=True)
class Progress:
    """How far the calls of one result have come.

    Parameters
    ----------
    done, failed
        Calls that returned, and calls that raised or were lost with their job.
    pending
        Chunks that have not come to anything yet.
    jobs
        How many jobs are in each state, in words; those that have ended are not
        counted, and "queued" are those that HTCondor will make later.
    hosts
        On how many machines jobs run now.
    limit
        The most jobs at once.
    elapsed
        Seconds since the call; it does not count when two of these are compared.
    rate, left
        Calls per second of late, and seconds to go at that rate, if that can be said.
    note
        What is waited for.
    """

    name: str
    calls: int
    done: int
    failed: int
    pending: int
    jobs: dict[str, int]
    hosts: int
    limit: int
    rate: float | None
    left: float | None
    held: tuple[Held, ...]
    failures: tuple[Failed, ...]
    note: str
    ended: bool
    elapsed: float = field(compare=False)

    @property
    def shares(self) -> dict[str, float]:
        """The calls by what becomes of them; those in no job's hands are "waiting"."""
        left = self.calls - self.done - self.failed
        shares = {"done": float(self.done), "failed": float(self.failed)}
        moving = {word: self.jobs.get(word, 0) for word in reversed(WORDS) if word != "queued"}
        # What a job has at once is not known exactly; a bar need not know it.
        each = left / max(1, sum(moving.values()), self.pending)
        for word, count in moving.items():
            shares[word] = count * each
        shares["waiting"] = max(0.0, left - sum(moving.values()) * each)
        return {word: share for word, share in shares.items() if share}


class Meter:
    """Reads a result's progress again and again, for its rate; one thread at a time may.

    Asks neither disk nor access point: what it says is what the event log said last,
    and what the HTCondor pool looked like a moment ago.
    """

    def __init__(self, result: Result, clock: Callable[[], float] = time.monotonic) -> None:
        self._result = result
        self._clock = clock
        self._begun = clock()
        self._past = collections.deque([(self._begun, result.calls_ended)])
        self._folded: dict[str, str] = {}
        self._common: dict[str, str] = {}  # by what is folded
        self._errors = 0
        self._failures: dict[tuple[str, str], Failed] = {}

    def read(self) -> Progress:
        """Return how far the calls have come by now."""
        result, session = self._result, self._result._session  # noqa: SLF001
        self._group_failures()
        with session.changed:
            ended = result.calls_ended
            is_over = result.ready() or session.is_closed
            unreachable = session.state.unreachable
            silent = unreachable[1] if unreachable else None
            batch = result._calls.batch  # noqa: SLF001
            crew = batch.crew if batch else None
            clusters = list(crew.clusters) if crew and not is_over else []
            transferring = sum(len(cluster.transferring) for cluster in clusters)
            jobs = {
                word: sum(cluster.counts[state] for cluster in clusters)
                for word, state in WORDS.items()
                if state
            }
            pending = len(batch.pending) if batch else 0
            away = sum(len(cluster.away) for cluster in clusters)
            stuck = bool(batch and crew and crew.count(JobState.HELD) and batch.is_stuck)
            hosts, reasons = _survey(clusters)
        jobs["idle"] -= transferring
        jobs["transferring"] = transferring
        jobs = {word: jobs[word] for word in WORDS if jobs[word] > 0}
        rate, left = self._speed(ended, result.calls, is_moving="running" in jobs)
        now, failed = self._clock(), result.calls_failed
        outlook = None
        if "idle" in jobs and now - self._begun > SHORT and not is_over:
            outlook = lookout(session.access_point.collector_address).read()
        return Progress(
            name=result.name,
            calls=result.calls,
            done=max(0, ended - failed),
            failed=failed,
            pending=pending,
            jobs=jobs,
            hosts=len(hosts),
            limit=crew.limit if crew else 0,
            rate=None if is_over else rate,
            left=None if is_over else left,
            held=self._group_held(reasons),
            failures=tuple(sorted(self._failures.values(), key=lambda group: -group.count)),
            note=""
            if is_over
            else _note(
                jobs,
                away,
                stuck=stuck,
                ended=ended,
                silent=silent and now - silent,
                outlook=outlook,
            ),
            ended=is_over,
            elapsed=now - self._begun,
        )

    def _speed(
        self, ended: int, calls: int, *, is_moving: bool
    ) -> tuple[float | None, float | None]:
        now = self._clock()
        self._past.append((now, ended))
        while len(self._past) > 2 and self._past[1][0] < now - WINDOW:
            self._past.popleft()
        since, before = self._past[0]
        rate = (ended - before) / (now - since) if now > since else 0.0
        if not rate or not is_moving:
            return None, None
        # Digits that change with every look would have it sent with every look.
        return float(f"{rate:.2g}"), _round_time((calls - ended) / rate)

    def _group_failures(self) -> None:
        # A copy in one step of the interpreter: the tracker's thread adds to it.
        errors = list(self._result._calls.errors.values())  # noqa: SLF001
        if len(errors) < self._errors:  # failed calls are made again
            self._failures.clear()
            self._errors = 0
        new, self._errors = errors[self._errors :], len(errors)
        for error in new:
            told = error.what if isinstance(error, JobError) else _first_line(error)
            kind, message = type(error).__name__, told[:LONGEST]
            key = kind, fold(message)
            if key not in self._failures and len(self._failures) >= MOST_GROUPS:
                key, kind, message = ("", ""), "others", ""
            before = self._failures.get(key, Failed(kind, message, 0))
            self._failures[key] = Failed(kind, common(before.message, message), before.count + 1)

    def _group_held(self, reasons: collections.Counter[tuple[str, int, int]]) -> tuple[Held, ...]:
        groups: dict[tuple[str, int, int], Held] = {}
        for (reason, code, subcode), count in reasons.items():
            if reason not in self._folded:  # there may be as many as jobs
                self._folded[reason] = key = fold(reason)
                self._common[key] = common(self._common.get(key, reason), reason)
            folded = self._folded[reason]
            found = groups.get((folded, code, subcode))
            groups[folded, code, subcode] = Held(
                key=f"{code}.{subcode} {folded}",
                reason=self._common[folded],
                code=code,
                subcode=subcode,
                count=count + (found.count if found else 0),
                cure=holds.cure(code, subcode).replace("()", ""),  # here are buttons
                needs_memory=(code, subcode) in holds.MEMORY,
            )
        return tuple(sorted(groups.values(), key=lambda held: -held.count)[:MOST_GROUPS])


def _first_line(error: BaseException) -> str:
    try:
        return str(error).strip().partition("\n")[0]
    except BaseException:  # noqa: BLE001 - the user's own class, and what it says is not the point
        return ""


def _survey(
    clusters: Sequence[Cluster],
) -> tuple[set[str], collections.Counter[tuple[str, int, int]]]:
    """Find the machines where jobs run, and why others are held."""
    hosts, reasons = set(), collections.Counter[tuple[str, int, int]]()
    for cluster in clusters:
        if cluster.counts[JobState.RUNNING]:
            running = {job.host for job in cluster.jobs if job.state is JobState.RUNNING}
            hosts |= {host.partition("@")[2] or host for host in running}
        if cluster.counts[JobState.HELD]:
            held = (job for job in cluster.jobs if job.state is JobState.HELD)
            reasons.update((job.reason, job.code, job.subcode) for job in held)
    return hosts, reasons


def _round_time(seconds: float) -> float:
    step = 10 ** max(0, math.floor(math.log10(max(1, seconds))) - 1)
    return float(math.ceil(seconds / step) * step)


#: What is waited for, by the state nearest to an end that a job is in.
_WAITS = {
    "running": "Jobs run; nothing has come back yet.",
    "transferring": "Files are on their way to the jobs' machines.",
    "idle": "Jobs wait for free slots: HTCondor looks for some at its next negotiation.",
    "suspended": "The machines have suspended the jobs: somebody else needs them now.",
}


def _note(
    jobs: dict[str, int],
    away: int,
    *,
    stuck: bool,
    ended: int,
    silent: float | None,
    outlook: Outlook | None,
) -> str:
    if silent is not None:
        return f"The access point has not answered for {silent:.0f} s; its jobs go on."
    if stuck:
        return "Nothing but held jobs is left: release or remove them."
    if away:
        return f"{away:,} jobs are out of reach; HTCondor waits for their machines to come back."
    if outlook and "transferring" not in jobs:
        return _wait_for_slots(jobs["idle"], outlook)
    if ended and "running" in jobs:
        return ""
    waits = (text for word, text in _WAITS.items() if word in jobs)
    return next(waits, "Jobs are on their way to the queue.")


def _wait_for_slots(idle: int, outlook: Outlook) -> str:
    jobs = "1 job waits" if idle == 1 else f"{idle:,} jobs wait"
    is_full = outlook.cpus > 0 and not outlook.free
    free = f"{outlook.free:,} of the pool's {outlook.cpus:,} CPUs are free"
    if is_full:
        free = f"all {outlook.cpus:,} CPUs of the pool are taken"
    left = outlook.until_negotiation(time.time())
    then = "" if is_full else "; a job's analyze() tells why it gets none of them"
    if left is not None:
        then = f"; the next negotiation is in about {left:.0f} s"
    return f"{jobs} for slots: {free}{then}."


# -- single jobs ------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One job of a page; times in seconds, memory in MiB."""

    id: str
    state: str
    host: str
    seconds: float | None
    memory: int | None
    attempts: int
    reason: str


def jobs_in(
    result: Result, state: str | None = None, group: str | None = None, ids: Sequence[str] = ()
) -> Iterator[Job]:
    """Give the jobs in one state, those of a group of held ones, or those with these ids."""
    batch = result._calls.batch  # noqa: SLF001
    wanted = JobState.HELD if group else WORDS.get(state or "")
    chosen = set(ids)
    for cluster in list(batch.crew.clusters) if batch else ():
        for job in cluster.jobs:
            if (
                (job.state is wanted if wanted else not job.state.is_final)
                and (not group or _group_of(job) == group)
                and (not chosen or job.id in chosen)
            ):
                yield job


def _group_of(job: Job) -> str:
    return f"{job.code}.{job.subcode} {fold(job.reason)}"


def page(
    result: Result, state: str | None, offset: int, count: int, now: float
) -> tuple[int, list[Row]]:
    """Return how many jobs are in a state, and some of them; ``now`` in seconds since 1970."""
    with result._session.changed:  # noqa: SLF001
        chosen = list(jobs_in(result, state))
        return len(chosen), [_row(job, now) for job in chosen[offset : offset + count]]


def _row(job: Job, now: float) -> Row:
    return Row(
        id=job.id,
        state="transferring" if job.is_transferring else _WORD_OF[job.state],
        host=job.host,
        seconds=(job.ended or now) - job.began if job.began else None,
        memory=job.memory or None,
        attempts=job.attempts,
        reason=job.reason[:LONGEST] if job.state is JobState.HELD else "",
    )


_WORD_OF = {state: word for word, state in WORDS.items() if state}


def jobs(result: Result, ids: Sequence[str]) -> list[QueuedJob]:
    """Return the jobs with these ids that are in the queue, or have just left it."""
    session = result._session  # noqa: SLF001
    return [QueuedJob(session, job) for job in jobs_in(result, ids=ids)]
