"""Notes on exceptions: what users can do next, printed below the message (PEP 678)."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from condorpool.values.text import printable

#: Reads the cause of an exception, whatever its class does with the attribute.
_cause_of = BaseException.__dict__["__cause__"].__get__


class Note(str):
    """A note of ours; another process, which may not have condorpool, gets plain text."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return str, (str(self),)


def annotate(error: BaseException, *texts: str) -> None:
    """Add notes to an exception, in place of those that were added here before.

    Users' exceptions stay as they are otherwise: their class may forbid to set attributes, as
    a frozen dataclass does, and may use the name for something else.
    """
    for each in _noted(error):
        with contextlib.suppress(Exception):
            before = vars(each).get("__notes__", [])
            if not before and not texts:
                continue
            kept = [note for note in before if not isinstance(note, Note)]
            BaseException.__setattr__(
                each, "__notes__", [*kept, *(Note(printable(text)) for text in texts)]
            )


def explain(error: BaseException, text: str) -> None:
    """Add a note that stays when `annotate` is called."""
    for each in _noted(error):
        with contextlib.suppress(Exception):
            BaseException.__setattr__(each, "__notes__", [*vars(each).get("__notes__", []), text])


def _noted(error: BaseException) -> list[BaseException]:
    # Python 3.10 prints no notes, but our remote tracebacks do.
    cause = _cause_of(error) if sys.version_info < (3, 11) else None
    return [error, cause] if cause else [error]


def are_printed() -> bool:
    """Return whether an exception that ends the program, or a cell, is printed with its notes."""
    return sys.version_info >= (3, 11) or "IPython" in sys.modules
