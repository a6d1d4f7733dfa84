"""Crews, events of unknown clusters, and the end of the tracker's thread, without HTCondor."""

from __future__ import annotations

from pathlib import Path

import pytest

from condorpool.access.accesspoint import AccessPoint
from condorpool.engine.description import JobOptions
from condorpool.engine.follower import Follower
from condorpool.engine.staffing import Staffing
from condorpool.engine.state import SessionState
from condorpool.engine.submitdir import SubmitDir
from condorpool.engine.tracker import Tracker

#: The event that a job was submitted, as HTCondor writes it.
SUBMITTED = """000 ({:03d}.000.000) 2026-01-02 03:04:05 Job submitted from host: <127.0.0.1:1>
...
"""


@pytest.fixture
def state(tmp_path):
    """Return the state of a session whose access point is never contacted."""
    directory = SubmitDir.new(tmp_path)
    directory.make()
    yield SessionState(directory, AccessPoint("none", "", ""), 0.0)
    directory.remove()


@pytest.fixture
def staffing(state):
    """Return the staffing of the session."""
    return Staffing(state)


@pytest.fixture
def follower(state, staffing):
    """Return the follower of the session."""
    follower = Follower(state, staffing)
    yield follower
    follower.close()


def test_a_crew_may_be_dismissed_at_any_moment(state, staffing):
    """Another thread may delete it between any two looks."""

    class Vanishing(dict):
        def __contains__(self, key):
            return super().__contains__(key) and bool(self.pop(key))

    with state.changed:
        staffing._crews = Vanishing()
    first = staffing.crew(1, "f", JobOptions())
    assert staffing.crew(2, "f", JobOptions()) is first


def test_events_wait_for_a_submission_only(state, staffing, follower):
    """Those of clusters that stay unknown are dropped, and wake no thread again."""
    woken = []
    state.changed.notify_all = lambda: woken.append(1)

    def pump(*numbers):
        with Path(state.directory.log).open("a") as log:
            log.writelines(SUBMITTED.format(number) for number in numbers)
        woken.clear()
        follower.pump()
        return [event.cluster for event in follower._early]

    assert pump(7) == []
    with state.changed:
        staffing.submissions += 1
    assert pump(8, 9) == [8, 9]
    assert pump() == [8, 9]
    with state.changed:
        staffing.submissions -= 1
    assert (pump(), bool(woken)) == ([], True)
    assert (pump(), woken) == ([], [])


def test_a_thread_that_was_replaced_may_fail(monkeypatch, caplog):
    """Its error is logged, and the sessions of the new thread are not affected."""
    tracker = Tracker()

    def fail(_):
        tracker._watch = "that of another thread"
        raise RuntimeError("the real end")

    monkeypatch.setattr(tracker, "_follow", fail)
    tracker._run("that of this thread")
    assert "the real end" in caplog.text
    assert tracker._fault is None
