"""What travels between client and jobs may be large, damaged, or find no room: nothing is lost."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import cloudpickle
import numpy
import pytest
from disks import tmpfs
from waiting import until

import condorpool
from condorpool.cleaner import registry
from condorpool.engine import outcomes, payload, state
from condorpool.runner import container

cloudpickle.register_pickle_by_value(sys.modules[__name__])

BY_CHIRP = {"should_transfer_files": "YES"}

#: Whether the job sees the submit directory itself, or only HTCondor's channel to it.
WAYS = pytest.mark.parametrize(
    "way", ["IF_NEEDED", "YES"], ids=["shared-file-system", "file-transfer"]
)


def turned(array):
    """Return the array with its last number replaced by its size."""
    array[-1] = len(array)
    return array


def test_257_mib_there_and_back_by_chirp(make_pool):
    """HTCondor moves no file above 256 MiB at once."""
    pool = make_pool(processes=1, submitkwargs=BY_CHIRP)
    size = 257 << 20
    back = pool.apply(turned, (numpy.zeros(size >> 3),))
    assert back.nbytes == size
    assert back[-1] == size >> 3
    assert not back[:-1].any()


# -- damaged files ---------------------------------------------------------------------------


def flipped(data, place):
    """Return the data with another bit at a place."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def replace(path, kind):
    """Replace a file by something else."""
    moved = path.rename(path.with_suffix(".moved"))
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(moved)
    else:
        os.mkfifo(path)


#: What a file becomes, of its bytes; or which other thing it becomes.
DAMAGE = [
    (lambda data: data[:-1], "bytes instead of"),
    (lambda _: b"", "it is empty"),
    (lambda data: flipped(data, len(data) - 1), "checksum"),
    (lambda data: flipped(data, 30), "is damaged"),
    (lambda data: data.replace(b"payload-2", b"payload-1", 1), "another version of condorpool"),
    ("folder", "it is not a file"),
    ("link", "it is not a file"),
    ("pipe", "it is not a file"),
]


def damage(path, how):
    """Damage a file."""
    if callable(how):
        path.write_bytes(how(path.read_bytes()))
    else:
        replace(path, how)


def test_a_damaged_outcome_fails_its_calls_and_no_others(make_pool, monkeypatch):
    """They fail at once, whatever the damage, and can be made again."""
    pool = make_pool()
    look, how = outcomes.look_at, []

    def look_and_damage(path, job="", most=None):
        path = Path(path)
        if how and path.name.endswith("-2.outcome") and path.exists():
            damage(path, how.pop())
        return look(path, job, most)

    monkeypatch.setattr(outcomes, "look_at", look_and_damage)
    for kind, words in DAMAGE:
        how.append(kind)
        result = pool.starmap_async(numpy.full, [(3, x) for x in range(5)], chunksize=1)
        with pytest.raises(condorpool.JobFailedError, match=words) as caught:
            result.get(timeout=30)
        assert caught.value.job_id in {job.id for job in result.jobs}
        assert result.failed == [2]
        assert result.rerun() == 1
        assert [value[2] for value in result.get(timeout=30)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("what", ["chunk", "call", "shared"])
@WAYS
def test_what_is_damaged_before_a_job_reads_it_is_no_value(make_pool, monkeypatch, way, what):
    """The calls that need it fail at once; the job makes others."""
    pool = make_pool(processes=1, submitkwargs={"should_transfer_files": way})
    assert pool.apply(abs, (-1,)) == 1
    write = getattr(payload, f"write_{what}")

    def write_and_flip(path, *arguments):
        write(path, *arguments)
        path = Path(path)
        path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 1))

    with monkeypatch.context() as patch:
        patch.setattr(payload, f"write_{what}", write_and_flip)
        array = numpy.arange(5.0)
        if what == "shared":
            array = pool.share(array)
        result = pool.apply_async(numpy.sum, (array,))
        with pytest.raises(condorpool.JobFailedError, match=rf"\.{what} is damaged") as caught:
            result.get(timeout=30)
    assert caught.value.job_id == result.job.id
    assert pool.apply(numpy.sum, (numpy.arange(5.0),)) == 10.0
    assert pool.last.job.id == result.job.id


# -- what the client lacks for a while ---------------------------------------------------------


