"""The program at another machine that asks its access point; `remote` starts it, over ssh.

It imports nothing but the standard library, HTCondor's bindings, and two folders of condorpool.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import IO, Any

from condorpool.access import wire
from condorpool.access.accesspoint import AccessPoint
from condorpool.values.plain import PlainError

#: The methods that may be asked for: all that use HTCondor's bindings.
METHODS = frozenset(
    "check_memory_max submit nudge_cluster act edit query most_memory history slots is_met fit".split()
)


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer questions until the other side closes the connection, or breaks it in a line."""
    answers.write(b"\n" + wire.READY)
    answers.flush()
    point: AccessPoint | None = None
    while (line := questions.readline(wire.MAX_LINE)).endswith(b"\n"):
        question = wire.message_of(line, wire.Question)
        # In case the bindings hang: nobody waits for the answer any longer than that.  This ends
        # the process also while they hold the interpreter.
        signal.alarm(round(wire.PATIENCE))
        try:
            if question.name == "locate":
                point = AccessPoint.locate(*question.args)
                value: Any = _located(point)
            elif point is not None and question.name in METHODS:
                value = getattr(point, question.name)(*question.args, **question.kwargs)
            else:
                raise PlainError(f"{question.name} is no question")  # noqa: TRY301
            answer = wire.line_of(wire.Answer(question.number, value))
        except Exception as error:  # noqa: BLE001 - raised again by the other side
            failure = wire.Failure.of(error)
            answer = wire.line_of(wire.Answer(question.number, error=failure))
        signal.alarm(0)
        answers.write(answer)
        answers.flush()


def _located(point: AccessPoint) -> wire.Located:
    known = vars(point)
    return wire.Located(**{name: known[name] for name in wire.Located.__dataclass_fields__})


def main() -> None:
    """Answer the questions from standard input."""
    # Other output, also that of libraries, must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, answers)
    except (BrokenPipeError, PlainError):
        os._exit(1)  # the other side has ended, or is none of ours
