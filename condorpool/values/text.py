"""Short texts for users."""

from __future__ import annotations

import html
import re
import reprlib
import time
import unicodedata
from collections.abc import Mapping
from typing import Any

#: The most characters of a name.
MAX_NAME = 100

#: Stands for a character that is not shown.
REPLACED = "\N{REPLACEMENT CHARACTER}"

_CONTROLS = {number: REPLACED for number in (*range(32), 127) if chr(number) not in "\n\t"}

# Commands to terminals: colors, titles, links.
_COMMANDS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")


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
    """Return a text without control and format characters, except for line breaks and tabs.

    All text that condorpool shows passes through here, or through `one_line`: much of it was
    written by others, such as names, hold reasons and error output.  A terminal could take
    control characters for commands (to change its title, or what it shows), and with format
    characters a text reads unlike what it is (marks that turn its direction).
    """
    if text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    if text.isascii():
        return text.translate(_CONTROLS)
    return "".join(c if c.isprintable() or c in "\n\t" else _replaced(c) for c in text)


def _replaced(letter: str) -> str:
    return " " if unicodedata.category(letter) == "Zs" else REPLACED  # spaces that do not break


def all_printable(value: Any) -> Any:
    """Return a value of JSON in which all texts are `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {key: all_printable(each) for key, each in value.items()}
    return [*map(all_printable, value)] if isinstance(value, (list, tuple)) else value


def as_html(text: str) -> str:
    """Return a text as HTML shows it, `printable`."""
    return html.escape(printable(text))  # noqa: TID251 - this is it


def left_by_terminal(text: str) -> str:
    """Return what was printed as a terminal would leave it, and `printable`.

    Colors, titles and links are gone, and what was overwritten in a line, as by progress bars.
    """
    lines = _COMMANDS.sub("", text).split("\n")
    return printable("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines))


def with_code(text: str) -> str:
    """Return a text as HTML, in which what is between backticks is code."""
    parts = as_html(text).split("`")
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


def size_of(count: int) -> str:
    """Return a number of bytes, rounded down, as ``512 bytes``, ``12 KB`` or ``999 MB``."""
    size, units = float(count), iter(("bytes", "KB", "MB", "GB"))
    unit = next(units)
    while size >= 1000 and (larger := next(units, "")):
        size, unit = size / 1000, larger
    return f"{int(size):,} {unit}"
