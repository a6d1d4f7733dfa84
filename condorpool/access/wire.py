"""What a client and its agent at another machine say to each other: plain data, in lines.

A question and its answer are one line of JSON each, with the same number:

    {"number": 1, "name": "query", "args": ["JobStatus == 2", ["ClusterId"]], "kwargs": {}}
    {"number": 1, "value": [{"ClusterId": 7}], "error": null}

``name`` is a method of the access point, or ``locate``.  A value of HTCondor's that JSON does not
have, as an expression, is ``{"$classad": TEXT}``.  Before the first answer the agent writes the
line `READY`; what login scripts print comes before it.  Neither side runs anything that it reads,
and both bound it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from condorpool.access.bindings import classad2
from condorpool.values import plain
from condorpool.values.exceptions import (
    HTCondorError,
    HTCondorNotFoundError,
    SubmitError,
    VersionSkewError,
)
from condorpool.values.text import printable

#: The agent's first line.  What login scripts print may end without a line break.
READY = b"condorpool-agent-2\n"

#: Bytes of the longest line.  The ads of 100,000 jobs take some 20 MB.
MAX_LINE = 1 << 28

#: Seconds that an answer may take: HTCondor itself waits for 20 s and more in a few steps.
PATIENCE = 180.0

#: Characters of an error that are passed on: it may quote a submit description.
_MAX_ERROR = 20_000

# A longer expression stays a text: the parser's recursion ends the process at some 100,000 terms.
_MAX_EXPRESSION = 1 << 16

_CLASSAD = "$classad"

#: The errors that an agent passes on as themselves.
_KINDS = {
    kind.__name__: kind
    for kind in (HTCondorError, HTCondorNotFoundError, SubmitError, VersionSkewError, ValueError)
}

M = TypeVar("M", bound="Question | Answer")


@dataclass(frozen=True)
class Question:
    """A call of a method of the access point."""

    number: int
    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """An exception: its class and its text."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return an exception as it is passed on."""
        kind = type(error).__name__
        text = str(error) if kind in _KINDS else f"the agent has failed: {error!r}"
        return cls(kind, text[:_MAX_ERROR])

    def error(self) -> Exception:
        """Return the exception."""
        return _KINDS.get(self.kind, HTCondorError)(printable(self.text))


@dataclass(frozen=True)
class Answer:
    """What a question's method has returned, or raised."""

    number: int
    value: Any = None
    error: Failure | None = None


@dataclass(frozen=True)
class Located:
    """The answer to ``locate``: see `AccessPoint`."""

    name: str
    schedd_address: str
    collector_address: str
    version: str
    started: float
    origin: Mapping[str, str]
    queue: str


def line_of(message: Question | Answer) -> bytes:
    """Return the line of a message."""
    # In ASCII, so that no text has a line break or half a character.
    return json.dumps(_plain(message)).encode("ascii") + b"\n"


def message_of(line: bytes, kind: type[M]) -> M:
    """Return the message in a line; raise `PlainError` if there is none."""
    found: M = plain.checked(plain.parse(line, _revived), kind)
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if kind in (list, tuple):
        return [_plain(each) for each in value]
    if kind is dict or dataclasses.is_dataclass(value):
        facts = value if kind is dict else vars(value)
        return {name: _plain(each) for name, each in facts.items()}
    ad = classad2.ClassAd()
    ad["value"] = value
    return {_CLASSAD: str(ad.lookup("value"))}


def _revived(found: dict[str, Any]) -> Any:
    text = found.get(_CLASSAD)
    if len(found) != 1 or not isinstance(text, str):
        return found
    if len(text) > _MAX_EXPRESSION:
        return text
    try:
        return classad2.ClassAd(f"[value = {text}]")["value"]
    except (classad2.ClassAdException, ValueError, KeyError):
        raise plain.PlainError("it has a value that is no ClassAd expression") from None
