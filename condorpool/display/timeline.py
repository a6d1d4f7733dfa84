"""Timelines: when and where each chunk of calls was made."""

from __future__ import annotations

import base64
import importlib.util
import math
import operator
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

from condorpool.engine.chunks import Chunk
from condorpool.values.text import plural

#: Colors that are visible on light and on dark pages: an image cannot adapt to its page.
DONE, FAILED, TEXT = "#43a047", "#e53935", "#808080"

#: A picture has at most this many bars: beyond that, neighbors are drawn as one.
MOST_BARS = 500

#: A picture has at most this many rows: beyond that, it shows some of the slots.
MOST_ROWS = 40

#: The picture's width, the part of it for host names, and the height of all rows, in pixels.
WIDTH, MARGIN, HEIGHT = 720, 110, 200

#: Characters of a host name that fit into the margin.
LONGEST = 15


#: How bars look in matplotlib, by whether a call of theirs failed.
STYLES: dict[bool, dict[str, Any]] = {
    False: {"label": "done", "facecolor": "tab:green", "edgecolor": "white"},
    True: {"label": "with failed calls", "facecolor": "tab:red", "edgecolor": "black"},
}


def _pandas() -> Any:
    if not importlib.util.find_spec("pandas"):
        raise ModuleNotFoundError(
            "to_dataframe() needs pandas: pip install pandas, or use chunks(), which returns the "
            "same rows",
            name="pandas",
        )
    import pandas as pd  # noqa: PLC0415 - takes half a second, rarely used

    return pd


def dataframe(chunks: Iterable[Chunk]) -> Any:
    """Return a pandas DataFrame with a row for each chunk."""
    pd = _pandas()
    frame = pd.DataFrame(list(chunks), columns=list(Chunk._fields)).drop(columns="call_seconds")
    frame["started"] = pd.to_datetime(frame["started"], unit="s", utc=True)
    after = frame.columns.get_loc("seconds") + 1
    frame.insert(after, "seconds_per_call", frame["seconds"] / frame["calls"])
    return frame


def calls_dataframe(chunks: Iterable[Chunk], failed: Collection[int]) -> Any:
    """Return a pandas DataFrame with a row for each call that has ended, in call order."""
    pd = _pandas()
    last = {  # of a call that was made again the last time counts
        chunk.first + i: (seconds, chunk.job, chunk.host)
        for chunk in chunks
        for i, seconds in enumerate(chunk.seconds_of_calls)
    }
    rows = [
        (number, seconds, number in failed, job, host)
        for number, (seconds, job, host) in sorted(last.items())
    ]
    frame = pd.DataFrame(rows, columns=["call", "seconds", "failed", "job", "host"])
    return frame.astype({"seconds": float, "failed": bool})


def timeline(chunks: Sequence[Chunk], ax: Any = None) -> Any:
    """Plot when and where each chunk was made: with matplotlib, or without it as a `Picture`."""
    if ax is None and not importlib.util.find_spec("matplotlib"):
        return Picture(chunks)
    if ax is None:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - takes a second, rarely used

        _, ax = plt.subplots(layout="constrained")
    return plot(Picture(chunks), ax)


class Bar(NamedTuple):
    """One chunk, or several neighbors, in a picture.

    Parameters
    ----------
    begin, end
        Seconds since the picture's beginning.
    failed
        The seconds of chunks with failed calls.
    """

    begin: float
    end: float
    failed: float


