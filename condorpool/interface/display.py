"""Showing how calls go on: faces say here what they can do, and results ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

#: How progress may be shown; ``"auto"`` is what suits the place.
KINDS = ("auto", "widget", "text", None)


class Display(Protocol):
    """What shows one result while its calls go on."""

    #: Seconds after which a wait calls `attend` at the latest.
    patience: float

    def attend(self) -> None:
        """Take in clicks that only the thread that waits can see."""

    def is_attended(self) -> bool:
        """Tell whether somebody sees held jobs here and can act on them."""
        ...

    def close(self) -> None:
        """Show the end.  May be called again."""


#: Opens a display of a kind for a result, or none.
Opener = Callable[[Any, str], "Display | None"]

#: Makes HTML of results, under a title.
Renderer = Callable[[Sequence[Any], str], str]

#: Results that are shown together, at most.
MOST = 10

_opener: Opener | None = None
_renderer: Renderer | None = None


def register(opener: Opener, renderer: Renderer) -> None:
    """Have results shown by these from now on."""
    global _opener, _renderer
    _opener, _renderer = opener, renderer


def show(result: Any, kind: str | None) -> Display | None:
    """Show a result from now on, if there is anything to show it with."""
    return _opener(result, kind) if _opener and kind else None


def render(results: Sequence[Any], title: str = "") -> str | None:
    """Return HTML that says how far results have come, for those who look at them."""
    return _renderer(results, title) if _renderer else None


def check_kind(kind: str | None) -> str | None:
    """Return a kind of display, or say which there are."""
    if kind not in KINDS:
        raise ValueError(f"progress={kind!r} is none of {', '.join(map(repr, KINDS))}")
    return kind
