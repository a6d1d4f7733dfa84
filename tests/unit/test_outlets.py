"""Text that others wrote reaches no terminal, page or log with commands in it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import pickle
import sys
import threading
import unicodedata
import warnings
import weakref
from types import SimpleNamespace

import pytest
from IPython.core.error import UsageError

from condorpool.cleaner import registry
from condorpool.cli import console
from condorpool.cli.main import main
from condorpool.display import eventwords, groups, notices, printed, report, textbar, timeline
from condorpool.display.progress import Progress
from condorpool.engine import copies
from condorpool.engine.calls import Calls
from condorpool.engine.chunks import Chunk, record
from condorpool.engine.counts import CallCounts
from condorpool.engine.outcomes import RemoteTraceback
from condorpool.engine.printed import Printed
from condorpool.engine.why import why
from condorpool.interface.leftovers import Leftovers
from condorpool.notebook import status
from condorpool.notebook.lines import LineError
from condorpool.notebook.magics import _usage
from condorpool.values import exceptions, notes
from condorpool.values.events import JobState
from condorpool.values.logs import logger
from condorpool.values.text import all_printable, as_html, left_by_terminal, one_line, printable

#: One of each kind: commands to terminals, marks of direction, invisible letters, breaks, others.
KINDS = {
    "title": "\x1b]0;owned\x07",
    "color": "\x1b[31m",
    "one byte": "\x9b2J",
    "bell": "\a",
    "backspace": "\b\b\b",
    "return": "\rowned",
    "vertical": "\v\f",
    "nul": "\0",
    "delete": "\x7f",
    "next line": "\x85",
    "separators": "\u2028\u2029",
    "overrides": "\u202a\u202b\u202d\u202e\u202c",
    "isolates": "\u2066\u2067\u2068\u2069",
    "marks": "\u200e\u200f\u061c",
    "invisible": "\u200b\u200c\u200d\u2060\ufeff\u00ad",
    "tags": "\U000e0041",
    "surrogate": "\udc9b",
    "private": "\ue000",
}

EVIL = "evil" + "".join(f" {kind}" for kind in KINDS.values()) + " end"


def check(shown, *, lines=None):
    """Check that a text can be shown, and is at most so many lines."""
    assert "evil" in shown
    for letter in set(shown) - {"\n", "\t"}:
        assert letter.isprintable(), (unicodedata.name(letter, ascii(letter)), shown)
    if lines:
        assert len(shown.rstrip("\n").splitlines()) <= lines, shown


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS)
def test_each_kind(text):
    """Whatever is not shown is seen to be there; blanks and letters stay."""
    check(printable(f"evil{text}"))
    check(one_line(f"evil\n{text}"), lines=1)
    check(left_by_terminal(f"{text}\nevil"))
    check(as_html(f"<evil>{text}"))
    assert printable(text) != text


def test_what_may_be_shown():
    """Letters, marks above letters, emoji and line breaks; wide blanks become blanks."""
    text = "naïve Ελλάδα עברית 中文 \N{SNAKE} e\u0301\tx\n"
    assert printable(text) == left_by_terminal(text) == text
    assert printable("10\u00a0000\u202f€\r\n") == "10 000 €\n"
    assert left_by_terminal("\x1b[1;31mred\x1b[0m\r\n10%\r99%\rdone\n") == "red\ndone\n"


ERRORS = [
    cls
    for cls in vars(exceptions).values()
    if isinstance(cls, type) and issubclass(cls, exceptions.CondorPoolError)
    # The words of these are ours alone.
    if not issubclass(cls, (exceptions.PoolClosedError, exceptions.ResultTimeoutError))
]


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_errors(cls):
    """Every error of ours: its text, also when copied, combined with another class, or noted."""
    if issubclass(cls, exceptions.JobError):
        error = cls(EVIL, EVIL, host=EVIL, hint=EVIL)
        assert error.reason == EVIL  # what programs read is what was written
        check(str(error), lines=len(EVIL.splitlines()) + 2)
        error = cls(EVIL, EVIL, host=EVIL, stderr=EVIL, hint=EVIL)
    else:
        error = cls(EVIL)
    notes.annotate(error, EVIL)
    both = exceptions.in_place_of(cls, FileNotFoundError(2, EVIL), *error.args)
    for each in (error, pickle.loads(pickle.dumps(error)), both):
        check(str(each))
        check(repr(each))
    assert isinstance(both, FileNotFoundError) or issubclass(cls, exceptions.CallError)
    check(error.__notes__[0])
    check(str(RemoteTraceback(EVIL)))


def progress(**more):
    """Return progress in which all texts are of others."""
    held = groups.HeldGroups().update({(EVIL, 1, 0, 1): 2})
    failures = groups.FailedGroups().update({0: ValueError(EVIL), 1: OSError(f"\n{EVIL}")})
    known = {"name": EVIL, "counts": CallCounts(1, 1), "jobs": {"held": 2}, "hosts": 1, "limit": 1}
    known |= {"rate": None, "eta": None, "longest": None, "held": held, "failures": failures}
    return Progress(**known, note="", ended=True, elapsed=1.0, never=EVIL, **more)


def test_progress():
    """The line of text, the report as text and HTML, what the widget gets, and timelines."""
    now = progress()
    check(textbar.line(now), lines=1)
    chunks = [Chunk(0, 1, 0, "1.0", EVIL, 1.0, 5.0), Chunk(1, 1, 0, "1.0", f"{EVIL}2", 1.0, 2.0)]
    shown = printed.Shown(1, [(EVIL, printed.clean(EVIL))], "")
    bundle = report.render(now, EVIL, chunks, 0.5, shown)
    for text in bundle.values():
        check(text)
    check(str(timeline.Picture(chunks)))
    check(timeline.Picture(chunks).html())
    check(str(all_printable({"a": [{"b": EVIL}, (EVIL,)], "c": 1.5})))
    key = now.held[0].key
    assert all_printable(key) == key == groups.key_of(EVIL, 1, 0)  # a button sends it back


def test_the_line_of_text_that_warns(monkeypatch):
    """Beside the progress, a text bar says why calls cannot run."""
    stream = io.StringIO()
    bar = textbar.TextBar(SimpleNamespace(session=None), stream, is_live=False)
    bar._meter = SimpleNamespace(read=progress)
    monkeypatch.setattr(textbar, "shown", lambda _: None)
    monkeypatch.setattr(textbar, "DELAY", 0.0)
    bar.refresh()
    check(stream.getvalue(), lines=2)


def test_what_calls_print(capsys):
    """With ``echo=True`` it is printed as a terminal leaves it; line breaks and tabs stay."""
    calls = Calls("f", echo=True)
    calls._session = SimpleNamespace(changed=threading.Lock(), printing=weakref.WeakSet())
    texts = f"{EVIL}\nevil\tx\n", f"{EVIL}\nevil"
    calls._print(Printed(0, "1.0", texts, [], {}, []))
    out, err = capsys.readouterr()
    check(out)
    check(err)
    assert out.endswith("\nevil\tx\n")


def test_notices_and_the_command_line(capsys, monkeypatch):
    """Sentences, tables, questions, and what is wrong with a command."""
    console.say(EVIL)
    console.warn(EVIL)
    console.table(("name",), [[console.Cell(EVIL, "red")]])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=str))
    assert not console.agrees(EVIL, yes=False)
    notices.say(EVIL)
    notices.tell(EVIL)
    no_option = "--" + EVIL.replace(" ", "")
    for words in ([EVIL], ["ls", "--" + EVIL], ["personal", EVIL], ["ls", no_option], [no_option]):
        with contextlib.suppress(SystemExit):
            assert main(words) == 1
    out, err = capsys.readouterr()
    check(out)
    check(err)
    console.as_json({EVIL: EVIL})
    out, _ = capsys.readouterr()
    assert json.loads(out) == {EVIL: EVIL}
    assert out.isascii()


def test_notebooks():
    """Why a job waits, its events, errors of magics, and tables of what was left behind."""
    for state in JobState:
        job = SimpleNamespace(
            id="1.0", state=state, host=EVIL, reason=EVIL, code=1, subcode=0, exit="", holds=1
        )
        if state in (JobState.HELD, JobState.REMOVED, JobState.COMPLETED):
            check(why(SimpleNamespace(fit=lambda _: None), job), lines=1)
    log = f"012 (1.0.0) 2026-01-01 00:00:00 Job was held.\n\t{EVIL}\n...\n"
    for line in eventwords.in_words(log):
        check(line)
    with pytest.raises(UsageError) as raised, _usage():
        raise LineError(EVIL)
    check(str(raised.value))
    left = SimpleNamespace(name=EVIL, run=EVIL, notebook=f"/{EVIL}", cell=1, time=0.0, in_use=EVIL)
    left.counts = CallCounts(1)
    check(repr(Leftovers([left])), lines=3)
    check(Leftovers([left])._repr_html_())
    left.entry = SimpleNamespace(owner=None)
    check("\n".join(status._lines([left])), lines=1)


def test_logs_and_warnings(caplog, tmp_path, monkeypatch):
    """A program's log, the cleaners' log, and warnings."""
    logger.error("cannot follow %s", EVIL, exc_info=ValueError(EVIL))
    caplog.handler.setFormatter(logging.Formatter("%(message)s"))
    check(caplog.text)
    check(caplog.records[0].getMessage(), lines=1 + len(EVIL.splitlines()))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    registry.log(EVIL)
    check((registry.state() / registry.LOG).read_text(), lines=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        copies.warn([SimpleNamespace()], lambda _: EVIL, EVIL)
    check(str(caught[0].message))


def test_records_of_chunks():
    """A host's name comes from the job; what is kept of it can be shown."""
    error = exceptions.JobFailedError("1.0", EVIL, host=f"slot1@{EVIL}")
    check(record(0, 1, error, None).host, lines=1)
