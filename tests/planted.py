"""What another user puts in the place of a pickle."""

from __future__ import annotations


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")
