"""Resident runners: whatever happens to one, no call is lost and none counts twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cloudpickle
import pytest
from disks import tmpfs

import condorpool
from condorpool import personal
from condorpool.access.bindings import htcondor2
from condorpool.display.progress import Meter
from condorpool.engine.chunks import SHORT

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(autouse=True, scope="module")
def small_slots(htcondor):
    """Wait for slots of earlier jobs to go: one with two CPUs would leave none for others."""
    end = time.monotonic() + 30
    while any(slot["SlotType"] == "Dynamic" for slot in htcondor.access_point().slots()):
        assert time.monotonic() < end
        time.sleep(0.1)


def note(folder, x, seconds=0.05):
    """Leave a line for each time that the call is made."""
    with Path(folder, f"made-{x}").open("a") as file:
        file.write("x")
    time.sleep(seconds)
    return x


def made(folder):
    """Return how often each call was made."""
    return Counter({int(f.name[5:]): len(f.read_text()) for f in folder.glob("made-*")})


def has_job(result):
    """Wait until a job has taken the call; return the job."""
    while result.job is None:
        time.sleep(0.02)
    return result.job


def test_every_call_is_made_once(pool, tmp_path):
    """Two runners that race for chunks never make the same one."""
    assert pool.starmap(note, [(tmp_path, x) for x in range(60)], chunksize=1) == list(range(60))
    assert made(tmp_path) == Counter(range(60))


def test_a_long_chunk_is_shared_out(make_pool, tmp_path):
    """A runner leaves half of its remaining calls to one that has nothing to do."""
    pool = make_pool(processes=2)
    long = [(tmp_path, x, 0.3 if x < 8 else 0) for x in range(64)]  # the first chunk has 8

    def make(folder, x, seconds):
        note(folder, x, seconds)
        return os.getpid()

    pids = pool.starmap(make, long)
    assert len(set(pids[:8])) == 2
    assert made(tmp_path) == Counter(range(64))


def test_a_chunk_whose_size_was_chosen_stays_whole(make_pool):
    """With ``chunksize=8`` one process makes all 8 calls of a chunk."""
    pool = make_pool(processes=2)

    def make(seconds):
        time.sleep(seconds)
        return os.getpid()

    pids = pool.map(make, [0.2] * 8 + [0] * 8, chunksize=8)
    assert len(set(pids[:8])) == 1


def test_what_a_killed_runner_has_left_to_others_is_made(make_pool):
    """Only the calls that it had kept fail with it."""
    pool = make_pool(processes=2)

    def make(x):
        time.sleep(0.3 if x < 8 else 0)
        if x == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    result = pool.map_async(make, range(64))  # chunks of 8
    with pytest.raises(condorpool.JobFailedError, match="signal 9"):
        result.get(timeout=60)
    assert 1 in result._calls.errors
    assert max(result._calls.errors) < 7


def test_a_lingering_runner_makes_the_next_call(make_pool):
    """The same process makes both, without a new job."""
    pool = make_pool(processes=1)
    assert pool.apply(os.getpid) == pool.apply(os.getpid)


def test_a_runner_leaves_after_its_linger(make_pool, access_point):
    """Its slot is free then, and the next call gets another runner."""
    pool = make_pool(processes=1, linger=0.5)
    first = pool.apply(os.getpid)
    end = time.monotonic() + 20
    while access_point.query("true", ["ClusterId"]):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert pool.apply(os.getpid) != first


def test_a_runner_retires(make_pool):
    """After ``retire_after`` seconds it takes no more chunks, and another runner does."""
    pool = make_pool(processes=1, retire_after=0.5)
    calls = [lambda: (time.sleep(0.3), os.getpid())[1]] * 5
    pids = pool.map(lambda call: call(), calls, chunksize=1)
    assert 1 < len(set(pids)) < 5


def test_a_vacated_runner_makes_its_chunk_again(make_pool, htcondor, tmp_path):
    """Eviction is no failure: the job runs again, or another takes the chunk."""
    pool = make_pool(processes=1)
    result = pool.apply_async(note, (tmp_path, 1, 2))
    job = has_job(result)
    while not made(tmp_path):  # the job has the chunk a moment before it makes the call
        time.sleep(0.02)
    subprocess.run(
        [htcondor.installation.bin / "condor_vacate_job", "-fast", job.id],
        env={**os.environ, **htcondor.environment()}, check=True, capture_output=True,
    )  # fmt: skip
    assert result.get(timeout=100) == 1
    assert made(tmp_path) == Counter({1: 2})


def test_a_killed_runner_fails_its_chunk_alone(make_pool, tmp_path):
    """A call that kills its process fails; another runner makes the others."""
    pool = make_pool(processes=1)

    def deadly(x):
        if x == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    result = pool.map_async(deadly, range(4), chunksize=1)
    with pytest.raises(condorpool.JobFailedError, match="signal 9"):
        result.get(timeout=60)
    assert [result._calls.values[x] for x in (0, 2, 3)] == [0, 2, 3]
    assert list(result._calls.errors) == [1]


def test_a_removed_runner(make_pool):
    """Removing the job of a call ends the call with an error."""
    pool = make_pool(processes=1)
    result = pool.apply_async(time.sleep, (60,))
    assert has_job(result).remove()
    with pytest.raises(condorpool.JobRemovedError):
        result.get(timeout=30)
    assert pool.apply(abs, (-1,)) == 1


def test_removing_a_result_takes_its_chunks_back(make_pool, tmp_path):
    """Calls that no job has are never made; other results are not touched."""
    pool = make_pool(processes=1)
    other = pool.apply_async(time.sleep, (0.7,))
    result = pool.starmap_async(note, [(tmp_path, x) for x in range(5)], chunksize=1)
    assert result.remove() == 5
    with pytest.raises(condorpool.JobRemovedError, match="taken back"):
        result.get(timeout=30)
    assert other.get(timeout=30) is None
    assert not made(tmp_path)


@pytest.mark.parametrize("arguments", [{}, {"maxtasksperchild": 1}])
def test_removing_counts_calls(make_pool, tmp_path, arguments):
    """However many of them a job takes at a time: those that it has, and those that wait."""
    pool = make_pool(processes=1, **arguments)
    result = pool.starmap_async(note, [(tmp_path, x, 600) for x in range(10)], chunksize=3)
    while not made(tmp_path):
        time.sleep(0.02)
    assert result.take_back() == 7
    assert result.take_back() == 0
    other = pool.map_async(time.sleep, [600] * 5, chunksize=2)
    assert (result.remove(), other.remove()) == (3, 5)
    result.wait(30), other.wait(30)
    assert (result.counts(), other.counts()) == ((0, 0, 10, 0, 0, 0), (0, 0, 5, 0, 0, 0))
    assert (result.remove(), result.take_back()) == (0, 0)


def test_a_held_runner_keeps_its_chunk(make_pool, tmp_path):
    """No other job takes the chunk; when the job is released, it makes the chunk again."""
    pool = make_pool(processes=2)
    result = pool.apply_async(note, (tmp_path, 1, 1.5))
    assert has_job(result).hold()
    with pytest.raises(condorpool.JobHeldError):
        result.get(timeout=30)
    assert result.release() == 1
    assert result.get(timeout=60) == 1


def test_a_suspended_runner_continues(make_pool, access_point):
    """The wait continues, and the call ends when the job is continued."""
    pool = make_pool(processes=1)
    result = pool.apply_async(time.sleep, (1,))
    job = has_job(result)
    schedd = access_point._schedd()
    schedd.act(htcondor2.JobAction.Suspend, [job.id])
    while job.state is not condorpool.JobState.SUSPENDED:
        time.sleep(0.05)
    with pytest.raises(condorpool.ResultTimeoutError):
        result.get(timeout=1.5)
    schedd.act(htcondor2.JobAction.Continue, [job.id])
    assert result.get(timeout=30) is None


def test_the_event_log_is_deleted(make_pool, tmp_path):
    """Outcomes are still found, on disk and by the queue, but later."""
    pool = make_pool(processes=1)
    result = pool.map_async(time.sleep, [0.3] * 3, chunksize=1)
    (log,) = tmp_path.glob(".condorpool-*/events.log")
    log.unlink()
    assert result.get(timeout=60) == [None] * 3


def test_a_runner_that_ends_without_an_event_is_replaced(make_pool, access_point, tmp_path):
    """The event log is deleted, so no event says that the next call needs a new runner."""
    pool = make_pool(processes=1, linger=0.5)
    first = pool.apply(os.getpid)
    (log,) = tmp_path.glob(".condorpool-*/events.log")
    log.unlink()
    end = time.monotonic() + 20
    while access_point.query("true", ["ClusterId"]):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert pool.apply_async(os.getpid).get(timeout=60) != first


def test_a_call_that_forks(pool):
    """The child returns from the call too, and must not write a second outcome."""

    def forks():
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return child

    assert pool.apply(forks) > 0
    assert pool.apply(abs, (-2,)) == 2


def test_a_call_that_spoils_its_process(pool, tmp_path):
    """The next call still has its folder and its standard output."""

    def spoil():
        os.chdir("/")
        os.close(1)
        sys.stdout.close()

    pool.apply(spoil)
    result = pool.apply_async(lambda: print(os.getcwd()))
    result.get()
    assert result.stdout() == f"{tmp_path}\n"


def test_what_each_call_prints(pool):
    """Every result has its own output, in order, also of calls that raise."""
    one = pool.map_async(print, ["a", "b"], chunksize=1)
    two = pool.apply_async(lambda: (print("c"), sys.stderr.write("d"), 1 / 0))
    one.wait()
    two.wait()
    assert (one.stdout(), two.stdout(), two.stderr()) == ("a\nb\n", "c\n", "d")


def test_what_is_printed_is_known_by_call(make_pool):
    """Through whatever it was written, also by short calls; and a job's output has it, too."""

    def speak(x):
        if x % 4 == 1:
            print("printed", x)
        elif x % 4 == 2:
            os.write(1, b"written %d\n" % x)
        elif x % 4 == 3:
            sys.stderr.write(f"error {x}\n")
            raise ValueError(x)

    pool = make_pool(processes=1)
    result = pool.map_async(speak, range(100), chunksize=50)
    one = pool.apply_async(os.system, ("echo from a child",))
    one.get(timeout=60)
    result.wait(60)
    texts = {1: "printed {}\n", 2: "written {}\n", 3: "error {}\n"}
    expected = {x: texts[x % 4].format(x) for x in range(100) if x % 4}
    assert result.printed() == expected
    assert one.printed() == {0: "from a child\n"}
    assert "call 1 of speak:\nprinted 1\ncall 2 of speak:\nwritten 2\n" in one.job.stdout()
    assert one.job.stdout().endswith("system:\nfrom a child\n")
    assert "call 3 of speak:\nerror 3\n" in one.job.stderr()
    assert "condorpool-outcome" not in one.job.log()


