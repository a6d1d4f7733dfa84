"""Tables of text: aligned columns that fit a width."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

from condorpool.values.text import as_html, printable

#: What is between two columns.
GAP = "  "

#: Columns become no narrower than this.
NARROWEST = 3

_WIDE = ("W", "F")


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> list[list[str]]:
    """Return the cells of a table, padded to the widths of their columns.

    Parameters
    ----------
    width
        The most that a row may take; the widest columns are cut for it.  None for no limit.
    """
    texts = [[" ".join(printable(cell).split()) for cell in row] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*texts, strict=True)]
    if width is not None:
        space = width - len(GAP) * (len(widths) - 1)
        while sum(widths) > space and max(widths) > NARROWEST:
            widths[widths.index(max(widths))] -= 1
    return [
        [_padded(cut(cell, most), most) for cell, most in zip(row, widths, strict=True)]
        for row in texts
    ]


def html(rows: Sequence[Sequence[str]], texts: Collection[str]) -> str:
    """Return a table as HTML, its head first; the columns with these names are texts, others numbers."""
    sides = ["left" if name in texts else "right" for name in rows[0]]
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = (
            f'<{tag} style="text-align: {side}; white-space: nowrap">{as_html(cell)}</{tag}>'
            for cell, side in zip(row, sides, strict=True)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in _WIDE)
        for letter in text
    )


def cut(text: str, width: int) -> str:
    """Return a text that takes at most this many columns; one that was cut ends with three dots."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) > max(width - 3, 0):
        text = text[:-1]
    return text + "..."[:width]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))
