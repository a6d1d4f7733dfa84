"""The embedded HTCondor: a real one, installed and run by an ordinary user."""

from condorpool.personal.daemons import PersonalHTCondor, start
from condorpool.personal.inspection import (
    PersonalStatus,
    environment,
    running,
    status,
    surrounding,
)
from condorpool.personal.install import Installation, check, find, install, place
from condorpool.personal.stopping import is_ending, stop

__all__ = [
    "Installation",
    "PersonalHTCondor",
    "PersonalStatus",
    "check",
    "environment",
    "find",
    "install",
    "is_ending",
    "place",
    "running",
    "start",
    "status",
    "stop",
    "surrounding",
]
