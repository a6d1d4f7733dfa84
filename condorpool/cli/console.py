"""What the commands print: sentences, tables and JSON, and what they ask on a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from condorpool.engine.counts import CallCounts
from condorpool.values.tables import GAP, aligned
from condorpool.values.text import printable

_CODES = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}


class Cell(NamedTuple):
    """A cell of a table, and its color."""

    text: str
    color: str = ""


def say(text: str, end: str = "\n") -> None:
    """Print a text at once: pipes are buffered, and the user may wait."""
    print(printable(text), end=end, flush=True)


def warn(text: str) -> None:
    """Print a text that is not part of the output."""
    print(f"condorpool: {printable(text)}", file=sys.stderr)


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table that fits the terminal; elsewhere nothing is cut.  Empty columns are omitted."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    shown = [n for n in range(len(head)) if any(row[n].text for row in rows)]
    top = [Cell(text.upper(), "bold") for text in head]
    cells = [[row[n] for n in shown] for row in (top, *rows)]
    texts = aligned([[cell.text for cell in row] for row in cells], width)
    for row, line in zip(cells, texts, strict=True):
        line[-1] = line[-1].rstrip()
        shown_cells = (painted(text, cell.color) for cell, text in zip(row, line, strict=True))
        print(GAP.join(shown_cells).rstrip())


def painted(text: str, color: str) -> str:
    """Return a text in a color, where the output is a terminal that shows colors."""
    shows = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not color or not shows or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_CODES[color]}m{text}\x1b[0m"


def calls(counts: CallCounts) -> Cell:
    """Return how far calls are, in a color that says how well."""
    if counts.failed or counts.removed:
        color = "red"
    elif counts.held:
        color = "yellow"
    else:
        color = "green" if counts.ended == counts.total else ""
    return Cell(counts.summary, color)


def jobs_in_words(jobs: Mapping[str, int]) -> str:
    """Return how many jobs are in each state: ``1 idle, 2 running``."""
    return ", ".join(f"{count:,} {state}" for state, count in sorted(jobs.items())) or "no jobs"


def as_json(value: Any) -> None:
    """Print a value as JSON, in ASCII."""
    print(json.dumps(value, indent=2))


def agrees(question: str, *, yes: bool) -> bool:
    """Return whether the user agrees; ask only on a terminal, and not if ``yes`` was given."""
    if yes or not (sys.stdin and sys.stdin.isatty()):
        return True
    print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
