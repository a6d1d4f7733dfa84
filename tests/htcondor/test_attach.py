"""Resuming the calls of a process that has ended: nothing is computed twice, and no job is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

import condorpool
from condorpool import personal
from condorpool.cleaner import custody, ending, registry
from condorpool.engine import rules
from condorpool.interface.leftovers import leftovers

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def note(folder, x, seconds=0.0):
    """Leave a mark each time that the call is made."""
    with Path(folder, f"made-{x}").open("a") as file:
        file.write("x")
    time.sleep(seconds)
    if x == 13 and not Path(folder, "lucky").exists():
        raise ValueError(x)
    return x


def made(folder):
    """Return how often each call was made."""
    return {int(file.name[5:]): len(file.read_text()) for file in folder.glob("made-*")}


NOTE = """
import os, pathlib, time
def note(folder, x, seconds=0.0):
    with pathlib.Path(folder, f"made-{x}").open("a") as file:
        file.write("x")
    time.sleep(seconds)
    while x == 11 and os.path.exists(folder + "/wait"):
        time.sleep(0.05)
    return x
"""


@pytest.fixture
def client(htcondor, tmp_path):
    """Run code with a pool in a process that is killed when the code says so.

    Its unfinished work is dropped after the test.
    """

    def run(code, **arguments):
        given = {"personal": str(htcondor.folder), "submitdir": str(tmp_path), **arguments}
        lines = [
            "import condorpool, os, signal, time",
            NOTE,
            f"folder = {str(tmp_path)!r}",
            f"pool = condorpool.Pool(**{given!r})",
            code,
        ]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)], timeout=60, check=False, cwd=tmp_path
        )
        return done.returncode

    yield run
    for left in tmp_path.glob(".condorpool-*"):
        shutil.rmtree(left, ignore_errors=True)


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


#: Posts twelve calls of which some have ended when its process is killed.
BEGIN = f"""
result = pool.starmap_async(note, [(folder, x, 0.4) for x in range(12)], chunksize=1)
while result.calls_ended < 3:
    time.sleep(0.01)
{KILL}
"""


@pytest.fixture
def mine(tmp_path):
    """Return the leftover with a name in the test's folder."""
    return lambda name: [
        left for left in leftovers() if left.name == name and left.entry.path.parent == tmp_path
    ]


@pytest.fixture
def until_noted(mine):
    """Wait until the cleaner notes this about a leftover."""

    def wait(name, words):
        end = time.monotonic() + 40
        while not any(words in left.entry.note for left in mine(name)):
            assert time.monotonic() < end
            time.sleep(0.1)

    return wait


def test_a_map_goes_on_in_another_process(client, make_pool, tmp_path, gone, mine):
    """Calls that have ended are not made again; running and waiting ones are waited for."""
    assert client(BEGIN, processes=2, on_exit="keep") == -signal.SIGKILL
    (left,) = mine("note")
    assert (left.calls, left.in_use) == (12, "")
    assert left.ended >= 3
    with make_pool() as pool:
        result = pool.take_up(left)
        assert result.get(timeout=60) == list(range(12))
        assert sum(chunk.calls for chunk in result.chunks() if chunk.started) == 12
        assert not mine("note")
    assert set(made(tmp_path).values()) == {1}
    assert gone()


def test_a_visible_directory_of_an_earlier_version(client, make_pool, tmp_path, mine):
    """It is resumed by how its name begins, which its end is not, and deleted."""
    code = f"""
from condorpool.engine.submitdir import SubmitDir
SubmitDir.new = classmethod(lambda cls, base: cls(base / "condorpool-0123456789ab"))
{BEGIN}
"""
    assert client(code, processes=2, on_exit="keep") == -signal.SIGKILL
    (left,) = mine("note")
    assert left.run == "condorpool-0123456789ab"
    with make_pool() as pool:
        for wrong in ("6789ab", "", ".", "condorpool-0123456789abc"):
            with pytest.raises(condorpool.CondorPoolError, match="no calls named"):
                condorpool.attach(wrong, pool)
        assert condorpool.attach("condorpool-0123", pool).get(timeout=60) == list(range(12))
    assert set(made(tmp_path).values()) == {1}
    assert not left.entry.path.exists()


