"""Leftovers: unfinished calls of processes that have ended, and kept results."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from condorpool.cleaner import registry
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.engine import outcomes
from condorpool.engine.counts import CallCounts
from condorpool.engine.records import Chain, Manifest
from condorpool.engine.submitdir import MANIFEST, SubmitDir
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

    def words(self) -> dict[int, str]:
        """Return the exceptions of `errors` in a line each; none of them is rebuilt for that."""
        found: dict[int, str] = {}
        for first, end, result in self.survey.ended(self.chain):
            for number in range(first, end):
                found.pop(number, None)  # it was made again
            if isinstance(result, JobError):
                text = f"{type(result).__name__}: {result}"
                found.update(dict.fromkeys(range(first, end), text))
            else:
                found.update(result.words(first))
        return found


def _read(
    first: int, end: int, result: outcomes.Report | JobError
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
    """The calls that `condorpool.attach` can resume, the oldest first, shown as a table.

    Attributes
    ----------
    unreadable
        A line about each submit directory with files that cannot be read.
    """

    _HEAD = ("name", "calls", "submitted", "cell", "notebook", "submit directory", "")

    def __init__(self, found: Iterable[Leftover], unreadable: Sequence[str] = ()) -> None:
        super().__init__(found)
        self.unreadable = unreadable

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
        lines = ["nothing was left behind"]
        if self:
            rows = tables.aligned([self._HEAD, *self._rows()])
            lines = [*("  ".join(row).rstrip() for row in rows), self._hint.replace("`", "")]
        return "\n".join([*lines, *self.unreadable])

    def _repr_html_(self) -> str:
        unreadable = "".join(f"<p>{with_code(text)}</p>" for text in self.unreadable)
        if not self:
            return f"<p>Nothing was left behind.</p>{unreadable}"
        texts = [name for name in self._HEAD if name != "cell"]
        shown = tables.html([self._HEAD, *self._rows()], texts)
        return f"{shown}<p>{with_code(self._hint)}</p>{unreadable}"


def leftovers() -> Leftovers:
    """Return this user's calls whose process has ended, that are kept, or that other processes use."""
    here, calls, unreadable = Owner.this(), list[Leftover](), list[str]()
    for entry in registry.everything():
        if entry.owner != here:
            found = found_in(entry)
            calls += found.calls
            if found.unreadable:
                unreadable.append(f"{entry.run}: {found.unreadable}.")
    return Leftovers(sorted(calls, key=lambda each: each.time), unreadable)


class Found(NamedTuple):
    """What is in a submit directory: its calls, the oldest first, and what cannot be read, if any."""

    calls: list[Leftover]
    unreadable: str


def found_in(entry: Entry) -> Found:
    """Return what is in a submit directory.  Nothing that is read there is a pickle."""
    directory = SubmitDir.found(entry.path)
    if directory is None:
        delete = f"delete {entry.path} by hand if it is yours"
        is_there = os.path.lexists(entry.path / MANIFEST)
        return Found([], f"its file {MANIFEST} cannot be read; {delete}" if is_there else "")
    survey = Survey(directory, has_queue=entry.has_queue(directory.manifest.queue))
    calls = []
    chains = directory.chains().values()
    directory.close()  # there may be many
    for chain in chains:
        _, record = chain[0]
        known = Leftover(
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
        calls.append(known)
    delete = f"; `condorpool rm {entry.run}` deletes all of it"
    return Found(calls, directory.unreadable and directory.unreadable + delete)
