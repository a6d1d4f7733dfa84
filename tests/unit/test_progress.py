"""Progress, and the texts that show it."""

from __future__ import annotations

import io
import math
import re
import threading
from types import SimpleNamespace

import pytest

from condorpool.display import groups, page, report, textbar
from condorpool.display.progress import Longest, Meter, Progress
from condorpool.engine.batches import Batch
from condorpool.engine.chunks import Chunk
from condorpool.engine.counts import CallCounts
from condorpool.engine.description import JobOptions
from condorpool.engine.jobs import Cluster, Crew
from condorpool.engine.pace import Pace
from condorpool.engine.records import BatchRecord
from condorpool.values.events import JobEvent

MISSING = "reading from file {} at {}: (errno 2) No such file or directory"


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


class Calls:
    """A result with one call in each chunk and job, whose jobs change state by events."""

    name = "fit"

    echoes, calls_printed = False, 0

    def __init__(self, calls, clock=None, seconds=None):
        self.clock, self.seconds = clock, seconds
        crew = Crew(1, "fit", 8, JobOptions(), is_resident=False)
        self.batch = Batch(1, crew, lambda *_: None, JobOptions(), BatchRecord(calls=1))
        self.batch.size, self.batch.is_open = calls, False
        self.size = calls
        self.batch.pending = {n: n + 1 for n in range(calls)}
        self.cluster = Cluster(crew, 1, calls, range(calls))
        self.batch.holders = dict(enumerate(self.cluster.jobs))
        crew.clusters.append(self.cluster)
        self.session = SimpleNamespace(
            changed=threading.Condition(),
            state=SimpleNamespace(troubles={}, ended=None),
            is_closed=False,
        )
        self.errors = {}

    @property
    def ended(self):
        """The number of calls that have ended."""
        return self.size - len(self.batch.pending)

    @property
    def elapsed(self):
        """Seconds since the tests began."""
        return self.clock.now if self.clock else 0.0

    def counts(self):
        """Return how many calls are in each state."""
        failed, (_, _, running, held) = len(self.errors), self.batch.under_way
        waiting = len(self.batch.pending) - running - held
        return CallCounts(self.ended - failed, failed, 0, running, held, waiting)

    def refresh(self):
        """Do nothing: there is nothing to look up."""

    def pace(self):
        """Return how quickly calls are made: each takes as long as the tests say."""
        running = self.batch.running
        return Pace(self.seconds, running, self.batch.untaken, math.inf, self.elapsed)

    @property
    def is_ready(self):
        """Whether all calls have ended."""
        return not self.batch.pending

    def log(self, kind, *procs, time=0, **facts):
        """Apply an event of the event log to jobs."""
        for proc in procs:
            self.cluster.apply(JobEvent(kind, 1, proc, facts, time))

    def end(self, *numbers, error=None):
        """End calls and their jobs."""
        for number in numbers:
            del self.batch.pending[number]
            if error:
                self.errors[number] = error
            self.log("JOB_TERMINATED", number, TerminatedNormally=True, ReturnValue=0)


@pytest.fixture
def clock():
    """Return a clock that tests set."""
    return Clock()


def test_jobs_are_counted_by_state():
    """Every queued job is counted once; idle jobs in file transfer are counted apart."""
    calls = Calls(10)
    calls.log("SUBMIT", *range(8))
    calls.log("FILE_TRANSFER", 3, Type=2)
    calls.log("EXECUTE", 0, 1, 2, SlotName="slot1_1@a")
    calls.log("JOB_SUSPENDED", 2)
    calls.log("JOB_HELD", 4, HoldReason="no", HoldReasonCode=1, HoldReasonSubCode=0)
    seen = Meter(calls).read()
    assert seen.jobs == {
        "queued": 2,
        "idle": 3,
        "transferring": 1,
        "running": 2,
        "suspended": 1,
        "held": 1,
    }
    assert seen.hosts == 1


def test_shares_of_the_bar_are_all_calls():
    """The parts of a bar add up to the calls, whatever the number of jobs."""
    calls = Calls(10)
    calls.log("SUBMIT", *range(10))
    calls.log("EXECUTE", 0, 1, 2)
    calls.end(0)
    calls.end(1, error=ValueError("x"))
    shares = Meter(calls).read().shares
    assert sum(shares.values()) == pytest.approx(10)
    assert shares == {"done": 1, "failed": 1, "running": 1, "waiting": 7}


