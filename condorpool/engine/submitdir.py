"""The submit directory: every file of a pool, and the only place that knows their names.

That is why this module is longer than others: all that reads, writes, or deletes such a file by
its name is here, in one class with short methods.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TypeVar

from condorpool.engine import ownership, texts
from condorpool.engine.payload import end_of, support_archive
from condorpool.engine.records import (
    BatchRecord,
    Chain,
    CrewRecord,
    ErrorRecord,
    Manifest,
    Record,
)
from condorpool.runner.names import ANNOUNCES, CLOSED, MADE, is_token
from condorpool.values import folders
from condorpool.values.exceptions import CondorPoolError, SubmitError
from condorpool.values.folders import HeldFile, HeldFolder
from condorpool.values.text import one_line, plural

LAUNCHER = "launch.sh"
SUPPORT = "support.zip"
EVENT_LOG = "events.log"
MANIFEST = "manifest.json"
PROBE = "probe"

#: What helps where it is not the disk that lacks something.
LACKS = {
    errno.ENOMEM: "Free memory in this process",
    errno.EMFILE: "Close files in this process",
    errno.ENFILE: "Close files on this machine: too many are open",
}

#: The files that every job needs besides its chunks.
SHIPPED = (LAUNCHER, SUPPORT)


# The names of files, to be filled in with numbers or a job id.

#: The initializer and the environment of a crew's jobs.
crew_name = "{}.crew".format
#: The `CrewRecord` of a crew.
jobs_name = "{}.jobs".format
#: The folder from which a crew's jobs take chunks.
posted_name = "{}.posted".format
#: The folder to which they move the chunks that they take, with their job id at the end.
taken_name = "{}.taken".format
#: The folder in which they write how many calls of their chunk they have made, each by its id.
made_name = f"{{}}.{MADE}".format
#: The function that all chunks of a batch call.
call_name = "{}.call".format
#: The `BatchRecord` of a batch.
facts_name = "{}.facts".format
#: The arguments of a chunk: its batch and its first call.
chunk_name = "{}-{}.chunk".format
#: The values of a chunk's calls, as its job has written them.
outcome_name = "{}-{}.outcome".format
#: The `ErrorRecord` of a chunk that has no outcome.
error_name = "{}-{}.error".format
#: An object that many calls use.
shared_name = "{}.shared".format
#: The standard output of a job, by its id.
stdout_name = "job-{}.out".format
#: The standard error of a job, by its id.
stderr_name = "job-{}.err".format

# A file of a batch, a crew, or a chunk: its number, the first call of a chunk, and what it is.
_NUMBERED = re.compile(r"([0-9]+)(?:-([0-9]+))?\.([a-z]+)")

_JOB = re.compile(r"[0-9]+\.[0-9]+")

# Batch, first call, calls made, failed ones, and the seconds that they took.
_REPORT = re.compile(rb"(\d+) (\d+) (\d+) (\d+) (\d+\.\d+)\n")

R = TypeVar("R", bound=Record)


def run_of(path: Path) -> str:
    """Return a submit directory's name as users and HTCondor read it, without the hiding dot."""
    return path.name.removeprefix(".")


def is_name(name: str) -> bool:
    """Return whether a submit directory may have this name."""
    return name.removeprefix(".").startswith("condorpool-")


class Token(NamedTuple):
    """A chunk that is posted for runners, or taken by one: an empty file with this name.

    Attributes
    ----------
    batch, first, end
        The calls ``first`` to ``end`` (not included) of a batch.
    origin
        The first call of the chunk whose arguments these are part of.
    job
        The job that has taken it, as ``ClusterId.ProcId``; empty if it is posted.
    """

    batch: int
    first: int
    end: int
    origin: int
    job: str = ""

    @classmethod
    def named(cls, name: str) -> Token | None:
        """Return the token of this name; None for any other file."""
        numbers, taken, job = name.partition("@")
        if not is_token(numbers) or (taken and not _JOB.fullmatch(job)):
            return None
        batch, first, end, origin = map(int, numbers.split("-"))
        return cls(batch, first, end, origin, job)

    def __str__(self) -> str:
        name = f"{self.batch}-{self.first}-{self.end}-{self.origin}"
        return f"{name}@{self.job}" if self.job else name