class Picture:
    """A timeline of chunks as HTML for notebooks; ``str()`` returns the SVG.

    Attributes
    ----------
    begin, seconds
        When the first chunk began, in seconds since 1970, and how long all of them took.
    hosts
        The rows of each host: as many as it made chunks at the same time, one for each slot.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self.hosts: dict[str, list[list[Bar]]] = {}
        timed = [(c.started, c.end, c) for c in chunks if c.started is not None]
        timed.sort(key=operator.itemgetter(0))
        self.chunks = len(timed)
        self.failed = sum(chunk.failed > 0 for _, _, chunk in timed)
        self.begin = timed[0][0] if timed else 0.0
        self.seconds = max((end for _, end, _ in timed), default=0.0) - self.begin
        for started, ended, chunk in timed:
            # Never zero: a failed chunk must stay visible.
            failed = max(1e-6, ended - started) if chunk.failed else 0.0
            bar = Bar(started - self.begin, ended - self.begin, failed)
            rows = self.hosts.setdefault(_short(chunk.host), [])
            row = next((row for row in rows if row[-1].end <= bar.begin), None)
            if row is None:
                rows.append(row := [])
            row.append(bar)

    def __repr__(self) -> str:
        if not self.chunks:
            return "<timeline: no call has ended yet>"
        failed = f", {self.failed:,} with failed calls (half as high)" if self.failed else ""
        groups, hosts = plural(self.chunks, "group"), plural(len(self.hosts), "host")
        return f"<timeline: {groups} of calls on {hosts}{failed}>"

    def _repr_html_(self) -> str:
        return self.html() or escape(repr(self))

    def html(self) -> str:
        """Return an HTML image; an empty string if there is nothing to show."""
        if not self.chunks:
            return ""
        # JupyterLab removes SVG elements from notebooks that it does not trust, but keeps
        # their text as text.  It keeps images.
        image = base64.b64encode(str(self).encode()).decode()
        return (
            f'<img alt="{escape(repr(self))}" width="{WIDTH + 20}" style="max-width: 100%" '
            f'src="data:image/svg+xml;base64,{image}">'
        )

    def __str__(self) -> str:
        if not self.chunks:
            return ""
        slots = [row for rows in self.hosts.values() for row in rows]
        every = math.ceil(len(slots) / MOST_ROWS)
        # Of several slots show the one that ended last: the calls waited for it.
        groups = (slots[i : i + every] for i in range(0, len(slots), every))
        rows = [max(group, key=lambda row: row[-1].end) for group in groups]
        height = min(14.0, HEIGHT / len(rows))
        bottom = height * len(rows)
        scale = (WIDTH - MARGIN) / (self.seconds or 1.0)
        done, failed = [], []
        for number, row in enumerate(_merged(rows, MOST_BARS, 1 / scale)):
            y, thick = (number + 0.1) * height, 0.8 * height
            for bar in row:
                x, width = MARGIN + bar.begin * scale, max(0.8, (bar.end - bar.begin) * scale - 0.6)
                part = min(width, max(0.8, bar.failed * scale)) if bar.failed else 0.0
                done.append(f"M{x:.1f} {y:.1f}h{width - part:.1f}v{thick:.1f}H{x:.1f}z")
                if part:
                    x += width - part
                    failed.append(
                        f"M{x:.1f} {y + thick / 2:.1f}h{part:.1f}v{thick / 2:.1f}H{x:.1f}z"
                    )
        size = f"{WIDTH + 20} {bottom + 18:.0f}"
        # One path for all bars: a tenth of the size of an element for each.
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size}' "
            f"fill='{TEXT}' font-size='11' font-family='sans-serif'>"
            f"<title>{escape(repr(self))}</title>"
            f"{''.join(self._names(height / every))}{''.join(self._axis(scale, bottom, every))}"
            f"<path fill='{DONE}' d='{''.join(done)}'/>"
            f"<path fill='{FAILED}' d='{''.join(failed)}'/></svg>"
        )

    def _names(self, height: float) -> Iterator[str]:
        """Yield the names of the hosts, where there is room."""
        free, slots = 5.0, 0
        for host, rows in self.hosts.items():
            middle = (slots + len(rows) / 2) * height
            slots += len(rows)
            if middle >= free:
                name = host if len(host) <= LONGEST else f"{host[:LONGEST]}…"
                yield f"<text x='{MARGIN - 8}' y='{middle + 4:.1f}' text-anchor='end'>"
                yield f"{escape(name)}</text>"
                free = middle + 12

    def _axis(self, scale: float, bottom: float, every: int) -> Iterator[str]:
        """Yield the lines of the time axis, their labels, and how many slots a row stands for."""
        if every > 1:
            yield f"<text x='{MARGIN - 24}' y='{bottom + 15:.1f}' text-anchor='end'>"
            yield f"1 of {every} slots</text>"
        step, unit, name = _ticks(self.seconds)
        for number in range(int(self.seconds / (step * unit)) + 1):
            x = MARGIN + number * step * unit * scale
            yield f"<path stroke='{TEXT}' opacity='0.4' d='M{x:.1f} 0V{bottom + 3:.1f}'/>"
            yield f"<text x='{x:.1f}' y='{bottom + 15:.1f}' text-anchor='middle'>"
            yield f"{number * step:g} {name}</text>"


def plot(picture: Picture, ax: Any) -> Any:
    """Draw every chunk into matplotlib axes, and return the axes."""
    from matplotlib.collections import PolyCollection  # noqa: PLC0415 - slow, like pyplot

    bars: dict[bool, list[Any]] = {False: [], True: []}
    ticks, number = [], 0
    for rows in picture.hosts.values():
        ticks.append(number + (len(rows) - 1) / 2)
        for row in rows:
            low, high = number - 0.4, number + 0.4
            for begin, end, failed in row:
                corners = [(begin, low), (begin, high), (end, high), (end, low)]
                bars[failed > 0].append(corners)
            number += 1
    line = 0.5 if picture.chunks <= MOST_BARS else 0.0
    for has_failed, style in STYLES.items():
        if bars[has_failed]:
            ax.add_collection(PolyCollection(bars[has_failed], linewidth=line, **style))
    ax.autoscale_view()
    ax.set_yticks(ticks, list(picture.hosts))
    ax.invert_yaxis()
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(picture.begin))
    ax.set_xlabel(f"seconds since {begun}")
    if picture.failed:
        ax.legend(loc="upper right")  # "best" is slow to find
    return ax


def _merged(rows: Sequence[Sequence[Bar]], most: int, width: float) -> list[list[Bar]]:
    """Return the bars of rows, with short neighbors merged until there are at most ``most``."""
    while True:
        merged: list[list[Bar]] = []
        for row in rows:
            bars: list[Bar] = []
            for bar in row:
                begin, _, failed = bars[-1] if bars else (-math.inf, 0.0, 0.0)
                if bar.end - begin <= width:
                    bars[-1] = Bar(begin, bar.end, failed + bar.failed)
                else:
                    bars.append(bar)
            merged.append(bars)
        if sum(map(len, merged)) <= most:
            return merged
        rows, width = merged, 2 * width


def _short(host: str) -> str:
    """Return a host's name without its domain: only some of its names have one."""
    return host.partition(".")[0] if host[:1].isalpha() else host


def _ticks(seconds: float) -> tuple[float, float, str]:
    """Return the step, the unit in seconds, and the unit's name for at most seven ticks."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    unit, name = next((u for u in units if seconds >= 2 * u[0]), (1, "s"))
    least = max(0.001, seconds / unit / 6)
    power = 10.0 ** math.floor(math.log10(least))
    return next(m for m in (1, 2, 5, 10) if m * power >= least) * power, unit, name
