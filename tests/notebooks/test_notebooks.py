"""Every notebook runs from its first cell to its last, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from condorpool import personal

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

#: Texts that each notebook must show.  The quickstart has its own test, test_demo.py.
SHOWN = {
    "held-jobs": [
        "is held",
        "energies.txt",
        "8013.6 GeV",
        "no slot has more than",
        "none of ",
        'meets its requirement Arch == "ABACUS"',
        "was removed",
    ],
    "from-multiprocessing": [
        "The same: True",
        "-1 has no real root",
        "Timeout after 0.1 s",
        "[9, 90000",
    ],
    "long-work": [
        "of 24",
        "% of 48,000 walks came back",
        "'polya': reusing 24 of 24",
        "kept: results named polya",
        "Nothing was left behind",
    ],
    "parameter-scan": ["Nothing was submitted", "image/png", "the curves cross at T = 2.2"],
}


@pytest.fixture(scope="module")
def htcondor(tmp_path_factory):
    """One personal HTCondor with two CPUs."""
    personal.install()
    with personal.start(tmp_path_factory.mktemp("htcondor") / "personal", cpus=2) as started:
        yield started


def test_every_notebook_is_run():
    """Every notebook has a test."""
    assert {file.stem for file in NOTEBOOKS.glob("*.ipynb")} == {*SHOWN, "quickstart"}


@pytest.mark.parametrize("name", SHOWN)
def test_notebook(name, htcondor, tmp_path):
    """The notebook shows its texts, and leaves no job and no file behind."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    environment = {
        **os.environ,
        "CONDOR_CONFIG": os.devnull,
        "CONDORPOOL_PERSONAL": str(htcondor.folder),
        "XDG_STATE_HOME": str(tmp_path / "state"),  # unfinished work of other tests is not listed
    }
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=place).execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    for text in SHOWN[name]:
        assert text in str(outputs)
    assert not os.listdir(tmp_path)
    assert not htcondor.access_point().query("true", ["ClusterId"])
