"""When and where each chunk was made: as records, as a table and as a picture."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from condorpool.display import timeline
from condorpool.display.timeline import Picture
from condorpool.engine import chunks
from condorpool.engine.chunks import Chunk
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Cluster, Crew, Job
from condorpool.engine.outcomes import Outcome
from condorpool.values.exceptions import JobFailedError, JobRemovedError


def made(host, started, seconds, failed=0, calls=2):
    """Return a chunk of calls."""
    return Chunk(0, calls, failed, "1.0", host, started, seconds)


def without(monkeypatch, library):
    """Hide an installed library."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == library else find(n))


def job(**facts):
    """Return the only job of a crew."""
    crew = Crew(1, "f", 1, JobOptions(), is_resident=False)
    return Job(Cluster(crew, 4, 1), 0, **facts)


def test_a_chunk_that_a_job_made():
    """The record has the time of the chunk, and what HTCondor logged about its job by then."""
    outcome = Outcome(
        [1, None], {1: ValueError()}, "node7", "3.11", "4.2", 100.5, 3.0, None, (0.0, 2.5)
    )
    made_by = job(attempts=2, memory=64)
    assert chunks.record(6, 8, outcome, made_by) == Chunk(
        6, 2, 1, "4.2", "node7", 100.5, 3.0, "", 2, 64, (0.0, 2.5)
    )
    assert chunks.record(6, 8, outcome, None).attempts is None


def test_a_chunk_that_was_lost():
    """A lost chunk began with its job, or when the job's previous chunk ended."""
    error = JobFailedError("4.2", "it was killed by signal 9", host="slot1_3@node7")
    lost_with = job(began=100, ended=110, attempts=1, exit="it was killed by signal 9")
    lost = chunks.record(6, 8, error, lost_with)
    assert lost == Chunk(6, 2, 2, "4.2", "node7", 100.0, 10.0, "was killed by signal 9", 1)
    lost_with.last_chunk_end = 104.5
    assert chunks.record(6, 8, error, lost_with)[5:7] == (104.5, 5.5)


def test_a_chunk_that_no_job_made():
    """The record has no job and no time, and pictures omit it."""
    taken_back = chunks.record(0, 5, JobRemovedError("", "taken back"), None)
    assert taken_back == Chunk(0, 5, 5, "", "")
    assert str(Picture([taken_back])) == ""
    assert "no call has ended yet" in Picture([])._repr_html_()


def test_chunks_at_the_same_time_are_in_rows_of_their_own():
    """A host has one row for each concurrent chunk, with or without its domain."""
    chunks = [made("a", 0, 5), made("a.example.org", 1, 1), made("a", 2, 4), made("b", 0, 9)]
    rows = Picture(chunks).hosts
    assert {host: [len(row) for row in rows[host]] for host in rows} == {"a": [1, 2], "b": [1]}


@pytest.mark.parametrize(("hosts", "slots", "count"), [(1, 2, 3), (1, 3, 4000), (300, 4, 3)])
def test_a_picture_is_small(hosts, slots, count):
    """The size of a picture is limited for many chunks and hosts, and failures stay visible."""
    chunks = [
        made(f"node{host}", 10.0 * n, 9.0, failed=n == 1)
        for host in range(hosts)
        for _ in range(slots)
        for n in range(count)
    ]
    svg = ET.fromstring(str(Picture(chunks)))
    done, failed = svg.findall("{*}path")[-2:]
    bars = done.get("d").count("z")
    assert 0 < bars <= min(len(chunks), timeline.MOST_BARS)
    assert 0 < failed.get("d").count("z") <= bars
    assert len(list(svg)) < 60
    assert f"{hosts * slots:,} with failed calls" in svg.find("{*}title").text


def test_a_host_is_text():
    """The name of an execution point is escaped."""
    host = "<script>alert('&')"
    svg = str(Picture([made(host, 0, 1)]))
    assert "<script" not in svg
    texts = {text.text for text in ET.fromstring(svg).iterfind("{*}text")}
    assert f"{host[: timeline.LONGEST]}…" in texts


