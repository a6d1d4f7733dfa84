"""What calls print: kept by chunk, read by call or by job."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from condorpool.engine.records import OutcomeRecord
    from condorpool.engine.texts import Part


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

    @property
    def size(self) -> int:
        """How many characters its texts have."""
        return sum(map(len, self.texts))

    def emptied(self) -> Printed:
        """Return it without its texts; the job's own files may still have them."""
        lost = dict(self.lost)
        for text in self.calls():
            size = len(text.stdout.encode()) + len(text.stderr.encode())
            lost[text.number - self.first] = text.lost + size
        marks = [(call, 0, 0) for call, *_ in self.marks]
        return self._replace(texts=("", ""), marks=marks, lost=lost)

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


def chunks_of(kept: Iterable[Printing], job: str, which: int) -> list[tuple[Printed, Printing]]:
    """Return what chunks of a job have printed, in that order, each with its calls.

    Parameters
    ----------
    kept
        The calls that may have been made by the job.
    which
        0 for its output, 1 for its error output.
    """
    made = [(chunk, calls) for calls in kept for chunk in calls.printed if chunk.job == job]
    return sorted(made, key=lambda pair: pair[0].spans[which])


def job_parts(made: Sequence[tuple[Printed, Printing]], which: int, size: int) -> Iterator[Part]:
    """Yield the text of a job, with a line before that of each call.

    Parameters
    ----------
    made
        What `chunks_of` returned.
    size
        That of the job's own file as far as it has arrived: the file also has what its
        initializer, its current call, and calls whose results were dropped have printed.
    """
    has_labels = sum(len(chunk.marks) for chunk, _ in made) > 1
    # A job that runs again begins its files again: then all in them is new.
    is_new = size < max((chunk.spans[which][1] for chunk, _ in made), default=0)
    position = 0
    for chunk, calls in made:
        begin, end = chunk.spans[which]
        if not is_new:
            yield range(position, begin)
            # Of emptied ones only the file has the text.
            position = max(position, end if chunk.texts[which] else begin)
        for text in chunk.calls():
            said = text.stderr if which else text.stdout
            if said and has_labels:
                label = calls.name if calls.is_single else f"call {text.number:,} of {calls.name}"
                yield f"{label}:\n"
            yield said
            if said and has_labels and said[-1] != "\n":
                yield "\n"
    yield range(position, size)
