"""What calls print, as far as displays show it."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from condorpool.engine.texts import end_of
from condorpool.values.text import as_html, left_by_terminal, plural

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls

#: Characters that a display shows of what calls print, and of each call at least.
MOST, LEAST = 20_000, 500

# When texts of calls that ended quickly were shown: a loop must not fill the notebook with them.
_quick: collections.deque[float] = collections.deque(maxlen=10)


@dataclass(frozen=True)
class Shown:
    """What some calls printed, cut to a size that a notebook can hold.

    Parameters
    ----------
    count
        How many calls printed something.
    texts
        The labels and the texts of some of them.
    missing
        What is not shown, in a sentence; empty if all is.
    get
        What returns all of it; empty if nothing does.
    """

    count: int
    texts: list[tuple[str, str]]
    missing: str
    get: str = ""

    @property
    def title(self) -> str:
        """One line that says how many calls printed something."""
        return f"printed by {plural(self.count, 'call')}"

    @property
    def hint(self) -> str:
        """One line that says how to get what they printed."""
        return f"{self.title}: {self.get}" if self.get else self.title

    @property
    def text(self) -> str:
        """All of it as text."""
        parts = [f"{label}\n{text}" if label else text for label, text in self.texts]
        return "\n".join(parts + [self.missing] * bool(self.missing))

    @property
    def html(self) -> str:
        """All of it as folded HTML."""
        parts = [
            (f"<strong>{as_html(label)}</strong>\n" if label else "") + as_html(text)
            for label, text in self.texts
        ]
        body = "\n".join(parts + [f"<em>{as_html(self.missing)}</em>"] * bool(self.missing))
        return (
            f'<details><summary style="cursor: pointer">{self.title}</summary>'
            '<pre style="max-height: 20em; overflow: auto; white-space: pre-wrap; '
            f'overflow-wrap: anywhere; margin: 4px 0">{body}</pre></details>'
        )


def shown(calls: Calls) -> Shown | None:
    """Return what calls that have ended printed; None if nothing, or if it was echoed."""
    count = calls.calls_printed
    if not count or calls.echoes:
        return None
    with calls.session.changed:
        total = sum(len(text) for chunk in calls.printed for text in chunk.texts)
    each = MOST if total <= MOST else max(LEAST, MOST // count)
    texts: list[tuple[str, str]] = []
    used, is_cut = 0, False
    for text in calls.texts():
        if used >= MOST:
            break
        cleaned = clean(text.text[-4 * each :])
        is_cut = is_cut or len(text.text) > 4 * each or len(cleaned) > each
        label = "" if calls.is_single else f"call {text.number:,}:"
        texts.append((label, end_of(cleaned, each)))
        used += len(texts[-1][1]) + len(label)
    more = f"{plural(count - len(texts), 'more call')} printed" if count > len(texts) else ""
    cut = "only the end of long texts is shown" if is_cut else ""
    missing = " and ".join(part for part in (more, cut) if part)
    get = calls.spelling and f"{calls.spelling}.printed()"
    all_ = f": {get} has it all" if get else ""
    return Shown(count, texts, missing and f"{missing[0].upper()}{missing[1:]}{all_}.", get)


def shown_if_quick(calls: Calls) -> Shown | None:
    """Return what calls printed that ended before they were shown, for ten of them in ten seconds."""
    now = time.monotonic()
    if not calls.calls_printed or (len(_quick) == 10 and _quick[0] > now - 10):
        return None
    _quick.append(now)
    return shown(calls)


def clean(text: str) -> str:
    """Return a text as a terminal would leave it, without blanks at its end."""
    return left_by_terminal(text).rstrip()
