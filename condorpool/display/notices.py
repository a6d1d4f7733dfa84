"""Lines for people, which no program reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, TextIO


def stream() -> TextIO:
    """Return standard error; in a cell standard output, where notices do not look like errors."""
    return sys.stdout if type(sys.stdout).__module__ == "ipykernel.iostream" else sys.stderr


def tell(line: str) -> None:
    """Write a line that users are owed."""
    print(f"condorpool: {line}", file=stream())


def mind_hashes(func: Callable[..., Any]) -> None:
    """Tell, once, whoever calls ``hash`` in jobs that it gives other numbers there."""
    calls = func is hash or (
        isinstance(func, FunctionType)
        and "hash" in func.__code__.co_names
        and "hash" not in func.__globals__
    )
    if calls and os.environ.get("PYTHONHASHSEED", "random") == "random":
        _tell_of_hashes()


@cache
def _tell_of_hashes() -> None:
    tell(
        "hash() of text gives other numbers in jobs than here, though the same in all jobs of a "
        "pool. Start the notebook with PYTHONHASHSEED=0, or use zlib.crc32 or hashlib."
    )
