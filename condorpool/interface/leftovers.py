"""Leftovers: unfinished calls of processes that have ended, and kept results."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condorpool.cleaner import registry
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.engine import payload
from condorpool.engine.counts import CallCounts
from condorpool.engine.records import Chain, Manifest
from condorpool.engine.submitdir import SubmitDir
from condorpool.engine.survey import Survey
from condorpool.values import tables
from condorpool.values.exceptions import JobError
from condorpool.values.text import now, with_code


@dataclass(frozen=True)
class Leftover:
    """Calls of a process that has ended, or whose results are kept under a name.

    Parameters
    ----------
    name
        The name that the user gave them, else the function's.
    run
        Their submit directory's name.
    notebook, cell
        Where the calls were submitted; empty and 0 outside notebooks.
    time
        When, in seconds since 1970.
    calls
        How many there are.
    in_use
        Which process works on them, if one does.
    """

    name: str
    run: str
    notebook: str
    cell: int
    time: float
    calls: int
    in_use: str
    entry: Entry = field(repr=False)
    chain: Chain = field(repr=False)
    survey: Survey = field(repr=False)
    manifest: Manifest = field(repr=False)

    @property
    def digest(self) -> str:
        """The fingerprint of the calls, if they have a name."""
        return self.chain[0][1].digest

    @functools.cached_property
    def counts(self) -> CallCounts:
        """How many calls were in each state when this was first asked."""
        return self.survey.counts(self.chain)

    @property
    def done(self) -> int:
        """How many calls have returned a value."""
        return self.counts.done

    @property
    def failed(self) -> int:
        """How many calls have failed: raised, or were lost with their job."""
        return self.counts.failed

    @property
    def ended(self) -> int:
        """How many calls are done, failed or removed."""
        return self.counts.ended

    def values(self) -> list[Any]:
        """Return the results so far; the calls are not resumed.

        Returns
        -------
        list
            In the order of the calls: values, exceptions of those that failed or were
            removed, and `Missing` for calls that have not ended.
        """
        found: list[Any] = [Missing] * self.calls
        for first, end, result in self.survey.ended(self.chain):
            values, errors = _read(first, end, result)
            found[first:end] = [errors.get(first + n, value) for n, value in enumerate(values)]
        return found

    def errors(self) -> dict[int, BaseException]:
        """Return the exceptions of the calls that failed or were removed, by their numbers."""
        found: dict[int, BaseException] = {}
        for first, end, result in self.survey.ended(self.chain):
            for number in range(first, end):
                found.pop(number, None)  # it was made again
            if isinstance(result, JobError) or result.has_failures:  # else do not read the values
                found.update(_read(first, end, result)[1])
        return found


def _read(
    first: int, end: int, result: payload.Report | JobError
) -> tuple[Sequence[Any], dict[int, BaseException]]:
    """Return the values of calls, and the exceptions of those that have none, by their numbers."""
    outcome = result if isinstance(result, JobError) else result.outcome(first)
    if isinstance(outcome, JobError):
        return [None] * (end - first), dict.fromkeys(range(first, end), outcome)
    errors = {first + number: error for number, error in outcome.errors.items()}
    return outcome.values[: end - first], {n: e for n, e in errors.items() if n < end}


class Missing:
    """Stands for the value of a call that has not ended."""


class Leftovers(list[Leftover]):
    """The calls that `condorpool.attach` can resume, the oldest first, shown as a table."""

    _HEAD = ("name", "calls", "submitted", "cell", "notebook", "submit directory", "")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                each.name,
                each.counts.summary,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(each.time)),
                str(each.cell or ""),
                Path(each.notebook).name,
                each.run,
                each.in_use,
            )
            for each in self
        ]

    @functools.cached_property
    def _hint(self) -> str:
        """When the calls were counted, which is once, and what to do with them."""
        attach = "In a notebook `%condor_attach NAME`, elsewhere `condorpool.attach(NAME)`"
        return f"This is how far the calls were at {now()}. {attach} resumes one of them."

    def __repr__(self) -> str:
        if not self:
            return "nothing was left behind"
        lines = ("  ".join(row).rstrip() for row in tables.aligned([self._HEAD, *self._rows()]))
        return "\n".join([*lines, self._hint.replace("`", "")])

    def _repr_html_(self) -> str:
        if not self:
            return "<p>Nothing was left behind.</p>"
        texts = [name for name in self._HEAD if name != "cell"]
        return f"{tables.html([self._HEAD, *self._rows()], texts)}<p>{with_code(self._hint)}</p>"


def leftovers() -> Leftovers:
    """Return this user's calls whose process has ended, that are kept, or that other processes use."""
    here = Owner.this()
    entries = (entry for entry in registry.everything() if entry.owner != here)
    found = (each for entry in entries for each in found_in(entry))
    return Leftovers(sorted(found, key=lambda each: each.time))


def found_in(entry: Entry) -> Iterator[Leftover]:
    """Yield the calls in a submit directory, the oldest first."""
    directory = SubmitDir.found(entry.path)
    if directory is None:
        return
    survey = Survey(directory, has_queue=entry.has_queue(directory.manifest.queue))
    chains = directory.chains().values()
    directory.close()  # there may be many
    for chain in chains:
        _, record = chain[0]
        yield Leftover(
            name=record.name or record.title,
            run=entry.run,
            notebook=directory.manifest.notebook,
            cell=record.cell,
            time=record.time,
            calls=record.calls or 0,
            in_use=entry.in_use,
            entry=entry,
            chain=chain,
            survey=survey,
            manifest=directory.manifest,
        )
