"""Timelines: when and where each chunk of calls was made."""

from __future__ import annotations

import importlib.util
import itertools
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from condorpool.engine.chunks import Chunk
from condorpool.values.text import as_html, duration, plural

#: Colors that are visible on light and on dark pages: a saved notebook is read on both.
DONE, FAILED, TEXT = "#43a047", "#e53935", "#808080"

#: A picture has at most this many bars: beyond that, neighbors are drawn as one.
MOST_BARS = 250

#: A picture has at most this many rows: beyond that, it shows some of the slots.
MOST_ROWS = 20

#: The SVG's width, the part of it for host names, and the height of a row, in pixels.
WIDTH, MARGIN, HEIGHT = 720, 110, 14

#: Characters of a host name that fit into the margin.
LONGEST = 15

#: The part of the width that a bar takes at least, in percent.
LEAST = 0.4

#: Between two bars; only at the end of wider ones.  Part of its bar, so that all fit the page.
GAP = "; border-right: 1px solid transparent; background-clip: padding-box; box-sizing: border-box"


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


def timeline(chunks: Sequence[Chunk], ax: Any = None, posted: float = 0.0) -> Any:
    """Plot when and where each chunk was made: with matplotlib, or without it as a `Picture`.

    ``posted`` is when the calls were posted, in seconds since 1970; 0 draws no waiting.
    """
    picture = Picture(chunks, posted)
    if ax is None and not importlib.util.find_spec("matplotlib"):
        return picture
    from condorpool.display import axes  # noqa: PLC0415 - takes a second, rarely used

    return axes.plot(picture, ax)


class Bar(NamedTuple):
    """One chunk, or several neighbors, in a picture.

    Parameters
    ----------
    begin, end
        Seconds since the picture's beginning.
    failed
        The part of these seconds that stands for failed calls.
    first, last
        The numbers of its first and last call.
    calls, failures
        How many calls it has, and how many failed.
    """

    begin: float
    end: float
    failed: float
    first: int
    last: int
    calls: int
    failures: int

    @classmethod
    def of(cls, chunk: Chunk, begin: float) -> Bar:
        """Return the bar of a chunk, in a picture that begins then."""
        start, end = (chunk.started or 0.0) - begin, chunk.end - begin
        # Never zero: failed calls must stay visible.
        failed = max(1e-6, end - start) * chunk.failed / chunk.calls
        last = chunk.first + chunk.calls - 1
        return cls(start, end, failed, chunk.first, last, chunk.calls, chunk.failed)

    def joined(self, other: Bar) -> Bar:
        """Return one bar for this and the next."""
        first, last = min(self.first, other.first), max(self.last, other.last)
        calls, failures = self.calls + other.calls, self.failures + other.failures
        failed = self.failed + other.failed
        return Bar(self.begin, other.end, failed, first, last, calls, failures)

    def __str__(self) -> str:
        if self.calls == 1:
            calls = f"call {self.first:,}"
        elif self.calls == self.last - self.first + 1:
            calls = f"calls {self.first:,} to {self.last:,}"
        else:
            calls = f"{self.calls:,} of the calls {self.first:,} to {self.last:,}"
        failed = f", {self.failures:,} failed" if self.calls > 1 else ", failed"
        return f"{calls}, {seconds_of(self.end - self.begin)}{failed if self.failures else ''}"


