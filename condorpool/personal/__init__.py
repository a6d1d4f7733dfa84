"""The embedded HTCondor: a real one, installed and run by an ordinary user."""

from condorpool.personal.daemons import PersonalHTCondor, PersonalStatus, start, status, stop
from condorpool.personal.install import Installation, find, install

__all__ = [
    "Installation",
    "PersonalHTCondor",
    "PersonalStatus",
    "find",
    "install",
    "start",
    "status",
    "stop",
]