def test_holds_for_the_same_cause_are_one_group():
    """Reasons that differ only in slots, hosts, paths or numbers are one group."""
    calls = Calls(6)
    for proc in range(4):
        reason = MISSING.format("/data/in", f"slot1_{proc}@host{proc}.example.org")
        calls.log("JOB_HELD", proc, HoldReason=reason, HoldReasonCode=13, HoldReasonSubCode=2)
    calls.log("JOB_HELD", 4, HoldReason="too much", HoldReasonCode=34, HoldReasonSubCode=102)
    calls.log("JOB_RELEASED", 4)
    calls.log("JOB_HELD", 4, HoldReason="too much", HoldReasonCode=34, HoldReasonSubCode=102)
    files, memory = Meter(calls).read().held
    assert (files.times, memory.times) == (1, 2)  # one is held again after it was released
    assert (files.count, files.code, files.subcode) == (4, 13, 2)
    assert files.reason == MISSING.format("/data/in", "…")
    assert not files.needs_memory
    assert memory.needs_memory
    assert "memory" in memory.cure
    assert [job.proc for job in page.jobs_in(calls, group=files.key)] == [0, 1, 2, 3]


def test_failures_alike_are_one_group():
    """Calls with similar exceptions are one group, and later ones join it."""
    calls = Calls(9)
    meter = Meter(calls)
    calls.end(1, error=ValueError("no convergence in 7 steps"))
    calls.end(2, error=KeyError("a"))
    meter.read()
    calls.end(3, error=ValueError("no convergence in 8 steps\nand more"))
    seen = meter.read()
    assert [(f.kind, f.message, f.count) for f in seen.failures] == [
        ("ValueError", "no convergence in … steps", 2),
        ("KeyError", "'a'", 1),
    ]
    assert seen.counts[:2] == (0, 3)
    assert {failed.word for failed in seen.failures} == {"failed"}
    assert groups.Failed("JobRemovedError", "", 1).word == "removed"


