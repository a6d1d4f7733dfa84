"""Outcomes: what comes back from a job, as files that are read or found to be damaged."""

from __future__ import annotations

import multiprocessing.pool
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from condorpool.engine import secrets
from condorpool.engine.payload import cell_of
from condorpool.engine.printed import Printed
from condorpool.engine.records import OtherCall, OutcomeRecord
from condorpool.runner import container
from condorpool.runner.container import DamagedError
from condorpool.runner.outcomes import words_of
from condorpool.values import notes, plain
from condorpool.values.exceptions import (
    CondorPoolError,
    EnvironmentMismatchError,
    JobError,
    JobFailedError,
    ResultPicklingError,
    TaskTimeoutError,
    in_place_of,
)
from condorpool.values.text import printable

# The file of a frame in a traceback.
_PLACE = re.compile(r'(?<=^  )(File "(.+)")(?=, line \d+)', re.MULTILINE)


class RemoteTraceback(multiprocessing.pool.RemoteTraceback):  # type: ignore[name-defined, misc]
    """The traceback of a call in its job: the cause of the exception that the call raised.

    Attributes
    ----------
    tb
        Its text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.tb = text

    def __str__(self) -> str:
        # Python 3.10 does not print notes.
        notes = getattr(self, "__notes__", ()) if sys.version_info < (3, 11) else ()
        text = _PLACE.sub(lambda found: cell_of(found[2]) or found[1], self.tb)
        return printable("\n".join([f'\n"""\n{text}"""', *notes]))


@dataclass(frozen=True)
class Outcome:
    """The values and errors of one chunk's calls, in order, and where they were made."""

    values: Sequence[Any]
    errors: Mapping[int, BaseException]
    host: str
    python: str
    job: str = ""
    started: float = 0.0
    seconds: float = 0.0
    printed: Printed | None = None
    call_seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Report:
    """The outcome file of a chunk, as far as it can be read without running users' code.

    Parameters
    ----------
    calls
        How many calls it has.
    job
        The id of the job, for an outcome that does not contain it.
    """

    path: os.PathLike[str]
    about: OutcomeRecord
    calls: int
    job: str

    @property
    def job_id(self) -> str:
        """The id of the job that wrote it."""
        return self.about.job or self.job

    @property
    def failed(self) -> Sequence[int]:
        """Which of its calls have failed; its first is 0."""
        if self.about.mismatch or self.about.damaged:
            return range(self.calls)
        calls = (self.about.calls or ())[: self.calls]
        return [number for number, call in enumerate(calls) if isinstance(call, OtherCall)]

    @property
    def has_failures(self) -> bool:
        """Whether any of its calls has failed."""
        return bool(self.failed)

    def words(self, first: int = 0) -> dict[int, str]:
        """Return the exceptions of its failed calls in a line each, without rebuilding them.

        Parameters
        ----------
        first
            The number of its first call, from which the others count.
        """
        if why := self._why_none():
            return dict.fromkeys(range(first, first + self.calls), words_of(why))
        calls = self.about.calls or ()
        failed = ((first + n, call) for n in self.failed if isinstance(call := calls[n], OtherCall))
        return {number: self._words(number, call) for number, call in failed}

    def _words(self, number: int, call: OtherCall) -> str:
        if call.what == "overtime":
            return words_of(self._overtime(number, call.text))
        return words_of(_unpicklable(call.text)) if call.what == "unpicklable" else call.words

    def outcome(self, first: int = 0) -> Outcome | JobError:
        """Return all of it; unpickling the values may run any code of the user's.

        A value that cannot be rebuilt here is an error of its own call only; a file that
        is damaged is an error of all its calls.

        Parameters
        ----------
        first
            The number of its first call.

        Raises
        ------
        OSError, MemoryError
            It cannot be read now, but maybe later.
        """
        try:
            return self._outcome(first)
        except DamagedError as error:
            return damaged(self.path, error.what, self.job_id, self.about.host)
        except FileNotFoundError:
            reason = "its outcome was deleted before it was read"
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the calls must end
            said = words_of(error).replace(os.fspath(self.path), str(self.path))
            reason = f"its outcome cannot be read: {said}"
        return JobFailedError(self.job_id, reason, host=self.about.host)

    def _outcome(self, first: int) -> Outcome:
        about = self.about
        if why := self._why_none():
            errors: dict[int, BaseException] = dict.fromkeys(range(self.calls), why)
            return Outcome([None] * self.calls, errors, about.host, about.python, self.job_id)
        frames = container.read(os.fspath(self.path))[1]
        values, errors, position = [], {}, 0
        if about.calls is None:
            values = container.loads(frames)
        for number, call in enumerate(about.calls or ()):
            what, text, count, _ = call if isinstance(call, OtherCall) else ("value", "", call, "")
            value: Any = None
            error: BaseException | None = None
            if what == "overtime":
                error = self._overtime(first + number, text)
            else:
                value, error = _rebuilt(what, text, frames[position : position + count])
            position += count
            values.append(value)
            if error is not None:
                errors[number] = error
        return Outcome(
            values,
            errors,
            about.host,
            about.python,
            self.job_id,
            about.started,
            about.seconds,
            Printed.read(about, first, self.job_id),
            tuple(about.lasted),
        )

    def _why_none(self) -> CondorPoolError | None:
        """Return why none of the calls was made; None if they were."""
        about = self.about
        if about.mismatch:
            return EnvironmentMismatchError(
                f"the job cannot read what was sent: {about.mismatch}. Functions can only be "
                "sent to the same Python version: choose the job's with Pool(python=...), or "
                "run this notebook with the job's."
            )
        if about.damaged:
            reason = f"what was sent to it is not what it should read: {about.damaged}"
            hint = "Make the calls again, as new ones."
            return JobFailedError(self.job_id, reason, host=about.host, hint=hint)
        return None

    def _overtime(self, number: int, text: str) -> TaskTimeoutError:
        """Return the error that says which call took too long."""
        reason = f"call {number} took longer than {self.about.task_timeout:g} s"
        error = TaskTimeoutError(self.job_id, reason, host=self.about.host)
        error.__cause__ = RemoteTraceback(text)
        return error