def test_of_much_text_the_end_is_kept(pool):
    """The text of each call says how much of it is missing."""
    result = pool.map_async(lambda size: print("x" * size), [5, 3 << 20, 7], chunksize=3)
    result.wait(60)
    first, second, third = result.printed().values()
    assert first == "(6 bytes before this were not kept)\n"
    line, text = second.split("\n", 1)
    assert line.startswith("(2,0")
    assert text == "x" * ((1 << 20) - 9) + "\n"
    assert third == "x" * 7 + "\n"


def test_an_iterator_has_the_latest_text(pool):
    """And the text of a call that is made again is that of the last time."""
    iterator = pool.imap(print, "abc")
    list(iterator)
    assert iterator.printed() == {0: "a\n", 1: "b\n", 2: "c\n"}


def test_the_seconds_of_calls_are_known(pool):
    """Short ones share a mean."""
    result = pool.map_async(lambda s: s and time.sleep(s), [0, 0.3, 0, 0.1, 0], chunksize=5)
    result.wait(60)
    (chunk,) = result.chunks()
    zero, long, again, shorter, last = chunk.seconds_of_calls
    assert long >= 0.3
    assert 0.1 <= shorter < long + shorter <= chunk.seconds
    assert zero == again == last <= SHORT


def test_nothing_is_shared(make_pool):
    """With file transfer all files go through chirp."""
    pool = make_pool(submitkwargs={"should_transfer_files": "YES"})
    data = os.urandom(5 << 20)
    assert pool.map(bytes.swapcase, [data] * 3, chunksize=1) == [data.swapcase()] * 3