class Taken(NamedTuple):
    """A chunk that a job has taken, and how far it is.

    Attributes
    ----------
    since
        When it began the call that it is making, in seconds since 1970.
    reported
        When it reported how many calls it has made; 0 if it did not.
    made, failed, seconds
        How many calls it has made, how many of these failed, and how long they took.
    """

    token: Token
    since: float
    reported: float = 0.0
    made: int = 0
    failed: int = 0
    seconds: float = 0.0


#: Files that start IPython, in a terminal or as a kernel: they are the same for all its users' work.
_SHELLS = ("ipython", "ipython3", "ipykernel_launcher.py", "IPython/__main__.py")


@functools.cache
def program() -> str:
    """Return the path of the script that this process runs; if it runs none, its first folder."""
    name = sys.argv[0] if sys.argv else ""
    is_script = os.path.isfile(name) and not name.endswith(_SHELLS)
    return os.path.abspath(name if is_script else "")


class SubmitDir(HeldFolder):
    """One private folder inside the user's ``submitdir``, with all that a pool writes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.run = run_of(path)
        self.manifest = Manifest()
        self._unreadable: dict[str, str] = {}

    @property
    def log(self) -> HeldFile:
        """The event log of its jobs."""
        return self / EVENT_LOG

    @classmethod
    def new(cls, base: Path) -> SubmitDir:
        """Choose a name in ``base``; nothing is written yet."""
        # Hidden: file browsers would list it beside the user's notebooks.
        return cls(base / f".condorpool-{uuid.uuid4().hex[:12]}")

    @classmethod
    def found(cls, path: Path) -> SubmitDir | None:
        """Return the submit directory at ``path``, if it is one and belongs to this user."""
        here = cls(path)
        try:
            here.manifest = Manifest.read(here / MANIFEST)
        except (OSError, ValueError):
            return None
        return here if here.manifest.run == here.run and is_name(path.name) else None

    def make(
        self, *, lease: float = 0.0, queue: str = "", kernel: str = "", notebook: str = ""
    ) -> None:
        """Make the folder, become its owner, and write what every job needs.

        The arguments are those of `Manifest`.
        """
        self.manifest = Manifest(
            run=self.run,
            host=socket.gethostname(),
            pid=os.getpid(),
            created=time.time(),
            program=program(),
            lease=lease,
            queue=queue,
            kernel=kernel,
            notebook=notebook,
        )
        with self.explained():
            folders.make(self.path.parent, 0o755)
            self.path.mkdir(mode=0o700)
            try:
                self._fill()
            except BaseException:
                self.remove()
                raise

    def _fill(self) -> None:
        if self.names():
            raise FileExistsError(errno.EEXIST, "another folder was put in its place")
        ownership.acquire(self.path)
        self.record(MANIFEST, self.manifest)
        self.write(".gitignore", b"*\n")  # its files may be large, and contain secrets
        launcher = resources.files("condorpool.runner").joinpath(LAUNCHER)
        self.write(LAUNCHER, launcher.read_bytes())
        self.write(SUPPORT, support_archive())
        # HTCondor appends to it; it must exist because it is watched before the first submit.
        self.write(EVENT_LOG, b"")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of the file system into a SubmitError that says what to do."""
        try:
            yield
        except CondorPoolError:
            raise  # may be an OSError too, and says what to do
        except OSError as error:
            is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            place = "another place with Pool(submitdir=...)"
            cure = f"{'Free space there, or choose' if is_full else 'Choose'} {place}"
            raise SubmitError(
                f"cannot write the submit directory {self.path}: {error.strerror or error}. "
                f"Nothing was submitted. {LACKS.get(error.errno or 0, cure)}."
            ) from error

    @property
    def displaced(self) -> str:
        """What has become of it if its path no longer names it, as a clause; else empty."""
        if self.is_in_place:
            return ""
        with contextlib.suppress(OSError):
            if (place := self.place).exists():
                return f"was moved to {place}"
        return "was deleted"

    def check_place(self) -> None:
        """Raise SubmitError if HTCondor, which knows its path only, would use another folder."""
        if displaced := self.displaced:
            raise SubmitError(
                f"the submit directory {self.path} {displaced}. Nothing was submitted. Make a new "
                "Pool, in a folder that only you can change: Pool(submitdir=...)."
            )

    def write(self, name: str, data: bytes) -> None:
        """Write a private file; other processes see all of it or nothing."""
        path = os.fspath(self / name)
        scratch = f"{path}.tmp"  # renamed when it is complete
        with open(scratch, "wb", opener=_private) as file:
            file.write(data)
        os.replace(scratch, path)

    def text(self, name: str) -> str | None:
        """Return the text of a file, or None if there is none (yet)."""
        try:
            with open(self / name, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def events(self, jobs: Iterable[str]) -> str | None:
        """Return the events of these jobs from the event log, or None if there are none (yet).

        Without those with which runners announce outcomes to the client.
        """
        pairs = (job.split(".") for job in jobs)
        marks = tuple(f"({int(cluster):03d}.{int(proc):03d}." for cluster, proc in pairs)
        found, is_wanted = [], False
        with (
            contextlib.suppress(OSError),
            self.log.open(encoding="utf-8", errors="replace", newline="\n") as log,
        ):
            head = True
            for line in log:  # the log has a line for each chunk of all jobs: it may be long
                if head:
                    is_ours = line.partition(" ")[2].startswith(marks)
                    is_wanted = is_ours and ANNOUNCES not in line.split()
                if is_wanted:
                    found.append(line)
                head = line == "...\n"
        return "".join(found) or None

    def tail(self, name: str, lines: int = 12, size: int = 8192) -> str:
        """Return the last lines of a file, at most ``size`` bytes of them.

        NULs are omitted: a file may end with millions of them.
        """
        path = self / name
        try:
            end = path.stat().st_size
        except OSError:
            return ""
        text = "".join(texts.read(path, range(max(0, end - size), end)))
        return texts.last_lines(text.replace("\0", "").rstrip(), lines)

    # -- what another process needs to resume the work ---------------------------------
    def record(self, name: str, record: Record) -> None:
        """Write a record."""
        self.write(name, str(record).encode())

    def batches(self) -> dict[int, BatchRecord]:
        """Return the records of all batches by number."""
        return self._records("facts", BatchRecord)

    def crews(self) -> dict[int, CrewRecord]:
        """Return the records of all crews by number."""
        return self._records("jobs", CrewRecord)

    def _records(self, suffix: str, kind: type[R]) -> dict[int, R]:
        found = {}
        for file, number, first, what in self._numbered():
            if what == suffix and first is None:
                with self.reading(file.name):
                    found[number] = kind.read(file)
        return found

    def chunks(self) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """Return the chunks with arguments and those with an outcome, as batch and first call."""
        found: dict[str, set[tuple[int, int]]] = {"chunk": set(), "outcome": set()}
        for file, batch, first, what in self._numbered():
            with contextlib.suppress(OSError):  # it was deleted meanwhile
                if first is None or what not in found:
                    continue
                if what == "chunk" or file.stat().st_size:
                    found[what].add((batch, first))
        return found["chunk"], found["outcome"]

    def numbers_shared(self) -> list[int]:
        """Return the numbers of shared objects."""
        return [number for _, number, _, what in self._numbered() if what == "shared"]

    def ends(self, batch: int) -> dict[int, int]:
        """Return the first call of each chunk with arguments → its end."""
        arguments, _ = self.chunks()
        firsts = sorted(first for number, first in arguments if number == batch)
        found = {}
        for first in firsts:
            with self.reading(name := chunk_name(batch, first)):
                found[first] = end_of(self / name, first)
        return found

    def chains(self) -> dict[int, Chain]:
        """Return the batches that can be resumed, each with its reruns, by the first's number.

        Others lack chunks: they were deleted once delivered, or the owner was killed before
        it had written all.
        """
        found: dict[int, Chain] = {}
        root: dict[int, int] = {}
        for number, batch in sorted(self.batches().items()):
            before = batch.reruns
            written = sum(end - first for first, end in self.ends(number).items())
            if before in root and batch.calls == found[root[before]][0][1].calls:
                root[number] = root[before]
            elif before is None and written == batch.calls:
                root[number] = number
            else:
                continue
            found.setdefault(root[number], []).append((number, batch))
        return found

    def outcomes(self, batch: int) -> set[int]:
        """Return the first calls of the chunks that have an outcome."""
        return {first for number, first in self.chunks()[1] if number == batch}

    def errors(self, batch: int) -> dict[int, ErrorRecord]:
        """Return why chunks of a batch have no outcome, by their first calls."""
        found = {}
        for file, number, first, what in self._numbered():
            if what == "error" and number == batch and first is not None:
                with self.reading(file.name):
                    found[first] = ErrorRecord.read(file)
        return found

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Note a file that is not what was written; one that was deleted meanwhile is no error."""
        try:
            yield
        except OSError:
            pass
        except ValueError as error:
            if os.path.lexists(self / name):
                self._unreadable.setdefault(name, str(error))

    @property
    def unreadable(self) -> str:
        """Which file could not be read so far, and why; empty if all could.

        Its calls are not known, but those of the others are.
        """
        for name, why in sorted(self._unreadable.items()):
            others = len(self._unreadable) - 1
            more = f", and {plural(others, 'other file')}" if others else ""
            return f"its file {name} cannot be read: {one_line(why, 300)}{more}"
        return ""

    # -- chunks of a resident crew; runner/PROTOCOL.md says which process may move them ----
    def make_crew(self, crew: int) -> None:
        """Make the folders of a resident crew."""
        for name in (posted_name(crew), taken_name(crew), made_name(crew)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self / name, 0o700)

    def close_crew(self, crew: int) -> None:
        """Have runners exit when no more chunks are posted."""
        with contextlib.suppress(OSError):
            os.close(_private(self._in(posted_name(crew), CLOSED), os.O_WRONLY))

    def post(self, crew: int, tokens: Iterable[Token]) -> None:
        """Post chunks for runners."""
        folder = os.fspath(self / posted_name(crew))
        for token in tokens:
            os.close(_private(f"{folder}/{token}", os.O_WRONLY))

    def copy_batch(self, old: int, new: int, origins: Iterable[int]) -> None:
        """Link the files with an old batch's function and arguments to a new batch."""
        os.link(self / call_name(old), self / call_name(new))
        for origin in origins:
            os.link(self / chunk_name(old, origin), self / chunk_name(new, origin))

    def tokens(self, crew: int) -> Iterator[Token]:
        """Yield the tokens of a crew's chunks: those that are posted, then those taken."""
        # In this order: a chunk that a runner takes meanwhile is listed twice, not missed.
        for folder in (posted_name(crew), taken_name(crew)):
            with contextlib.suppress(OSError):
                names = os.listdir(self / folder)  # may be many
                yield from filter(None, map(Token.named, names))

    def taken(self, crew: int) -> Iterator[Taken]:
        """Yield the chunks that jobs have taken, and what these have reported."""
        with contextlib.suppress(OSError), os.scandir(self / taken_name(crew)) as files:
            for file in files:
                with contextlib.suppress(OSError):  # the job has finished it meanwhile
                    if token := Token.named(file.name):
                        since = file.stat().st_ctime  # of the rename
                        yield self._reported(crew, Taken(token, since))

    def _reported(self, crew: int, taken: Taken) -> Taken:
        """Return a chunk with what its job has reported; the report may be missing or incomplete."""
        try:
            with open(self._in(made_name(crew), taken.token.job), "rb") as file:
                text, time = file.read(100), os.fstat(file.fileno()).st_mtime
        except OSError:
            return taken
        report = _REPORT.fullmatch(text)
        if not report or (int(report[1]), int(report[2])) != taken.token[:2]:
            return taken
        since = max(taken.since, time)  # it was split after the report
        made, failed, seconds = int(report[3]), int(report[4]), float(report[5])
        return Taken(taken.token, since, time, made, failed, seconds)

    def taken_by(self, crew: int, job: str) -> list[Token]:
        """Return the tokens of the chunks that a job has taken and not finished."""
        return [token for token in self.tokens(crew) if token.job == job]

    def take_back(self, crew: int, token: Token) -> bool:
        """Delete a token that is posted, or whose job has ended; return whether it was there."""
        folder = taken_name(crew) if token.job else posted_name(crew)
        try:
            # If a runner renames it at the same time, only one of the two succeeds.
            os.unlink(self._in(folder, token))
        except OSError:
            return False
        return True

    def put_back(self, crew: int, token: Token) -> None:
        """Post a taken chunk again, unless it has an outcome."""
        if not (self / outcome_name(token.batch, token.first)).exists():
            posted = self._in(posted_name(crew), token._replace(job=""))
            with contextlib.suppress(OSError):  # its job has finished it, or split it
                os.rename(self._in(taken_name(crew), token), posted)

    def forget_jobs(self, queue: str) -> None:
        """Start over in another queue, where the old job ids may belong to other jobs."""
        for crew, known in self.crews().items():
            for token in self.tokens(crew):
                if token.job:
                    self.put_back(crew, token)
            self.record(jobs_name(crew), replace(known, clusters=()))
        self.write(EVENT_LOG, b"")
        self.note_queue(queue)

    def note_queue(self, queue: str) -> None:
        """Write down that the jobs are in another queue from now on."""
        self.manifest = replace(self.manifest, queue=queue)
        self.record(MANIFEST, self.manifest)

    def discard_chunks(self, batch: int, firsts: Iterable[int]) -> None:
        """Delete the files of chunks by name: listing a large folder is slow."""
        for first in firsts:
            for name in (outcome_name(batch, first), chunk_name(batch, first)):
                self.discard(name)

    def discard_call(self, batch: int) -> None:
        """Delete what all chunks of a batch share."""
        self.discard(call_name(batch))
        self.discard(facts_name(batch))

    def discard(self, name: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(self / name)

    # -- cleaning up ---------------------------------------------------------------------
    def discard_batch(self, batch: int, keep: Iterable[int] = ()) -> None:
        """Delete the files of a batch, except those of the chunks to keep."""
        kept = {f"{batch}-{index}" for index in keep}
        for file in self._files():
            stem = file.name.partition(".")[0]
            if stem.partition("-")[0] == str(batch) and stem not in kept and file.is_file():
                with contextlib.suppress(OSError):
                    os.unlink(file.path)  # 40,000 of these

    def discard_beside(self, names: Iterable[str]) -> None:
        """Delete files that the user named (``cleanupfiles``), beside the folder."""
        for name in set(names):
            (self.path.parent / name).unlink(missing_ok=True)

    def discard_jobs(self, keep: Iterable[str]) -> None:
        """Delete the output of all jobs but those to keep, and the folders of crews."""
        kept = {name for job in keep for name in (stdout_name(job), stderr_name(job))}
        for file in self._files():
            with contextlib.suppress(OSError):
                if file.is_dir():
                    shutil.rmtree(file.path)
                elif file.name.startswith("job-") and file.name not in kept:
                    os.unlink(file.path)

    def _numbered(self) -> Iterator[tuple[os.DirEntry[str], int, int | None, str]]:
        """Yield the files whose names say what they are: their numbers, and what it is.

        Network file systems and editors may have put others there.
        """
        for file in self._files():
            if named := _NUMBERED.fullmatch(file.name):
                number, first, what = named.groups()
                yield file, int(number), None if first is None else int(first), what

    def _in(self, folder: str, name: object) -> str:
        return f"{self.here}/{folder}/{name}"

    def _files(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.here) as entries:
                return list(entries)
        except OSError:
            return []

    def remove(self) -> None:
        """Delete the folder and all in it; a file that is already gone is no error.

        If this process is killed meanwhile, the next one must recognize the rest as a submit
        directory: so the manifest is deleted last, except for the lock, which a network file
        system deletes only when it is closed.
        """
        last = MANIFEST, ownership.OWNER_LOCK
        self._empty(keep=last)
        for name in last:
            self.discard(name)
        ownership.release(self.path)
        with contextlib.suppress(OSError):  # it is not ours: nothing was deleted
            for _ in range(20):
                self._empty()
                place = self.place  # it may have been renamed
                with contextlib.suppress(OSError):
                    place.rmdir()
                if not place.exists():
                    break
                time.sleep(0.05)  # a shadow wrote a last file as it exited
        self.close()

    def _empty(self, keep: Iterable[str] = ()) -> None:
        for file in self._files():
            if file.name not in keep:
                with contextlib.suppress(OSError):
                    is_folder = file.is_dir(follow_symlinks=False)
                    shutil.rmtree(file.path) if is_folder else os.unlink(file.path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_TRUNC, 0o600)
