"""An access point that is reached through another machine, over ssh.

An agent on that machine (`agent`) calls the methods of its access point and returns their results
through its standard output, as plain data (`wire`).  The submit directory must be on a file
system that both machines share.

Nothing is believed of what comes through the connection: it may be silent, endless, half a line,
or from a login script.  So all waits and sizes are bounded, and after anything but an answer the
connection is closed; the next question opens a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import itertools
import math
import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
import typing
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from condorpool.access import wire
from condorpool.access.accesspoint import AccessPoint
from condorpool.access.agent import METHODS
from condorpool.access.bindings import htcondor2
from condorpool.values import plain
from condorpool.values.exceptions import HTCondorError, HTCondorNotFoundError
from condorpool.values.locks import uninterrupted
from condorpool.values.text import one_line

#: Seconds until the agent must have answered first: logins and Python may be slow.
CONNECT_PATIENCE = 60.0

#: Bytes that login scripts may print before that.
MAX_BANNER = 1 << 24

#: Seconds that an answer may still take once Control-C was pressed.
INTERRUPT_PATIENCE = 2.0

#: Seconds between two looks at whether Control-C was pressed.
_LOOK = 0.2

#: Bytes of standard error, and of what is no answer, that are kept for a message.
_TAIL = 4096

# Nothing is asked on a terminal.  ssh itself would notice a network that has failed after two hours.
_SSH = (
    "ssh -T -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 "
    "-o ServerAliveCountMax=4 --"
).split()

# Isolated (-I): neither the folder in which a login begins nor PYTHONPATH can replace a module.
# Only two folders of the package are used, so it need not be imported as a whole.
_RUN = (
    "import sys, types; sys.path += {folders!r}; "
    "ours = sys.modules['condorpool'] = types.ModuleType('condorpool'); "
    "ours.__path__ = [{package!r}]; "
    "from condorpool.access.agent import main; main()"
)

P = ParamSpec("P")
T = TypeVar("T")


class _NoAnswerError(Exception):
    """What came through a connection, or did not come, is no answer.  The text says why."""


class Connection:
    """A running ssh, and the pipes to the program that it runs."""

    def __init__(self, command: list[str]) -> None:
        self._owner = os.getpid()
        self._ssh = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt goes to the whole process group
        )
        pipes: list[Any] = [self._ssh.stdin, self._ssh.stdout, self._ssh.stderr]
        self._questions, self._answers, self._errors = self._pipes = pipes
        for pipe in pipes:
            os.set_blocking(pipe.fileno(), False)
        self._received = bytearray()
        self._said = b""
        self._count = 0  # of all bytes that came
        #: Questions have these numbers.
        self.numbers = itertools.count(1)

    @property
    def is_open(self) -> bool:
        """Whether ssh runs."""
        return self._ssh.poll() is None

    @property
    def said(self) -> str:
        """The end of what ssh, or the program, wrote to standard error, after a colon."""
        text = one_line(self._said.decode(errors="replace"), 500)
        return text and f": {text.rstrip('.')}"

    @property
    def received(self) -> str:
        """The beginning of what came and is no answer."""
        return one_line(self._received[:400].decode(errors="replace"), 200)

    def converse(self, question: bytes, until: bytes, seconds: float, most: int) -> bytes:
        """Send a question, and return what comes before ``until``.

        Parameters
        ----------
        seconds, most
            How long that may take, and how many bytes may come.

        Raises
        ------
        _NoAnswerError
            It did not come.
        """
        end, unsent, searched = time.monotonic() + seconds, memoryview(question), 0
        limit = self._count + most
        late = f"no answer came within {seconds:.0f} s"
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            selector.register(self._errors, selectors.EVENT_READ)
            if unsent:
                selector.register(self._questions, selectors.EVENT_WRITE)
            while (place := self._received.find(until, searched)) < 0:
                searched = max(0, len(self._received) - len(until))
                if self._count > limit:
                    raise _NoAnswerError(f"it printed more than {most >> 20} MiB, and no answer")
                now = time.monotonic()
                if uninterrupted.is_pending and end > now + INTERRUPT_PATIENCE:
                    end, late = now + INTERRUPT_PATIENCE, "you interrupted it"
                if now >= end or not selector.get_map():
                    raise _NoAnswerError(late)
                for key, _ in selector.select(min(_LOOK, end - now)):
                    pipe = key.fileobj
                    if pipe is self._questions:
                        unsent = self._send(unsent)
                        is_over = not unsent
                    else:
                        is_over = not self._receive(pipe)
                    if is_over:
                        selector.unregister(pipe)
                    if is_over and pipe is self._answers:
                        # What ssh says about it has come by then, or comes now.
                        end, late = min(end, now + 1.0), "ssh ended"
        answer = bytes(self._received[:place])
        del self._received[: place + len(until)]
        return answer

    def _send(self, data: memoryview) -> memoryview:
        """Send what can be sent now; return the rest."""
        try:
            return data[self._questions.write(data) or 0 :]
        except BrokenPipeError:
            return data[:0]  # it ends, and says why

    def _receive(self, pipe: Any) -> bool:
        """Read what is there; return whether there may be more."""
        data = pipe.read(1 << 16)
        self._count += len(data or b"")
        if pipe is self._errors:
            self._said = (self._said + (data or b""))[-_TAIL:]
        else:
            self._received += data or b""
        return data is None or bool(data)

    def close(self) -> None:
        """End ssh; the program there ends with its pipe."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        if os.getpid() != self._owner:
            return  # ssh is the parent's
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._ssh.poll() is None:
                # Until it is waited for, no other process can have its number.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._ssh.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ssh.wait(1.0)
                return