def test_the_cleaner_lets_go_of_what_is_taken_up(client, make_pool, tmp_path, gone, until_noted):
    """It stops waiting for running jobs when another process resumes the calls."""
    code = f"""
pool.starmap_async(note, [(folder, x, 3) for x in range(4)], chunksize=1)
while not os.path.exists(folder + "/made-0"):
    time.sleep(0.01)
{KILL}
"""
    assert client(code, processes=2) == -signal.SIGKILL
    until_noted("note", "waits for jobs")
    with make_pool() as pool:
        assert condorpool.attach("note", pool).get(timeout=60) == [0, 1, 2, 3]
    assert set(made(tmp_path).values()) == {1}
    assert gone()


def test_jobs_without_calls_are_removed_as_such(client, until_noted, tmp_path):
    """Who takes the calls up does not take the removal for the end of a call."""
    code = f"pool.starmap(note, [(folder, x) for x in range(3)], 1, name='scan'); {KILL}"
    assert client(code, processes=20) == -signal.SIGKILL  # most of them wait for a slot
    until_noted("scan", "kept")
    (log,) = tmp_path.glob(".condorpool-*/events.log")
    assert rules.SURPLUS in log.read_text()
    assert ending.WHY not in log.read_text()


def test_what_is_there_to_attach(client, make_pool, gone, mine, until_noted):
    """A table lists it; for an unknown name the error says which names there are."""
    assert client(f"pool.map(abs, range(3), name='scan'); {KILL}") == -signal.SIGKILL
    until_noted("scan", "kept")
    table = repr(condorpool.attach())
    assert "scan" in table
    assert "3 of 3" in table
    (left,) = mine("scan")
    assert left.values() == [0, 1, 2]
    with pytest.raises(condorpool.CondorPoolError, match="no calls named 'other'"):
        condorpool.attach("other")
    for command, expected in (
        (["show", "scan"], "scan: 3 of 3 calls done"),
        (["results", "scan"], "0\n1\n2\n"),
        (["ls"], "kept: results named scan"),
        (["ls", "scan"], "scan  3 of 3 calls done  "),
    ):
        told = subprocess.run(
            [sys.executable, "-m", "condorpool", *command],
            check=True,
            capture_output=True,
            text=True,
        )
        assert expected in told.stdout
    with make_pool() as pool:
        pool.take_up(left).forget()
    assert gone()


def test_a_failed_call_is_made_again_where_it_is_taken_up(client, make_pool, tmp_path, mine):
    """The error is the same there; only that call is made again."""
    code = f"""
def deadly(folder, x):
    with open(f"{{folder}}/made-{{x}}", "a") as file:
        file.write("x")
    if x == 1 and not os.path.exists(folder + "/lucky"):
        os.kill(os.getpid(), 9)
    if x == 2 and not os.path.exists(folder + "/lucky"):
        raise KeyError(x)
    return x
result = pool.starmap_async(deadly, [(folder, x) for x in range(5)], chunksize=1)
result.wait()
{KILL}
"""
    assert client(code, processes=1, on_exit="keep") == -signal.SIGKILL
    pool = make_pool()
    result = pool.take_up(mine("deadly")[-1])
    with pytest.raises(condorpool.JobFailedError, match="signal 9"):
        result.get(timeout=60)
    assert result.failed == [1, 2]
    assert isinstance(result.exceptions()[2], KeyError)
    (tmp_path / "lucky").touch()
    assert result.rerun() == 2
    assert result.get(timeout=60) == list(range(5))
    assert made(tmp_path) == {0: 1, 1: 2, 2: 2, 3: 1, 4: 1}


def until_gone(gone):
    """Wait until cleaners have deleted the submit directories."""
    end = time.monotonic() + 30
    while not gone():
        assert time.monotonic() < end
        time.sleep(0.1)