def _of_this_chunk(about: dict[str, Any], path: str) -> dict[str, Any]:
    """Return what an outcome is about; raise DamagedError if it is that of another chunk."""
    name = os.path.basename(path).partition(".")[0]  # noqa: PTH119 - many are read
    if about.get("chunk", name) != name:
        raise DamagedError(path, "is damaged: it has the results of other calls")
    return about


def look_at(
    path: os.PathLike[str], job: str = "", most: int | None = None
) -> Report | JobFailedError | None:
    """Return the report on an outcome file, or why it is damaged; None if there is none.

    Raises OSError or MemoryError if it cannot be read now, but maybe later.

    Parameters
    ----------
    most
        How many calls it can have: what it says of others does not count.
    """
    try:
        facts = _of_this_chunk(container.read_about(os.fspath(path)), os.fspath(path))
        about = OutcomeRecord.checked(facts)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        return damaged(path, error.what, job)
    except plain.PlainError as error:
        return damaged(path, f"is damaged: {error}", job)
    calls = about.count if about.calls is None else len(about.calls)
    if calls <= 0:
        return damaged(path, "is damaged: it has no calls", job)
    return Report(path, about, calls if most is None else min(calls, max(0, most)), job)


def damaged(path: os.PathLike[str], what: str, job: str, host: str = "") -> JobFailedError:
    """Return the error of the calls whose outcome is damaged, as ``what`` says."""
    reason = f"the file with its outcome {what}"
    hint = f"Make the calls again with rerun(). The file is {path}."
    return JobFailedError(job, reason, host=host, hint=hint)


def read(path: os.PathLike[str], first: int = 0) -> Outcome | JobError | None:
    """Return the outcome in a file, or why it is damaged; None if there is none."""
    report = look_at(path)
    return report.outcome(first) if isinstance(report, Report) else report


def _rebuilt(what: str, text: str, frames: list[Any]) -> tuple[Any, BaseException | None]:
    """Return the value of a call, or None and its exception."""
    if what == "unpicklable":
        return None, _unpicklable(text)
    cause = RemoteTraceback(text) if text else None
    try:
        value = container.loads(frames)
        if what == "value":
            return value, None
        # Its class may forbid setting it, as a frozen dataclass does, or redefine the name.
        BaseException.__dict__["__cause__"].__set__(value, cause)
        if what == "unmade":
            said = (
                f"the call raised {words_of(value)}. {type(value).__name__} cannot be "
                "rebuilt by its own __init__, which takes other arguments than its args: pass "
                "the arguments that it takes to super().__init__ there."
            )
            return None, _with(cause, in_place_of(ResultPicklingError, value, said))
        if why := secrets.explanation(value, text):
            notes.explain(value, why)
    except MemoryError:
        raise  # there may be more later
    except BaseException as error:  # noqa: BLE001 - code of the value's class, which may do anything
        kind, why = "exception" if text else "value", words_of(error)
        said = f"the {kind} of a call has arrived, but cannot be rebuilt here: {why}"
        lost = in_place_of(ResultPicklingError, error, said, why, f"the {kind} of a call")
        return None, _with(cause or error, lost)
    return None, value


def _unpicklable(text: str) -> ResultPicklingError:
    hint = "Return plain data (numbers, arrays, tables) or a picklable object."
    value, _, why = text.partition(" cannot be pickled: ")
    return ResultPicklingError(f"{text}\n{hint}", why.partition("\n")[0], value)


def _with(cause: BaseException | None, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error
