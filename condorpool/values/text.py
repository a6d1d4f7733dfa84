"""Short texts for users."""

from __future__ import annotations

#: The most characters of a name.
MAX_NAME = 100


def one_line(text: str, most: int = MAX_NAME) -> str:
    """Return a text as one line of printable characters, cut to ``most``."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * most])
    line = " ".join(shown.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
