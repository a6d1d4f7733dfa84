"""The demo, as a new user runs it: a notebook, a page, and nothing else remains."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import psutil


def running_for(folder):
    """Return the processes whose command line or environment names a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if folder in str(process.cmdline()) or folder in str(process.environ()):
                found.append(process)
    return found


def test_demo(tmp_path):
    """Every cell runs on a real HTCondor; plots, the exception and the held job are shown."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-m", "condorpool", "demo", "--output", tmp_path / "out"],
            env={**os.environ, "TMPDIR": scratch}, cwd=tmp_path,
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert not [name for name in os.listdir(scratch) if "condorpool" in name]
        assert not running_for(scratch)
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"quickstart.ipynb", "quickstart.html"}
    executed = nbformat.read(tmp_path / "out" / "quickstart.ipynb", as_version=4)
    outputs = [out for cell in executed.cells for out in cell.get("outputs", ())]
    shown = str(outputs)
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 2
    assert "LinAlgError" in shown
    assert "/no/such/calibration.db" in shown


def test_the_committed_notebooks_are_clean():
    """They contain no outputs."""
    for file in Path(__file__).parents[2].glob("notebooks/*.ipynb"):
        for cell in nbformat.read(file, as_version=4).cells:
            assert not cell.get("outputs"), file
