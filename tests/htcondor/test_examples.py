"""The examples in docstrings and the README run as written."""

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

PUBLIC = [
    "condorpool",
    *(
        f"condorpool.interface.{name}"
        for name in ("pool", "executor", "results", "iterators", "job", "original", "attach")
    ),
    "condorpool.notebook.lines",
    "condorpool.values.sizes",
]


@pytest.fixture
def here(htcondor, tmp_path, monkeypatch):
    """Make ``Pool()`` use the tests' HTCondor and an empty working directory."""
    monkeypatch.setenv("CONDORPOOL_PERSONAL", str(htcondor.folder))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("module", PUBLIC)
def test_docstrings(module, here, monkeypatch, tmp_path_factory):
    """Every example in a docstring prints what it shows, and leaves no file behind."""
    if module.endswith("attach"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("nothing")))
    failed, tried = doctest.testmod(importlib.import_module(module))
    for pool in original._pools.values():
        pool.close()  # the pools of jobs that were made without one
    assert not failed
    assert tried
    assert not os.listdir()


def test_readme(here):
    """The README's ten lines run, and leave no file behind."""
    readme = Path(__file__).parents[2] / "README.md"
    example = re.search(r"## Ten lines\n\n```python\n(.*?)```", readme.read_text(), re.DOTALL)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(example[1], {"__name__": "readme"})
    assert shown.getvalue() == "[1, 1, 2, 6, 24, 120]\n1024\nraised as itself: ValueError\n"
    assert not os.listdir()
