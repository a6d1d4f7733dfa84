"""Files that are not what was written: no damaged byte becomes a value."""

from __future__ import annotations

import errno
import os
import socket

import numpy
import pytest

import condorpool
from condorpool.engine import outcomes, payload, room
from condorpool.engine.records import BatchRecord
from condorpool.engine.submitdir import SubmitDir, made_name
from condorpool.runner import chirp, container
from condorpool.runner.container import DamagedError
from condorpool.runner.names import FULL
from condorpool.runner.outcomes import frames_of
from condorpool.values import plain


@pytest.fixture
def written(tmp_path):
    """A container with an array beside its pickle."""
    path = tmp_path / "x"
    container.write(str(path), {"end": 3}, container.dumps([numpy.arange(9.0), "text"]))
    return path


def test_every_flipped_bit_is_noticed(written):
    """The first line, what the file is about, pickle and arrays: each byte is covered."""
    whole = written.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            with pytest.raises(DamagedError, match=r"is damaged|another version"):
                container.unpacked(data, "x")


def test_every_flipped_bit_of_what_is_read_alone_is_noticed(written):
    """That is the first line and the first frame; the rest is checked when it is read."""
    whole, end = written.read_bytes(), 3
    begin = whole.index(b"\n") + 1 + int(whole.partition(b"frames=")[2].partition(b",")[0])
    for place in range(begin):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        written.write_bytes(data)
        with pytest.raises(DamagedError):
            payload.end_of(written, 0)
    written.write_bytes(whole[:begin] + bytes(len(whole) - begin))
    assert payload.end_of(written, 0) == end
    with pytest.raises(DamagedError, match="checksum"):
        container.read(str(written))


def test_every_truncated_file_is_noticed(written):
    """It may end anywhere, also where a frame ends; or have more than was written."""
    whole = written.read_bytes()
    for size in range(len(whole)):
        written.write_bytes(whole[:size])
        for read in (container.read, container.read_about):
            with pytest.raises(DamagedError, match="is damaged"):
                read(str(written))
    written.write_bytes(whole + b"\0")
    with pytest.raises(DamagedError, match=f"{len(whole) + 1} bytes instead of {len(whole)}"):
        container.read(str(written))


@pytest.mark.parametrize("size", [100, 5_000_000])
def test_frames_that_change_places_are_noticed(tmp_path, size):
    """Also large ones, which are read into memory of another kind."""
    path = tmp_path / "x"
    container.write(str(path), {}, [b"a" * size, b"b" * size])
    whole = path.read_bytes()
    path.write_bytes(whole[: -2 * size] + whole[-size:] + whole[-2 * size : -size])
    with pytest.raises(DamagedError, match="checksum"):
        container.read(str(path))


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "socket"])
def test_what_is_no_file_is_not_opened(written, tmp_path, kind):
    """To open a named pipe would wait for ever."""
    other = written.rename(tmp_path / "y")
    if kind == "folder":
        written.mkdir()
    elif kind == "link":
        written.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(written)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(written))
    for read in (container.read, container.read_about):
        with pytest.raises(DamagedError, match="is not a file"):
            read(str(written))


def test_a_file_of_another_version_is_named(written):
    """It is not called damaged."""
    written.write_bytes(b"condorpool-payload-1 python=3.11 frames=1\nN")
    with pytest.raises(DamagedError, match="was written by another version of condorpool"):
        container.read(str(written))


def test_the_sum_is_the_same_however_the_frames_are_held(tmp_path):
    """Bytes, arrays of any kind and views of memory."""
    column = numpy.asfortranarray(numpy.arange(12.0).reshape(3, 4))
    outcomes, frames = frames_of([(column, ""), (memoryview(b"abc").tobytes(), "")])
    container.write(str(tmp_path / "x"), {"calls": outcomes}, frames)
    assert (container.loads(container.read(str(tmp_path / "x"))[1]) == column).all()


# -- outcomes ------------------------------------------------------------------------------


@pytest.fixture
def outcome(tmp_path):
    """An outcome of two calls, each with an array."""
    calls, frames = frames_of([(numpy.arange(3.0), ""), (numpy.ones(3), "")])
    about = {"calls": calls, "count": 2, "host": "h", "started": 0.0, "seconds": 0.0}
    path = tmp_path / "1-0.outcome"
    container.write(str(path), about | {"job": "3.4"}, frames)
    assert (outcomes.read(path).values[0] == numpy.arange(3.0)).all()
    return path


