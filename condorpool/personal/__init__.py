"""The embedded HTCondor: a real one, installed and run by an ordinary user."""

from condorpool.personal.install import Installation, find, install

__all__ = ["Installation", "find", "install"]
