"""Texts of any size are held once; of their end no more is read than is shown."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from condorpool.engine import texts
from condorpool.engine.submitdir import SubmitDir
from condorpool.engine.texts import Text
from condorpool.values.text import size_of

#: Bytes of the file; it is sparse, and has no line break before its end.
SIZE = 300_000_000

MEMORY = """
import sys
from pathlib import Path
from condorpool.engine.submitdir import SubmitDir
from condorpool.engine.texts import Text

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

folder, size = Path(sys.argv[1]), int(sys.argv[2])

def text():
    return Text(["call 1:\\n", range(size)], folder / "out")

before = peak()
assert len(text().shown(20_000)) < 20_200
assert text().lines(2) == "\\0" * (1_048_576 - 5) + "end\\n" + "\\n"
assert SubmitDir(folder).tail("out") == "end"
print(peak() - before)
assert len(text().whole()) == size + 8
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a folder with a large file."""
    folder = tmp_path_factory.mktemp("large")
    with (folder / "out").open("wb") as file:
        file.truncate(SIZE - 5)
        file.seek(0, 2)
        file.write(b"end\n\n")
    return folder


def test_a_large_text_is_held_once(large):
    """And its end takes no memory to speak of."""
    command = [sys.executable, "-c", MEMORY, str(large), str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    of_end, of_whole = map(int, done.stdout.split())
    assert of_end < 0.1 * SIZE
    assert of_whole < 1.25 * SIZE


def test_displays_say_what_is_before(large):
    """With the file, if it is there."""
    path = large / "out"
    shown = Text([range(SIZE)], path).shown(10)
    assert shown == f"… 299 MB before this: {path}\n" + "\0" * 5 + "end\n\n"
    assert Text(["a" * 5_000, "b"]).shown(2) == "… 4 KB before this\nab"
    assert Text(["ab"]).shown(2) == "ab"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("aü".encode() * 2, "üaü"),
        (b"a\x80\x80\x80\x80\x80", "�" * 5),
        (b"\xff\xfe\xfd\xfc\xfb\xfa", "�" * 5),
        (b"abcdef", "bcdef"),
        (b"a", "a"),
        (b"", ""),
    ],
    ids=["characters", "no character", "no UTF-8", "ascii", "short", "empty"],
)
def test_bytes_are_cut_between_characters(tmp_path, data, expected):
    """What is not UTF-8 is marked."""
    (tmp_path / "out").write_bytes(data)
    found, before = Text([range(len(data))], tmp_path / "out").end(5)
    assert found in {expected, expected[3:]}  # bytes that only continue a character may be missing
    assert before == max(0, len(data) - 5)


def test_characters_across_pieces(tmp_path, monkeypatch):
    """A character is whole wherever a piece of the file ends."""
    text = "aü€\N{SNAKE}" * 9
    (tmp_path / "out").write_text(text, encoding="utf-8")
    size = len(text.encode())
    for piece in range(1, 9):
        monkeypatch.setattr(texts, "PIECE", piece)
        assert Text([range(size + 100)], tmp_path / "out").whole() == text
    assert Text([range(9)], tmp_path / "gone").whole() == ""


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb\nc", 2, "b\nc"),
        ("a", 5, "a"),
        ("", 1, ""),
        ("\n\n", 1, "\n"),
    ],
)
def test_last_lines(text, lines, expected):
    """A last line without a line break counts."""
    assert Text([text]).lines(lines) == expected


def test_sizes_are_rounded_down():
    """None is shown as larger than it is."""
    sizes = (0, 999, 1_000, 999_999, 1_000_000, 999_967_232, 10**9, 5 * 10**12)
    words = "0 bytes,999 bytes,1 KB,999 KB,1 MB,999 MB,1 GB,5,000 GB"
    assert [*map(size_of, sizes)] == words.replace("5,000", "5;000").replace(",", "|").replace(
        ";", ","
    ).split("|")


def test_the_events_of_a_job_are_read_line_by_line(tmp_path):
    """Of a log with those of many jobs; what runners announce is not among them."""
    event = "{} ({:03d}.{:03d}.000) 2026-01-01 00:00:00 {}\n\tdetail ...\n...\n"
    log = [event.format("001", 1, n % 50, "Job executing") for n in range(100)]
    log.insert(7, event.format("008", 1, 3, "condorpool-outcome 1-2"))
    directory = SubmitDir(tmp_path)
    assert directory.events(["1.3"]) is None
    Path(directory.log).write_text("".join(log))
    assert directory.events(["1.3"]) == event.format("001", 1, 3, "Job executing") * 2
    assert directory.events(["1.99"]) is None


@pytest.mark.parametrize("text", ["x" * 100_000, "\x1b[" * 50_000, "a\r" * 50_000, "\0" * 100_000])
def test_cleaning_takes_no_time(text):
    """Whatever the text, with or without line breaks."""
    from condorpool.values.text import left_by_terminal

    begun = time.process_time()
    for _ in range(3):
        left_by_terminal(text)
    assert time.process_time() - begun < 2
