"""The examples that people read run as they are written."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
from pathlib import Path

import pytest

from condorpool.interface import original

PUBLIC = ["pool", "executor", "results", "iterators", "job", "original"]


@pytest.fixture
def here(htcondor, tmp_path, monkeypatch):
    """Make ``Pool()`` find the tests' HTCondor, and write nowhere else."""
    monkeypatch.setenv("CONDORPOOL_PERSONAL", str(htcondor.folder))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("module", PUBLIC)
def test_docstrings(module, here):
    """Every example of a docstring gives what it says."""
    failed, tried = doctest.testmod(importlib.import_module(f"condorpool.interface.{module}"))
    for pool in original._pools.values():
        pool.close()  # of jobs that need none
    assert not failed
    assert tried or module in ("results", "iterators")
    assert not os.listdir()


def test_readme(here):
    """The ten lines of the README."""
    readme = Path(__file__).parents[2] / "README.md"
    example = re.search(r"## Ten lines\n\n```python\n(.*?)```", readme.read_text(), re.DOTALL)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(example[1], {"__name__": "readme"})
    assert shown.getvalue() == "[1, 1, 2, 6, 24, 120]\n1024\nraised as itself: ValueError\n"
    assert not os.listdir()
