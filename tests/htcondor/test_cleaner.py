"""Exactly one other process cleans up after a process, whatever was killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from disks import tmpfs
from waiting import until

from condorpool import personal
from condorpool.cleaner import registry
from condorpool.cleaner.owner import Owner
from condorpool.engine.submitdir import run_of

HEAD = """
import os, subprocess, sys, time
import condorpool
from condorpool.engine import description

def work(name, seconds=0.0):
    time.sleep(seconds)
    open(name, "w").close()

def make(**arguments):
    return condorpool.Pool(personal={personal!r}, submitdir={submitdir!r}, **arguments)

def started(name):
    while not os.path.exists(os.path.join({submitdir!r}, name)):
        time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """An empty registry for this module alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def htcondor(tmp_path_factory, registered):
    """A personal HTCondor that checks leases every second."""
    personal.install()
    settings = {
        "PERIODIC_EXPR_INTERVAL": "1",
        "MAX_PERIODIC_EXPR_INTERVAL": "1",
        "MEMORY": "100000",
    }
    folder = tmp_path_factory.mktemp("cleaner") / "personal"
    with personal.start(folder, cpus=8, settings=settings) as started:
        yield started
    origin = {"personal": str(folder)}
    assert not [entry for entry in registry.everything() if entry.origin == origin]
    assert not owners()


class Script:
    """A process that uses condorpool, and what remains of it."""

    def __init__(self, code, htcondor, folder):
        self.htcondor, self.folder = htcondor, folder
        head = HEAD.format(personal=str(htcondor.folder), submitdir=str(folder))
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
        )

    def until(self, word):
        """Wait until it has printed a word; return the line."""
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise AssertionError(f"it ended without {word}")

    def kill(self, number=signal.SIGKILL):
        """Kill it, and wait until it is dead."""
        self.process.send_signal(number)
        self.process.wait()

    def end(self):
        """Wait until it has ended with status 0."""
        assert self.process.wait(timeout=60) == 0
        self.process.stdout.close()

    @property
    def directory(self):
        """Its submit directory; None if there is none."""
        return next(iter(self.folder.glob(".condorpool-*")), None)

    @property
    def entry(self):
        """The registry's entry for its submit directory."""
        (entry,) = (e for e in registry.everything() if e.path == self.directory)
        return entry

    @property
    def made(self):
        """The files that calls have written."""
        return {file.name for file in self.folder.iterdir() if file.is_file()}

    def jobs(self, run=None):
        """Return the states of its jobs."""
        run = run or run_of(self.directory)
        ads = self.htcondor.access_point().query(f'CondorpoolRun == "{run}"', ["JobStatus"])
        return sorted(ad["JobStatus"] for ad in ads)


@pytest.fixture
def script(htcondor, tmp_path):
    """Start scripts; check that none of their processes remains."""
    scripts = []

    def start(code):
        folder = tmp_path / str(len(scripts))
        folder.mkdir()
        scripts.append(Script(code, htcondor, folder))
        return scripts[-1]

    yield start
    for one in scripts:
        if one.process.poll() is None:
            one.kill()
        one.process.stdout.close()
    until(lambda: not cleaners(), 30, "cleaners remain")


def cleaners():
    """Return all cleaners of this registry except that of the tests' own process."""
    found, state, own = [], str(registry.state()), str(Owner.this())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [word for word in process.cmdline() if word.startswith(state)]
            if words and not any(word.endswith(own) for word in words):
                found.append(process)
    return found


def owners():
    """Return all owners except the tests' own process."""
    return set(registry.folders().values()) - {Owner.this()}


