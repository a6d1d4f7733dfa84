"""What is made of the bindings' errors."""

from __future__ import annotations

from condorpool.access.accesspoint import AccessPoint
from condorpool.values.exceptions import HTCondorError, VersionSkewError


def place():
    """An access point that nobody asks."""
    return AccessPoint("ap.example", "<127.0.0.1:1>", "", "$CondorVersion: 23.9.6 $")


def test_version_skew_is_told_with_its_cure():
    """Both versions are named, and what to set or install."""
    words = "AUTHENTICATE:1004|FS:1004:Directory name doesn't match server's network address"
    error = place()._fault("submit", RuntimeError(words))
    assert isinstance(error, VersionSkewError)
    for told in ("23.9.6", "pip install", "SEC_FS_ENFORCE_CHANNEL_BINDING = False"):
        assert told in str(error)


def test_other_faults_name_the_access_point():
    """With what was tried and where to look."""
    error = place()._fault("query jobs", RuntimeError("Failed to connect"))
    assert type(error) is HTCondorError
    assert "cannot query jobs at access point ap.example: Failed to connect" in str(error)


def test_a_young_schedd_does_not_keep_claims():
    """It does not look at them in its first seconds."""
    import time

    young, old = place(), place()
    young.started = time.time() - 1
    assert young.keep_claim(10.0) == 0.0
    assert old.keep_claim(10.0) == 10.0
    old.claims = 2.0
    assert old.keep_claim(10.0) == 2.0
