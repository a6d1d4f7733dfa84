"""Notices to users, and words that other texts share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, TextIO

from condorpool.values.text import printable


def stream() -> TextIO:
    """Return standard error, or in a cell standard output: notices should not look like errors."""
    return sys.stdout if type(sys.stdout).__module__ == "ipykernel.iostream" else sys.stderr


def say(text: str) -> None:
    """Print what the user asked for."""
    print(printable(text))


def tell(line: str) -> None:
    """Print a notice to the user."""
    print(f"condorpool: {printable(line)}", file=stream())


def warn_of_hash(func: Callable[..., Any]) -> None:
    """Print a notice, once, if ``func`` calls ``hash``, whose values differ in jobs."""
    calls = func is hash or (
        isinstance(func, FunctionType)
        and "hash" in func.__code__.co_names
        and "hash" not in func.__globals__
    )
    if calls and os.environ.get("PYTHONHASHSEED", "random") == "random":
        _warn_once()


@cache
def _warn_once() -> None:
    tell(
        "hash() of text returns different numbers in jobs than here, but the same in all jobs of "
        "a pool. Start Python with PYTHONHASHSEED=0, or use zlib.crc32 or hashlib."
    )
