"""Short texts for users."""

from __future__ import annotations

import reprlib
import time
from html import escape
from typing import Any

#: The most characters of a name.
MAX_NAME = 100


def one_line(text: str, most: int = MAX_NAME) -> str:
    """Return a text as one line of printable characters, cut to ``most``."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * most])
    line = " ".join(shown.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlevel = 3


def short(value: Any) -> str:
    """Return what ``repr`` returns, cut to some 60 characters, whatever the value's own code does."""
    try:
        return one_line(_short.repr(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the value's class may raise anything, even SystemExit
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    """Return a text without control characters, except for line breaks and tabs.

    A terminal could take others for commands: to change its title or colors, or what it shows.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def html(text: str) -> str:
    """Return a text as HTML, in which what is between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def now() -> str:
    """Return the time, for texts that are read later: ``2026-11-26 22:20:05``."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return a time as ``0:07``, ``12:30`` or ``1:02:03``."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)  # as the widget rounds
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def plural(count: int, noun: str) -> str:
    """Return ``1 call`` or ``2,000 calls``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
