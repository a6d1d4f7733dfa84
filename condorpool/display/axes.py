"""Timelines drawn with matplotlib."""

from __future__ import annotations

import sys
import time
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from condorpool.display.timeline import DONE, FAILED, MOST_BARS, TEXT, Picture

#: The width of a new figure, the height of a row, of all else, and of all rows at most, in inches.
WIDTH, ROW, REST, MOST = 6.4, 0.22, 0.9, 6.0


class TimelineAxes(Axes):
    """Axes that a notebook shows as their figure, once."""

    def _ipython_display_(self) -> None:
        """Show the figure, unless it will be shown at the end of the cell, as pyplot's are."""
        figure: Any = self.figure
        if not plt.fignum_exists(figure.number):
            sys.modules["IPython"].display.display(figure)


def plot(picture: Picture, ax: Any = None) -> Any:
    """Draw every chunk into matplotlib axes, or new ones, and return the axes."""
    if ax is None:
        ax = _new_axes(sum(map(len, picture.hosts.values())))
    parts, ticks = _parts(picture)
    line = 0.5 if picture.chunks <= MOST_BARS else 0.0
    for (label, boxes), color in zip(parts.items(), (DONE, FAILED, TEXT), strict=True):
        if boxes:
            style: dict[str, Any] = {"label": label, "facecolor": color}
            if label != "waiting for a job":  # a thin line, which the edge would hide
                style |= {"edgecolor": "white", "linewidth": line}
            if label == "failed":
                style["hatch"] = "////"
            ax.add_collection(PolyCollection(boxes, **style))
    ax.autoscale_view()
    ax.set_yticks(ticks, list(picture.hosts))
    ax.invert_yaxis()
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(picture.begin))
    ax.set_xlabel(f"seconds since {begun}")
    if sum(map(bool, parts.values())) > 1:
        # Above the bars; "best" is slow to find, and may hide some.
        legend = ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
        if isinstance(ax, TimelineAxes):
            for text in legend.get_texts():
                text.set_color(TEXT)
    return ax


def _parts(picture: Picture) -> tuple[dict[str, list[Any]], list[float]]:
    """Return the corners of all boxes by what they mean, and the middle of each host's rows."""
    parts: dict[str, list[Any]] = {"done": [], "failed": [], "waiting for a job": []}
    ticks, number = [], 0
    for rows in picture.hosts.values():
        ticks.append(number + (len(rows) - 1) / 2)
        for row in rows:
            if picture.waits:
                parts["waiting for a job"].append(_box(0.0, row[0].begin, number, 0.05))
            for bar in row:
                middle = bar.end - bar.failed
                if bar.failures < bar.calls:
                    parts["done"].append(_box(bar.begin, middle, number, 0.4))
                if bar.failures:
                    parts["failed"].append(_box(middle, bar.end, number, 0.4))
            number += 1
    return parts, ticks


def _box(begin: float, end: float, middle: float, half: float) -> list[tuple[float, float]]:
    low, high = middle - half, middle + half
    return [(begin, low), (begin, high), (end, high), (end, low)]


def _new_axes(rows: int) -> Any:
    """Return axes in a new figure, readable on light and on dark pages."""
    size = WIDTH, REST + min(MOST, ROW * max(1, rows))
    _, ax = plt.subplots(
        figsize=size,
        facecolor="none",
        layout="constrained",
        subplot_kw={"axes_class": TimelineAxes},
    )
    ax.set_facecolor("none")
    ax.tick_params(colors=TEXT)
    # Notebooks draw a background if all labels are light, or all are dark, for them
    # (matplotlib_inline's `fetch_figure_metadata`): these differ by what no eye can see.
    ax.tick_params(axis="y", labelcolor="#7f7f7f")
    ax.xaxis.label.set_color(TEXT)
    for side, spine in ax.spines.items():
        spine.set_color(TEXT)
        spine.set_visible(side in ("left", "bottom"))
    return ax
