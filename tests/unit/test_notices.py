"""Notices to users."""

from __future__ import annotations

import pytest

from condorpool.display import notices


@pytest.mark.parametrize(
    ("func", "seed", "is_reported"),
    [
        pytest.param(hash, None, True, id="hash"),
        pytest.param(lambda x: hash(x) % 8, None, True, id="calls-hash"),
        pytest.param(hash, "random", True, id="random-seed"),
        pytest.param(hash, "5", False, id="seed"),
        pytest.param(len, None, False, id="another"),
    ],
)
def test_calls_of_hash_are_reported_once(capsys, monkeypatch, func, seed, is_reported):
    """There is one notice, and none if PYTHONHASHSEED is set: jobs then use the same seed."""
    notices._warn_once.cache_clear()
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    if seed:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
    notices.warn_of_hash(func)
    notices.warn_of_hash(func)
    assert capsys.readouterr().err.count("PYTHONHASHSEED=0") == is_reported
