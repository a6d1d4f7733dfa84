"""The report that stays in the notebook: static HTML that needs no kernel."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from condorpool.display.printed import Shown, shown
from condorpool.display.timeline import Picture
from condorpool.values.text import as_html, duration, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condorpool.display.progress import Progress
    from condorpool.engine.calls import Calls
    from condorpool.engine.chunks import Chunk

#: The color of each state: JupyterLab's, or the second value elsewhere.
COLORS = {
    "done": "var(--jp-success-color1, #388e3c)",
    "failed": "var(--jp-error-color1, #d32f2f)",
    "running": "var(--jp-brand-color1, #1976d2)",
    "held": "var(--jp-warn-color1, #f57c00)",
}
#: The slowest calls that are named, at most.
MOST_SLOWEST = 5

OTHER = "var(--jp-border-color2, #bdbdbd)"


def of(calls: Calls, progress: Progress) -> dict[str, str]:
    """Return the report on calls: their progress, when they were made, and what they printed."""
    return render(progress, "", calls.chunks(), calls.posted_at, shown(calls))


def render(
    progress: Progress,
    hint: str = "",
    chunks: Sequence[Chunk] = (),
    posted: float = 0.0,
    printed: Shown | None = None,
) -> dict[str, str]:
    """Return a MIME bundle for Jupyter: text, and HTML that is readable without its styles.

    Parameters
    ----------
    hint
        What the user can do next.
    chunks
        When and where calls were made; two or more are shown as a timeline.
    posted
        When the calls were posted, in seconds since 1970.
    printed
        What the calls printed.
    """
    summary = progress.summary
    html = [
        '<div style="font-size: var(--jp-ui-font-size1, 13px); max-width: 56em">',
        f"<div><strong>{as_html(progress.name)}</strong>: {as_html(summary)}</div>",
        _bar(progress),
    ]
    text = [f"{progress.name}: {summary}"]
    groups = [(f"{f.count:,} {f.word}", f"{f.kind}: {f.message}") for f in progress.failures]
    groups += [
        (f"{h.count:,} held", f"{h.reason} (hold code {h.code}.{h.subcode})") for h in progress.held
    ]
    if progress.never:
        groups.append(("waiting", progress.never))
    if groups:
        rows = "".join(
            f'<tr><td style="white-space: nowrap; vertical-align: top">{as_html(what)}</td>'
            f'<td style="text-align: left; overflow-wrap: anywhere">{as_html(why)}</td></tr>'
            for what, why in groups
        )
        html.append(f'<table style="margin: 4px 0">{rows}</table>')
        text += [f"  {what}: {why}" for what, why in groups]
    if len(chunks) > 1:
        html.append(Picture(chunks, posted).html())
    if slowest := _slowest(chunks):
        html.append(f"<div>{as_html(slowest)}</div>")
        text.append(slowest)
    if printed:
        html.append(printed.html)
        text.append(printed.hint)
    if hint:
        html.append(f"<div>{as_html(hint)}</div>")
        text.append(hint)
    return {"text/plain": printable("\n".join(text)), "text/html": "\n".join([*html, "</div>"])}


def _slowest(chunks: Sequence[Chunk]) -> str:
    """Return the calls that took longest, in a line; empty if they took less than a second."""
    calls = {  # of a call that was made again the last time counts
        chunk.first + i: (seconds, chunk.first + i, chunk.host)
        for chunk in chunks
        if chunk.seconds and chunk.seconds >= 1
        for i, seconds in enumerate(chunk.seconds_of_calls)
        if seconds and seconds >= 1
    }
    found = heapq.nlargest(MOST_SLOWEST, calls.values())
    if sum(chunk.calls for chunk in chunks) < 2 or not found:
        return ""
    parts = (
        f"call {number:,} {duration(seconds)}{host and f' on {host}'}"
        for seconds, number, host in found
    )
    return f"slowest: {', '.join(parts)}"


def _bar(progress: Progress) -> str:
    shares = "".join(
        f'<span style="flex: {share:g}; background: {COLORS.get(word, OTHER)}"></span>'
        for word, share in progress.shares.items()
    )
    style = "display: flex; height: 6px; border-radius: 3px; overflow: hidden; margin: 4px 0"
    return f'<div aria-hidden="true" style="{style}">{shares}</div>'