def test_an_exception_without_a_text_is_counted():
    """A user's exception whose str() raises does not stop the display."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    calls = Calls(2)
    calls.end(0, error=Mute())
    assert Meter(calls).read().failures == (groups.Failed("Mute", "", 1, 0),)


def test_rate_and_remaining_time(clock):
    """The rate is that of the last news; after long silence there is no remaining time."""
    clock.now = 1.0
    calls = Calls(100, clock)
    meter = Meter(calls, clock)
    calls.log("EXECUTE", *range(10), time=1)
    seen = meter.read()
    assert (seen.rate, seen.eta, seen.longest) == (None, None, None)
    clock.now, calls.seconds = 11.0, 10.0
    assert str(meter.read().longest) == "0:10: call 0"
    calls.end(*range(10))
    calls.log("EXECUTE", *range(10, 20), time=11)
    seen = meter.read()
    assert (seen.rate, seen.eta) == (1.0, 90.0)
    clock.now = 15.0
    seen = meter.read()
    assert (seen.rate, seen.eta) == (1.0, 90.0)  # 86 s, rounded
    clock.now = 50.0
    seen = meter.read()
    assert (seen.rate, seen.eta) == (None, None)
    assert str(seen.longest) == "0:39: call 10"


def test_equal_progress_compares_equal(clock):
    """Progress changes when a call ends, not as time passes."""
    calls = Calls(3)
    meter = Meter(calls, clock)
    before = meter.read()
    clock.now = 1.0
    assert meter.read() == before
    calls.end(0)
    assert meter.read() != before


def test_a_page_of_jobs():
    """A page has some of the jobs in a state, and their total number."""
    calls = Calls(50)
    calls.log("SUBMIT", *range(50))
    calls.log("EXECUTE", *range(30), SlotName="slot1@a", time=100)
    calls.log("IMAGE_SIZE", 20, MemoryUsage=64)
    total, rows = page.page(calls, "running", 20, 5, now=107)
    assert total == 30
    assert [row.id for row in rows] == [f"1.{n}" for n in range(20, 25)]
    assert rows[0] == page.Row("1.20", "running", "20", "slot1@a", 7, 64, 1, "")


def test_progress_of_many_jobs_is_small():
    """The size of the progress does not grow with the number of jobs."""
    calls = Calls(20_000)
    for proc in range(10_000):
        reason = MISSING.format(f"/in/{proc}", proc)
        calls.log("JOB_HELD", proc, HoldReason=reason, HoldReasonCode=13)
    calls.log("EXECUTE", *range(10_000, 20_000), SlotName="slot1@a")
    for number in range(5_000):
        calls.end(10_000 + number, error=ValueError(f"{number:b}" if number % 2 else "x" * number))
    seen = Meter(calls).read()
    assert [held.count for held in seen.held] == [10_000]
    assert sum(failed.count for failed in seen.failures) == 5_000
    assert len(repr(seen)) < 20_000


def seen(**changes):
    """Return progress with these changes."""
    values = {
        "name": "fit",
        "counts": CallCounts(10, 0, 0, 2, 0, 28),
        "jobs": {"idle": 3, "running": 2},
        "hosts": 1,
        "limit": 8,
        "rate": 2.0,
        "eta": 15.0,
        "longest": None,
        "held": (),
        "failures": (),
        "note": "",
        "ended": False,
        "elapsed": 65.4,
    }
    return Progress(**{**values, **changes})


def test_a_line_of_text():
    """The line has the bar, the counts of calls and jobs, and the times."""
    assert textbar.line(seen(counts=CallCounts(10, 2, 0, 2, 0, 26))) == (
        "fit |██████··············| 10 of 40 calls done, 2 failed, 2 running, 26 waiting, "
        "3 jobs idle, 1:05, eta 0:15"
    )


def test_the_longest_call_is_named():
    """Beside the running calls; with a number that may be a little off if calls are short."""
    longest = Longest(17, 9.4)
    assert "2 running (the longest 0:09: call 17), 28 waiting" in textbar.line(
        seen(longest=longest)
    )
    one = seen(longest=Longest(17, 61.0, is_exact=False), counts=CallCounts(39, running=1))
    assert "39 of 40 calls done, 1 running (1:01: about call 17)" in textbar.line(one)


def test_a_report_is_escaped():
    """Text from jobs and users is escaped in the report."""
    failure = groups.Failed("Err", "<script>alert(1)</script>", 1, 0)
    counts = CallCounts(10, 1, 29)
    bundle = report.render(seen(name="<lambda>", counts=counts, failures=(failure,), ended=True))
    assert "<script" not in bundle["text/html"]
    assert "<lambda>" not in bundle["text/html"]
    assert "<lambda>: 10 of 40 calls done, 1 failed, 29 removed, 1:05" in bundle["text/plain"]


def test_a_report_has_a_picture_of_several_chunks():
    """A single chunk has no picture, nor do chunks that no job made."""

    def html(*started):
        chunks = [Chunk(0, 1, 0, "1.0", "<b>", time, 1.0) for time in started]
        return report.render(seen(ended=True), chunks=chunks)["text/html"]

    assert html(1.0, 2.0).count('title="call 0, 1 s, &lt;b&gt;"') == 2
    assert "<img" not in html(1.0) + html(None, None)


def test_short_calls_write_no_line():
    """Calls that end within a second are not shown."""
    calls, stream = Calls(1), io.StringIO()
    bar = textbar.TextBar(calls, stream, is_live=True)
    assert bar.refresh()
    calls.end(0)
    bar.close()
    assert not bar.refresh()
    assert not stream.getvalue()


def test_a_bar_overwrites_itself(monkeypatch):
    """The line is rewritten when it has changed, and ends with a newline."""
    monkeypatch.setattr(textbar, "DELAY", 0.0)
    calls, stream = Calls(2), io.StringIO()
    bar = textbar.TextBar(calls, stream, is_live=True)
    assert bar.refresh()
    assert bar.refresh()
    calls.end(0, 1)
    bar.close()
    lines = stream.getvalue().split("\r")
    assert len(lines) == 3
    assert lines[-1].rstrip(" \n").endswith("2 of 2 calls done, 0:00")
    assert lines[-1].endswith("\n")


def test_the_bar_of_a_report_needs_no_styles_of_the_page():
    """JupyterLab removes `flex` with numbers and variables of themes; few failed calls are seen."""
    html = report.render(seen(counts=CallCounts(done=99_999, failed=1), ended=True))["text/html"]
    bar = html.partition('aria-hidden="true"')[2].partition("</div>")[0]
    widths = [float(width) for width in re.findall(r"width: ([\d.]+)%", bar)]
    assert len(widths) == 2
    assert widths[1] > 0.4
    assert sum(widths) == pytest.approx(100, abs=0.1)
    assert "var(" not in bar


def test_the_slowest_calls_have_their_seconds():
    """Hosts are named where there is more than one."""
    chunks = [
        Chunk(n, 1, 0, "1.0", host, 0.0, seconds)
        for n, (host, seconds) in enumerate([("a", 1.23), ("a", 75.0), ("a", 0.5)])
    ]
    assert report.render(seen(ended=True), chunks=chunks)["text/plain"].endswith(
        "slowest: call 1 (1:15), call 0 (1.2 s)"
    )
    chunks[0] = chunks[0]._replace(host="b")
    assert report.render(seen(ended=True), chunks=chunks)["text/plain"].endswith(
        "slowest: call 1 (1:15 on a), call 0 (1.2 s on b)"
    )


def test_the_report_on_calls_that_have_not_ended_has_its_time():
    """It may be read later; it says how to see them live."""
    calls = SimpleNamespace(
        spelling="_condor", calls_printed=0, echoes=False, posted_at=0.0, chunks=list
    )
    html = report.of(calls, seen())["text/html"]
    assert re.search(r"at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; <code>_condor.show\(", html)
    assert "at 2" not in report.of(calls, seen(ended=True))["text/html"]
