"""What Binder does with this repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from condorpool.personal import debian

BINDER = Path(__file__).parents[2] / "binder"


def test_the_packages_are_those_that_are_needed():
    """The keyring that verifies Debian's packages, and extras that exist."""
    assert (BINDER / "apt.txt").read_text().split() == [debian.KEYRING.stem]
    [extras] = re.findall(r"^\.\[(.*)\]$", (BINDER / "requirements.txt").read_text(), re.MULTILINE)
    project = (BINDER.parent / "pyproject.toml").read_text()
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)


def test_the_image_has_htcondor(tmp_path):
    """The last step of the build installs HTCondor."""
    command = tmp_path / "condorpool"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m condorpool "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [BINDER / "postBuild"], env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=150, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("HTCondor ")
