"""Makes the calls of a job, one after another in one process."""

from __future__ import annotations

import os
import sys
import time
from itertools import repeat

from . import container, sharing
from .container import DamagedError, loads
from .imports import modules
from .outcomes import describe, frames_of, traceback_of, words_of
from .streams import Streams
from .surroundings import Surroundings
from .timelimit import arm, disarm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

NEVER = float("inf")

#: Number of calls at the start of a chunk after each of which the surroundings are restored,
#: however short it was.
FIRST = 8

#: Later they are restored at most once in ``SHORT`` seconds, several times what restoring
#: takes, and thoroughly after a call that took ``LONGER`` than that.
SHORT, LONGER = 100e-6, 1e-3

#: Whether this process is a child that a call forked.
_is_child = False

# A call may have replaced or deleted these.
_exit = os._exit
Anything = BaseException


def _note_fork() -> None:
    global _is_child  # noqa: PLW0603 - it is the process's
    _is_child = True


def attempt(
    func: Any,
    args: Iterable[Any],
    kwargs: dict[str, Any],
    limit: float | None = None,
    stderr: int = 2,
) -> tuple[Any, bool]:
    """Make one call; return its value and True, or its exception and False."""
    try:
        if limit is None:
            value, is_value = func(*args, **kwargs), True
        else:
            try:
                arm(limit, stderr)
                value, is_value = func(*args, **kwargs), True
            finally:
                disarm()
    except Anything as error:  # also SystemExit and KeyboardInterrupt
        value, is_value = error, False
    if _is_child:
        _exit(0)  # a child that the call forked returned here; only its parent writes the outcome
    return value, is_value


