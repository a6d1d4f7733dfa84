"""Progress shown to users: a live widget, a line of text, reports, timelines, notices.

Results pass their `Calls` to `show`; iterators pass a proxy, which raises `ReferenceError` when
the iterator was dropped.  The modules that draw are imported when the first are shown: most
scripts show nothing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from condorpool.display import notices
from condorpool.values.text import as_html

if TYPE_CHECKING:
    from collections.abc import Iterable

    from condorpool.engine.calls import Calls

#: Displays open at once, and results in a report, at most: more would clutter the notebook.
MOST = 10


class Display(Protocol):
    """An open display of some calls."""

    #: A waiting thread calls `poll_clicks` at least once in this many seconds.
    poll_interval: float

    def poll_clicks(self) -> None:
        """Process clicks that only the main thread can read."""

    def has_viewer(self) -> bool:
        """Return whether a user can see held jobs here and act on them."""
        ...

    def close(self) -> None:
        """Show the final state.  May be called again."""


def show(calls: Calls, kind: str | None) -> Display | None:
    """Show calls from now on, and return their display; None if they are not shown."""
    if kind is None:
        return None
    from condorpool.display.refresher import refresher  # noqa: PLC0415 - see above
    from condorpool.display.textbar import TextBar  # noqa: PLC0415

    kernel = running_kernel()
    is_live = bool(kernel) or sys.stderr.isatty()
    if kind == "auto":
        if refresher.count >= MOST or not is_live:
            return None
        wants_widget = kernel and os.environ.get("CONDORPOOL_WIDGET") != "0" and has_widgets()
        kind = "widget" if wants_widget else "text"
    if kind == "text":
        return refresher.add(TextBar(calls, notices.stream(), is_live=is_live))
    if not kernel or not has_widgets():
        raise ValueError(
            "progress='widget' needs a Jupyter kernel with anywidget: "
            "pip install anywidget, or use progress='text'"
        )
    from condorpool.display.widget import Panel  # noqa: PLC0415 - imports IPython

    return refresher.add(Panel(calls, kernel))


def watch(calls: Calls) -> None:
    """Print a line if these calls, which are not shown, are held."""
    if running_kernel() or sys.stderr.isatty():
        from condorpool.display.heldnotices import held_notices  # noqa: PLC0415 - see above

        held_notices.watch(calls)


def html(shown: Iterable[Calls], title: str = "") -> str:
    """Return HTML with the progress of several results, under a title."""
    from condorpool.display import report  # noqa: PLC0415 - see above
    from condorpool.display.progress import Meter  # noqa: PLC0415

    bodies = [report.of(calls, Meter(calls).read())["text/html"] for calls in shown]
    return "\n".join([f"<div>{as_html(title)}</div>"] * bool(title) + bodies)


def running_kernel() -> Any:
    """Return the IPython kernel of this process, or None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None)


def has_widgets() -> bool:
    """Return whether anywidget is installed."""
    return importlib.util.find_spec("anywidget") is not None