class TestNames:
    """Results with a name are kept until the user forgets them."""

    def test_the_same_calls_are_not_made_again(self, make_pool, tmp_path, capsys, gone):
        """They are reused in the same pool and in the next, with a notice."""
        calls = [(tmp_path, x) for x in range(6)]
        with make_pool() as pool:
            assert pool.starmap(note, calls, name="scan") == list(range(6))
            assert pool.starmap(note, calls, name="scan") == list(range(6))
            assert "'scan': reusing 6 of 6" in capsys.readouterr().err
        assert not gone()
        with make_pool() as pool:
            result = pool.starmap_async(note, calls, name="scan")
            assert result.get(timeout=30) == list(range(6))
            assert "'scan': reusing" in capsys.readouterr().err
            result.forget()
        assert made(tmp_path) == dict.fromkeys(range(6), 1)
        assert gone()
        assert not [entry for entry in registry.everything() if entry.path.parent == tmp_path]

    def test_what_failed_is_made_again(self, make_pool, tmp_path, gone):
        """Only the failed calls are made again, also in another pool."""
        calls = [(tmp_path, x) for x in range(12, 16)]
        pool = make_pool()
        with pytest.raises(ValueError, match="13"):
            pool.starmap(note, calls, 2, name="scan")
        pool.close()
        (tmp_path / "lucky").touch()
        with make_pool() as pool:
            result = pool.starmap_async(note, calls, 2, name="scan")
            assert result.get(timeout=60) == [12, 13, 14, 15]
            assert made(tmp_path) == {12: 1, 13: 2, 14: 1, 15: 1}
            result.forget()
        assert gone()

    def test_what_another_process_has_made_again(self, make_pool, tmp_path):
        """Calls have the outcome of the last time that they were made."""
        calls = [(tmp_path, x) for x in range(112, 12, -1)]
        with make_pool() as pool:
            result = pool.starmap_async(note, calls, 1, name="scan")
            with pytest.raises(ValueError, match="13"):
                result.get(timeout=60)
            (tmp_path / "lucky").touch()
            result.rerun()
            result.get(timeout=60)
        with make_pool() as pool:
            result = pool.starmap_async(note, calls, 1, name="scan")
            assert result.get(timeout=60) == [x for _, x in calls]
            assert result.calls_ended == 100
            result.forget()
        assert made(tmp_path) == {x: 1 + (x == 13) for _, x in calls}

    def test_other_calls_need_another_name(self, make_pool, tmp_path):
        """Results of one call are never returned for another; the error says what changed."""
        pool = make_pool()
        result = pool.map_async(abs, [1, 2], name="scan")
        for func, items, changed in (
            (abs, [1, 3], "the items"),
            (str, [1, 2], "the function"),
            (lambda x: -x, [2, 1], "the function and the items"),
        ):
            with pytest.raises(ValueError, match=f"other calls: {changed} changed. Add overwrite"):
                pool.map(func, items, name="scan")
        assert result.get() == [1, 2]
        assert condorpool.attach("scan") is result
        assert condorpool.forget("scan") == 2
        assert condorpool.forget("scan") == 0
        assert pool.map(abs, [1, 3], name="scan") == [1, 3]
        assert condorpool.forget("scan") == 2

    def test_a_function_that_was_edited(self, make_pool, gone):
        """``overwrite`` replaces the results, in the same pool and in the next one."""
        with make_pool() as pool:
            assert pool.map(lambda x: x + 1, [1, 2], name="scan") == [2, 3]
            assert pool.map(lambda x: x + 2, [1, 2], name="scan", overwrite=True) == [3, 4]
            with pytest.raises(ValueError, match="the function changed"):
                pool.map(lambda x: x + 1, [1, 2], name="scan")
        with make_pool() as pool:
            with pytest.raises(ValueError, match="the function changed"):
                pool.map(lambda x: x + 3, [1, 2], name="scan")
            assert pool.map(lambda x: x + 3, [1, 2], name="scan", overwrite=True) == [4, 5]
            assert pool.map(lambda x: x + 3, [1, 2], name="scan") == [4, 5]
            with pytest.raises(ValueError, match="add name="):
                pool.map(abs, [1], overwrite=True)
        assert condorpool.forget("scan") == 2
        until_gone(gone)

    def test_other_names_stay(self, make_pool, gone, mine):
        """Of a directory with several names, only the one is deleted."""
        with make_pool() as pool:
            pool.map(abs, [-1, 2], name="one")
            pool.map(abs, [-3], name="other")
        assert condorpool.forget("one") == 2
        assert not mine("one")
        with make_pool() as pool:
            assert pool.map(abs, [-1, 5], name="one") == [1, 5]
            assert pool.map(abs, [-3], name="other") == [3]
            assert condorpool.forget("one") == 2
            assert condorpool.forget("other") == 1
        until_gone(gone)

    def test_a_name_belongs_to_a_notebook(self, make_pool, monkeypatch, capsys, gone):
        """Another notebook may use it for other calls; equal ones are reused, which it is told."""
        monkeypatch.setenv("JPY_SESSION_NAME", "/home/me/first.ipynb")
        with make_pool() as pool:
            pool.map(abs, [-1, 2], name="scan")
        monkeypatch.setenv("JPY_SESSION_NAME", "/home/me/second.ipynb")
        assert "first.ipynb" in repr(condorpool.attach())
        with pytest.raises(condorpool.CondorPoolError, match=r"are those of /home/me/first\.ipynb"):
            condorpool.forget("scan")
        with make_pool() as pool:
            assert pool.map(abs, [-7], name="scan") == [7]
            assert pool.map(abs, [-7], name="scan") == [7]
            assert condorpool.forget("scan") == 1
            capsys.readouterr()
            assert pool.map(abs, [-1, 2], name="scan") == [1, 2]
            assert "in first.ipynb" in capsys.readouterr().err
        assert condorpool.forget("scan", everywhere=True) == 2
        until_gone(gone)

    @pytest.mark.parametrize("name", ["it's $(ClusterId) \\", '"x"', "+größe 😀"])
    def test_any_name_can_be_typed_again(self, make_pool, name):
        """The command line finds the calls by it."""
        with make_pool() as pool:
            result = pool.map_async(abs, [-7], name=name)
            result.get(timeout=60)
            for command, words in (("show", f"{name}: 1 of 1 call done"), ("results", "7")):
                ran = [sys.executable, "-m", "condorpool", command, name]
                assert words in subprocess.check_output(ran, text=True, encoding="utf-8")
            assert pool.map(abs, [-7], name=name) == [7]
            result.forget()

    def test_they_outlive_a_kill(self, client, make_pool, tmp_path, mine, until_noted):
        """The cleaner finishes the work and keeps the results."""
        calls = "[(folder, x, 0.3) for x in range(8)]"
        code = f"pool.starmap_async(note, {calls}, 1, name='scan'); {KILL}"
        assert client(code, processes=2) == -signal.SIGKILL
        until_noted("scan", "kept: results named scan")
        with make_pool() as pool:
            result = pool.take_up(mine("scan")[-1])
            assert result.get(timeout=30) == list(range(8))
            result.forget()
        assert set(made(tmp_path).values()) == {1}