def test_a_damaged_outcome_is_an_error_of_its_calls(outcome):
    """Whatever bit is flipped, no value comes out of it."""
    whole = outcome.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        outcome.write_bytes(data)
        error = outcomes.read(outcome)
        assert isinstance(error, condorpool.JobFailedError)
        assert "the file with its outcome" in str(error)
    assert str(outcome) in str(error)  # of which the beginning is whole
    assert error.job_id == "3.4"


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_what_cannot_be_read_now_is_no_outcome(outcome, monkeypatch, error):
    """It may be read later."""
    report = outcomes.look_at(outcome)
    for place in (container, "opened"), (container, "loads"):
        with monkeypatch.context() as patch:
            patch.setattr(*place, lambda *_: (_ for _ in ()).throw(error))
            if isinstance(error, MemoryError) or place[1] == "opened":
                with pytest.raises(type(error)):
                    report.outcome()
    assert not report.outcome().errors
    outcome.unlink()
    assert isinstance(report.outcome(), condorpool.JobFailedError)
    assert outcomes.look_at(outcome) is None


# -- parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [0, 0], [3, 0, 4], [10], [11], [25, 1], [1] * 21, [9, 9, 2]])
def test_parts_are_whole_and_not_too_large(monkeypatch, sizes):
    """A small frame does not cost an operation of its own, and none of data is sent."""
    monkeypatch.setattr(chirp, "PART", 10)
    frames = [bytes([n]) * size for n, size in enumerate(sizes)]
    groups = list(chirp.grouped(frames))
    assert b"".join(bytes(view) for _, group in groups for view in group) == b"".join(frames)
    assert [size for size, _ in groups] == [sum(map(len, group)) for _, group in groups]
    assert all(size == 10 for size, _ in groups[:-1])
    assert all(groups)
    assert len(groups) == -(-sum(sizes) // 10)


# -- room ----------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path):
    """A submit directory with a crew."""
    made = SubmitDir.new(tmp_path)
    made.make()
    made.make_crew(1)
    yield made
    made.remove()


def test_a_runner_that_finds_no_room_is_believed_for_a_while(directory):
    """The times are those of the disk, whose clock may differ; a runner may end while it waits."""
    said = directory.path / made_name(1) / FULL
    assert room.trouble(directory, [1]) is None
    said.touch()
    assert "No space left" in str(room.trouble(directory, [1]))
    assert room.trouble(directory, [2]) is None
    now = said.stat().st_mtime
    os.utime(said, (now, now - 60))
    assert room.trouble(directory, [1], probes=True) is None


def test_a_folder_that_cannot_be_looked_at_is_not_gone(directory, monkeypatch):
    """Its server may be away."""
    assert directory.is_in_place
    for error, is_in_place in ((errno.ESTALE, True), (errno.EIO, True), (errno.ENOENT, False)):
        with monkeypatch.context() as patch:
            raised = OSError(error, os.strerror(error))
            patch.setattr(os, "lstat", lambda _, raised=raised: (_ for _ in ()).throw(raised))
            found = directory.is_in_place
        assert found is is_in_place


def test_an_outcome_in_the_place_of_another_is_noticed(tmp_path):
    """It is whole, but its values are those of other calls."""
    about = {"host": "h", "calls": None, "count": 1, "chunk": "1-0", "started": 0.0, "seconds": 0.0}
    for name in ("1-0", "1-6"):
        container.write(str(tmp_path / f"{name}.outcome"), about, container.dumps([7]))
    assert outcomes.read(tmp_path / "1-0.outcome").values == [7]
    assert not isinstance(outcomes.read(tmp_path / "1-6.outcome"), outcomes.Outcome)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "Free space there, or choose another place"),
        (errno.EDQUOT, "Free space there, or choose another place"),
        (errno.EROFS, "Nothing was submitted. Choose another place"),
        (errno.EMFILE, "Nothing was submitted. Close files in this process."),
        (errno.ENOMEM, "Nothing was submitted. Free memory in this process."),
    ],
)
def test_what_cannot_be_written_has_its_own_cure(directory, number, cure):
    """Another place has no more descriptors or memory."""
    with pytest.raises(condorpool.SubmitError) as caught, directory.explained():
        raise OSError(number, os.strerror(number))
    assert cure in str(caught.value)


def test_every_flipped_bit_of_a_record_is_noticed():
    """Another number of a part would give calls the values of others."""
    record = BatchRecord(crew=1, title="é", calls=6, parts=[(0, 2, 0), (3, 6, 3)])
    whole = str(record).encode()
    assert BatchRecord.parse(whole) == BatchRecord.parse(whole.partition(b"\n")[0])
    assert BatchRecord.parse(whole).parts == ((0, 2, 0), (3, 6, 3))
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            with pytest.raises(plain.PlainError):
                BatchRecord.parse(bytes(data))