def test_a_site_without_chirp(make_pool, tmp_path):
    """Every chunk gets a job of its own, with the same results."""
    with personal.start(tmp_path / "own", cpus=2, settings={"ENABLE_CHIRP": "False"}) as own:
        pool = make_pool(personal=own)
        result = pool.map_async(note, [tmp_path], chunksize=1)
        with pytest.raises(TypeError):
            result.get(timeout=60)
        assert pool.starmap(note, [(tmp_path, x) for x in range(4)], chunksize=2) == [0, 1, 2, 3]
        assert not pool._workload.sessions.get(tmp_path).staffing.has_chirp
        pool.close()


@pytest.mark.parametrize("tasks", [None, 1])
def test_a_pool_does_not_wait_for_anothers_lingering_runners(make_pool, tasks):
    """Lingering runners exit when another pool needs their slots."""
    one, two = make_pool(linger=600), make_pool(maxtasksperchild=tasks)
    one.map(time.sleep, [0.2] * 4, chunksize=1)
    assert two.map_async(time.sleep, [0.2] * 4, chunksize=1).get(timeout=120) == [None] * 4


@pytest.mark.parametrize("is_same", [False, True], ids=["pools", "requirements"])
def test_lingering_runners_leave_for_jobs_that_do_not_fit_their_slots(make_pool, htcondor, is_same):
    """The display does not say that the pool is full meanwhile; later calls work as before."""
    one = make_pool(linger=60)
    two = one if is_same else make_pool(linger=60)
    one.map(time.sleep, [0.2] * 4, chunksize=1)
    memory = int(1.5 * htcondor.access_point().memory)
    result = two.map_async(time.sleep, [0.2], memory=memory, progress=None)
    meter, notes, end = Meter(result._calls), set(), time.monotonic() + 40
    while not result.ready():
        assert time.monotonic() < end
        notes.add(meter.read().note)
        time.sleep(0.1)
    assert "in use" not in str(notes)
    assert one.map_async(abs, range(4), chunksize=1).get(timeout=40) == [0, 1, 2, 3]


