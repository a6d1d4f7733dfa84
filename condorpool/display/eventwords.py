"""A job's events in words: one line for each, with the details that users look for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from condorpool.values.text import printable

_EVENT = re.compile(r"(\d{3}) \([-\d.]+\) (\S+ \S+) (.*)")

#: Addresses, which only HTCondor reads.
_ADDRESS = re.compile(r"(?:\s*from host|\s*on host)?:? *<[^>]*>")

#: Events that say nothing about the progress of a job: its measured size, and what runners write.
_HIDDEN = {"006", "008"}

#: For some events, by HTCondor's number: the detail lines that begin so; "" is every line.
_DETAILS = {
    "001": ("SlotName:",),
    "004": ("",),
    "005": ("(1)", "(0)"),
    "007": ("",),
    "009": ("",),
    "012": ("",),
    "013": ("",),
    "022": ("",),
    "024": ("",),
}

#: The most detail lines of an event.
_MOST = 3


def in_words(log: str) -> Iterator[str]:
    """Yield the events of an event log's text as lines: when, what, and why."""
    for event in printable(log).split("...\n"):
        head, *details = event.strip().splitlines() or [""]
        found = _EVENT.match(head)
        if not found or found[1] in _HIDDEN:
            continue
        begins = _DETAILS.get(found[1], ())
        stripped = [line.strip() for line in details]
        told = [line for line in stripped if line and line.startswith(begins)] if begins else []
        what = _ADDRESS.sub("", found[3]).strip().rstrip(".:")
        yield f"{found[2]}  {': '.join([what, *told[:_MOST]])}"
