"""Sizes as HTCondor reads them: KB and KiB are both 1024 bytes."""

from __future__ import annotations

import re

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:([KMGT])(?:i?B)?)?\s*", re.IGNORECASE)


def size_in(unit: str, text: str) -> float | None:
    """Return a size in a unit, one of ``KMGT``; None for a text that is not a size.

    A bare number is in that unit already.

    >>> size_in("M", "2GB"), size_in("K", "512"), size_in("M", "much")
    (2048.0, 512.0, None)
    """
    read = _SIZE.fullmatch(text)
    if not read:
        return None
    power = "KMGT".index((read[2] or unit).upper()) - "KMGT".index(unit)
    return float(read[1]) * 1024.0**power
