"""Functions that only show what would be submitted write nothing."""

from __future__ import annotations

import pytest

from condorpool.cleaner import registry
from condorpool.interface.openpools import open_pools


@pytest.fixture
def written(tmp_path, state):
    """Return a function that lists where pools write: beside the submit directory, and the registry."""

    def look():
        return sorted([*tmp_path.rglob("*"), *registry.state().rglob("*")])

    return look


def test_a_submit_description(make_pool, tmp_path, written):
    """No folder is made, not even the submit directory."""
    pool = make_pool(submitdir=tmp_path / "new")
    before = written()
    planned = pool.submit_description(abs, 1000, memory="2GB")
    assert planned["request_memory"] == "2048MB"
    assert planned["initialdir"].startswith(f"{tmp_path}/new/.condorpool-")
    assert written() == before
    assert pool not in open_pools()


def test_a_submit_description_is_that_of_the_jobs(make_pool, tmp_path):
    """After calls were submitted, it names their submit directory."""
    pool = make_pool(processes=1)
    pool.apply(abs, (-1,))
    (directory,) = tmp_path.iterdir()
    assert pool.submit_description(abs)["initialdir"] == str(directory)
