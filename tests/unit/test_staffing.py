"""Staffing: idle runners make room for other sessions of the process."""

from __future__ import annotations

import weakref

from condorpool.engine import staffing
from condorpool.engine.state import SessionState
from condorpool.engine.submitdir import SubmitDir


def test_no_room_is_made_for_a_session_that_has_ended(tmp_path, monkeypatch):
    """What was known last of its jobs would be taken for a need that never ends."""
    monkeypatch.setattr(staffing, "_all", weakref.WeakSet())
    ours, ended = (
        staffing.Staffing(SessionState(SubmitDir(tmp_path), None, 0.0)) for _ in range(2)
    )
    dismissed = []

    def dismiss(self):
        dismissed.append(self)

    monkeypatch.setattr(staffing.Staffing, "dismiss_idle", dismiss)
    monkeypatch.setattr(staffing.Staffing, "waits_for_slots", lambda self: self is ended)
    ours.make_room()
    assert dismissed == [ours]
    ended.retire()
    ours.make_room()
    assert dismissed == [ours]
