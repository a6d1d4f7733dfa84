"""The personal HTCondor: how it starts and ends, how long it stays, and that nothing remains."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import waiting

from condorpool import personal
from condorpool.personal import configuration, daemons, folders, guardian
from condorpool.values.exceptions import HTCondorNotFoundError, PersonalError

CHECKOUT = Path(__file__).parents[2]

# "daemon": an account that every Debian has, because HTCondor knows users only by name.
ORDINARY = 1

# Starts or joins it, prints the master's id, and lives until its standard input is closed.
USER = """
import sys
from condorpool import personal
running = personal.start(sys.argv[1])
print(running.master_pid, flush=True)
sys.stdin.read()
"""

wait_for = functools.partial(waiting.until, seconds=15)


@pytest.fixture
def folder():
    """Return a folder for one personal HTCondor; check that nothing remains afterwards."""
    # Short, and not in pytest's folder, so that another account can go there.
    parent = Path(tempfile.mkdtemp(prefix="condorpool-test-")).resolve()
    path = parent / "personal"
    yield path
    try:
        personal.stop(path)
        assert processes(path) == []
        assert not path.exists()
    finally:
        shutil.rmtree(parent)


@pytest.fixture
def spawn(folder):
    """Start other processes that use the personal HTCondor; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(prefix=(), environment=None):
            command = [*prefix, sys.executable, "-c", USER, str(folder)]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=CHECKOUT,
                env={**os.environ, **(environment or {})},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            master = process.stdout.readline()
            assert master, "the process could not start HTCondor"
            process.master_pid = int(master)
            return process

        yield start


def processes(folder):
    """Return the processes that carry the folder's mark."""
    mark = f"{configuration.MARK}={folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def is_gone(folder):
    """Return whether neither a process nor a file remains."""
    return not folder.exists() and processes(folder) == []


def submit_sleep(running, seconds, folder, count=1, **more):
    """Submit jobs that sleep and return their cluster."""
    description = {
        "executable": "/bin/sleep",
        "arguments": str(seconds),
        "transfer_executable": "False",
        "should_transfer_files": "IF_NEEDED",
        "log": str(folder.parent / "log"),
        **more,
    }
    return running.access_point().submit(description, [{}] * count)


def states(running, cluster):
    """Return the states of a cluster's jobs."""
    jobs = running.access_point().query(f"ClusterId == {cluster}", ["JobStatus"])
    return [job["JobStatus"] for job in jobs]


def sleepers(running):
    """Return the processes of jobs that sleep."""
    found = []
    for pid in guardian.descendants(running.master_pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                found.append(pid)
    return found


def test_start_returns_when_all_is_ready_for_jobs(folder):
    """A job that is submitted as soon as start() returns runs at once."""
    before = dict(os.environ), Path.cwd()
    with personal.start(folder) as running:
        cluster = submit_sleep(running, 0, folder)
        wait_for(lambda: states(running, cluster) == [])
        assert (dict(os.environ), Path.cwd()) == before
    assert is_gone(folder)


def test_jobs_use_the_shared_file_system(folder):
    """A client without HTCondor configuration is in the same file system domain."""
    with personal.start(folder) as running:
        cluster = submit_sleep(running, 20, folder)
        wait_for(lambda: sleepers(running))
        (job,) = sleepers(running)
        assert Path(f"/proc/{job}/cwd").resolve() == Path.cwd()
        assert states(running, cluster) == [2]


def test_jobs_that_match_nothing_do_not_block_others(folder):
    """However many there are."""
    with personal.start(folder) as running:
        files = {"should_transfer_files": "YES", "transfer_executable": "True"}
        idle = submit_sleep(running, 0, folder, 40, requirements="false", **files)
        cluster = submit_sleep(running, 0, folder, **files)
        wait_for(lambda: states(running, cluster) == [], seconds=30)
        assert states(running, idle) == [1] * 40


def test_an_unused_slot_is_released(folder):
    """HTCondor's schedd would keep the claim; here jobs that need more CPUs can run."""
    with personal.start(folder, cpus=2) as running:
        one = submit_sleep(running, 0, folder, keep_claim_idle="600")
        wait_for(lambda: states(running, one) == [])
        both = submit_sleep(running, 0, folder, request_cpus="2")
        wait_for(lambda: states(running, both) == [], seconds=30)


def test_a_second_start_joins_the_first(folder, spawn):
    """In the same or another process."""
    running = personal.start(folder)
    assert personal.start(folder).master_pid == running.master_pid
    other = spawn()
    assert other.master_pid == running.master_pid
    known = personal.status(folder)
    assert known.running
    assert known.users == sorted([os.getpid(), other.pid])
    assert known.cpus == os.cpu_count()


def test_simultaneous_starts_make_one(folder):
    """Processes that start it at the same moment share one."""
    command = [sys.executable, "-c", USER, str(folder)]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        users = [
            stack.enter_context(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=CHECKOUT)
            )
            for _ in range(4)
        ]
        for user in users:
            stack.callback(user.kill)
        assert len({user.stdout.readline() for user in users}) == 1
    wait_for(lambda: is_gone(folder))


