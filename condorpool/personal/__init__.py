"""The embedded HTCondor: a real one, installed and run by an ordinary user."""

from condorpool.personal.daemons import (
    PersonalHTCondor,
    PersonalStatus,
    environment,
    running,
    start,
    status,
    stop,
    surrounding,
)
from condorpool.personal.install import Installation, find, install

__all__ = [
    "Installation",
    "PersonalHTCondor",
    "PersonalStatus",
    "environment",
    "find",
    "install",
    "running",
    "start",
    "status",
    "stop",
    "surrounding",
]
