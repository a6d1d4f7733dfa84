"""Every notebook runs from its first cell to its last, and leaves nothing behind."""

from __future__ import annotations

import os
import time
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
        "polya: 24 of 24 calls done, kept",
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
    run(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4), name, htcondor, tmp_path)


def test_held_jobs_after_a_run_that_broke_off(htcondor, tmp_path):
    """All cells work again in the same kernel, with the file and the jobs of the first run."""
    notebook = nbformat.read(NOTEBOOKS / "held-jobs.ipynb", as_version=4)
    (release,) = (n for n, c in enumerate(notebook.cells) if "%condor_release result" in c.source)
    first = notebook.cells[: release + 1]
    first[release].source = 'energies.write_text("13.6 8000")'  # a job stays on hold
    again = nbformat.read(NOTEBOOKS / "held-jobs.ipynb", as_version=4).cells
    notebook.cells = [*first, *again]
    run(notebook, "held-jobs", htcondor, tmp_path)


def run(notebook, name, htcondor, tmp_path):
    """Run a notebook, and check what it shows and leaves."""
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
    end = time.monotonic() + 90  # the pool of a run that broke off ends 30 s after the kernel
    while os.listdir(tmp_path) and time.monotonic() < end:
        time.sleep(0.2)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    for text in SHOWN[name]:
        assert text in str(outputs)
    assert not os.listdir(tmp_path)
    assert not htcondor.access_point().query("true", ["ClusterId"])
