"""Waits of tests."""

from __future__ import annotations

import time


def until(condition, seconds=60.0, message="the condition did not become true in time"):
    """Wait until a condition is true; return its value, or fail with this message."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(message)
        time.sleep(0.02)
    return found