def test_the_work_goes_on_without_the_client(htcondor, access_point, tmp_path):
    """The chunks of a killed client are all made; then the runners exit by themselves."""
    code = (
        "import condorpool, os, signal, sys, time\n"
        f"pool = condorpool.Pool(2, personal={str(htcondor.folder)!r}, linger=1)\n"
        "pool.map_async(time.sleep, [0.3] * 8, chunksize=1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (folder,) = tmp_path.glob(".condorpool-*")
    end = time.monotonic() + 60
    while access_point.query("true", ["ClusterId"]):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert len(list(folder.glob("1-*.outcome"))) == 8
    assert not list(folder.glob("1.taken/*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_the_disk_is_full_when_an_outcome_is_written(make_pool, tmp_path):
    """The call fails with the reason; calls with smaller values do not."""
    with tmpfs(tmp_path / "small", "3m") as folder:
        pool = make_pool(processes=1, submitdir=folder)
        assert pool.apply(len, (b"123",)) == 3
        with pytest.raises(condorpool.JobFailedError, match="No space left"):
            pool.apply(bytes, (1 << 22,))
        assert pool.apply(len, (b"12",)) == 2
        pool.close()


def test_a_job_that_is_held_before_it_takes_anything(make_pool, access_point):
    """It is shown as the job of the call that waits for it, and removed with that call."""
    commands = {"transfer_input_files": "/no/such/file", "should_transfer_files": "YES"}
    pool = make_pool(submitkwargs=commands)
    result = pool.apply_async(abs, (1,))
    with pytest.raises(condorpool.JobHeldError, match="/no/such/file"):
        result.get(timeout=60)
    (job,) = result.jobs
    assert job.state is condorpool.JobState.HELD
    assert result.remove() == 1
    with pytest.raises(condorpool.JobRemovedError, match="/no/such/file"):
        result.get(timeout=10)
    assert result.jobs[0].id == job.id
    end = time.monotonic() + 10
    while access_point.query("JobStatus == 5", ["ClusterId"]):
        assert time.monotonic() < end
        time.sleep(0.05)


class Heavy:
    """An object that counts how often it is rebuilt in a process."""

    lives = 0

    def __init__(self):
        self.data = bytes(3 << 20)

    def __setstate__(self, state):
        type(self).lives += 1
        self.__dict__.update(state)


def weigh(heavy, _):
    """Return the size of the object, and how often this process has rebuilt it."""
    return len(heavy.data), type(heavy).lives


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param({}, id="shared-file-system"),
        pytest.param({"should_transfer_files": "YES"}, id="file-transfer"),
    ],
)
@pytest.mark.parametrize("one_chunk", [None, 1], ids=["runners", "plain-jobs"])
def test_a_shared_object_is_sent_once_per_job(make_pool, tmp_path, commands, one_chunk):
    """Calls get the object itself, and their chunks stay small."""
    pool = make_pool(processes=1, maxtasksperchild=one_chunk, submitkwargs=commands)
    heavy = pool.share(Heavy())
    result = pool.starmap_async(weigh, [(heavy, x) for x in range(4)], chunksize=2)
    assert result.get(timeout=90) == [(3 << 20, 1)] * 4
    assert heavy.value.data


def test_a_shared_object_belongs_to_its_pool(make_pool):
    """A call of another pool that uses it raises."""
    mine, other = make_pool(), make_pool()
    with pytest.raises(LookupError, match="does not belong to this pool"):
        other.apply(len, (mine.share([1]),))


def test_a_runner_makes_no_calls_that_it_has_left_to_others(make_pool):
    """It stops at its new end, also when its calls turn out to be short."""
    pool = make_pool(processes=2)

    def short_in_the_end(x):
        time.sleep(0.01 if x % 2500 < 10 else 0)
        return x

    assert pool.map_async(short_in_the_end, range(20_000)).get(timeout=60) == list(range(20_000))