def test_two_run_side_by_side(folder):
    """Each has its own folder, addresses and CPUs."""
    second = folder.with_name("second")
    with personal.start(folder, cpus=3) as one, personal.start(second, cpus=1) as two:
        assert one.schedd_address != two.schedd_address
        assert personal.status(folder).cpus == 3
        assert personal.status(second).cpus == 1
    assert is_gone(folder)
    assert is_gone(second)


def test_it_ends_with_a_process_that_is_killed(folder, spawn):
    """However its only user ends, nothing remains."""
    user = spawn()
    assert processes(folder)
    user.kill()
    wait_for(lambda: is_gone(folder))


def test_it_stays_for_the_last_user(folder, spawn):
    """It stays while another process uses it."""
    first, second = spawn(), spawn()
    first.kill()
    first.wait()
    time.sleep(0.5)
    assert personal.status(folder).users == [second.pid]
    second.stdin.close()
    wait_for(lambda: is_gone(folder))


def test_it_stays_for_jobs_and_ends_after_them(folder, spawn):
    """Without users it finishes its queue; it does not stay for a held job."""
    user = spawn()
    running = personal.start(folder)
    kept = submit_sleep(running, 2.5, folder)
    held = submit_sleep(running, 0, folder)
    running.access_point().act("hold", f"ClusterId == {held}")
    wait_for(lambda: states(running, kept) == [2])
    folders.unuse(folder)
    user.kill()
    user.wait()
    time.sleep(1)
    assert personal.status(folder).jobs == {"running": 1, "held": 1}
    wait_for(lambda: is_gone(folder))


def test_a_detached_one_stays_until_stopped(folder):
    """One that the command line starts outlives that process."""
    command = [sys.executable, "-m", "condorpool", "personal"]

    def condorpool(action):
        return subprocess.run(
            [*command, action, "--folder", folder],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "runs in" in condorpool("start").stdout
    time.sleep(0.5)
    assert "stays      until stopped" in condorpool("status").stdout
    variables = condorpool("env").stdout
    queue = subprocess.run(
        ["bash", "-c", f"{variables}\ncondor_q -totals"], capture_output=True, text=True, check=True
    )
    assert "0 jobs" in queue.stdout
    assert condorpool("stop").stdout == "Stopped.\n"
    assert is_gone(folder)
    assert condorpool("env").returncode == 1


def test_stop_ends_the_jobs_and_their_background_processes(folder):
    """Also a process that has left its job's session."""
    running = personal.start(folder)
    description = {
        "executable": "/bin/sh",
        # A daemon with another parent, another session and no mark in its environment.
        "arguments": "\"-c 'env -i setsid sleep 4321 & sleep 4321'\"",
        "transfer_executable": "False",
    }
    running.access_point().submit(description, [{}])
    wait_for(lambda: len(sleepers(running)) == 2)
    pids = sleepers(running)
    running.stop()
    assert not running.alive
    assert [guardian.start_time(pid) for pid in pids] == [0, 0]
    assert is_gone(folder)


def test_its_files_can_be_kept(folder):
    """With keep_folder the logs stay until the next start deletes them."""
    running = personal.start(folder)
    running.stop(keep_folder=True)
    assert "EXITING WITH STATUS 0" in running.log_tails()
    assert processes(folder) == []
    (folder / "local/log/left").touch()
    with personal.start(folder):
        assert not (folder / "local/log/left").exists()


def kill_guardian(folder):
    """Kill the guardian and wait until it is dead."""
    pid = personal.status(folder).guardian_pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: guardian.start_time(pid) == 0)