_agents: weakref.WeakSet[Agent] = weakref.WeakSet()


class Agent:
    """The program on another machine; the connection to it is made when needed."""

    def __init__(self, host: str, schedd: str | None, collector: str | None) -> None:
        self.host = host
        self._wanted = (schedd, collector)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._located: wire.Located | None = None
        _agents.add(self)
        # Not at exit, when pools may still need it: see `_close_all`.
        weakref.finalize(self, _close, vars(self)).atexit = False

    def locate(self) -> wire.Located:
        """Return what the program knows of its access point."""
        with uninterrupted, self._turn():
            self._connected()
            assert self._located is not None  # noqa: S101 - it is connected
            return self._located

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a method of the access point there returns, or raise what it raises."""
        with uninterrupted, self._turn():
            return self._exchange(self._connected(), name, *args, **kwargs)

    def close(self) -> None:
        """End the connection; the next question opens a new one."""
        _close(vars(self))

    def forget(self) -> None:
        """Leave the connection to the parent of this process."""
        self._lock = threading.Lock()
        self.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other thread talks to the program."""
        end = math.inf
        while not self._lock.acquire(timeout=_LOOK):
            if uninterrupted.is_pending:
                end = min(end, time.monotonic() + INTERRUPT_PATIENCE)
            if time.monotonic() > end:
                raise HTCondorError(
                    f"{self.host} was not asked: it is answering another thread. Try again."
                )
        try:
            yield
        finally:
            self._lock.release()

    def _connected(self) -> Connection:
        """Return the connection, a new one if needed."""
        if self._connection is None or not self._connection.is_open:
            self.close()
            connection = self._connect()
            try:
                self._located = self._exchange(connection, "locate", *self._wanted)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _connect(self) -> Connection:
        try:
            connection = Connection([*_SSH, self.host, _command()])
        except OSError as error:
            raise HTCondorNotFoundError(f"remote={self.host!r} needs ssh: {error}.") from error
        try:
            connection.converse(b"", b"\n" + wire.READY, CONNECT_PATIENCE, MAX_BANNER)
        except BaseException as error:
            connection.close()
            if not isinstance(error, _NoAnswerError):
                raise
            printed = f" (it printed {connection.received!r})" if connection.received else ""
            raise HTCondorNotFoundError(
                f"cannot submit through {self.host}: {error}{connection.said}{printed}. "
                f"`ssh {self.host}` must work without a password, and find {sys.executable} with "
                "condorpool."
            ) from None
        return connection

    def _exchange(self, connection: Connection, name: str, *args: Any, **kwargs: Any) -> Any:
        number = next(connection.numbers)
        question = wire.line_of(wire.Question(number, name, args, kwargs))
        if len(question) > wire.MAX_LINE:
            raise HTCondorError(
                f"cannot send {len(question) >> 20} MiB to {self.host}: make fewer calls at once."
            )
        try:
            line = connection.converse(question, b"\n", wire.PATIENCE, wire.MAX_LINE)
            try:
                answer = wire.message_of(line, wire.Answer)
                value = None if answer.error else plain.checked(answer.value, _RESULTS[name])
            except plain.PlainError as error:
                shown = one_line(line[:400].decode(errors="replace"), 200)
                raise _NoAnswerError(f"{shown!r} is no answer: {error}") from None
            if answer.number != number:
                raise _NoAnswerError("it answered another question")  # noqa: TRY301
        except BaseException as error:
            # Not repeated: jobs may have been submitted before the connection broke.
            connection.close()
            if not isinstance(error, _NoAnswerError):
                raise
            raise HTCondorError(
                f"the connection to {self.host} was lost: {error}{connection.said}. Check the "
                "queue there with condor_q, and try again."
            ) from None
        if answer.error:
            raise answer.error.error()
        return value


