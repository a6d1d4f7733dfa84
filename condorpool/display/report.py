"""The report that stays in the notebook: static HTML that needs no kernel."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from condorpool.display.timeline import Picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condorpool.display.progress import Progress
    from condorpool.engine.chunks import Chunk

#: The color of each state: JupyterLab's, or the second value elsewhere.
COLORS = {
    "done": "var(--jp-success-color1, #388e3c)",
    "failed": "var(--jp-error-color1, #d32f2f)",
    "running": "var(--jp-brand-color1, #1976d2)",
    "held": "var(--jp-warn-color1, #f57c00)",
}
OTHER = "var(--jp-border-color2, #bdbdbd)"


def render(progress: Progress, hint: str = "", chunks: Sequence[Chunk] = ()) -> dict[str, str]:
    """Return a MIME bundle for Jupyter: text, and HTML that is readable without its styles.

    Parameters
    ----------
    hint
        What the user can do next.
    chunks
        When and where calls were made; two or more are shown as a timeline.
    """
    summary = progress.summary
    html = [
        '<div style="font-size: var(--jp-ui-font-size1, 13px); max-width: 56em">',
        f"<div><strong>{escape(progress.name)}</strong>: {escape(summary)}</div>",
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
            f'<tr><td style="white-space: nowrap; vertical-align: top">{escape(what)}</td>'
            f'<td style="text-align: left; overflow-wrap: anywhere">{escape(why)}</td></tr>'
            for what, why in groups
        )
        html.append(f'<table style="margin: 4px 0">{rows}</table>')
        text += [f"  {what}: {why}" for what, why in groups]
    if len(chunks) > 1:
        html.append(f"<div>{Picture(chunks).html()}</div>")
    if hint:
        html.append(f"<div>{escape(hint)}</div>")
        text.append(hint)
    return {"text/plain": "\n".join(text), "text/html": "\n".join([*html, "</div>"])}


def _bar(progress: Progress) -> str:
    shares = "".join(
        f'<span style="flex: {share:g}; background: {COLORS.get(word, OTHER)}"></span>'
        for word, share in progress.shares.items()
    )
    style = "display: flex; height: 6px; border-radius: 3px; overflow: hidden; margin: 4px 0"
    return f'<div aria-hidden="true" style="{style}">{shares}</div>'
