"""Records: what a submit directory keeps so that another process can resume its work.

A record is a JSON object: a file of its own, or the first part of one that a job has written.
The other process may have another version of condorpool: it ignores fields that it does not
know, and missing ones have their default.  The types of fields are checked, and reading a record
runs no code: what is read to list, decide or clean up is read as records.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal, NamedTuple, TypeVar

from condorpool.runner import container
from condorpool.values import plain
from condorpool.values.exceptions import JobError, JobFailedError

#: How a chunk's item becomes arguments: ``f(item)``, ``f(*item)``, ``f(*item[0], **item[1])``.
Style = Literal["map", "starmap", "apply"]

#: Bytes of a record that are read.
MAX_SIZE = 1 << 27

#: Calls that a batch has, at most.
MOST_CALLS = 10**9

#: Runners that a submission has, at most.
MOST_RUNNERS = 10**5

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """The base of all records."""

    @classmethod
    def parse(cls: type[R], text: str | bytes) -> R:
        """Return the record that a file holds; raise ValueError if it holds none."""
        return cls.checked(plain.parse(text))

    @classmethod
    def read(cls: type[R], path: PathLike[str]) -> R:
        """Return the record in a file of its own; raise ValueError if it holds none."""
        with container.opened(os.fspath(path)) as file:
            return cls.parse(file.read(MAX_SIZE))

    @classmethod
    def checked(cls: type[R], facts: object) -> R:
        """Return the record with these facts; raise ValueError if they are none of a record's."""
        try:
            record: R = plain.checked(facts, cls)
        except plain.PlainError as error:
            raise plain.PlainError(f"it is no {cls.__name__}: {error}") from None
        return record

    def __str__(self) -> str:
        return json.dumps(
            {known.name: getattr(self, known.name) for known in dataclasses.fields(self)}
        )


@dataclass(frozen=True)
class Manifest(Record):
    """The record of a submit directory.

    Parameters
    ----------
    run
        Its name, which proves that it is one.
    host, pid, created, program
        Which process made it, and when.
    lease
        Seconds for which waiting jobs stay in the queue without renewal; 0 for no limit.
    queue
        The queue that its jobs are in: see `AccessPoint.queue`.
    kernel, notebook
        The kernel's id and the notebook's path, if a notebook made it.
    """

    run: str = ""
    host: str = ""
    pid: int = 0
    created: float = 0.0
    program: str = ""
    lease: float = 0.0
    queue: str = ""
    kernel: str = ""
    notebook: str = ""


class Submission(NamedTuple):
    """One submission: a cluster of jobs.

    Attributes
    ----------
    chunks
        The first call of the chunk that each job makes; None if the jobs are runners.
    """

    number: int
    size: int
    chunks: Sequence[int] | None


@dataclass(frozen=True)
class CrewRecord(Record):
    """The record of a crew.

    Parameters
    ----------
    name, limit, is_resident
        As in `Crew`.
    options
        Its `JobOptions`, without the initializer: that is in the crew's own file.
    description
        The submit description of its jobs.
    clusters
        All jobs that were submitted for it.
    """

    name: str = ""
    limit: int = 1
    is_resident: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    description: Mapping[str, str] = field(default_factory=dict)
    clusters: Sequence[Submission] = ()

    def __post_init__(self) -> None:
        clusters = tuple(Submission(*each) for each in self.clusters)
        object.__setattr__(self, "clusters", clusters)
        for _, size, chunks in clusters:
            if not 0 <= size <= MOST_RUNNERS if chunks is None else len(chunks) != size:
                raise plain.PlainError(f"it has a cluster of {size} jobs")


