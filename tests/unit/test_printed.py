"""What calls print: by call, by job, and as displays show it."""

from __future__ import annotations

import threading
import weakref
from types import SimpleNamespace

import pytest

from condorpool.display import printed as display
from condorpool.engine.calls import Calls
from condorpool.engine.printed import CallText, Printed, by_call, chunks_of, job_parts
from condorpool.engine.texts import Text


def chunk(first, *texts, job="1.0", begin=0, **more):
    """Return the text of a chunk whose calls have printed these to standard output."""
    text = "".join(texts)
    marks = [(n, sum(map(len, texts[:n])), 0) for n in range(len(texts)) if texts[n]]
    spans = [(begin, begin + len(text)), (0, 0)]
    return Printed(first, job, (text, ""), marks, more.pop("lost", {}), spans, **more)


def calls(*chunks, spelling="result", name="fit", is_single=False):
    """Return calls whose chunks have printed something."""
    return SimpleNamespace(
        name=name,
        is_single=is_single,
        echoes=False,
        printed=chunks,
        calls_printed=sum(len(one.marks) for one in chunks),
        texts=lambda: by_call(chunks, made_again=False),
        session=SimpleNamespace(changed=threading.Lock()),
        spelling=spelling,
    )


def test_texts_are_in_call_order():
    """Whatever the order in which chunks ended; calls that printed nothing are not there."""
    texts = by_call([chunk(4, "e"), chunk(0, "a", "", "c")], made_again=False)
    assert list(texts) == [CallText(0, "a", ""), CallText(2, "c", ""), CallText(4, "e", "")]


def test_the_last_text_of_a_call_counts():
    """Calls that were made again have the text of that time, also if it is read first."""
    again = chunk(1, "B")
    first = chunk(0, "a", "b", "c")
    assert "".join(t.text for t in by_call([first, again], made_again=True)) == "aBc"
    late = first._replace(outdated={1})
    assert "".join(t.text for t in by_call([again, late], made_again=True)) == "aBc"


def test_a_text_says_what_is_missing():
    """Of much text the end is kept."""
    (text,) = chunk(0, "end", lost={0: 2000}).calls()
    assert text.text == "(2,000 bytes before this were not kept)\nend"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (None, "call 0 of fit:\na\ncall 1 of fit:\nb\nsum:\nc\n"),
        (b"start\nabcnow", "start\ncall 0 of fit:\na\ncall 1 of fit:\nb\nsum:\nc\nnow"),
        (b"again", "call 0 of fit:\na\ncall 1 of fit:\nb\nsum:\nc\nagain"),
    ],
    ids=["not there yet", "also others' text", "of a later run"],
)
def test_the_text_of_a_job_is_labelled(tmp_path, file, expected):
    """It is that of its own calls, then what else is in its file."""
    path = tmp_path / "job-1.0.out"
    if file is not None:
        path.write_bytes(file)

    def text(*kept):
        return Text(job_parts(chunks_of(kept, "1.0", 0), 0, len(file or b"")), path)

    fit = calls(chunk(0, "a", "b", begin=6), chunk(7, "z", job="1.1"))
    one = calls(chunk(0, "c", begin=8), name="sum", is_single=True)
    assert text(one, fit).whole() == expected
    for most in range(1, 2 * len(expected)):
        assert text(one, fit).end(most) == (expected[-most:], max(0, len(expected) - most))
    path.write_bytes(b"")
    file = b""
    assert text(one).whole() == "c"  # a single text needs no label


def test_the_earliest_texts_are_dropped(tmp_path, monkeypatch):
    """When there is too much; they say so, and the job's own file may still have them."""
    monkeypatch.setattr("condorpool.engine.calls.MOST_TEXT", 6)
    kept = Calls("fit")
    kept._session = SimpleNamespace(changed=threading.Lock(), printing=weakref.WeakSet())
    for made in (
        chunk(0, "ab", "é", lost={1: 2}),
        chunk(2, "de", begin=4),
        chunk(3, "fghi", begin=6),
    ):
        kept._print(made)
    assert [text.text for text in kept.texts()] == [
        "(2 bytes before this were not kept)\n",
        "(4 bytes before this were not kept)\n",
        "de",
        "fghi",
    ]
    path = tmp_path / "job-1.0.out"
    path.write_text("abédefghij", encoding="utf-8")
    made = chunks_of([kept], "1.0", 0)
    expected = "abécall 2 of fit:\nde\ncall 3 of fit:\nfghi\nj"
    assert Text(job_parts(made, 0, 11), path).whole() == expected
    made = chunks_of([kept], "1.0", 0)
    assert Text(job_parts(made, 0, 0), path).whole() == expected[len("abé") : -1]


def test_a_few_texts_are_shown_whole():
    """Each has its label; a single call needs none."""
    shown = display.shown(calls(chunk(0, "a\n", "", "c\n")))
    assert shown.title == "printed by 2 calls"
    assert shown.hint == "printed by 2 calls: result.printed()"
    assert shown.text == "call 0:\na\ncall 2:\nc"
    assert "<strong>call 2:</strong>\nc" in shown.html
    single = display.shown(calls(chunk(0, "<b>\n"), is_single=True))
    assert (single.title, single.text) == ("printed by 1 call", "<b>")
    assert "&lt;b&gt;" in single.html
    assert display.shown(calls()) is None


@pytest.mark.parametrize("length", [10, 100_000])
def test_the_size_of_what_is_shown_is_limited(length):
    """It says what is missing, and how to get it."""
    chunks = chunk(0, *["x" * (length - 1) + "\n"] * 10_000)
    shown = display.shown(calls(chunks, spelling="_condor"))
    assert len(shown.text) < 1.5 * display.MOST
    assert shown.count == 10_000
    assert "more calls printed" in shown.missing
    assert "_condor.printed()" in shown.missing
    assert ("only the end" in shown.missing) == (length > 100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x", "red x"),
        (" 10%\r 50%\r100%\ndone\r\n", "100%\ndone"),
        ("a\x00\x07b\x1b\tc", "a��b�\tc"),
    ],
    ids=["colors", "progress bar", "control characters"],
)
def test_commands_to_terminals_are_not_shown(text, expected):
    """What is shown is what a terminal would leave, and can do no harm."""
    assert display.clean(text) == expected


def test_a_loop_of_quick_calls_does_not_fill_the_notebook():
    """The text of ten calls in ten seconds is shown."""
    display._quick.clear()
    some = [display.shown_if_quick(calls(chunk(0, "a"))) for _ in range(12)]
    assert [shown is None for shown in some] == [False] * 10 + [True] * 2
    display._quick.clear()