def test_without_its_guardian_it_ends_and_can_be_started_again(folder):
    """HTCondor ends when its guardian is killed; the next start empties the folder."""
    first = personal.start(folder)
    kill_guardian(folder)
    second = personal.start(folder)
    assert second.master_pid != first.master_pid
    assert not first.alive
    assert second.alive


def test_stop_works_without_the_guardian(folder):
    """Nothing remains even if the guardian was killed."""
    personal.start(folder)
    kill_guardian(folder)
    personal.stop(folder)
    assert is_gone(folder)


def test_a_dead_master_is_noticed(folder):
    """When condor_master crashes, its daemons end; the next start starts a new one."""
    running = personal.start(folder)
    os.kill(running.master_pid, signal.SIGKILL)
    wait_for(lambda: "killed by signal 9" in personal.status(folder).ended)
    # Only the guardian remains, until no process needs the logs any more.
    assert processes(folder) == [personal.status(folder).guardian_pid]
    assert "condor_master" in running.log_tails()
    assert personal.start(folder).alive


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"COLLECTOR": "/bin/false"}, "collector exited with status 1", id="a daemon"),
        pytest.param({"SCHEDD": "/nonexistent"}, "/nonexistent", id="no such program"),
        pytest.param({"LOG": "/proc/nowhere"}, "/proc/nowhere", id="no log"),
        pytest.param({"LOCAL_CONFIG_FILE": "/no/file"}, "/no/file", id="no configuration"),
    ],
)
def test_a_start_that_fails_says_why_at_once(folder, settings, words):
    """The error quotes the daemons' logs, and comes before the timeout."""
    with pytest.raises(PersonalError, match="did not start") as caught:
        personal.start(folder, settings=settings)
    assert "not ready in time" not in str(caught.value)
    assert words in str(caught.value)
    assert is_gone(folder)


def test_a_port_in_use_is_named(folder):
    """The error quotes the collector's log line, which names the port."""
    other = folder.with_name("other")
    with personal.start(other) as running:
        port = running.collector_address.partition("?")[0].strip("<>").rpartition(":")[2]
        with pytest.raises(PersonalError, match=port):
            personal.start(folder, settings={"COLLECTOR_PORT": port})


def test_an_unsafe_folder_is_refused(folder, tmp_path):
    """A link, another user's folder, and a folder that other users can write to."""
    folder.symlink_to(tmp_path)
    with pytest.raises(PersonalError, match="is not a folder"):
        personal.start(folder)
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PersonalError, match="can be written to by other users"):
        personal.start(folder)
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.chown(folder, 1000, 1000)
        with pytest.raises(PersonalError, match="belongs to user 1000"):
            personal.start(folder)
    folder.rmdir()


def test_an_unsafe_parent_folder_is_refused(folder, tmp_path):
    """The default folder is in one whose name other users can guess."""
    around = folder.with_name(guardian.shared_name())
    around.symlink_to(tmp_path)
    for use in (personal.start, personal.stop, personal.status, personal.environment):
        with pytest.raises(PersonalError, match="is not a folder"):
            use(around / "personal")
    assert list(tmp_path.iterdir()) == []


def test_the_parent_folder_is_deleted_too(folder):
    """The default folder leaves nothing in the folder for temporary files."""
    around = folder.with_name(guardian.shared_name())
    with personal.start(around / "personal") as running:
        assert around.stat().st_mode & 0o777 == 0o700
        assert running.folder == around / "personal"
    assert not around.exists()


