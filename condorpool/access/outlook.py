"""What an HTCondor pool may soon offer: its free CPUs, and its next negotiation.

It is asked from a process of its own: the bindings hold the interpreter while
they wait for a collector, and what only shows how work goes on must not stop it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from condorpool.values.programs import command

#: Seconds between two looks, and within which one must come to something.
INTERVAL = 30.0

#: Seconds between two negotiations from which on they are worth telling of.
LONG = 5.0


@dataclass(frozen=True)
class Outlook:
    """What a pool had when it was looked at.

    Parameters
    ----------
    cpus, free
        All CPUs of its slots, and those that no job has.
    period, cycle
        Seconds between the beginnings of negotiation cycles, 0 if they are not
        known, and when one began, in seconds since 1970.
    """

    cpus: int
    free: int
    period: float = 0.0
    cycle: float = 0.0

    def until_negotiation(self, now: float) -> float | None:
        """Return the seconds to the next negotiation, in steps of 10; None if it cannot be told.

        The negotiator tells of its cycles every few minutes only: what is
        expected from that is wrong by as much as they vary.
        """
        if self.period < LONG or now - self.cycle > 10 * self.period:
            return None
        return math.ceil((self.period - (now - self.cycle) % self.period) / 10) * 10.0


class Lookout:
    """Looks at a pool now and then, as long as somebody asks for it."""

    def __init__(self, collector: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._collector = collector
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = -math.inf
        self._seen: Outlook | None = None

    def read(self) -> Outlook | None:
        """Return what was seen last, and have another look if it is time; never waits."""
        is_late = self._clock() > self._begun + INTERVAL
        if self._process is not None:
            if self._process.poll() is not None:
                self._seen = self._answer(self._process)
                self._process = None
            elif is_late:
                self._process.kill()
        elif is_late:
            self._begun = self._clock()
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    command(__name__, self._collector),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # an interrupt in a notebook is not for it
                )
        return self._seen

    @staticmethod
    def _answer(process: subprocess.Popen[bytes]) -> Outlook | None:
        with process, contextlib.suppress(ValueError, TypeError):
            return Outlook(**json.loads(process.stdout.read() if process.stdout else b""))
        return None


lookout = functools.cache(Lookout)


def total_cpus(slots: Iterable[Mapping[str, Any]]) -> int:
    """Return how many CPUs slots have; dynamic slots are parts of others, which count them."""
    return sum(
        int(slot.get("TotalSlotCpus", 0)) for slot in slots if slot.get("SlotType") != "Dynamic"
    )


def summary(slots: list[Mapping[str, Any]], negotiator: Mapping[str, Any]) -> Outlook:
    """Add up slots that are no part of another, and read when their negotiator began cycles."""
    periods = [negotiator.get(f"LastNegotiationCyclePeriod{n}", 0) for n in range(3)]
    return Outlook(
        cpus=total_cpus(slots),
        # Of a partitionable slot that is what is left, whatever its state.
        free=sum(
            int(slot.get("Cpus", 0))
            for slot in slots
            if slot.get("PartitionableSlot") or slot.get("State") == "Unclaimed"
        ),
        period=float(max(periods)),
        cycle=float(negotiator.get("LastNegotiationCycleTime0", 0)),
    )


def main(arguments: Sequence[str]) -> None:
    """Look at the pool of a collector, and print what is seen."""
    (collector,) = arguments
    from condorpool.access.bindings import htcondor2  # noqa: PLC0415 - only this process asks

    central = htcondor2.Collector(collector or None)
    wanted = ["TotalSlotCpus", "Cpus", "PartitionableSlot", "State"]
    slots = central.query(htcondor2.AdType.Startd, 'SlotType =!= "Dynamic"', wanted)
    negotiators = central.query(htcondor2.AdType.Negotiator)
    # A pool may have several; which of them serves these jobs is not told.
    seen = summary(slots, negotiators[0] if len(negotiators) == 1 else {})
    sys.stdout.write(json.dumps(vars(seen)))
