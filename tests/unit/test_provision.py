"""The message where the tests cannot be set up."""

from __future__ import annotations

import subprocess
import sys

import provision
import pytest

from condorpool.values.exceptions import InstallError


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param("this machine has no apt-get", "this machine has no apt-get", id="not Debian"),
        pytest.param(
            "apt-get says:\nReading\nW: Failed to fetch http://mirror.test: no name\nW: Some index files",
            "W: Failed to fetch http://mirror.test: no name",
            id="no network",
        ),
        pytest.param(
            "apt-get says:\nE: Unable to locate package chromium",
            "E: Unable to locate package chromium",
            id="not in this archive",
        ),
    ],
)  # fmt: skip
def test_the_reason_is_one_line(said, reason):
    """It is apt's last complaint, if apt failed."""
    assert provision._in_one_line(InstallError(said)) == reason


def test_one_line_says_what_to_install(tmp_path):
    """It is printed before anything runs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib, shutil\n"
        "importlib.import_module('condorpool.personal.install').find = lambda: None\n"
        "shutil.which = lambda *_, **__: None\n"
    )
    done = subprocess.run(
        [sys.executable, provision.__file__],
        env={"CONDORPOOL_CACHE": str(tmp_path), "PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for package in provision.PACKAGES.values():
        assert package in line
    assert "this machine has no apt-get" in line


def test_programs_are_found_in_the_cache_too(tmp_path, monkeypatch):
    """They are there for ordinary users; the error for a missing one says what installs it."""
    monkeypatch.setenv("CONDORPOOL_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(provision.PACKAGES, "sample", "sample-package")
    with pytest.raises(AssertionError, match=r"sample is missing.*provision\.py"):
        provision.program("sample")
    script = provision._folder() / "programs" / "sample"
    script.parent.mkdir(parents=True)
    script.touch(0o755)
    assert provision.program("sample") == script
