"""Texts of any size: read in pieces, held once, or only their end.

A text is parts: each is a `str`, or a `range` of places in one file.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from condorpool.values.folders import HeldFile
from condorpool.values.text import size_of

Part = str | range

#: Bytes that are read at a time.
PIECE = 1 << 20

#: The most characters of a text's last lines: a text may have no line break.
MOST_OF_LINES = 1 << 20

#: The bytes with which no character begins in UTF-8.
_CONTINUATION = bytes(range(0x80, 0xC0))


class Text:
    """The text of some parts, which is read once.

    Parameters
    ----------
    path
        The file in which the ranges are places, counted in bytes.
    """

    def __init__(self, parts: Iterable[Part], path: Path | HeldFile = Path()) -> None:
        self._parts = parts
        self._path = path

    def whole(self) -> str:
        """Return all of it."""
        # Not joined: CPython appends in place, and a join would hold everything twice.
        text = ""
        for part in self._parts:
            for piece in [part] if isinstance(part, str) else read(self._path, part):
                text += piece
        return text

    def end(self, most: int) -> tuple[str, int]:
        """Return its last ``most`` characters, or bytes of the file, and how many are before them."""
        kept: deque[Part] = deque()
        size = before = 0
        for part in self._parts:
            kept.append(part)
            size += len(part)
            while size - len(kept[0]) >= most:  # the rest is enough
                before += len(kept[0])
                size -= len(kept.popleft())
        if size > most:
            before += size - most
            kept[0] = kept[0][size - most :]
        return Text(kept, self._path).whole(), before

    def shown(self, most: int) -> str:
        """Return its end for displays, after a line that says how much is before it, and where."""
        text, before = self.end(most)
        where = f": {self._path}" if self._path.is_file() else ""
        return f"… {size_of(before)} before this{where}\n{text}" if before else text

    def lines(self, most: int | None) -> str:
        """Return its last lines, cut to `MOST_OF_LINES` characters; all of it if ``most`` is None."""
        return self.whole() if most is None else last_lines(self.end(MOST_OF_LINES)[0], most)


def read(path: Path | HeldFile, places: range) -> Iterator[str]:
    """Yield the text between two places of a file, as far as it exists, in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    remaining = len(places)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(places.start)
            while remaining > 0 and (data := file.read(min(PIECE, remaining))):
                is_first, remaining = remaining == len(places), remaining - len(data)
                if is_first and places.start:  # it may be in the middle of a character
                    data = data[:3].lstrip(_CONTINUATION) + data[3:]
                yield decoder.decode(data)
    except OSError:
        pass  # it was deleted meanwhile
    yield decoder.decode(b"", final=True)


def end_of(text: str, most: int) -> str:
    """Return the end of a text that is longer than ``most`` characters, from a line's begin on."""
    if len(text) <= most:
        return text
    end = text[-most:]
    _, is_whole, lines = end.partition("\n")
    return "…\n" + lines if is_whole and lines else "…" + end


def last_lines(text: str, most: int) -> str:
    """Return the last lines of a text."""
    lines = text.split("\n")
    return "\n".join(lines[-most if lines[-1] else -most - 1 :])