@pytest.mark.parametrize(
    ("seconds", "last"),
    [(0.4, "0.4 s"), (100, "100 s"), (600, "10 min"), (9e4, "25 h"), (1e6, "10 d")],
)
def test_times_are_round(seconds, last):
    """The axis has at most seven labels, in a suitable unit."""
    step, unit, name = timeline._ticks(seconds)
    count = int(seconds / (step * unit))
    assert 1 <= count <= 6
    assert f"{count * step:g} {name}" == last


def test_matplotlib_draws_it():
    """Every chunk is drawn, into given axes or new ones."""
    from matplotlib.figure import Figure
    from matplotlib_inline import backend_inline

    ax = Figure().subplots()
    chunks = [made("a", 5, 2), made("b", 6, 3, failed=1), made("b", 9, 1)]
    assert timeline.timeline(chunks, ax) is ax
    assert [len(kind.get_paths()) for kind in ax.collections] == [3, 1]
    (box,) = ax.collections[1].get_paths()
    assert sorted(set(box.vertices[:, 0])) == [2.5, 4.0]  # one of its two calls
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    with mpl.rc_context({"backend": "agg"}):
        from matplotlib import pyplot as plt

        ax = timeline.timeline(chunks)
        assert ax.get_xlim()[1] >= 5
        ax.figure.canvas.draw()
        # Jupyter puts no box of another color behind it.
        assert backend_inline._fetch_figure_metadata(ax.figure) is None
        plt.close("all")
    assert timeline.timeline([], Figure().subplots()).get_yticks().size == 0


def test_without_matplotlib_it_is_svg(monkeypatch):
    """The picture can be shown in a notebook and written to a file."""
    without(monkeypatch, "matplotlib")
    picture = timeline.timeline([made("a", 0, 1)])
    assert ET.fromstring(str(picture)).tag.endswith("svg")
    assert 'title="calls 0 to 1, 1 s, a"' in picture._repr_html_()


def test_a_table():
    """The table has a row for each chunk, with pandas times."""
    frame = timeline.dataframe([made("a", 86400.5, 2), Chunk(2, 1, 1, "", "")])
    columns = [name for name in Chunk._fields if name != "call_seconds"]
    columns.insert(columns.index("seconds") + 1, "seconds_per_call")
    assert list(frame.columns) == columns
    assert frame.seconds_per_call[0] == 1
    assert str(frame.started[0]) == "1970-01-02 00:00:00.500000+00:00"
    assert frame.started.isna().tolist() == [False, True]
    assert list(timeline.dataframe([]).columns) == columns


def test_a_table_of_calls():
    """Each call has its own seconds; short ones share a mean, those of lost chunks are unknown."""
    measured = made("a", 0, 2.0025, calls=4)._replace(first=3, call_seconds=(0, 2.0))
    again = made("b", 9, 1.0, calls=1)._replace(first=4)
    lost = Chunk(0, 3, 3, "1.0", "c", 0.0, 7.0)
    frame = timeline.calls_dataframe([lost, measured, again], {0: None, 4: None})
    assert frame.call.tolist() == list(range(7))
    assert frame.seconds.round(4).tolist()[3:] == [0.0008, 1.0, 0.0008, 0.0008]
    assert frame.seconds.isna().tolist() == [True] * 3 + [False] * 4
    assert frame.failed.tolist() == [True, False, False, False, True, False, False]
    assert frame.host.tolist() == ["c"] * 3 + ["a", "b", "a", "a"]
    assert list(timeline.calls_dataframe([], {}).columns) == list(frame.columns)


def test_without_pandas_it_raises(monkeypatch):
    """The error says how to install pandas."""
    without(monkeypatch, "pandas")
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        timeline.dataframe([])


def test_short_calls_after_a_long_wait_are_seen():
    """Their bars are not beyond the end of the picture; each names its calls."""
    picture = Picture([made("a", 60 + n / 1000, 1e-4) for n in range(3)], posted=1.0)
    html = picture.html()
    widths = [
        (float(width), float(margin))
        for width, margin in re.findall(
            r"width: ([\d.]+)%; flex: none; margin-left: ([\d.]+)%", html
        )
    ]
    wait = float(re.search(r'title="waiting 0:59" style="width: ([\d.]+)%', html)[1])
    assert widths
    assert wait + sum(map(sum, widths)) <= 100.1
