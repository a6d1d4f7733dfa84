"""What jobs and HTCondor write is shown without commands to terminals, and never read whole."""

from __future__ import annotations

import os
import sys
import time

import cloudpickle
import pytest

import condorpool
from condorpool.display import html, orders

cloudpickle.register_pickle_by_value(sys.modules[__name__])

EVIL = "evil \x1b]0;owned\x07 \u202e \u2066 \x9b2J \u2028 \x1b[31m \v end"

#: Bytes that a call prints; its file is sparse.
SIZE = 300_000_000


def check(*texts):
    """Check that texts can be shown."""
    for text in texts:
        assert "evil" in text
        assert all(letter.isprintable() or letter in "\n\t" for letter in text), ascii(text)


def test_hold_reasons(pool, access_point):
    """In errors, explanations, reprs and pages; programs read the reason as it is."""
    result = pool.apply_async(time.sleep, (600,))
    result.wait_to_start(60)
    assert access_point.act("hold", [result.job.id], EVIL) == 1
    with pytest.raises(condorpool.JobHeldError) as raised:
        result.get(timeout=60)
    error = raised.value
    check(str(error), repr(error), result.analyze(), html([result._calls]), pool._repr_html_())
    assert "\x1b" in error.reason
    assert "\x1b" in result.job.hold_reason
    result.remove()


def test_standard_error(make_pool, capsys):
    """In the error of a job that dies, and where calls print with ``echo=True``."""

    def die():
        os.write(2, f"{EVIL}\n\xff".encode("latin-1", "replace") + EVIL.encode())
        os._exit(3)

    def talk():
        print(f"{EVIL}\tx\n")

    pool = make_pool(echo=True)
    with pytest.raises(condorpool.JobFailedError) as raised:
        pool.apply(die)
    check(str(raised.value))
    assert "\x1b" in raised.value.stderr
    pool.apply(talk)
    out, _ = capsys.readouterr()
    check(out)
    assert out.endswith("\tx\n\n")
    assert pool.last.printed() == {0: f"{EVIL}\tx\n\n"}  # the text itself is as it was printed


def test_large_output(pool):
    """A text of any size costs only what is shown of it."""

    def fill():
        os.ftruncate(1, SIZE)
        os.lseek(1, 0, os.SEEK_END)
        os.write(1, b"\nthe end\n")

    result = pool.apply_async(fill)
    result.get(timeout=60)
    job = result.job
    assert job.stdout(tail=1) == result.stdout(tail=1) == "the end\n"
    (answer,) = orders.perform(result._calls, {"do": "log", "job": job.id}).values()
    assert answer["text"].endswith("\nthe end")
    assert " MB before this: " in answer["text"]
    assert len(answer["text"]) < 5 * orders.TAIL
    with pytest.raises(ValueError, match="tail=0: it must be at least 1"):
        job.stdout(tail=0)
    with pytest.raises(TypeError, match="tail must be a whole number"):
        result.stderr(tail="all")
