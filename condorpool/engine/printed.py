"""What calls print: kept by chunk, read by call or by job."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from condorpool.engine.records import OutcomeRecord


class CallText(NamedTuple):
    """What one call printed.

    Parameters
    ----------
    number
        The number of the call.
    lost
        Bytes of its text that were not kept: the first ones.
    """

    number: int
    stdout: str
    stderr: str
    lost: int = 0

    @property
    def text(self) -> str:
        """Its output, then its error output; the first line says how much is missing, if any."""
        missing = f"({self.lost:,} bytes before this were not kept)\n" if self.lost else ""
        return missing + self.stdout + self.stderr


class Printed(NamedTuple):
    """What the calls of a chunk printed.

    Parameters
    ----------
    first
        The number of the chunk's first call; ``marks`` and ``lost`` count from there.
    job
        The job that made the calls, as ``ClusterId.ProcId``.
    texts
        The end of their output, and of their error output.
    marks
        Each call that printed, and where its text begins in both texts.
    lost
        The calls of whose text bytes are missing, and how many.
    spans
        Where the texts begin and end in the job's own files, in bytes.
    outdated
        Numbers of calls that were made again later.
    """

    first: int
    job: str
    texts: tuple[str, str]
    marks: Sequence[tuple[int, int, int]]
    lost: Mapping[int, int]
    spans: Sequence[tuple[int, int]]
    outdated: Collection[int] = ()

    @classmethod
    def read(cls, about: OutcomeRecord, first: int, job: str) -> Printed | None:
        """Return what an outcome says about its calls' text; None if they printed nothing."""
        if not about.printed:
            return None
        stdout, stderr = about.printed
        lost = dict(about.lost)
        return cls(first, job, (stdout, stderr), about.prints, lost, about.spans)

    def calls(self) -> Iterator[CallText]:
        """Yield the text of each call that printed, in order."""
        stdout, stderr = self.texts
        ends = [*self.marks[1:], (0, len(stdout), len(stderr))]
        for (call, out, err), (_, out_end, err_end) in zip(self.marks, ends, strict=True):
            number = self.first + call
            if number not in self.outdated:
                lost = self.lost.get(call, 0)
                yield CallText(number, stdout[out:out_end], stderr[err:err_end], lost)


def by_call(printed: Iterable[Printed], *, made_again: bool) -> Iterator[CallText]:
    """Yield the text of each call in call order; ``printed`` is in the order of delivery.

    If calls were ``made_again``, the text of the last time counts.
    """
    if made_again:
        last = {text.number: text for chunk in printed for text in chunk.calls()}
        yield from (last[number] for number in sorted(last))
        return
    for chunk in sorted(printed, key=lambda chunk: chunk.first):
        yield from chunk.calls()


class Printing(Protocol):
    """Calls whose text is kept."""

    name: str
    is_single: bool
    printed: deque[Printed]


def job_text(
    kept: weakref.WeakSet[Printing], job: str, which: int, file: bytes | None
) -> str | None:
    """Return the text of a job, with a line before that of each call; None if there is none yet.

    Parameters
    ----------
    kept
        The calls that may have been made by the job.
    which
        0 for its output, 1 for its error output.
    file
        The job's own file, if it has arrived: it also has what its initializer, its current
        call, and calls whose results were dropped have printed.
    """
    made = [(chunk, calls) for calls in kept for chunk in calls.printed if chunk.job == job]
    made.sort(key=lambda pair: pair[0].spans[which])
    has_labels = sum(len(chunk.marks) for chunk, _ in made) > 1
    parts, position = [], 0
    # A job that runs again begins its files again: then all in them is new.
    last = max((chunk.spans[which][1] for chunk, _ in made), default=0)
    rest = file or b""
    known = b"" if len(rest) < last else rest
    for chunk, calls in made:
        begin, end = chunk.spans[which]
        parts.append(known[position:begin].decode(errors="replace"))
        position = max(position, end)
        for text in chunk.calls():
            said = text.stderr if which else text.stdout
            if said and has_labels:
                label = calls.name if calls.is_single else f"call {text.number:,} of {calls.name}"
                parts.append(f"{label}:\n{said}" + "\n" * (said[-1] != "\n"))
            else:
                parts.append(said)
    parts.append(rest[position if known else 0 :].decode(errors="replace"))
    return "".join(parts) if any(parts) or file is not None else None
