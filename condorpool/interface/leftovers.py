"""Leftovers: unfinished calls of processes that have ended, and kept results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from condorpool.cleaner import registry
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.engine import payload, submitdir
from condorpool.engine.records import Chain
from condorpool.engine.submitdir import SubmitDir


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
    calls, ended
        How many there are, and how many of them have returned or failed.
    in_use
        Which process works on them, if one does.
    """

    name: str
    run: str
    notebook: str
    cell: int
    time: float
    calls: int
    ended: int
    in_use: str
    entry: Entry = field(repr=False)
    chain: Chain = field(repr=False)

    @property
    def digest(self) -> str:
        """The fingerprint of the calls, if they have a name."""
        return self.chain[0][1].digest

    def values(self) -> list[Any]:
        """Return the results so far; the calls are not resumed.

        Returns
        -------
        list
            In the order of the calls: values, exceptions, and `Missing` for calls that have
            not ended.
        """
        found: list[Any] = [Missing] * self.calls
        directory = SubmitDir(self.entry.path)
        for number, _ in self.chain:
            for first in sorted(directory.outcomes(number)):
                path = directory / submitdir.outcome_name(number, first)
                outcome = payload.read_outcome(path, first)
                if isinstance(outcome, payload.Outcome):
                    values = [outcome.errors.get(n, v) for n, v in enumerate(outcome.values)]
                    found[first : first + len(values)] = values
        return found


class Missing:
    """Stands for the value of a call that has not ended."""


class Leftovers(list[Leftover]):
    """The calls that `condorpool.attach` can resume, the oldest first, shown as a table."""

    _HEAD = ("name", "calls ended", "submitted", "cell", "notebook", "submit directory", "")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                each.name,
                f"{each.ended} of {each.calls}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(each.time)),
                str(each.cell or ""),
                Path(each.notebook).name,
                each.run,
                each.in_use,
            )
            for each in self
        ]

    def __repr__(self) -> str:
        if not self:
            return "nothing was left behind"
        rows = [self._HEAD, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([*lines, "condorpool.attach(NAME) resumes one of them."])

    def _repr_html_(self) -> str:
        if not self:
            return "<p>Nothing was left behind.</p>"
        cells = "".join(f"<th>{head}</th>" for head in self._HEAD)
        rows = [f"<tr>{cells}</tr>"]
        for row in self._rows():
            cells = "".join(f"<td>{escape(text)}</td>" for text in row)
            rows.append(f"<tr>{cells}</tr>")
        hint = "<p><code>condorpool.attach(NAME)</code> resumes one of them.</p>"
        return f"<table>{''.join(rows)}</table>{hint}"


def leftovers() -> Leftovers:
    """Return this user's calls whose process has ended, that are kept, or that other processes use."""
    found = (each for entry in registry.everything() for each in _found_in(entry))
    return Leftovers(sorted(found, key=lambda each: each.time))


def _found_in(entry: Entry) -> Iterator[Leftover]:
    if entry.owner == Owner.this():
        return
    directory = SubmitDir.found(entry.path)
    if directory is None:
        return
    for chain in directory.chains().values():
        number, record = chain[0]
        yield Leftover(
            name=record.name or record.title,
            run=entry.run,
            notebook=directory.manifest.notebook,
            cell=record.cell,
            time=record.time,
            calls=record.calls or 0,
            ended=directory.calls_ended(number, record.crew, record.calls or 0),
            in_use=entry.in_use,
            entry=entry,
            chain=chain,
        )
