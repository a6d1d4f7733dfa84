"""Lines that users are owed."""

from __future__ import annotations

import pytest

from condorpool.display import notices


@pytest.mark.parametrize(
    ("func", "seed", "told"),
    [
        pytest.param(hash, None, True, id="hash"),
        pytest.param(lambda x: hash(x) % 8, None, True, id="calls-hash"),
        pytest.param(hash, "random", True, id="random-seed"),
        pytest.param(hash, "5", False, id="seed"),
        pytest.param(len, None, False, id="another"),
    ],
)
def test_calls_of_hash_are_told_once(capsys, monkeypatch, func, seed, told):
    """Unless the notebook has a seed, which jobs then have, too."""
    notices._tell_of_hashes.cache_clear()
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    if seed:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
    notices.mind_hashes(func)
    notices.mind_hashes(func)
    assert capsys.readouterr().err.count("PYTHONHASHSEED=0") == told