def arguments_of(style: str, items: list[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Return the arguments of every call in a chunk.

    Not a generator: a trace function that a call has set could raise in it.
    """
    if style == "map":
        return zip(zip(items), repeat({}))
    return zip(items, repeat({})) if style == "starmap" else iter(items)


def names_of(func: Any) -> dict[str, Any]:
    """Return a function and its globals, by their names."""
    children = getattr(sys.modules.get("multiprocessing.process"), "_children", None)
    if children:
        return {}  # child processes of an earlier call may use other objects by these names
    try:
        inner = getattr(func, "func", func)  # of a partial
        inner = getattr(inner, "__func__", inner)  # of a method
        return {inner.__name__: inner, **inner.__globals__}
    except Exception:  # not a function: any object may be callable
        return {}


class Worker:
    """The process as all calls find it: environment, working directory, initializer.

    Parameters
    ----------
    crew
        The contents of the crew's file.

    Attributes
    ----------
    shares
        Whether the file system is shared, so that the job sees the submit directory.
    is_submit_machine
        Whether this is the machine of the client.
    spoiled
        Why this job must make no more calls; empty if it may.
    """

    def __init__(self, crew: tuple[dict[str, Any], list[Any]]) -> None:
        about, self.initial = crew
        self.host = os.uname().nodename
        self.mismatch = ""
        if about["python"] != container.PYTHON:
            self.mismatch = (
                f"this notebook's Python is {about['python']}, "
                f"and {sys.executable} on {self.host} is Python {container.PYTHON}"
            )
        for name, value in about["environment"].items():
            os.environ.setdefault(name, value)  # keeps what HTCondor set for the job
        # With file transfer the job starts in its own scratch folder.  On a shared file
        # system it starts in the submit directory, and calls run in the user's working
        # directory.
        self.submit_dir = os.getcwd()
        scratch = os.environ.get("_CONDOR_SCRATCH_DIR")
        self.shares = not (scratch and os.path.samefile(self.submit_dir, scratch))
        self.is_submit_machine = self.shares and about["host"] == self.host
        self.directory = about["directory"] if self.shares else self.submit_dir
        # Modules are imported from the calls' working directory first, then from the archive.
        sys.path[0] = self.directory
        sys.meta_path.insert(0, modules)
        # The notebook's functions and classes belong to ``__main__``: a new module of that
        # name, not the one that started this program.
        self.names: dict[str, Any] = {}
        main = sys.modules["__main__"] = type(sys)("__main__")
        main.__getattr__ = self.attribute_of_main  # type: ignore[method-assign]
        self.streams = Streams()
        self.surroundings = Surroundings(self.streams.restore)
        self.spoiled = ""
        os.register_at_fork(after_in_child=_note_fork)
        self.is_initialized = False
        self.initializer_error: BaseException | None = None
        self.last: tuple[str, Any, dict[str, Any]] = ("", None, {})

    def attribute_of_main(self, name: str) -> Any:
        """Return a global of the call's function; children that the call forks look for it here."""
        if name in self.names and name[:2] != "__":
            return self.names[name]
        raise AttributeError(f"module '__main__' has no attribute {name!r}")

    def initialize(self) -> None:
        """Run the initializer."""
        self.is_initialized, self.initializer_error = True, None
        self.surroundings.loaded = -1
        try:
            os.chdir(self.directory)
            initializer, initargs = loads(self.initial)
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:  # every call of every chunk raises it
            self.initializer_error = error

    def load_call(self, name: str, read: Any) -> tuple[Any, dict[str, Any]]:
        """Return the function of a call, and the settings that its chunks share.

        ``read()`` reads the container called ``name``; the last one is cached.
        """
        if self.last[0] != name:
            shared, frames = read()
            if modules.install(sharing.shared(shared["modules"]) if shared["modules"] else {}):
                # Objects made with the old modules do not fit the new ones.
                sharing.forget()
                self.is_initialized = False
        if not self.is_initialized:
            self.initialize()
        if self.last[0] != name:
            self.last = (name, loads(frames), shared)
        return self.last[1:]

    def make(
        self,
        name: str,
        read: Any,
        chunk: Any,
        first: int,
        end: int,
        between: Any = None,
        pause: float = NEVER,
    ) -> tuple[dict[str, Any], list[Any]]:
        """Make the calls ``first`` to ``end`` of a chunk; return the outcome.

        Parameters
        ----------
        name, read
            The call's file, and the function that reads it; see `load_call`.
        chunk
            The function that reads the frames with the arguments.
        between
            Called between two calls, every ``pause`` seconds, as
            ``between(next, end, failed, each, splits)``: how many calls have failed, the
            seconds that each took, and whether the chunk may be split; returns the new end.
        """
        about: dict[str, Any] = {"host": self.host, "pid": os.getpid()}
        if self.mismatch:
            return dict(about, count=end - first, mismatch=self.mismatch), []
        failure: BaseException | None = None
        items, style = [], "map"
        started = time.time()
        try:
            func, shared = self.load_call(name, read)
            started, style = time.time(), shared["style"]
            items = loads(chunk())
        except DamagedError as error:  # also that of a shared object
            return dict(about, count=end - first, damaged=str(error)), []
        except BaseException as error:
            failure = error
        failure = self.initializer_error or failure
        if failure is not None:
            problem, trace = failure, traceback_of(failure)

            def func(*_: Any) -> None:  # the calls cannot be made: each raises this
                raise BaseException.with_traceback(problem, trace)

            items, first, end, style = [()] * (end - first), 0, end - first, "starmap"
            shared = {"sources": {}, "splits": False, "task_timeout": None}
        self.surroundings.mark()
        self.streams.restore()
        self.streams.begin()
        self.names = names_of(func)
        arguments = arguments_of(style, items[first:end])
        lasted: list[float] = []
        calls = self.calls(func, shared, arguments, first, end, lasted, between, pause)
        about.update(started=started, seconds=time.time() - started, **self.streams.printed())
        if lasted:
            about["lasted"] = lasted
        about["task_timeout"] = shared["task_timeout"]
        self.names = {}  # the notebook may have redefined them: outcomes are pickled by value
        outcomes, frames = frames_of(calls)
        if outcomes is not None:
            self.tidy()  # pickling these values ran the user's code
        return dict(about, calls=outcomes, count=len(calls)), frames

    def calls(  # noqa: PLR0912 - one loop, in which every function call costs
        self,
        func: Any,
        shared: dict[str, Any],
        arguments: Iterator[tuple[Any, dict[str, Any]]],
        first: int,
        end: int,
        lasted: list[float],
        between: Any,
        pause: float,
    ) -> list[tuple[Any, str]]:
        """Make calls; return each one's value and ``""``, or exception and traceback's text.

        The seconds that each took are added to ``lasted``, up to the last that was `LONGER`
        than a moment; shorter ones are 0.
        """
        limit, stderr, sources = shared["task_timeout"], self.streams.kept[2], shared["sources"]
        restore, clock, streams = self.surroundings.restore, time.monotonic, self.streams
        made: list[tuple[Any, str]] = []
        begun = since = now = clock()
        restore_after, ask_after = 0.0, begun + pause
        failed, splits = 0, shared["splits"]
        for done, (args, kwargs) in enumerate(arguments, first + 1):
            value: Any = None
            is_value = None
            try:
                value, is_value = attempt(func, args, kwargs, limit, stderr)
                now = clock()
                if now > restore_after or streams.wrote or not is_value:
                    # Short calls since the last time are not told apart: they took less than
                    # ``SHORT`` together.
                    is_long = now > since + LONGER
                    if is_long:
                        lasted.extend([0.0] * (len(made) - len(lasted)))
                        lasted.append(round(now - since, 4))
                    if not is_value:
                        self.tidy()
                    elif now > restore_after and done < end:
                        restore(now > restore_after + LONGER)
                    if streams.wrote or is_long or len(made) <= FIRST:
                        streams.note(len(made))
                    since = clock()
                    if now > restore_after:
                        restore_after = since + SHORT if len(made) > FIRST else 0.0
            except Anything as error:  # from the call's own alarm, or its trace function
                if is_value is None:
                    value = error
                self.tidy()
                streams.note(len(made))
                since = clock()
            if is_value:
                made.append((value, ""))
            else:
                made.append((value, describe(value, sources)))
                failed, since = failed + 1, clock()
            if done < end and now > ask_after:
                end = between(done, end, failed, (now - begun) / len(made), splits)
                since = clock()
                ask_after = since + pause
            if done >= end:
                break  # the remaining calls now belong to another chunk
        try:
            self.tidy()
        except Anything:  # from the last call's alarm or trace function, which is gone now
            self.tidy()
        streams.note(max(0, len(made) - 1))
        return made

    def tidy(self) -> None:
        """Restore all that calls have changed, or note why the job must end."""
        for _ in (1, 2, 3):
            try:
                self.surroundings.restore()
            except Anything as error:  # from a call's alarm or trace function: try again
                why = words_of(error)
            else:
                why = self.surroundings.spoiled
                break
        if not self.streams.are_whole:
            why = why or "standard output or standard error was closed"
        self.spoiled = self.spoiled or why
