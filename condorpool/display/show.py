"""The notebook's face: what shows calls while they go on, there and on terminals."""

from __future__ import annotations

import importlib.util
import os
import sys
import weakref
from html import escape
from typing import TYPE_CHECKING, Any

from condorpool.display import notices, report
from condorpool.display.progress import Meter
from condorpool.display.refresher import refresher
from condorpool.display.textbar import TextBar
from condorpool.interface.display import MOST
from condorpool.interface.iterators import ResultIterator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condorpool.display.progress import Result
    from condorpool.interface.display import Display


def kernel() -> Any:
    """Return the IPython kernel that this process is, or None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None)


def show(result: Result, kind: str) -> Display | None:
    """Show a result from now on; None where there is nothing to show it with."""
    if isinstance(result, ResultIterator):
        # An iterator that its user has dropped takes no more items: a display must not keep it.
        result = weakref.proxy(result)
    found = kernel()
    if kind == "auto":
        if refresher.count >= MOST:  # more would bury the notebook
            return None
        if found and os.environ.get("CONDORPOOL_WIDGET") != "0" and has_widgets():
            kind = "widget"
        elif found or sys.stderr.isatty():
            kind = "text"
        else:
            return None
    if kind == "widget":
        if not found or not has_widgets():
            raise ValueError(
                "progress='widget' needs a Jupyter kernel with anywidget: "
                "pip install anywidget, or use progress='text'"
            )
        from condorpool.display.widget import Panel  # noqa: PLC0415 - imports IPython

        return refresher.add(Panel(result, found))
    return refresher.add(
        TextBar(result, notices.stream(), is_live=bool(found) or sys.stderr.isatty())
    )


def html(results: Sequence[Result], title: str) -> str:
    """Return HTML that says how far results have come, under a title."""
    bodies = [
        report.render(Meter(result).read(), chunks=result.chunks())["text/html"]
        for result in results
    ]
    return "\n".join([f"<div>{escape(title)}</div>"] * bool(title) + bodies)


def has_widgets() -> bool:
    """Tell whether the widget can be made here."""
    return importlib.util.find_spec("anywidget") is not None
