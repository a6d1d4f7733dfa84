"""An event log that cannot be read for a while, as on a network file system that hangs."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

import condorpool
from condorpool.access.eventlog import EventLog
from condorpool.display import html
from condorpool.engine.tracker import tracker


@contextlib.contextmanager
def blocked_reads(pool):
    """Have reads of a pool's event log wait until the end of the block."""
    (session,) = pool._workload.sessions
    read, begun, end = EventLog.new_events, threading.Event(), threading.Event()

    def blocked(self):
        if self is session.follower._log:
            begun.set()
            end.wait(30)
        yield from read(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventLog, "new_events", blocked)
        yield lambda: begun.wait(30)
        end.set()


def test_nothing_waits_for_a_read(pool):
    """Time-outs hold, and displays work; what was written meanwhile is read later."""
    result = pool.map_async(abs, [-1], chunksize=1)
    assert result.get(timeout=60) == [1]
    with blocked_reads(pool) as is_blocked:
        result = pool.map_async(time.sleep, [0.01] * 3, chunksize=1)
        assert is_blocked()
        begun = time.monotonic()
        for _ in range(3):
            with pytest.raises(condorpool.ResultTimeoutError):
                result.get(timeout=0.2)
        assert "0 of 3" in repr(pool.last)
        assert result.counts().total == 3
        assert "sleep" in html([result._calls])
        assert pool.map_async(abs, [-2]).ready() is False  # calls can be posted
        assert time.monotonic() - begun < 10
    assert result.get(timeout=60) == [None] * 3


def test_the_end_does_not_wait_for_a_read(pool, monkeypatch):
    """What can be closed is closed; the thread that reads closes the log, and ends."""
    monkeypatch.setattr("condorpool.engine.follower.READ_LAG", 0.2)
    assert pool.apply(abs, (-1,)) == 1
    (session,) = pool._workload.sessions
    thread = tracker()._thread
    with blocked_reads(pool) as is_blocked:
        assert is_blocked()
        begun = time.monotonic()
        pool.close()
        assert session.is_closed
        assert time.monotonic() - begun < 10
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
