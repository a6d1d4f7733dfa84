"""What the command line says of real jobs, and what it removes."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import textwrap

import pytest
import waiting

from condorpool.cleaner import registry

HEAD = """
import os, pathlib, signal, time
import condorpool

def work(folder, x):
    (folder / f"began-{x}").touch()
    if x == 1:
        raise ValueError("no ones")
    while x > 2 and not (folder / f"go-{x}").exists():
        time.sleep(0.05)
    if x == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return None if x == 2 else x

folder = pathlib.Path(os.getcwd())
def begun(*items):
    while not all((folder / f"began-{x}").exists() for x in items):
        time.sleep(0.05)
"""

until = functools.partial(waiting.until, seconds=40)


@pytest.fixture
def killed(htcondor, tmp_path, monkeypatch):
    """Run code in a process that uses a pool and is then killed; its work is kept."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(code, **arguments):
        given = {"personal": str(htcondor.folder), "submitdir": str(tmp_path), **arguments}
        lines = [HEAD, f"pool = condorpool.Pool(**{given!r})", textwrap.dedent(code)]
        lines.append("os.kill(os.getpid(), signal.SIGKILL)")
        ran = [sys.executable, "-c", "\n".join(lines)]
        done = subprocess.run(ran, timeout=60, check=False, cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL
        until(lambda: all(entry.note.startswith("kept") for entry in registry.everything()))

    yield run
    for entry in registry.everything():
        condorpool("rm", "--yes", entry.run)


def condorpool(*words):
    """Run the command line; return its exit status, its output, and its errors."""
    ran = [sys.executable, "-m", "condorpool", *words]
    done = subprocess.run(ran, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def counts(name):
    """Return the numbers of the calls of each map with a name, except zeros."""
    status, out, err = condorpool("show", name, "--json")
    assert (status, err) == (0, "")
    maps = [shown["counts"] for shown in json.loads(out)]
    return [{word: number for word, number in each.items() if number} for each in maps]


def jobs(access_point):
    """Return the states of all jobs in the queue."""
    return [ad["JobStatus"] for ad in access_point.query("true", ["JobStatus"])]


def test_calls_in_all_states(killed, access_point):
    """The numbers are right while jobs run, are held, and are removed; they add up to the total."""
    # Jobs take the calls of a map in any order: those that block have a map of their own.
    killed(
        """
        (folder / "go-4").touch()
        pool.starmap_async(work, [(folder, x) for x in (0, 1, 2, 4)], chunksize=1).wait()
        result = pool.starmap_async(work, [(folder, x) for x in (5, 6, 7, 8)], chunksize=1)
        def running():
            return len(list(folder.glob("began-[5678]"))) - result.calls_removed
        while running() < 2:
            time.sleep(0.05)
        assert result.jobs[0].remove() == 1
        while result.calls_removed < 1:  # the other job continues
            time.sleep(0.05)
        """,
        processes=2,
        on_exit="keep",
    )
    ended, blocked = {"total": 4, "done": 2, "failed": 2}, {"total": 4, "removed": 1}
    until(lambda: counts("work") == [ended, {**blocked, "running": 1, "waiting": 2}])
    assert "2 of 8 calls done, 2 failed, 1 removed, 1 running, 2 waiting" in condorpool("ps")[1]
    assert "2 x " not in condorpool("show", "work")[1]  # each error is another one
    access_point.act("hold", "JobStatus == 2")
    until(lambda: counts("work") == [ended, {**blocked, "held": 3}])
    assert "0 of 4 calls done, 1 removed, 3 held" in condorpool("ls")[1]
    status, out, err = condorpool("results", "work")
    assert status == 1
    assert sorted(line.split(":")[0] for line in out.splitlines()) == [
        "(not made yet)", "(not made yet)", "(not made yet)", "(removed",
    ]  # fmt: skip
    assert "4 calls without a value: 0 of 4 calls done, 1 removed, 3 held" in err


def test_rm_is_true(killed, access_point, tmp_path):
    """When it says removed, neither the jobs nor the directory exist."""
    killed(
        "pool.starmap_async(work, [(folder, x) for x in range(3, 9)], chunksize=1); begun(3)",
        processes=2,
        on_exit="keep",
    )
    (entry,) = registry.everything()
    for wrong in ("", ".", entry.run[-6:], "ork"):
        status, out, _ = condorpool("rm", wrong)
        assert (status, out) == (1, "")
    assert jobs(access_point)
    status, out, err = condorpool("rm", "work")
    assert (status, err) == (0, "")
    assert out.endswith(f"{entry.path}: removed\n")
    assert not entry.path.exists()
    assert not [state for state in jobs(access_point) if state != 3]
    assert not registry.everything()
    assert "cleaned up" in condorpool("logs", entry.run)[1]


def test_rm_of_one_name(killed):
    """The other calls of its submit directory stay, and so do their results."""
    killed(
        "pool.starmap(work, [(folder, 0)], name='first'); "
        "pool.starmap(work, [(folder, 2)], name='second')"
    )
    (entry,) = registry.everything()
    status, out, err = condorpool("rm", "first")
    assert (status, err) == (0, "")
    assert out.endswith(f"first: removed from {entry.path}\n")
    assert condorpool("results", "first")[0] == 1
    assert condorpool("results", "second") == (0, "None\n", "")


def test_results_by_name(killed, tmp_path):
    """The name of calls, its beginning, and the name of the folder show the same results."""
    killed("pool.starmap(work, [(folder, 0), (folder, 2)], name='a scan')")
    (entry,) = registry.everything()
    for name in ("a scan", "a s", entry.run, str(entry.path), entry.run[:14]):
        assert condorpool("results", name) == (0, "0\nNone\n", "")
    assert "kept: results named a scan" in condorpool("ls")[1]
    assert "No work" in condorpool("ps")[1]
    assert "1 kept" in condorpool("clean")[1]


def test_in_use(killed, htcondor, tmp_path):
    """What a process uses is shown with its calls, and is not removed."""
    code = f"pool = condorpool.Pool(personal={str(htcondor.folder)!r}, submitdir={str(tmp_path)!r})"
    code = f"{HEAD}\n{code}\nr = pool.starmap_async(work, [(folder, 3)]); begun(3)\n"
    code += "print('READY', flush=True); r.get()\n"
    ran = [sys.executable, "-c", code]
    with subprocess.Popen(ran, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout.readline() == "READY\n"
        assert counts("work") == [{"total": 1, "running": 1}]
        assert f"in use by process {process.pid}" in condorpool("ls")[1]
        assert "1 in use" in condorpool("clean")[1]
        status, out, err = condorpool("rm", "--yes", "work")
        assert (status, out) == (1, "")
        assert f"in use by process {process.pid}" in err
        assert "Nothing was deleted" in err
        (tmp_path / "go-3").touch()
        assert process.wait(timeout=60) == 0