def command(*arguments):
    """Run condorpool's command line."""
    done = subprocess.run(
        [sys.executable, "-m", "condorpool", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_cleaners():
    """Kill all cleaners at once."""
    for process in cleaners():
        with contextlib.suppress(psutil.Error):
            process.kill()
    until(lambda: not cleaners(), 30, "cleaners cannot be killed")


RUNNING = """
pool = make()
result = pool.starmap_async(work, [("a", 0), ("b", 1.5), ("c", 1.5)], chunksize=1)
started("a")
print("READY", flush=True)
time.sleep(60)
"""


class TestOrdinaryEnds:
    """Scripts wait for their jobs, and then nothing remains."""

    @pytest.mark.parametrize("last", ["", "pool.close(); pool.join()", "raise SystemExit", "1 / 0"])
    def test_nothing_remains(self, script, last):
        """No file, no process, no entry; all calls were made."""
        ended = script(
            'pool = make(); pool.map_async(work, ["a", "b"]); pool.apply(work, ("c",))\n' + last
        )
        assert ended.process.wait(timeout=60) == ("/" in last)
        assert ended.made == {"a", "b", "c"}
        assert ended.directory is None
        until(lambda: not cleaners(), 2, "the cleaner has not ended")
        assert not owners()

    def test_remove(self, script):
        """on_exit="remove" does not wait."""
        ended = script(RUNNING.replace("make()", 'make(on_exit="remove")').replace("(60)", "(0)"))
        ended.end()
        assert ended.made == {"a"}
        assert ended.directory is None


class TestKilled:
    """The owner is killed, and in some tests the cleaner, too."""

    def test_owner(self, script):
        """Running work is finished, then everything is deleted."""
        killed = script(RUNNING)
        killed.until("READY")
        killed.kill()
        assert killed.made == {"a"}
        until(lambda: not killed.directory, 30, "the directory remains")
        assert killed.made == {"a", "b", "c"}

    def test_owner_and_cleaner(self, script):
        """The user's next process cleans up."""
        killed = script(RUNNING)
        killed.until("READY")
        kill_cleaners()
        killed.kill()
        run = run_of(killed.directory)
        script("make()").end()
        until(lambda: not killed.directory, 30, "the directory remains")
        assert killed.made == {"a", "b", "c"}
        assert not killed.jobs(run)

    def test_both_during_clean_up(self, script):
        """Of two that start at once, exactly one resumes where the last one was killed."""
        killed = script(RUNNING)
        killed.until("READY")
        killed.kill()
        entry = killed.entry
        until(lambda: "waits for jobs" in entry.note, 30, "the cleaner does not begin")
        assert entry.run in command("ps")
        kill_cleaners()
        sweeps = [subprocess.Popen([sys.executable, "-m", "condorpool", "clean"]) for _ in "12"]
        assert [sweep.wait() for sweep in sweeps] == [0, 0]
        until(lambda: len(cleaners()) <= 1, 30, "two cleaners work")
        until(lambda: not killed.directory, 30, "the directory remains")
        assert killed.made == {"a", "b", "c"}
        assert command("logs", entry.run).count("cleaned up") == 1

    @pytest.mark.parametrize(
        ("chunks", "is_restarted"),
        [("", False), (", maxtasksperchild=1", False), ("", True)],
        ids=["runners", "plain jobs", "another HTCondor in the same folder"],
    )
    def test_a_reboot(self, script, tmp_path, htcondor, chunks, is_restarted):
        """Calls that no HTCondor answers for any more are kept until they are resumed."""
        with personal.start(tmp_path / "personal", cpus=1) as doomed:
            arguments = f"personal={str(doomed.folder)!r}{chunks}"
            killed = script(f"""
                pool = condorpool.Pool({arguments}, submitdir={str(tmp_path / "0")!r})
                def slow(x):
                    if x == 2:
                        open("begun", "w").close()
                        time.sleep(600)
                    return x * x
                result = pool.map_async(slow, range(6), chunksize=1)
                started("begun")
                print("READY", flush=True)
                time.sleep(60)
            """)
            killed.until("READY")
            kill_cleaners()
            killed.kill()
        with contextlib.ExitStack() as stack:
            if is_restarted:
                stack.enter_context(personal.start(tmp_path / "personal", cpus=1))
            command("clean")
            until(lambda: "kept" in killed.entry.note, 30, "the directory is not kept")
        assert re.fullmatch(
            r"kept: [3-6] calls were not made before .* condorpool.attach\(\) resumes them",
            killed.entry.note,
        )
        resumed = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(f"""
                import condorpool
                pool = condorpool.Pool(personal={str(htcondor.folder)!r})
                result = condorpool.attach("slow", pool)
                result.take_back(), result.remove()
                print(result.calls, result.calls_ended)
                pool.terminate(), pool.join()
            """)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert resumed.stdout.split()[:1] == ["6"], resumed.stderr
        until(lambda: not killed.directory, 30, "the directory remains")

    def test_posted_work_without_jobs(self, script):
        """The cleaner submits jobs for posted chunks."""
        killed = script("""
            pool = make(processes=1, maxtasksperchild=2)
            pool.starmap_async(work, [(f"{i}", 0.2) for i in range(7)], chunksize=1)
            started("0")
            print("READY", flush=True)
            time.sleep(60)
        """)
        killed.until("READY")
        killed.kill()
        until(lambda: not killed.directory, 30, "the directory remains")
        assert killed.made == {f"{i}" for i in range(7)}

    def test_forked_children(self, script):
        """A child neither ends its parent's pool nor delays the end of it."""
        killed = script("""
            pool = make()
            if not os.fork():
                sys.exit()  # with its atexit handlers
            os.wait()
            if not os.fork():
                time.sleep(8)
                os._exit(0)
            pool.apply(work, ("a",))
            with make() as other:
                if not os.fork():
                    sys.exit()
                os.wait()
                other.apply(work, ("b",))
            pool.starmap_async(work, [("c", 1)])
            print("READY", flush=True)
            time.sleep(60)
        """)
        killed.until("READY")
        killed.kill()
        until(lambda: not killed.directory, 7, "the directory remains")
        assert killed.made == {"a", "b", "c"}

    def test_directory_deleted_by_hand(self, script):
        """The cleaner removes its jobs."""
        killed = script(RUNNING)
        killed.until("READY")
        kill_cleaners()
        killed.kill()
        run = run_of(killed.directory)
        killed.directory.rename(killed.folder / "elsewhere")
        command("clean")
        until(lambda: not killed.jobs(run), 30, "jobs remain")
        until(lambda: not owners(), 30, "the entry remains")

    def test_schedd_down_during_clean_up(self, script, htcondor):
        """The cleaner waits for it."""
        killed = script(RUNNING)
        killed.until("READY")
        kill_cleaners()
        killed.kill()
        master = psutil.Process(htcondor.master_pid)
        (schedd,) = (child for child in master.children() if child.name() == "condor_schedd")
        schedd.kill()
        command("clean")
        until(lambda: not killed.directory, 60, "the directory remains")
        assert killed.made >= {"a"}

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
    def test_full_disk(self, script, htcondor, tmp_path):
        """The cleaner waits for space or for the end of the jobs; chunks without outcome are kept."""
        with tmpfs(tmp_path / "disk", "2m") as disk:
            killed = script(f"""
                pool = condorpool.Pool(personal={str(htcondor.folder)!r}, submitdir={str(disk)!r})
                pool.starmap_async(work, [("a", 0), ("b", 2), ("c", 2)], chunksize=1)
                while not os.path.exists({str(disk / "a")!r}):
                    time.sleep(0.02)
                print("READY", flush=True)
                time.sleep(60)
            """)
            killed.until("READY")
            killed.folder = disk
            with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            killed.kill()
            run = run_of(killed.directory)
            time.sleep(6)
            (disk / "full").unlink()
            until(lambda: not killed.jobs(run), 60, "jobs remain")
            until(lambda: not cleaners(), 60, "the cleaner has not ended")
            if killed.directory:
                assert killed.entry.note.startswith("kept: the files of")
                command("rm", run)
            until(lambda: not killed.directory, 30, "the directory remains")
            until(lambda: not cleaners(), 30, "the cleaner has not ended")


class TestKept:
    """on_exit="keep", until the user removes it."""

    def test_keep_then_rm(self, script):
        """Jobs continue; `condorpool rm` removes them and the directory."""
        code = RUNNING.replace("make()", 'make(on_exit="keep")').replace("(60)", "(0)")
        kept = script(code.replace("1.5", "30"))
        kept.end()
        run = run_of(kept.directory)
        until(lambda: not cleaners(), 30, "the cleaner has not ended")
        assert "work" in command("ls")
        assert kept.jobs()
        command("rm", run)
        until(lambda: not kept.directory, 30, "the directory remains")
        assert not kept.jobs(run)
        assert kept.made != {"a", "b", "c"}

    def test_what_is_in_use_is_not_removed(self, script):
        """The error names the process."""
        used = script(RUNNING)
        used.until("READY")
        with pytest.raises(AssertionError, match=f"in use by process {used.process.pid}"):
            command("rm", run_of(used.directory))


class TestLease:
    """HTCondor removes jobs whose owner is gone when their lease ends."""

    WAITING = """
        description.LEASE = 2.0
        condorpool.engine.tracker.tracker().reconcile_interval = 1.0
        pool = make({arguments})
        never = pool.apply_async(abs, (1,), submitkwargs={{"requirements": "False"}})
        print("READY", flush=True)
        time.sleep(60)
    """

    def test_a_living_owner_renews_it(self, script):
        """A dead one does not."""
        owner = script(self.WAITING.format(arguments=""))
        kept = script(self.WAITING.format(arguments='on_exit="keep"'))
        for one in (owner, kept):
            one.until("READY")
        time.sleep(5)
        assert owner.jobs() == kept.jobs() == [1]
        kill_cleaners()
        owner.kill()
        until(lambda: not owner.jobs(), 30, "the lease does not end")
        assert kept.jobs() == [1]
        kept.kill()
        command("clean")
        until(lambda: owner.directory is None, 30, "the directory remains")
        until(lambda: not cleaners(), 30, "the cleaner has not ended")
        command("rm", run_of(kept.directory))
        until(lambda: kept.directory is None, 30, "the directory remains")


def test_random_ends():
    """A few of the moments at which tests/soak.py kills owners and cleaners."""
    soak = Path(__file__).parents[1] / "soak.py"
    done = subprocess.run(
        [sys.executable, soak, "6", "owner-killed"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout


class TestOthers:
    """Only directories of processes that are provably dead, of this user and machine, are touched."""

    @pytest.fixture
    def leftover(self, script):
        """Make a directory without owner and cleaner; return its entry."""
        killed = script(RUNNING)
        killed.until("READY")
        kill_cleaners()
        killed.kill()
        entry = killed.entry
        yield entry
        command("rm", entry.run)
        until(lambda: not killed.directory, 30, "the directory remains")

    def test_another_host(self, leftover):
        """An entry of another machine is not touched."""
        owner = leftover.owner
        folder = leftover.file.parent.rename(registry.state() / f"{owner}.elsewhere")
        assert "Nothing" in command("clean")
        folder.rename(leftover.file.parent)

    def test_a_host_that_is_gone(self, leftover):
        """Its entries are kept if the user asks for it, except directories that are locked."""
        host = f"{leftover.owner.host}.elsewhere"
        folder = leftover.file.parent.rename(registry.state() / f"{leftover.owner}.elsewhere")
        (entry,) = registry.entries(folder)
        assert f"`condorpool clean --gone {host}`" in entry.cure
        locked = (
            "import sys, time; from pathlib import Path; from condorpool.engine import ownership; "
            "print(ownership.acquire(Path(sys.argv[1])), flush=True); time.sleep(60)"
        )
        command_line = [sys.executable, "-c", locked, str(leftover.path)]
        with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout.readline() == "True\n"
            assert "Nothing" in command("clean", "--gone", host)
            other.kill()
        assert f"rm {leftover.run}" in command("clean", "--gone", host)
        assert not folder.exists()
        assert "is gone" in command("ls")

    def test_a_reused_process_id(self, leftover):
        """An owner is dead if the process that has its id now started at another time."""
        owner = leftover.owner
        reused = Owner(os.getpid(), 1, owner.boot, owner.space, owner.host)
        assert not reused.is_alive
        living = Owner.this()
        assert living.is_alive
        # What close() has handed over belongs to no process, dead or alive.
        gone = subprocess.Popen(["true"])
        gone.wait()
        assert not Owner(gone.pid, 0, owner.boot, owner.space, owner.host).is_alive
        entry = leftover.move(registry.state() / str(living))
        assert "Nothing" in command("clean")
        entry.move(leftover.file.parent)
