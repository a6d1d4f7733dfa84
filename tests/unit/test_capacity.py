"""The CPUs and the next negotiation of a pool, read from its ads."""

from __future__ import annotations

import time

import pytest

from condorpool.access import capacity
from condorpool.access.capacity import Capacity, Probe, capacity_of
from condorpool.display.progress import _wait_for_slots

PARTITIONABLE = {"PartitionableSlot": True, "TotalSlotCpus": 64, "Cpus": 3, "State": "Unclaimed"}
TAKEN = {"TotalSlotCpus": 1, "Cpus": 1, "State": "Claimed"}
FREE = {"TotalSlotCpus": 2, "Cpus": 2, "State": "Unclaimed"}


def test_cpus_of_all_kinds_of_slots():
    """The unused CPUs of a partitionable slot are free."""
    found = capacity_of([PARTITIONABLE, TAKEN, FREE, {}], {})
    assert (found.cpus, found.free) == (67, 5)
    assert found.until_negotiation(1e9) is None


def test_cycles():
    """The longest recent period counts; the first cycle has none."""
    ad = {f"LastNegotiationCyclePeriod{n}": period for n, period in enumerate((58, 60, 0))}
    found = capacity_of([], {**ad, "LastNegotiationCycleTime0": 1000})
    assert (found.period, found.cycle) == (60.0, 1000.0)


@pytest.mark.parametrize(
    ("period", "age", "seconds"),
    [(60, 0, 60), (60, 5, 60), (60, 55, 10), (60, 290, 10), (60, 3000, None), (1, 0, None)],
)
def test_until_the_next_negotiation(period, age, seconds):
    """In steps, as long as the last known cycle is recent enough."""
    assert Capacity(1, 1, period, 1000.0).until_negotiation(1000.0 + age) == seconds


@pytest.mark.parametrize(
    ("free", "period", "note"),
    [
        (0, 0, "2 jobs are waiting for slots: all 64 CPUs of the pool are in use."),
        (0, 60, "are in use; the next negotiation is in about 60 s."),
        (3, 60, "3 of the pool's 64 CPUs are free; the next negotiation is in about 60 s."),
        (3, 0, "are free; a job's analyze() says why it gets none of them."),
    ],
)
def test_the_note_on_waiting_jobs(free, period, note):
    """It says as much as is known."""
    assert _wait_for_slots(2, Capacity(64, free, period, time.time())).endswith(note)


def test_slots_of_ones_own_idle_jobs():
    """The note does not say that the pool is full."""
    note = _wait_for_slots(2, Capacity(64, 0), has_made_room=True)
    assert note.endswith("for slots: your jobs that were waiting for calls are leaving theirs.")


def test_a_pool_without_slots():
    """It is not full: slots may appear."""
    note = _wait_for_slots(1, Capacity(0, 0))
    assert note.startswith("1 job is waiting for slots: the HTCondor pool has none now.")


def test_a_collector_that_does_not_answer():
    """The probe does not wait for it, and queries it again later."""
    now = [0.0]
    probe = Probe(capacity.__name__, "127.0.0.1:1", kind=Capacity, clock=lambda: now[0])
    assert probe.read() is None
    first = probe._process
    first.wait(30)
    assert probe.read() is None
    assert probe._process is None
    now[0] = 31.0
    probe.read()
    assert probe._process not in (None, first)
    probe._process.wait(30)
    probe.read()
