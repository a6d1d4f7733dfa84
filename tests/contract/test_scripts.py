"""Whole programs, which run on HTCondor with nothing changed but their import."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITH_A_POOL = """
{import}

def cube(x):
    return x**3

def root(x):
    return x**0.5

if __name__ == "__main__":
    notes = []
    with Pool(processes=2) as pool:
        print(pool.map(cube, range(5)), pool.starmap(pow, [(2, 3), (3, 2)], chunksize=1))
        results = [pool.apply_async(root, (n,), callback=notes.append) for n in (4, 9)]
        print([result.get(timeout=60) for result in results])
        print(sum(pool.imap_unordered(cube, range(100), chunksize=10)))
        try:
            pool.apply(int, ("seven",))
        except ValueError as error:
            print(type(error).__name__, error)
        pool.close()
        pool.join()
    print(sorted(notes))
"""

WITH_FUTURES = """
from concurrent.futures import as_completed
{import}

def cube(x):
    return x**3

if __name__ == "__main__":
    with Executor(max_workers=2) as executor:
        futures = {executor.submit(cube, n): n for n in range(5)}
        print(sorted((futures[f], f.result()) for f in as_completed(futures, timeout=60)))
        print(list(executor.map(pow, [2, 3], [3, 2])))
        print(repr(executor.submit(int, "seven").exception()))
"""

WITHOUT_AN_END = """
{import}

class Keeper:
    def __init__(self):
        self.pool = Pool(processes=1)

if __name__ == "__main__":
    keeper = Keeper()
    print(keeper.pool.map(float, range(3)))
"""


@pytest.fixture
def run(htcondor, tmp_path, monkeypatch):
    """Run a script that finds the tests' HTCondor; return what it printed."""
    monkeypatch.setenv("CONDORPOOL_PERSONAL", str(htcondor.folder))

    def run(text, line):
        script = tmp_path / "script.py"
        script.write_text(text.replace("{import}", line))
        done = subprocess.run(
            [sys.executable, "-W", "error", script],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.stderr, done.returncode) == ("", 0)
        assert [file.name for file in tmp_path.iterdir()] == ["script.py"]
        return done.stdout

    return run


@pytest.mark.parametrize(
    ("text", "theirs", "ours"),
    [
        pytest.param(
            WITH_A_POOL,
            "from multiprocessing import Pool",
            "from condorpool import Pool",
            id="multiprocessing",
        ),
        pytest.param(
            WITH_FUTURES,
            "from concurrent.futures import ProcessPoolExecutor as Executor",
            "from condorpool import Executor",
            id="concurrent.futures",
        ),
    ],
)
def test_only_the_import_changes(run, text, theirs, ours):
    """The output is the same."""
    assert run(text, ours) == run(text, theirs) != ""


def test_a_pool_that_is_never_closed(run):
    """The program ends without a message and leaves nothing behind."""
    assert run(WITHOUT_AN_END, "from condorpool import Pool") == "[0.0, 1.0, 2.0]\n"