def test_a_folder_with_other_files_is_refused(folder):
    """It would be deleted when HTCondor stops."""
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(PersonalError, match="holds other files"):
        personal.start(folder)
    personal.stop(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    shutil.rmtree(folder)


def test_without_programs_the_error_names_the_command(folder, monkeypatch):
    """start() does not download anything by itself."""
    monkeypatch.setattr(daemons, "find", lambda: None)
    with pytest.raises(HTCondorNotFoundError, match="condorpool personal install"):
        personal.start(folder)
    assert is_gone(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")
def test_other_users_are_refused(folder):
    """The daemons listen on the loopback address, and would run any user's jobs as their owner."""
    running = personal.start(folder)
    try_all = """
import sys
from condorpool.access.accesspoint import AccessPoint
from condorpool.values.exceptions import CondorPoolError
there = AccessPoint("there", *sys.argv[1:])
for use in (
    lambda: list(there.slots()),
    lambda: there.query("true", []),
    lambda: there.submit({"executable": "/bin/true"}, [{}]),
    lambda: there.act("remove", "true"),
):
    try:
        print("allowed", use())
    except CondorPoolError:
        pass
"""
    ap = running.access_point()
    there = [ap.schedd_address, ap.collector_address, ap.version]
    # The second is the one under which root's daemons run.
    for uid in (ORDINARY, configuration.ACCOUNT):
        done = subprocess.run(
            [*as_user(uid), sys.executable, "-c", try_all, *there],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == ""
    assert "PERMISSION DENIED" in running.log_tails(50)


def as_user(uid):
    """Return the command that runs another one as an ordinary user that may read root's Python."""
    reading = "-all,+dac_read_search"
    return [
        "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
        f"--inh-caps={reading}", f"--ambient-caps={reading}", f"--bounding-set={reading}",
        "--securebits=+no_setuid_fixup",  # otherwise access() ignores the capabilities
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be an ordinary user, too")
def test_an_ordinary_user_needs_nothing_more(folder, spawn):
    """Without root it starts, runs and ends the same way."""
    os.chown(folder.parent, ORDINARY, ORDINARY)
    installed = personal.find()
    ours = installed.source == "condorpool's own"
    cache = {"CONDORPOOL_CACHE": str(installed.sbin.parents[2])} if ours else {}
    user = spawn(as_user(ORDINARY), {"HOME": str(folder.parent), **cache})
    assert folder.stat().st_uid == ORDINARY
    assert Path(f"/proc/{user.master_pid}").stat().st_uid == ORDINARY
    user.kill()
    wait_for(lambda: is_gone(folder))


NESTED = """
import os, sys
import condorpool

def nested():
    with condorpool.Pool(1) as pool:
        return pool.apply(abs, (-3,)), pool._workload.access_point.name

if __name__ == "__main__":
    with condorpool.personal.start(sys.argv[1], cpus=2) as own, condorpool.Pool(1, personal=own) as pool:
        try:
            print(pool.apply_async(nested).get(timeout=60))
        except condorpool.PersonalError as error:
            print(error)
"""


@pytest.mark.parametrize("uid", [0, ORDINARY])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be an ordinary user, too")
def test_a_pool_in_a_call(folder, uid):
    """It submits to the same HTCondor; root's jobs, which run under another account, get an error."""
    os.chown(folder.parent, uid, uid)
    script = folder.parent / "nested.py"
    script.write_text(NESTED)
    installed = personal.find()
    ours = installed.source == "condorpool's own"
    cache = {"CONDORPOOL_CACHE": str(installed.sbin.parents[2])} if ours else {}
    done = subprocess.run(
        [*(as_user(uid) if uid else []), sys.executable, script, folder],
        cwd=folder.parent, env={**os.environ, **cache, "HOME": str(folder.parent)},
        check=True, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    said = "(3, 'personal HTCondor in" if uid else "User 0 started it, and it takes no jobs from"
    assert said in done.stdout