def test_a_process_cannot_take_what_another_uses(client):
    """The error names the other process."""
    code = """
import subprocess, sys
pool.map_async(abs, [1], name="scan").wait()
for verb in ("attach('scan')", "forget('scan', everywhere=True)"):
    other = f"import condorpool; condorpool.{verb}"
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert done.returncode == 1, done
    assert f"in use by process {os.getpid()}" in done.stderr, done.stderr
assert condorpool.forget("scan") == 1
pool.close()
"""
    assert client(code) == 0


TAKE_UP = """
import os, pathlib, signal, sys, time
import condorpool
from condorpool.cleaner import custody
from condorpool.interface.leftovers import leftovers
*_, left = (left for left in leftovers() if left.name == "note")
"""

RACE = """
pool = condorpool.Pool(**left.entry.origin, submitdir=left.entry.path.parent)
print("READY", flush=True)
sys.stdin.readline()
try:
    result = pool.take_up(left)
except condorpool.CondorPoolError as error:
    print(error)
else:
    print(result.get(timeout=60))
pool.close()
"""


def test_one_of_two_gets_it(client, tmp_path, gone):
    """When both take it at the same moment, the other one raises, and nothing is lost."""
    assert client(BEGIN, processes=2, on_exit="keep") == -signal.SIGKILL
    command = [sys.executable, "-c", TAKE_UP + RACE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == "READY\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    told = sorted(racer.communicate(timeout=60)[0] for racer in racers)
    assert "was taken up" in told[0]
    assert told[1] == f"{list(range(12))}\n"
    assert set(made(tmp_path).values()) == {1}
    assert gone()


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param("left.entry.move(custody._folder())", id="moved"),
        pytest.param("custody.adopt(left.entry, 'wait')", id="adopted"),
        pytest.param("condorpool.attach('note')", id="attached"),
    ],
)
def test_who_takes_it_up_is_killed(steps, client, make_pool, tmp_path, gone, until_noted):
    """Wherever the kill comes, the next process resumes the calls."""
    (tmp_path / "wait").touch()  # else all may have ended, and been cleaned up, before that
    assert client(BEGIN, processes=2, on_exit="keep") == -signal.SIGKILL
    until_noted("note", "kept")
    code = f"{TAKE_UP}{steps}\n{KILL}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with make_pool() as pool:
        result = condorpool.attach("note", pool)
        (tmp_path / "wait").unlink()
        assert result.get(timeout=60) == list(range(12))
    assert set(made(tmp_path).values()) == {1}
    assert gone()


