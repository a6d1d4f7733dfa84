"""Lines for people, which no program reads."""

from __future__ import annotations

import sys
from typing import TextIO


def stream() -> TextIO:
    """Return standard error; in a cell standard output, where notices do not look like errors."""
    return sys.stdout if type(sys.stdout).__module__ == "ipykernel.iostream" else sys.stderr


def tell(line: str) -> None:
    """Write a line that users are owed."""
    print(f"condorpool: {line}", file=stream())
