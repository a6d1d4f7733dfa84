"""Why a job does not run: matching its requirements, and what users read."""

from __future__ import annotations

import pytest

from condorpool.access.bindings import classad2
from condorpool.access.matching import Fit, ad_of, conditions, first_look, fit
from condorpool.engine.why import why_idle, why_never


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param("true", ["true"], id="one"),
        pytest.param("A && (B || C && D)", ["A", "B || C && D"], id="or"),
        pytest.param("((A && B)) && C", ["A", "B", "C"], id="nested"),
        pytest.param('x == "&& (" && f(a && b)', ['x == "&& ("', "f(a && b)"], id="quoted"),
        pytest.param("(A) || (B)", ["(A) || (B)"], id="two pairs of parentheses"),
    ],
)
def test_conditions(expression, expected):
    """Requirements are split at ``&&``, outside parentheses and quotes."""
    assert list(conditions(expression)) == expected


def slot(**facts):
    """Return the ad of a partitionable slot, as startds write it."""
    usual = {"Cpus": 2, "TotalSlotCpus": 2, "Memory": 4096, "TotalSlotMemory": 4096, "Disk": 10**6}
    room = "TARGET.RequestCpus <= MY.Cpus && TARGET.RequestMemory <= MY.Memory"
    ad = classad2.ClassAd({**usual, "State": "Unclaimed", "Start": True, **facts})
    ad["Requirements"] = classad2.ExprTree(f"Start && {room}")
    return ad


FULL = {"Cpus": 0, "Memory": 0}


@pytest.mark.parametrize(
    ("description", "slots", "expected"),
    [
        pytest.param({}, [slot(), slot(**FULL)], {"willing": 2, "free": 1}, id="one is free"),
        pytest.param({}, [slot(**FULL)], {"acceptable": 1, "willing": 1, "free": 0}, id="full"),
        pytest.param({}, [slot(State="Claimed")], {"willing": 1, "free": 0}, id="claimed"),
        pytest.param({}, [slot(Start=False)], {"acceptable": 1, "willing": 0}, id="refused"),
        pytest.param(
            {"request_memory": "1.5 GB"}, [slot(**FULL)], {"too_much": {}, "willing": 1}, id="GB"
        ),
        pytest.param(
            {"request_memory": "8GB", "request_gpus": "1"},
            [slot()],
            {"too_much": {"Memory": (8192, 4096), "GPUs": (1, 0)}},
            id="too much",
        ),
        pytest.param(
            {"requirements": 'Cpus > 1 && Arch == "X"'},
            [slot(), slot(Arch="Y")],
            {"unmet": ('Arch == "X"',), "acceptable": 0},
            id="unmet",
        ),
    ],
)
def test_fit(description, slots, expected):
    """Slots are matched as if they were empty, and counted."""
    found = fit(ad_of(description), slots)
    assert {name: getattr(found, name) for name in expected} == expected


def fitting(**facts):
    """Return a fit of ten slots that would run the job, with these changes."""
    usual = {"slots": 10, "too_much": {}, "unmet": (), "acceptable": 10, "willing": 10, "free": 0}
    return Fit(**{**usual, **facts})


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({"slots": 0}, "no slots now", id="no slots"),
        pytest.param(
            {"too_much": {"Memory": (921_600, 24_576), "GPUs": (1, 0)}, "willing": 0},
            "it has request_memory = 900 GiB, but no slot has more than 24 GiB; "
            "it has request_gpus = 1, but no slot has any. Remove it",
            id="too much",
        ),
        pytest.param({"unmet": ("X",), "willing": 0}, "none of 10 slots meets its requirement X.", id="unmet"),
        pytest.param({"acceptable": 0, "willing": 0}, "none of 10 slots meets them all", id="not all at once"),
        pytest.param({"willing": 0}, "their own requirements refuse it", id="refused"),
        pytest.param({"free": 1}, "1 of 10 slots could take it now", id="free"),
        pytest.param({"running": 9, "own": 2}, "9 jobs of this access point are running, 2 of them yours", id="full"),
    ],
)  # fmt: skip
def test_why_idle(facts, expected):
    """The text names the first reason that keeps the job from running."""
    assert expected in why_idle(fitting(**facts))


SLOTS = [{"TotalSlotCpus": 2, "TotalSlotMemory": 4000}, {"TotalSlotCpus": 8, "TotalSlotMemory": 1}]


@pytest.mark.parametrize(
    ("description", "is_unmet", "why"),
    [
        ({}, False, ""),
        ({"request_cpus": "8", "request_memory": "2GB", "request_disk": "900TB"}, False, ""),
        (
            {"request_cpus": "9"},
            False,
            "each job has request_cpus = 9, but no slot has more than 8",
        ),
        (
            {"request_memory": "900TB", "request_gpus": "1"},
            False,
            (
                "each job has request_memory = 921,600 GiB, but no slot has more than 3.9 GiB; "
                "it has request_gpus = 1, but no slot has any"
            ),
        ),
        ({"request_cpus": "ifThenElse(x, 1, 2)"}, False, ""),
        ({"requirements": "no"}, True, "none of 2 slots meets its requirement no"),
    ],
)
def test_the_look_before_submitting(description, is_unmet, why):
    """Slots count as if they were empty; what is not known is no reason to warn."""
    assert why_never(first_look(description, SLOTS, is_unmet=is_unmet)) == why


def test_a_pool_without_slots_is_not_hopeless():
    """They may appear."""
    assert not why_never(first_look({"request_cpus": "9"}, []))
