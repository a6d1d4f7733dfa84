"""The embedded HTCondor: a real one, installed and run by an ordinary user."""

from condorpool.personal.daemons import PersonalHTCondor, start
from condorpool.personal.inspection import (
    PersonalStatus,
    environment,
    running,
    status,
    surrounding,
)
from condorpool.personal.install import Installation, find, install
from condorpool.personal.stopping import stop

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
