"""The capacity of an HTCondor pool: its free CPUs, and when it negotiates next.

A separate process queries the collector: the bindings hold the GIL while they wait for
it, and a progress display must not block the notebook.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import math
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from condorpool.values.locks import uninterrupted
from condorpool.values.programs import command

T = TypeVar("T")

#: Seconds between two queries; a query that takes longer is ended.
INTERVAL = 30.0

#: Users are told of the next negotiation where cycles are at least this many seconds apart.
MIN_PERIOD = 5.0


@dataclass(frozen=True)
class Capacity:
    """What a pool had when it was queried.

    Parameters
    ----------
    cpus, free
        All CPUs of its slots, and those that no job uses.
    period, cycle
        Seconds between the starts of negotiation cycles, 0 if unknown, and when one
        started, in seconds since 1970.
    """

    cpus: int
    free: int
    period: float = 0.0
    cycle: float = 0.0

    def until_negotiation(self, now: float) -> float | None:
        """Return the seconds to the next negotiation, in steps of 10; None if unknown.

        The negotiator reports its cycles only every few minutes, so this is an
        extrapolation, and wrong by as much as the cycles vary.
        """
        if self.period < MIN_PERIOD or now - self.cycle > 10 * self.period:
            return None
        return math.ceil((self.period - (now - self.cycle) % self.period) / 10) * 10.0


_probes: weakref.WeakSet[Probe[Any]] = weakref.WeakSet()


class Probe(Generic[T]):
    """Asks a question about a pool every so often, as long as `read` is called.

    Parameters
    ----------
    module, *arguments
        The program that prints the answer, a JSON object.
    kind
        Makes the answer from that object.
    interval
        Seconds between two questions; a program that runs longer is ended.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        kind: Callable[..., T],
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command(module, *arguments)
        self._kind = kind
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -math.inf
        self._last: T | None = None
        _probes.add(self)

    def close(self) -> None:
        """End the program that is asking, if one is."""
        with uninterrupted, self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:
                pass  # leaving waits for its end, and closes its pipe

    def read(self) -> T | None:
        """Return the last answer, and ask again if it is time; never waits."""
        with uninterrupted, self._lock:
            is_late = self._clock() > self._started + self._interval
            if self._process is not None:
                if self._process.poll() is not None:
                    self._last = self._answer(self._process)
                    self._process = None
                elif is_late:
                    self._process.kill()
            elif is_late:
                self._started = self._clock()
                with contextlib.suppress(OSError):
                    self._process = subprocess.Popen(
                        self._command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,  # an interrupt goes to the whole process group
                    )
            return self._last

    def _answer(self, process: subprocess.Popen[bytes]) -> T | None:
        with process, contextlib.suppress(ValueError, TypeError):
            return self._kind(**json.loads(process.stdout.read() if process.stdout else b""))
        return None


@atexit.register
def _close_all() -> None:
    # Registered with this module, so that it runs after pools, which may still ask, are closed.
    for each in list(_probes):
        each.close()


@functools.cache
def probe(collector: str) -> Probe[Capacity]:
    """Return what asks for the capacity of a collector's pool."""
    return Probe(__name__, collector, kind=Capacity)


def total_cpus(slots: Iterable[Mapping[str, Any]]) -> int:
    """Return how many CPUs slots have; dynamic slots are parts of others, which count them."""
    return sum(
        int(slot.get("TotalSlotCpus", 0)) for slot in slots if slot.get("SlotType") != "Dynamic"
    )


def capacity_of(slots: list[Mapping[str, Any]], negotiator: Mapping[str, Any]) -> Capacity:
    """Return the capacity of slots that are no part of another, and of their negotiator."""
    periods = [negotiator.get(f"LastNegotiationCyclePeriod{n}", 0) for n in range(3)]
    return Capacity(
        cpus=total_cpus(slots),
        # The Cpus of a partitionable slot are the unused ones, whatever its state.
        free=sum(
            int(slot.get("Cpus", 0))
            for slot in slots
            if slot.get("PartitionableSlot") or slot.get("State") == "Unclaimed"
        ),
        period=float(max(periods)),
        cycle=float(negotiator.get("LastNegotiationCycleTime0", 0)),
    )


def main(arguments: Sequence[str]) -> None:
    """Query the pool of a collector, and print its capacity."""
    (collector,) = arguments
    from condorpool.access.bindings import htcondor2  # noqa: PLC0415 - only this process needs them

    central = htcondor2.Collector(collector or None)
    wanted = ["TotalSlotCpus", "Cpus", "PartitionableSlot", "State"]
    slots = central.query(htcondor2.AdType.Startd, 'SlotType =!= "Dynamic"', wanted)
    negotiators = central.query(htcondor2.AdType.Negotiator)
    # A pool may have several; nothing says which of them serves these jobs.
    capacity = capacity_of(slots, negotiators[0] if len(negotiators) == 1 else {})
    sys.stdout.write(json.dumps(vars(capacity)))
