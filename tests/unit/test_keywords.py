"""Plain keywords, and the submit commands that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from condorpool.interface.options import resources
from condorpool.values import holds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (512, 512), (0.5, 1), ("512", 512), ("1 MB", 1), ("1MiB", 1), ("2GB", 2048), ("2g", 2048),
        ("1.5 GiB", 1536), (".5G", 512), ("1TB", 1 << 20), ("100KB", 1), ("2048 K", 2),
        (np.int64(3), 3),
    ],
)  # fmt: skip
def test_sizes(given, expected):
    """They are MiB, rounded up; all units are powers of 1024, as in HTCondor."""
    assert resources.mebibytes("memory", given) == expected


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("memory", "2X", ValueError), ("memory", "GB", ValueError), ("memory", "-1GB", ValueError),
        ("memory", 0, ValueError), ("memory", -3, ValueError), ("memory", "0GB", ValueError),
        ("memory", float("nan"), ValueError), ("memory", float("inf"), ValueError),
        ("memory", True, TypeError), ("memory", [1], TypeError), ("memory_max", "1 B", ValueError),
        ("disk", "much", ValueError), ("cpus", 0, ValueError), ("cpus", 1.5, TypeError),
        ("gpus", "1", TypeError), ("gpus", -1, ValueError), ("task_timeout", 0, ValueError),
        ("task_timeout", "60", TypeError), ("container_image", "", ValueError),
        ("container_image", 3, TypeError), ("requirements", "(a ==", ValueError),
        ("requirements", "a\nb", ValueError), ("requirements", True, TypeError),
        ("python", "", ValueError), ("python", 3.11, TypeError),
    ],
)  # fmt: skip
def test_wrong_values(name, value, error):
    """The error names the keyword."""
    with pytest.raises(error, match=f"^{name}"):
        resources.check({name: value}, {})


def test_a_keyword_and_its_command_exclude_each_other():
    """The error names both, in upper or lower case."""
    with pytest.raises(ValueError, match=r"memory= and submitkwargs\['Request_Memory'\]"):
        resources.check({"memory": 1}, {"Request_Memory": "2GB"})
    with pytest.raises(ValueError, match=r"memory_max= and .*retry_request_memory'"):
        resources.check({"memory_max": 1}, {"retry_request_memory": "2GB"})


def test_commands():
    """Keywords that are None, or set no command, set none."""
    given = {"memory": "1GB", "disk": None, "cpus": 2, "task_timeout": 5, "python": Path("/p")}
    checked = resources.check(given, {})
    assert checked == {"memory": 1024, "cpus": 2, "task_timeout": 5.0, "python": "/p"}
    assert resources.commands(checked, {}) == {"request_memory": "1024MB", "request_cpus": "2"}


def test_the_most_memory_needs_a_first():
    """memory_max needs memory, which may be a submit command."""
    with pytest.raises(ValueError, match="memory_max needs memory"):
        resources.commands({"memory_max": 5}, {})
    resources.commands({"memory_max": 5}, {"request_memory": "2"})


@pytest.mark.parametrize(
    ("code", "subcode", "cure"),
    [
        (34, 102, "memory_max="), (21, 102, "memory_max="), (34, 104, "disk="),
        (13, 2, "release()"), (47, 0, "chunksize="), (999, 0, "release()"),
    ],
)  # fmt: skip
def test_what_helps_a_held_job(code, subcode, cure):
    """The cure depends on why HTCondor holds it."""
    assert cure in holds.cure(code, subcode)


def test_a_hold_that_comes_back():
    """It is told from the second time on."""
    assert holds.again(1) == ""
    assert holds.cure(999, 0, 2) == f"{holds.cure(999)} Held again after release, 2nd time."
    words = [holds.again(times).split()[-2] for times in (3, 4, 11, 12, 21, 102, 113)]
    assert words == ["3rd", "4th", "11th", "12th", "21st", "102nd", "113th"]
