"""What a job returns for its calls: values, or exceptions with the text of their tracebacks.

Values and exceptions are the user's objects: pickling, naming or printing them runs
code that may raise anything.
"""

from __future__ import annotations

from .container import dumps, loads
from .imports import modules
from .pickling import pickled
from .timelimit import OvertimeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Values of these types can always be rebuilt.
PLAIN = {int, float, complex, bool, str, bytes, type(None)}

#: Characters of an exception that are shown where it is listed and not rebuilt.
MAX_WORDS = 500

#: Reads an exception's traceback, whatever its class does with the attribute.
traceback_of = BaseException.__dict__["__traceback__"].__get__


def frames_of(calls: list[tuple[Any, str]]) -> tuple[list[Any] | None, list[Any]]:
    """Return the outcome of each of these calls (None if all values are plain), and the frames.

    Each call is its value and ``""``, or its exception and the text of the traceback.  The outcome
    of one with a value is the number of its frames; see `outcome_of` for the others.
    """
    values = [value for value, text in calls if not text]
    if len(values) == len(calls):
        try:
            if {type(value) for value in values} <= PLAIN:
                # One pickle for all: nothing in it can fail to be rebuilt.
                return None, dumps(values)
        except BaseException:  # a metaclass may define any __hash__, and memory may run out
            pass
    outcomes: list[Any] = []
    frames: list[Any] = []
    for value, text in calls:
        what, why, its_frames = outcome_of(value, text)
        count = len(its_frames)
        words = words_of(value)[:MAX_WORDS] if text else ""
        outcomes.append(count if what == "value" else [what, why, count, words])
        frames.extend(its_frames)
    return outcomes, frames


def outcome_of(value: Any, text: str) -> tuple[str, str, list[Any]]:
    """Return the outcome of a call in two words, and the frames of its value or exception.

    The words are ``"value", ""``; ``"raise", traceback``; ``"unmade", traceback`` for an
    exception that its class cannot rebuild; ``"unpicklable", why`` when the value or exception
    cannot be sent; or ``"overtime", traceback``.
    """
    if type(value) is OvertimeError:
        return "overtime", text, []
    try:
        what, frames = frames_of_error(value) if text else ("value", pickled(value))
    except BaseException as error:
        # Our own words: the object's repr() may be what is broken.
        why = (
            f"the {'exception' if text else 'value'} of type {type_of(value)} "
            f"cannot be pickled: {words_of(error)}"
        )
        return "unpicklable", why + ("\n" + text if text else ""), []
    return what, text, frames


def frames_of_error(error: BaseException) -> tuple[str, list[Any]]:
    """Return how an exception is rebuilt, and its frames.

    The first is ``"raise"`` (as itself) or ``"unmade"`` (from its parts).
    """
    frames = pickled(error)
    try:
        loads(frames)
    except Exception:  # it can be pickled, but not rebuilt
        for what, how in (("raise", remake), ("unmade", revive)):
            try:
                again = pickled(InParts(error, how))
                loads(again)
                return what, again
            except Exception:
                pass
        raise
    return "raise", frames


class InParts:
    """Pickles an exception as its parts; unpickling returns the exception."""

    def __init__(self, error: BaseException, how: Any) -> None:
        self.parts = how, (type(error), error.args, dict(vars(error)))

    def __reduce__(self) -> Any:
        return self.parts


def remake(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """Rebuild an exception by its class, and set attributes even if the class forbids that."""
    error = kind(*args)
    for name, value in attributes.items():
        BaseException.__setattr__(error, name, value)
    return error


def revive(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """Rebuild an exception without calling its ``__init__``, which takes other arguments."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def describe(error: BaseException, sources: dict[str, str]) -> str:
    """Return the traceback of an exception, as the interpreter prints it with these sources."""
    # The first frame of the traceback is this program's own; users look for theirs.
    trace = traceback_of(error)
    trace = trace.tb_next if trace else None
    try:
        import linecache  # these take 8 ms, and a call without an exception needs neither
        import traceback

        modules.explain(error)
        for name, text in sources.items():
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        modules.fill_linecache()
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as another:
        lines = ["Traceback (most recent call last):\n"]
        while trace:
            code = trace.tb_frame.f_code
            lines.append(
                f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n'
            )
            trace = trace.tb_next
        return "".join(lines) + f"{type_of(error)} (which cannot be shown: {type_of(another)})\n"


def type_of(value: Any) -> str:
    """Return the name of a value's type, whatever its metaclass does."""
    return type.__repr__(type(value)).partition("'")[2].rpartition("'")[0]


def words_of(error: BaseException) -> str:
    """Return an exception's type and message in one line, whatever its class does."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type_of(error)