def test_the_client_has_no_memory_for_a_result(make_pool, monkeypatch, caplog):
    """That is said once; the outcome is read again until there is memory."""
    monkeypatch.setattr(state, "READ_INTERVAL", 0.1)
    pool = make_pool()
    made, tries = container.new_buffer, []

    def no_memory(size):
        tries.append(size)
        raise MemoryError

    monkeypatch.setattr(container, "new_buffer", no_memory)
    result = pool.map_async(abs, [-1, -2], chunksize=1)
    until(lambda: len(tries) > 4)
    assert not result.ready()
    monkeypatch.setattr(container, "new_buffer", made)
    assert result.get(timeout=30) == [1, 2]
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "Free memory in this process" in said
    assert ".outcome is read again" in said


def test_the_client_may_open_no_more_files(make_pool, caplog):
    """Outcomes that arrive meanwhile are read when it may."""
    pool = make_pool(processes=1)
    assert pool.apply(abs, (-1,)) == 1
    result = pool.map_async(slow, [1, 2, 3], chunksize=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.dup(1))
        until(lambda: "Too many open files" in caplog.text, 20)
        assert not result.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in opened:
            os.close(number)
    assert "Close files in this process" in caplog.text
    assert result.get(timeout=30) == [1, 2, 3]


def slow(x):
    """Return the argument after a moment."""
    time.sleep(0.3)
    return x


# -- no room, and no folder --------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """Mount a file system of ten megabytes."""
    with tmpfs(tmp_path / "small", "10m") as folder:
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
@WAYS
def test_there_is_no_room_for_a_result(make_pool, small, caplog, way):
    """It is said at once, and new calls are refused; when there is room, all go on."""
    pool = make_pool(processes=1, submitdir=small, submitkwargs={"should_transfer_files": way})
    assert pool.apply(abs, (-1,)) == 1
    filler = small / "filler"
    filler.write_bytes(bytes(4 << 20))  # there remains room for the client's small files
    result = pool.apply_async(bytes, (6 << 20,))
    until(lambda: "jobs cannot write their results" in caplog.text, 20)
    assert f"{small}" in caplog.text
    assert "Free space there" in caplog.text
    begun = time.monotonic()
    with pytest.raises(condorpool.SubmitError, match=r"No space left .*Nothing was submitted"):
        pool.map(abs, [1])
    assert time.monotonic() - begun < 5
    assert not result.ready()
    assert not list(small.glob(".condorpool-*/*.tmp"))
    filler.unlink()
    assert result.get(timeout=30) == bytes(6 << 20)
    assert pool.map(abs, [-1, -2]) == [1, 2]
    assert len(caplog.records) == 1


def test_the_folder_is_moved_while_a_job_runs(make_pool, tmp_path):
    """Its calls fail at once, and new ones are refused; what was made is in it."""
    pool = make_pool(processes=1)
    result = pool.map_async(slow, range(8), chunksize=1)
    until(lambda: result.calls_ended)
    (folder,) = tmp_path.glob(".condorpool-*")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(condorpool.JobFailedError, match=r"was moved to .*elsewhere") as caught:
        result.get(timeout=20)
    assert "Make these calls again in a new Pool" in str(caught.value)
    with pytest.raises(condorpool.SubmitError, match=r"was moved to .*elsewhere"):
        pool.map(abs, [1])
    shutil.rmtree(folder, ignore_errors=True)  # HTCondor may have made one for its log
    (tmp_path / "elsewhere").rename(folder)
    assert list(folder.glob("*-0.outcome"))


def test_what_is_made_in_place_of_a_moved_folder_is_deleted(make_pool, tmp_path):
    """HTCondor may make the folder again for its log; neither remains, nor an entry."""
    pool = make_pool(processes=1, jobkwargs={"cleanfailed": True})
    result = pool.map_async(slow, range(8), chunksize=1)
    until(lambda: result.calls_ended)
    (folder,) = tmp_path.glob(".condorpool-*")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(condorpool.JobFailedError, match="was moved"):
        result.get(timeout=20)
    folder.mkdir(exist_ok=True)  # as HTCondor does, if it has an event to write
    (folder / "events.log").touch()
    pool.close()
    until(lambda: folder not in {entry.path for entry in registry.everything()})
    assert not list(tmp_path.iterdir())