def _close(agent: dict[str, Any]) -> None:
    connection, agent["_connection"] = agent["_connection"], None
    if connection:
        connection.close()


@atexit.register
def _close_all() -> None:
    # Registered with this module, so that it runs after pools, which may still ask, are closed.
    for agent in list(_agents):
        agent.close()


def _forget_all() -> None:
    for agent in list(_agents):
        agent.forget()


os.register_at_fork(after_in_child=_forget_all)


def _command() -> str:
    """Return the command that starts the agent, for any login shell."""
    package = Path(__file__).parents[1]
    # After the standard library, which no module of the user's replaces.
    folders = [str(Path(htcondor2.__file__).parents[1])]
    code = _RUN.format(folders=folders, package=str(package))
    return shlex.join(["exec", sys.executable, "-I", "-c", code])


def _relayed(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[RemoteAccessPoint, P], T]:
    """Return the method of the same name that runs on the other machine."""

    @functools.wraps(method)
    def relay(self: RemoteAccessPoint, /, *args: P.args, **kwargs: P.kwargs) -> T:
        value: T = self.agent.ask(method.__name__, *args, **kwargs)
        return value

    return relay


@dataclasses.dataclass
class RemoteAccessPoint(AccessPoint):
    """An access point whose HTCondor is asked by an agent on another machine."""

    agent: Agent = dataclasses.field(kw_only=True, repr=False)

    # Everything that uses the bindings: `agent.METHODS`.  The rest is inherited.
    check_memory_max = _relayed(AccessPoint.check_memory_max)
    submit = _relayed(AccessPoint.submit)
    nudge_cluster = _relayed(AccessPoint.nudge_cluster)
    act = _relayed(AccessPoint.act)
    edit = _relayed(AccessPoint.edit)
    query = _relayed(AccessPoint.query)
    most_memory = _relayed(AccessPoint.most_memory)
    history = _relayed(AccessPoint.history)
    slots = _relayed(AccessPoint.slots)
    is_met = _relayed(AccessPoint.is_met)
    fit = _relayed(AccessPoint.fit)

    @classmethod
    def reach(cls, host: str, schedd: str | None, collector: str | None) -> RemoteAccessPoint:
        """Return the access point that another machine finds by name, its own by default."""
        agent = Agent(host, schedd, collector)
        known = vars(agent.locate())
        return cls(**{**known, "origin": {**known["origin"], "remote": host}}, agent=agent)


#: What each question is answered with.
_RESULTS: dict[str, Any] = {
    name: typing.get_type_hints(getattr(AccessPoint, name))["return"] for name in METHODS
} | {"locate": wire.Located}