class Picture:
    """A timeline of chunks as HTML for notebooks; ``str()`` returns an SVG.

    Attributes
    ----------
    begin, seconds
        When the calls were posted or, if that is not known, the first chunk began, in seconds
        since 1970; and the seconds from then until the last chunk ended.
    hosts
        The rows of each host: as many as it made chunks at the same time, one for each slot.
    waits
        Whether the time before the first chunk of a row is waiting.
    """

    def __init__(self, chunks: Iterable[Chunk], posted: float = 0.0) -> None:
        self.hosts: dict[str, list[list[Bar]]] = {}
        timed = [(c.started, c) for c in chunks if c.started is not None]
        timed.sort(key=operator.itemgetter(0))
        self.chunks = len(timed)
        self.failed = sum(chunk.failed > 0 for _, chunk in timed)
        first = timed[0][0] if timed else 0.0
        # The clock of an execution point may be behind; calls that were rerun began earlier.
        self.waits = 0.0 < posted < first
        self.begin = posted if self.waits else first
        self.seconds = max((chunk.end for _, chunk in timed), default=0.0) - self.begin
        for _, chunk in timed:
            bar = Bar.of(chunk, self.begin)
            rows = self.hosts.setdefault(_short(chunk.host), [])
            row = next((row for row in rows if row[-1].end <= bar.begin), None)
            if row is None:
                rows.append(row := [])
            row.append(bar)

    def __repr__(self) -> str:
        if not self.chunks:
            return "<timeline: no call has ended yet>"
        failed = f", {self.failed:,} with failed calls" if self.failed else ""
        groups, hosts = plural(self.chunks, "group"), plural(len(self.hosts), "host")
        return f"<timeline: {groups} of calls on {hosts}{failed}>"

    def _repr_html_(self) -> str:
        return self.html() or as_html(repr(self))

    def _rows(self, width: float) -> tuple[list[tuple[str, list[Bar]]], int]:
        """Return what is drawn: hosts with rows, and how many slots each of these stands for.

        ``width`` is that of the time axis, in the smallest units that can be seen.
        """
        slots = [(host, row) for host, rows in self.hosts.items() for row in rows]
        every = math.ceil(len(slots) / MOST_ROWS)
        # Of several slots show the one that ended last: the calls waited for it.
        groups = (slots[i : i + every] for i in range(0, len(slots), every))
        chosen = [max(group, key=lambda slot: slot[1][-1].end) for group in groups]
        rows = _merged([row for _, row in chosen], MOST_BARS, (self.seconds or 1.0) / width)
        return [(host, row) for (host, _), row in zip(chosen, rows, strict=True)], every

    @property
    def legend(self) -> dict[str, str]:
        """What the picture's parts mean, by color."""
        legend = {DONE: "done"}
        if self.failed:
            legend[FAILED] = "failed (half as high)"
        return {**legend, TEXT: "waiting for a job"} if self.waits else legend

    # -- HTML ------------------------------------------------------------------------
    def html(self) -> str:
        """Return HTML; an empty string if there is nothing to show.

        JupyterLab removes SVG and style sheets from notebooks that it does not trust.  It keeps
        boxes with a width and a title, which also fit pages of any width and color.
        """
        if not self.chunks:
            return ""
        rows, every = self._rows(100 / LEAST)
        height = 10 if len(rows) > MOST_ROWS // 2 else HEIGHT
        lines = []
        for host, group in itertools.groupby(rows, key=operator.itemgetter(0)):
            bars = "".join(
                f'<div style="display: flex; height: {height}px; margin: 2px 0; overflow: hidden">'
                f"{''.join(self._spans(host, row))}</div>"
                for _, row in group
            )
            lines.append(_line(as_html(host), f'<div title="{as_html(host)}">{bars}</div>'))
        step, unit, name = _ticks(self.seconds)
        share = 100 * step * unit / (self.seconds or 1.0)
        count = int(100 / share)
        ticks = "".join(
            f'<span style="width: {share:.2f}%; white-space: nowrap; flex: none">'
            f"{number * step:g} {name}</span>"
            for number in range(count + (100 - count * share > 11))
        )
        what = f"1 of {every} slots" if every > 1 else ""
        lines.append(_line(what, f'<div style="display: flex; overflow: hidden">{ticks}</div>'))
        legend = " &nbsp; ".join(
            f'<span style="white-space: nowrap"><span style="color: {color}">■</span> {word}</span>'
            for color, word in self.legend.items()
        )
        return (
            '<div style="max-width: 66em; margin: 4px 0; font-size: 11px; line-height: 14px">'
            f"{''.join(lines)}{_line('', legend)}</div>"
        )

    def _spans(self, host: str, row: Sequence[Bar]) -> Iterator[str]:
        """Yield the boxes of a row of bars."""
        scale, position = 100 / (self.seconds or 1.0), 0.0
        if self.waits:
            wait = row[0].begin
            position = min(wait * scale, 100 - LEAST)
            yield (
                f'<span title="waiting {seconds_of(wait)}" style="width: {position:.2f}%; flex: none; '
                f'height: 2px; align-self: center; background: {TEXT}"></span>'
            )
        for bar in row:
            begin, end = min(bar.begin * scale, 100 - LEAST), bar.end * scale
            margin = max(0.0, begin - position)
            width = max(LEAST, end - begin)
            failed = min(width, max(LEAST, bar.failed * scale)) if bar.failures else 0.0
            title = as_html(f"{bar}, {host}")
            for share, style in (
                (width - failed, DONE),
                (failed, f"{FAILED}; height: 50%; align-self: flex-end"),
            ):
                if share > 0:
                    gap = GAP if share >= 2 * LEAST else ""
                    yield (
                        f'<span title="{title}" style="width: {share:.2f}%; flex: none; '
                        f'margin-left: {margin:.2f}%; background: {style}{gap}"></span>'
                    )
                    margin = 0.0
            position = max(position, begin) + width

    # -- SVG -------------------------------------------------------------------------
    def __str__(self) -> str:
        if not self.chunks:
            return ""
        rows, every = self._rows(WIDTH - MARGIN)
        bottom = HEIGHT * len(rows)
        scale = (WIDTH - MARGIN) / (self.seconds or 1.0)
        done, failed, waiting = [], [], []
        for number, (_, row) in enumerate(rows):
            y, thick = (number + 0.1) * HEIGHT, 0.8 * HEIGHT
            if self.waits:
                end = MARGIN + row[0].begin * scale
                waiting.append(f"M{MARGIN} {y + thick / 2 - 1:.1f}H{end:.1f}v2H{MARGIN}z")
            for bar in row:
                x, width = MARGIN + bar.begin * scale, max(0.8, (bar.end - bar.begin) * scale - 0.6)
                part = min(width, max(0.8, bar.failed * scale)) if bar.failures else 0.0
                done.append(f"M{x:.1f} {y:.1f}h{width - part:.1f}v{thick:.1f}H{x:.1f}z")
                if part:
                    x += width - part
                    failed.append(
                        f"M{x:.1f} {y + thick / 2:.1f}h{part:.1f}v{thick / 2:.1f}H{x:.1f}z"
                    )
        legend = "  ".join(
            f"<tspan fill='{color}'>■</tspan> {word} " for color, word in self.legend.items()
        )
        # One path for all bars: a tenth of the size of an element for each.
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH + 20} {bottom + 36}' "
            f"fill='{TEXT}' font-size='11' font-family='sans-serif'>"
            f"<title>{as_html(repr(self))}</title>"
            f"{''.join(self._names(rows))}{''.join(self._axis(scale, bottom, every))}"
            f"<text x='{MARGIN}' y='{bottom + 31}'>{legend}</text>"
            f"<path fill='{TEXT}' d='{''.join(waiting)}'/>"
            f"<path fill='{DONE}' d='{''.join(done)}'/>"
            f"<path fill='{FAILED}' d='{''.join(failed)}'/></svg>"
        )

    def _names(self, rows: Sequence[tuple[str, object]]) -> Iterator[str]:
        """Yield the names of the hosts, each beside its first row."""
        before = None
        for number, (host, _) in enumerate(rows):
            if host != before:
                name = host if len(host) <= LONGEST else f"{host[:LONGEST]}…"
                yield f"<text x='{MARGIN - 8}' y='{(number + 0.8) * HEIGHT:.1f}' text-anchor='end'>"
                yield f"{as_html(name)}</text>"
            before = host

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


def seconds_of(seconds: float) -> str:
    """Return a time as ``0.25 s`` or, from ten seconds on, as ``0:12``."""
    return f"{seconds:.2g} s" if seconds < 9.5 else duration(seconds)


def _line(name: str, content: str) -> str:
    """Return a line of HTML, with a name on the left."""
    return (
        '<div style="display: flex">'
        '<div style="flex: none; width: 8em; padding-right: 8px; box-sizing: border-box; '
        'overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right">'
        f'{name}</div><div style="flex: 1 1 0; min-width: 0">{content}</div></div>'
    )


def _merged(rows: Sequence[Sequence[Bar]], most: int, width: float) -> list[list[Bar]]:
    """Return the bars of rows, with short neighbors merged until there are at most ``most``."""
    while True:
        merged: list[list[Bar]] = []
        for row in rows:
            bars: list[Bar] = []
            for bar in row:
                if bars and bar.end - bars[-1].begin <= width:
                    bars[-1] = bars[-1].joined(bar)
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
