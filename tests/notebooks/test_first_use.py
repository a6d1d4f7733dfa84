"""The first use on a machine without HTCondor: in a notebook and on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from kernels import Kernel

#: Nothing is found, until the installation, which is replaced, has run.
SETUP = """
import condorpool
from condorpool import personal
from condorpool.personal import daemons
find, daemons.find = daemons.find, lambda: None
def install(progress):
    daemons.find = find
    progress("installed")
personal.install = install
"""


@pytest.fixture
def environment(tmp_path):
    """The environment of a user who has no HTCondor."""
    return {
        **os.environ,
        "CONDOR_CONFIG": os.devnull,
        "CONDORPOOL_PERSONAL": str(tmp_path / "personal"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }


@pytest.fixture
def ask(environment, tmp_path):
    """Return a function that runs a cell, answers its question, and returns all that is shown."""
    with Kernel(tmp_path, environment) as kernel:
        kernel.run(SETUP)
        yield lambda code, answer=None: kernel.run(code, answer=answer)
        kernel.run("personal.stop()")


def test_a_notebook(ask):
    """Where the front end takes no input there is a short error, else one question."""
    ask("%load_ext condorpool")
    line = "from condorpool import personal; personal.install()"
    for answer in (None, "n"):
        shown = ask("%condor_map abs [-1]", answer)
        assert shown.rstrip().endswith(line)
        assert "UsageError" in shown
        assert "Traceback" not in shown
        assert ("[y/N]" in shown) == (answer == "n")
    shown = ask("r = %condor_map abs [-1, 2]\nprint(r)", "y")
    assert "[y/N]" in shown
    assert "condorpool: installed" in shown
    assert "[1, 2]" in shown
    ask("%condor_clean")


def test_a_terminal(environment, tmp_path):
    """A script on a terminal asks, too."""
    ours, its = pty.openpty()
    command = [sys.executable, "-c", f"{SETUP}\ncondorpool.Pool()"]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the process has closed its side
                break
            if said.endswith(b"[y/N] "):
                os.write(ours, b"n\n")
    os.close(ours)
    assert process.returncode == 1
    assert b"Install it in " in said
    assert said.decode().rstrip().splitlines()[-1].strip() == "condorpool personal install"