@dataclass(frozen=True)
class BatchRecord(Record):
    """The record of a batch.

    Parameters
    ----------
    crew
        The number of the crew whose jobs make its calls.
    title
        The name of the function.
    name, digest
        As in `Call`: the results are kept if the user gave them a name.
    style
        How the function is called: see `Call`.
    calls
        How many there are; None for a stream, whose chunks are deleted once delivered.
    time, cell
        When the calls were made, and in which cell of the notebook (0 for none).
    killstats, cleanup, cleanfailed, cleanupfiles
        As in `JobOptions`: what happens to the batch when its owner ends.
    reruns
        The batch whose calls it makes again.
    parts
        The parts of that batch's chunks, as first call, end, and origin.
    """

    crew: int = 0
    title: str = ""
    name: str = ""
    digest: str = ""
    style: Style = "map"
    calls: int | None = None
    time: float = 0.0
    cell: int = 0
    killstats: Sequence[str] = ()
    cleanup: bool = True
    cleanfailed: bool = False
    cleanupfiles: Sequence[str] = ()
    reruns: int | None = None
    parts: Sequence[tuple[int, int, int]] = ()

    def __post_init__(self) -> None:
        if not 0 <= (self.calls or 0) <= MOST_CALLS:
            raise plain.PlainError(f"it has {self.calls} calls")
        if not all(0 <= first < end <= (self.calls or 0) for first, end, _ in self.parts):
            raise plain.PlainError("it has parts that are no calls of its own")


#: A batch and its reruns by number, in the order in which they were posted.
Chain = list[tuple[int, BatchRecord]]


@dataclass(frozen=True)
class ErrorRecord(Record):
    """Why the calls of a chunk up to ``end`` have no outcome: an error's class and attributes."""

    end: int = 0
    kind: str = ""
    job_id: str = ""
    reason: str = ""
    host: str = ""
    stderr: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: JobError, end: int) -> ErrorRecord:
        """Return the record of an error."""
        names = ("job_id", "reason", "host", "stderr", "hint")
        return cls(end, type(error).__name__, **{name: getattr(error, name) for name in names})

    def error(self) -> JobError:
        """Return the error that it is the record of."""
        kinds = {
            kind.__name__: kind
            for kind in (*JobError.__subclasses__(), *JobFailedError.__subclasses__())
        }
        kind = kinds.get(self.kind, JobFailedError)
        # Earlier versions wrote a word in parentheses where no job had the calls.
        job_id = "" if self.job_id.startswith("(") else self.job_id
        return kind(job_id, self.reason, host=self.host, stderr=self.stderr, hint=self.hint)


class OtherCall(NamedTuple):
    """The outcome of a call that is no value of its own frames; see `runner.outcomes`.

    Attributes
    ----------
    what
        How it has failed, or that its value cannot be sent.
    text
        The traceback, or the reason.
    frames
        How many frames its exception has.
    words
        The exception in a line.
    """

    what: Literal["raise", "unmade", "unpicklable", "overtime"]
    text: str
    frames: int
    words: str


@dataclass(frozen=True)
class OutcomeRecord(Record):
    """What the outcome of a chunk is about: all but the values and exceptions.

    Parameters
    ----------
    count
        How many calls were made, if ``calls`` does not say it.
    host, python, pid, job
        Where.
    chunk
        The chunk's name.
    mismatch, damaged
        Why none could be made there; empty if they were.
    started, seconds
        When the first began, and how long all took.
    lasted
        The seconds of each of the first calls; later ones were short.
    task_timeout
        The seconds that each could take.
    calls
        What became of each: the number of its value's frames, or an `OtherCall`.  None if one
        pickle has all values.
    printed, prints, lost, spans
        What they printed: see `Streams.printed`.
    """

    count: int = 0
    host: str = ""
    python: str = ""
    pid: int = 0
    job: str = ""
    chunk: str = ""
    mismatch: str = ""
    damaged: str = ""
    started: float = 0.0
    seconds: float = 0.0
    lasted: Sequence[float] = ()
    task_timeout: float | None = None
    calls: Sequence[int | OtherCall] | None = None
    printed: Sequence[str] = ()
    prints: Sequence[tuple[int, int, int]] = ()
    lost: Sequence[tuple[int, int]] = ()
    spans: Sequence[tuple[int, int]] = ()
