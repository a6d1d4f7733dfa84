"""What a notebook has left behind, in the greeting and in %condor_status."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest

from condorpool.engine.counts import CallCounts
from condorpool.notebook import status


def leftover(name, notebook, *, done=3, owner="a process", in_use="", folder="/work"):
    """Return calls as `leftovers` does."""
    entry = types.SimpleNamespace(owner=owner, path=Path(folder, f"condorpool-{name}"), note="")
    return types.SimpleNamespace(
        name=name, run=f"condorpool-{name}", notebook=notebook, in_use=in_use, entry=entry,
        counts=CallCounts(done=done, waiting=10 - done),
    )  # fmt: skip


@pytest.fixture
def left(monkeypatch):
    """Return the list of calls that were left behind, for the notebook /work/a.ipynb."""
    found = []
    monkeypatch.setattr(status, "leftovers", lambda: list(found))
    monkeypatch.setattr(status.selection, "left_behind", list)
    monkeypatch.setattr(status.selection, "workloads", list)
    monkeypatch.setattr(status.selection, "open_pools", list)
    monkeypatch.setenv("JPY_SESSION_NAME", "/work/a.ipynb")
    return found


def test_nothing(left):
    """There is no greeting if this notebook has left nothing, whatever others have left."""
    assert status.greeting() == ""
    left.append(leftover("scan", "/work/b.ipynb"))
    left.append(leftover("fit", "/work/a.ipynb", in_use="in use by process 7"))
    assert status.greeting() == ""


def test_no_place_for_the_registry(monkeypatch, tmp_path):
    """The magics are loaded all the same."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o777)
    assert status.greeting().startswith("condorpool: there is no safe folder in which")


def test_the_greeting(left):
    """Each line says how far the calls are, and how to resume them; others are counted."""
    left += [
        leftover("scan", "/work/a.ipynb"),
        leftover("fit", "/work/a.ipynb", done=10, owner=None),
        leftover("other", "/work/b.ipynb"),
    ]
    assert status.greeting().splitlines() == [
        "condorpool: 2 maps of this notebook are running or kept:",
        "    fit: 10 of 10 calls done, kept. `%condor_attach fit`",
        "    scan: 3 of 10 calls done, 7 waiting. `%condor_attach scan`",
        "    (1 of other notebooks and programs: `%condor_attach` lists them)",
    ]


def test_two_of_one_name(left):
    """The earlier one is named by its submit directory."""
    left += [leftover("scan", "/work/a.ipynb"), leftover("scan", "/work/a.ipynb")]
    left[0].run = "condorpool-first"
    _, latest, first = status.greeting().splitlines()
    assert latest.endswith("`%condor_attach scan`")
    assert first.endswith("`%condor_attach condorpool-first`")


def test_many(left):
    """A few are listed, the rest is counted."""
    left += [leftover(f"scan{n}", "/work/a.ipynb") for n in range(8)]
    lines = status.greeting().splitlines()
    assert len(lines) == 7
    assert lines[1].startswith("    scan7: ")
    assert lines[-1] == "    (3 more: `%condor_attach` lists them)"


def test_a_notebook_without_a_name(left, monkeypatch, tmp_path):
    """Where Jupyter does not say which notebook this is, its calls are those in its folder."""
    monkeypatch.delenv("JPY_SESSION_NAME")
    monkeypatch.chdir(tmp_path)
    left += [leftover("scan", "", folder=tmp_path), leftover("fit", "", folder="/elsewhere")]
    assert "scan: 3 of 10" in status.greeting()
    assert "fit" not in status.greeting()


def test_in_the_status(left):
    """%condor_status has the same lines."""
    left += [leftover("scan", "/work/a.ipynb"), leftover("fit", "/work/b.ipynb")]
    assert repr(status.Status({})).splitlines() == [
        "This notebook has no calls.",
        "Left by this notebook: scan: 3 of 10 calls done, 7 waiting. `%condor_attach scan`",
        "Other notebooks and programs have left 1 map: `%condor_attach` lists them.",
    ]
    shown = status.Status({})
    assert "<code>%condor_attach scan</code>" in shown._repr_html_()
    assert f"This is how it was at {shown.time}." in shown._repr_html_()  # it may be read later


def test_loading_starts_nothing(tmp_path):
    """`%load_ext condorpool` prints nothing and starts no HTCondor if nothing was left behind."""
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell().run_line_magic('load_ext', 'condorpool')\n"
    )
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "CONDORPOOL_PERSONAL": str(tmp_path / "personal"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout + done.stderr == ""
    assert not (tmp_path / "personal").exists()
