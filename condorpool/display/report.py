"""The report that stays in the notebook: static HTML that needs no kernel."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from condorpool.display.printed import Shown, shown
from condorpool.display.timeline import DONE, FAILED, Picture, seconds_of
from condorpool.values.text import as_html, now, printable, with_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condorpool.display.progress import Progress
    from condorpool.engine.calls import Calls
    from condorpool.engine.chunks import Chunk

#: The color of each state, visible on light and on dark pages.  JupyterLab removes those that are
#: variables of its themes from notebooks that it does not trust.
COLORS = {"done": DONE, "failed": FAILED, "running": "#1e88e5", "held": "#fb8c00"}
OTHER = "#80808050"

#: The smallest part of the bar, in percent: failed calls must stay visible.
LEAST = 0.5

#: The slowest calls that are named, at most.
MOST_SLOWEST = 5


def of(calls: Calls, progress: Progress) -> dict[str, str]:
    """Return the report on calls: their progress, when they were made, and what they printed."""
    hint = ""
    if not progress.ended:
        live = calls.spelling and f"; `{calls.spelling}.show('auto')` shows them live"
        hint = f"This is how far the calls were at {now()}{live}."
    return render(progress, hint, calls.chunks(), calls.posted_at, shown(calls))


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
        html.append(f"<div>{with_code(hint)}</div>")
        text.append(hint.replace("`", ""))
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
    hosts = {host for *_, host in calls.values()}
    parts = (
        f"call {number:,} ({seconds_of(seconds)}{f' on {host}' * (len(hosts) > 1)})"
        for seconds, number, host in found
    )
    return f"slowest: {', '.join(parts)}"


def _bar(progress: Progress) -> str:
    parts = {
        word: max(n, progress.counts.total * LEAST / 100) for word, n in progress.shares.items()
    }
    whole = sum(parts.values())
    shares = "".join(
        f'<span style="width: {100 * part / whole:.2f}%; background: {COLORS.get(word, OTHER)}"></span>'
        for word, part in parts.items()
    )
    style = "display: flex; height: 6px; border-radius: 3px; overflow: hidden; margin: 4px 0"
    return f'<div aria-hidden="true" style="{style}">{shares}</div>'
