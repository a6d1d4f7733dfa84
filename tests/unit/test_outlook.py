"""Read free CPUs and the next negotiation from an HTCondor pool's ads."""

from __future__ import annotations

import time

import pytest

from condorpool.access.outlook import Lookout, Outlook, summary
from condorpool.display.progress import _wait_for_slots

PARTITIONABLE = {"PartitionableSlot": True, "TotalSlotCpus": 64, "Cpus": 3, "State": "Unclaimed"}
TAKEN = {"TotalSlotCpus": 1, "Cpus": 1, "State": "Claimed"}
FREE = {"TotalSlotCpus": 2, "Cpus": 2, "State": "Unclaimed"}


def test_cpus_of_all_kinds_of_slots():
    """The remaining CPUs of a partitionable slot are free."""
    seen = summary([PARTITIONABLE, TAKEN, FREE, {}], {})
    assert (seen.cpus, seen.free) == (67, 5)
    assert seen.until_negotiation(1e9) is None


def test_cycles():
    """The longest of the latest periods counts; the first cycle has period 0."""
    ad = {f"LastNegotiationCyclePeriod{n}": period for n, period in enumerate((58, 60, 0))}
    seen = summary([], {**ad, "LastNegotiationCycleTime0": 1000})
    assert (seen.period, seen.cycle) == (60.0, 1000.0)


@pytest.mark.parametrize(
    ("period", "age", "seconds"),
    [(60, 0, 60), (60, 5, 60), (60, 55, 10), (60, 290, 10), (60, 3000, None), (1, 0, None)],
)
def test_until_negotiation(period, age, seconds):
    """It is in steps of 10 s, and None if the last known cycle is too long ago."""
    assert Outlook(1, 1, period, 1000.0).until_negotiation(1000.0 + age) == seconds


@pytest.mark.parametrize(
    ("free", "period", "note"),
    [
        (0, 0, "2 jobs are waiting for slots: all 64 CPUs of the pool are in use."),
        (0, 60, "are in use; the next negotiation is in about 60 s."),
        (3, 60, "3 of the pool's 64 CPUs are free; the next negotiation is in about 60 s."),
        (3, 0, "are free; a job's analyze() says why it gets none of them."),
    ],
)
def test_note(free, period, note):
    """It says as much as is known."""
    assert _wait_for_slots(2, Outlook(64, free, period, time.time())).endswith(note)


def test_a_collector_that_does_not_answer():
    """`read` does not wait for it, and asks it again later."""
    now = [0.0]
    look = Lookout("127.0.0.1:1", lambda: now[0])
    assert look.read() is None
    first = look._process
    first.wait(30)
    assert look.read() is None
    assert look._process is None
    now[0] = 31.0
    look.read()
    assert look._process not in (None, first)
    look._process.wait(30)
    look.read()
