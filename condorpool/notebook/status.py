"""What `%condor_status` shows, and what `%load_ext condorpool` greets with."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condorpool.cleaner.owner import notebook_path
from condorpool.display.groups import Held, HeldGroups
from condorpool.engine.counts import CallCounts
from condorpool.interface.leftovers import Leftover, leftovers
from condorpool.notebook import selection
from condorpool.values import tables
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.holds import again
from condorpool.values.text import duration, now, one_line, plural, printable, with_code

#: Lines about leftover calls, and about held jobs, at most.
MOST = 5

#: The columns of the table; those that are empty are omitted.
_HEAD = ("name", "calls", *CallCounts._fields, "time", "variable")

#: The columns that are texts; the others are numbers.
_TEXTS = ("name", "variable")


@dataclass(frozen=True)
class Row:
    """Some calls of this notebook; ``variable`` is the name of one that holds their result."""

    name: str
    counts: CallCounts
    elapsed: float
    variable: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as texts; states without calls are empty."""
        shown = self.counts.shown
        numbers = (f"{shown[word]:,}" if word in shown else "" for word in CallCounts._fields)
        total = f"{self.counts.total:,}"
        return (self.name, total, *numbers, duration(self.elapsed), self.variable)


class Status:
    """The calls of this notebook as a table, why jobs are held, and what was left behind."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        handles = selection.listed_results()
        variables = {id(value): name for name, value in names.items() if name[0] != "_"}
        self.rows = [
            Row(
                one_line(handle.name, 40),
                handle.counts(),
                handle.elapsed,
                variables.get(id(handle)) or ("_condor" * (names.get("_condor") is handle)),
            )
            for handle in handles
        ]
        self.queue = self._jobs_in_queue()
        self.held = _held_groups()
        self.left = _lines_about_leftovers()
        self.time = now()

    @staticmethod
    def _jobs_in_queue() -> str:
        jobs = collections.Counter(job.state.word for job in selection.known_jobs(queued=True))
        return ", ".join(f"{plural(count, 'job')} {word}" for word, count in jobs.items())

    @property
    def notes(self) -> list[str]:
        """The lines below the table."""
        lines = [f"In the queue: {self.queue}."] if self.queue else []
        lines += [
            f"{plural(group.count, 'job')} held: {one_line(group.reason, 300)} "
            f"(hold code {group.code}.{group.subcode}). {group.cure}{again(group.times)}"
            for group in self.held[:MOST]
        ]
        if self.held:
            lines.append(
                "`%condor_release held` releases held jobs, `%condor_rm held` removes them."
            )
        unfinished = [row for row in self.rows if row.counts.ended < row.counts.total]
        if unfinished:
            named = [row.variable for row in unfinished if row.variable]
            result = named[0] if named else "pool.last"
            lines.append(
                f"`{result}.show('auto')` shows calls live; `%condor_why all` says what jobs wait for."
            )
        return [*lines, *self.left]

    @property
    def _table(self) -> list[list[str]]:
        """The table, its head first."""
        rows = [_HEAD, *(row.cells for row in self.rows)]
        used = [column for column in zip(*rows, strict=True) if any(column[1:])]
        return [list(row) for row in zip(*used, strict=True)]

    def __repr__(self) -> str:
        lines = ["This notebook has no calls."]
        if self.rows:
            is_text = [name in _TEXTS for name in self._table[0]]
            lines = [
                tables.GAP.join(
                    cell if left else cell.strip().rjust(len(cell))
                    for cell, left in zip(row, is_text, strict=True)
                ).rstrip()
                for row in tables.aligned(self._table)
            ]
        return printable("\n".join([*lines, *self.notes]))

    def _repr_html_(self) -> str:
        lines = ["<p>This notebook has no calls.</p>"]
        if self.rows:
            lines = [tables.html(self._table, _TEXTS)]
        then = f"This is how it was at {self.time}."  # saved notebooks are read later
        return "\n".join(
            [*lines, *(f"<div>{with_code(note)}</div>" for note in [*self.notes, then])]
        )


def _held_groups() -> tuple[Held, ...]:
    return HeldGroups().update(collections.Counter(job.why_held for job in selection.held_jobs()))


# What was left behind


def _lines_about_leftovers() -> list[str]:
    mine, others = _left()
    lines = [f"Left by this notebook: {line}" for line in _lines(mine)]
    more = len(mine) - MOST
    if more > 0:
        lines.append(f"and {more} more of this notebook: `%condor_attach` lists them.")
    if others:
        lines.append(
            f"Other notebooks and programs have left {_maps(others)}: `%condor_attach` lists them."
        )
    known = {each.run for each in [*mine, *others]}
    files = [entry for entry in selection.left_behind() if entry.run not in known]
    lines += [f"{entry.run}: {one_line(entry.note, 300)}." for entry in files[:MOST]]
    if len(files) > MOST:
        lines.append(f"and {len(files) - MOST} more: `condorpool ls` lists all.")
    return lines


def greeting() -> str:
    """Return what this notebook has left behind; empty if there is nothing."""
    try:
        mine, others = _left()
    except CondorPoolError as error:  # no folder is safe: to load the magics needs none
        return f"condorpool: {error}"
    if not mine:
        return ""
    is_ = "is" if len(mine) == 1 else "are"
    lines = [f"condorpool: {_maps(mine)} of this notebook {is_} running or kept:"]
    lines += [f"    {line}" for line in _lines(mine)]
    hidden = [f"{len(mine) - MOST} more"] if len(mine) > MOST else []
    hidden += [f"{len(others)} of other notebooks and programs"] if others else []
    if hidden:
        lines.append(f"    ({' and '.join(hidden)}: `%condor_attach` lists them)")
    return "\n".join(lines)


def _left() -> tuple[list[Leftover], list[Leftover]]:
    """Return the calls that this notebook has left behind, the latest first, and those of others."""
    found = [each for each in leftovers() if not each.in_use]
    mine = [each for each in found if _is_mine(each)]
    return mine[::-1], [each for each in found if not _is_mine(each)]


def _is_mine(leftover: Leftover) -> bool:
    if here := notebook_path():
        return leftover.notebook == here
    # Jupyter does not say which notebook this is: its calls are in the same folder.
    return not leftover.notebook and leftover.entry.path.parent == Path.cwd()


def _maps(some: Sequence[Leftover]) -> str:
    return plural(len(some), "map")


def _lines(latest_first: Sequence[Leftover]) -> list[str]:
    """Return a line for each of the latest calls, which says how to resume them."""
    lines = []
    seen: set[str] = set()
    for each in latest_first[:MOST]:
        kept = ", kept" if each.entry.owner is None else ""
        # By its name, %condor_attach resumes the latest.
        name = each.run if each.name in seen else one_line(each.name)
        lines.append(
            f"{one_line(each.name, 40)}: {each.counts.summary}{kept}. `%condor_attach {name}`"
        )
        seen.add(each.name)
    return lines
