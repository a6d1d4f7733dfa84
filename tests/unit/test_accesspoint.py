"""Errors of the bindings as users see them, kept claims, and what is relayed over ssh."""

from __future__ import annotations

import inspect
import time

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.remote import RemoteAccessPoint
from condorpool.values.exceptions import HTCondorError, VersionSkewError


def place():
    """Return an access point that is never contacted."""
    return AccessPoint("ap.example", "<127.0.0.1:1>", "", "$CondorVersion: 23.9.6 $")


def test_version_skew_names_the_remedy():
    """The message names the version, and what to set or install."""
    text = "AUTHENTICATE:1004|FS:1004:Directory name doesn't match server's network address"
    error = place()._fault("submit", RuntimeError(text))
    assert isinstance(error, VersionSkewError)
    for expected in ("23.9.6", "pip install", "SEC_FS_ENFORCE_CHANNEL_BINDING = False"):
        assert expected in str(error)


def test_other_faults_name_the_access_point():
    """The message also says what was tried and why it failed."""
    error = place()._fault("query jobs", RuntimeError("Failed to connect"))
    assert type(error) is HTCondorError
    assert "cannot query jobs at access point ap.example: Failed to connect" in str(error)


def test_a_young_schedd_does_not_keep_claims():
    """In its first seconds it does not look at kept claims."""
    young, old = place(), place()
    young.started = time.time() - 1
    assert young.keep_claim(10.0) == 0.0
    assert old.keep_claim(10.0) == 10.0
    old.max_keep_claim = 2.0
    assert old.keep_claim(10.0) == 2.0


def test_what_uses_the_bindings_is_relayed():
    """A remote access point uses those of the other machine, and computes the rest here."""
    ways = {"_ask", "_try", "_schedd", "_slots", "htcondor2"}
    for name, method in vars(AccessPoint).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            uses = ways & {*inspect.unwrap(method).__code__.co_names}
            assert (name in vars(RemoteAccessPoint)) == bool(uses), name
