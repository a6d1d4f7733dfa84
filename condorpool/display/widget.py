"""The live widget: shows the progress of calls, and acts on their jobs."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anywidget
import traitlets
from IPython.display import DisplayHandle, display

from condorpool.display import orders, report
from condorpool.display.clicks import clicks
from condorpool.display.printed import shown_if_quick
from condorpool.display.progress import Meter, Progress
from condorpool.values.locks import uninterrupted
from condorpool.values.text import all_printable, now, printable

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls


#: Seconds before calls are shown: most have ended by then.
DELAY = 1.0

#: Seconds between two heartbeats.
HEARTBEAT = 5.0

#: Seconds that a front end has to report that it shows the widget.
REPORT_TIMEOUT = 5.0

#: Seconds between two updates of the HTML that stands in for the widget.
FALLBACK_INTERVAL = 10.0

#: Widgets of ended calls that are kept, at most: reloaded pages still find them.
MOST_ENDED = 20

#: Hides what front ends show in place of a widget that they have not found, or not yet: the
#: HTML before it says more.  The outputs of widgets are those without a MIME type.
_HIDE_MISSING = """
.jp-OutputArea-child:has(.{mark}) + .jp-OutputArea-child:not(:has(.condorpool)):has(
> .jp-OutputArea-output:not([data-mime-type])) {{ display: none }}
"""

_ended: collections.deque[JobWidget] = collections.deque()


class JobWidget(anywidget.AnyWidget):
    """The kernel's half of the widget; the front end's is in ``widget.js``."""

    _esm = Path(__file__).with_name("widget.js")
    _css = Path(__file__).with_name("widget.css")

    state = traitlets.Dict().tag(sync=True)
    report = traitlets.Dict().tag(sync=True)
    fallback = traitlets.Unicode().tag(sync=True)
    heartbeat = traitlets.Float(HEARTBEAT).tag(sync=True)
    beat = traitlets.Int().tag(sync=True)


class Panel:
    """A widget for some calls, replaced by static HTML when all have ended.

    There are two outputs.  The first is HTML with the progress some seconds ago, for notebooks
    that are opened later and front ends without widgets; while the second, the widget, is
    shown, its style hides the first.  At the end the first is the report, the second is empty.

    Until `close`, only the refresher's thread changes the widget.
    """

    def __init__(self, calls: Calls, kernel: Any) -> None:
        self._calls = calls
        self._can_rerun = calls.can_rerun
        self._clicks = clicks(kernel)
        self.poll_interval = self._clicks.poll_interval
        self._meter = Meter(calls)
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._widget: JobWidget | None = None
        self._fallback: Any = None
        self._handle: Any = None
        self._mark = ""  # the class of the first output's HTML
        self._fallback_due = 0.0
        self._shown: Progress | None = None
        self._last_beat = 0.0
        self._printed = 0
        self._is_visible = False
        self._is_closed = False

    # -- the refresher's side ------------------------------------------------------
    def refresh(self) -> bool:
        """Show what is new; return whether there will be more."""
        with uninterrupted, self._lock:
            try:
                return self._refresh()
            except ReferenceError:  # the iterator was dropped
                self._end(self._shown)
                return False

    def _refresh(self) -> bool:
        moment = time.monotonic()
        if self._is_closed:
            return False
        if self._widget is None and self._calls.is_ready:
            self._end(None)
            return False
        if moment - self._begun < DELAY:
            return True
        progress = self._meter.read()
        if progress.ended:
            self._end(progress)
            return False
        if self._widget is None:
            self._open(progress)
        elif progress != self._shown or moment >= self._last_beat + HEARTBEAT:
            self._last_beat, self._shown = moment, progress
            with self._widget.hold_sync():
                self._widget.state = self._state(progress)
                self._widget.beat += 1
            if moment >= self._fallback_due:
                self._fallback.update(self._snapshot(progress), raw=True)
        return True

    def close(self) -> None:
        """Replace the widget with the report that stays in the notebook."""
        with uninterrupted, self._lock:
            if not self._is_closed:
                self._end(self._meter.read())

    def _open(self, progress: Progress) -> None:
        self._last_beat, self._shown = time.monotonic(), progress
        self._widget = JobWidget(state=self._state(progress))
        self._mark = self._widget.fallback = f"cp-{self._widget.model_id}"
        self._widget.on_msg(self._handle_order)
        self._clicks.take(self._widget.comm)
        self._fallback, self._handle = DisplayHandle(), DisplayHandle()
        self._fallback.display(self._snapshot(progress), raw=True)
        bundle, metadata = cast("Any", self._widget._repr_mimebundle_())
        # Other texts would be shown where the widget is not, under the same text.
        view = {kind: data for kind, data in bundle.items() if "widget" in kind}
        self._handle.display({**view, "text/plain": ""}, metadata=metadata, raw=True)

    def _snapshot(self, progress: Progress) -> dict[str, str]:
        """Return what stands in for the widget where it cannot be shown."""
        self._fallback_due = time.monotonic() + FALLBACK_INTERVAL
        hint = (
            f"Not live: this is how far the calls were at {now()}. If the kernel has ended since "
            f"then, `%condor_attach {progress.name}` resumes the calls."
        )
        return self._marked(report.render(progress, hint), _HIDE_MISSING.format(mark=self._mark))

    def _marked(self, bundle: dict[str, str], style: str = "") -> dict[str, str]:
        """Return a bundle whose HTML is hidden while the widget is shown."""
        html = f'<div class="{self._mark}">{bundle["text/html"]}</div>'
        return {**bundle, "text/html": f"<style>{style}</style>{html}" if style else html}

    def _end(self, progress: Progress | None) -> None:
        self._is_closed = True
        bundle: dict[str, str] = {}
        with contextlib.suppress(ReferenceError):
            if self._widget is None:
                self._show_printed()
            elif progress:
                bundle = report.of(self._calls, progress)
            # The widget stays for reloaded pages; it must not keep the calls' values alive.
            self._calls = self._calls.weakly()
        del self._meter
        if self._widget is None or progress is None:
            return
        bundle = bundle or report.render(progress)
        # A reloaded page does not receive the updates of the outputs, only this.
        self._widget.report = bundle
        self._fallback.update(self._marked(bundle), raw=True)
        self._handle.update({"text/plain": ""}, raw=True)
        self._clicks.drop(self._widget.comm)
        _ended.append(self._widget)
        if len(_ended) > MOST_ENDED:
            _ended.popleft().close()

    def _show_printed(self) -> None:
        """Show what calls printed that ended before there was a widget."""
        if printed := shown_if_quick(self._calls):
            text = printable(f"{self._calls.name}: {printed.hint}")
            bundle = {"text/plain": text, "text/html": printed.html}
            self._context.copy().run(display, bundle, raw=True)

    def _state(self, progress: Progress) -> dict[str, Any]:
        counts = {**progress.counts._asdict(), "total": progress.counts.total}
        with contextlib.suppress(ReferenceError):
            self._printed = 0 if self._calls.echoes else self._calls.calls_printed
        known = {"counts": counts, "reruns": self._can_rerun, "printed": self._printed}
        shown: dict[str, Any] = all_printable({**dataclasses.asdict(progress), **known})
        return shown

    # -- the user's side -------------------------------------------------------------
    def poll_clicks(self) -> None:
        """Process clicks that only the main thread can read."""
        self._clicks.poll()

    def has_viewer(self) -> bool:
        """Return whether a front end shows the buttons, or still may."""
        return self._is_visible or time.monotonic() < self._begun + DELAY + REPORT_TIMEOUT

    def _handle_order(self, widget: JobWidget, order: dict[str, Any], _: object) -> None:
        """Handle an order from the front end.  Called in any thread."""
        if order.get("do") == "ready":
            self._is_visible = True
            return
        number = order.get("id")
        widget.send({"id": number, "taken": True})
        orders.worker.do(
            lambda: self._send(widget, {"id": number, **orders.perform(self._calls, order)})
        )

    def _send(self, widget: JobWidget, message: dict[str, Any]) -> None:
        if widget.comm is not None:
            # Jupyter's kernels keep in the context which cell a message belongs to.
            self._context.copy().run(widget.send, all_printable(message))
