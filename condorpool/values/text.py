"""Text that can be shown and written anywhere."""

from __future__ import annotations

#: Characters of a name, at most.
MAX_NAME = 100


def one_line(text: str, most: int = MAX_NAME) -> str:
    """Return a text as one line that can be shown and written anywhere."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * most])
    line = " ".join(shown.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