@pytest.mark.parametrize("anew", ["in its folder", "elsewhere"])
@pytest.mark.parametrize("tasks", [None, 1], ids=["runners", "jobs"])
def test_its_htcondor_has_ended(anew, tasks, client, make_pool, tmp_path, gone, mine):
    """Another HTCondor, where the same job ids are other jobs, makes the remaining calls."""
    folder = tmp_path / "personal"
    with personal.start(folder, cpus=2):
        arguments = {"personal": str(folder), "on_exit": "keep", "maxtasksperchild": tasks}
        assert client(BEGIN, processes=2, **arguments) == -signal.SIGKILL
    before = made(tmp_path)
    (left,) = mine("note")
    assert 3 <= left.ended < 12
    with contextlib.ExitStack() as stack:
        if anew == "elsewhere":
            pool = make_pool()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            pool = make_pool(personal=stack.enter_context(personal.start(folder, cpus=2)))
        stack.enter_context(pool)
        other = pool.map_async(abs, [-1])
        result = pool.take_up(left)
        assert result.get(timeout=60) == list(range(12))
        assert other.get(timeout=60) == [1]
        times = made(tmp_path)
        assert set(times) == set(range(12))
        assert sum(times.values()) <= 12 + len(before) - left.ended
    assert gone()


def test_it_is_elsewhere(client, make_pool, tmp_path, mine):
    """A pool at another access point cannot take it, and it stays where it is."""
    assert client(BEGIN, processes=2, on_exit="keep") == -signal.SIGKILL
    with personal.start(tmp_path / "personal", cpus=1) as other:
        pool = make_pool(personal=other)
        with pytest.raises(
            condorpool.CondorPoolError, match=r"attach\('note'\) makes a pool there"
        ):
            pool.take_up(mine("note")[-1])
    with make_pool() as pool:
        assert pool.take_up(mine("note")[-1]).get(timeout=60) == list(range(12))


def test_another_process_keeps_the_lock(
    client, make_pool, tmp_path, monkeypatch, mine, until_noted
):
    """The error says so, and the calls can be resumed later."""
    assert client(f"pool.map(abs, [-1], name='scan'); {KILL}") == -signal.SIGKILL
    until_noted("scan", "kept")
    (left,) = mine("scan")
    code = f"import fcntl\nf = open({str(left.entry.path / 'owner.lock')!r}, 'r+')\n"
    code += "fcntl.lockf(f, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    monkeypatch.setattr(custody, "RELEASE_TIMEOUT", 0.5)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        other.stdout.readline()
        pool = make_pool()
        with pytest.raises(condorpool.CondorPoolError, match="another process is working on"):
            pool.take_up(left)
        other.communicate(b"\n")
    result = pool.take_up(mine("scan")[-1])
    assert result.get(timeout=30) == [1]
    result.forget()


def test_half_of_a_map(client, tmp_path, gone, mine):
    """A map whose process was killed while writing it is neither offered nor kept."""
    code = f"""
from condorpool.engine import payload
write = payload.write_chunk
def killed(path, items, first):
    write(path, items, first)
    if first == 6:
        {KILL}
payload.write_chunk = killed
pool.starmap_async(note, [(folder, x) for x in range(12)], chunksize=2, name="scan")
"""
    assert client(code) == -signal.SIGKILL
    assert not mine("scan")
    end = time.monotonic() + 40
    while not gone():
        assert not mine("scan")
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not made(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_directory_of_another_user(client, tmp_path, mine, until_noted):
    """Another user's directory is neither offered nor cleaned up, though it looks like ours."""
    assert client(f"pool.map(abs, [-1], name='scan'); {KILL}") == -signal.SIGKILL
    until_noted("scan", "kept")
    (left,) = mine("scan")
    path = left.entry.path
    before = sorted(path.rglob("*"))
    os.chown(path, 65534, 65534)
    assert not mine("scan")
    ran = [sys.executable, "-m", "condorpool", "rm", left.run]
    told = subprocess.run(ran, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert f"not removed: kept: {path} belongs to user " in told.stdout
    assert sorted(path.rglob("*")) == before
    for entry in registry.everything():
        if entry.path == path:
            entry.discard()


def test_looking_at_what_another_uses(client):
    """Files come and go there meanwhile, and nothing raises."""
    code = '''
import subprocess, sys
look = """
from condorpool.interface.leftovers import leftovers
while True:
    for each in leftovers():
        assert each.counts.total == each.calls
        each.errors()
"""
other = subprocess.Popen([sys.executable, "-c", look])
end = time.monotonic() + 3
while time.monotonic() < end:
    pool.map(abs, range(40), chunksize=1)
assert other.poll() is None
other.kill()
other.wait()
pool.close()
'''
    assert client(code) == 0
