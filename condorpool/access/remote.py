"""An access point that is reached through another machine, over ssh.

An agent, which is this module run as a program on that machine, calls the methods
of its access point and returns their results through its standard output.  The
submit directory must be on a file system that both machines share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pickle
import shlex
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

from condorpool.access.accesspoint import AccessPoint
from condorpool.values.exceptions import HTCondorError, HTCondorNotFoundError
from condorpool.values.locks import uninterrupted

#: The agent's first line.  What login scripts print comes before it.
_READY = b"condorpool-agent-1\n"

P = ParamSpec("P")
T = TypeVar("T")


class Agent:
    """The connection to the program on the other machine, which it starts when needed."""

    def __init__(self, host: str, schedd: str | None, collector: str | None) -> None:
        self.host = host
        self._wanted = (schedd, collector)
        self._lock = threading.Lock()
        self._ssh: subprocess.Popen[bytes] | None = None

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a method of the access point there returns, or raise what it raises."""
        with uninterrupted, self._lock:
            if self._ssh is None or self._ssh.poll() is not None:
                self._ssh = self._start()
                self._exchange(self._ssh, "locate", *self._wanted)
            return self._exchange(self._ssh, name, *args, **kwargs)

    def _exchange(self, ssh: subprocess.Popen[bytes], name: str, *args: Any, **kwargs: Any) -> Any:
        questions: Any = ssh.stdin
        answers: Any = ssh.stdout
        try:
            pickle.dump((name, args, kwargs), questions)
            questions.flush()
            error, value = pickle.load(answers)  # noqa: S301 - the user's own account
        except (OSError, EOFError, pickle.UnpicklingError) as lost:
            # Not repeated: jobs may have been submitted before the connection broke.
            _end(ssh)
            raise HTCondorError(
                f"the connection to {self.host} was lost ({type(lost).__name__}). Check the "
                "queue there with condor_q, and try again."
            ) from lost
        if error:
            raise error
        return value

    def _start(self) -> subprocess.Popen[bytes]:
        path = shlex.quote(str(Path(__file__).parents[2]))
        command = f"PYTHONPATH={path} exec {shlex.quote(sys.executable)} -m {__name__}"
        with tempfile.TemporaryFile() as stderr:
            try:
                ssh = subprocess.Popen(
                    ["ssh", "-T", "-o", "BatchMode=yes", "--", self.host, command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,  # an interrupt goes to the whole process group
                )
            except OSError as error:
                raise HTCondorNotFoundError(f"remote={self.host!r} needs ssh: {error}.") from error
            # Not at exit, when pools may still need it: ssh ends with its pipe to this process.
            weakref.finalize(self, _end, ssh).atexit = False
            if _READY not in iter(ssh.stdout.readline, b""):  # type: ignore[union-attr]
                _end(ssh)
                stderr.seek(0)
                message = stderr.read().decode(errors="replace").strip()
                raise HTCondorNotFoundError(
                    f"cannot submit through {self.host}: {message or 'ssh ended'}. `ssh {self.host}` "
                    f"must work without a password and find {sys.executable} with condorpool."
                )
        return ssh


def _end(ssh: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        ssh.stdin.close()  # type: ignore[union-attr]
    ssh.stdout.close()  # type: ignore[union-attr]
    with contextlib.suppress(subprocess.TimeoutExpired):
        ssh.wait(5)
        return
    ssh.kill()
    ssh.wait()


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

    # Everything that uses the bindings.  The rest is inherited.
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
        known = agent.ask("locate", schedd, collector)
        known["origin"] = {**known["origin"], "remote": host}
        return cls(**known, agent=agent)


# -- on the other machine --------------------------------------------------------------


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer questions until the other side closes the connection."""
    answers.write(_READY)
    answers.flush()
    point: AccessPoint | None = None
    while True:
        try:
            name, args, kwargs = pickle.load(questions)  # noqa: S301 - the user's own account
        except EOFError:
            return
        try:
            if name == "locate":
                point = AccessPoint.locate(*args)
                value: Any = {**vars(point), "relocate": None}
            else:
                value = getattr(point, name)(*args, **kwargs)
            answer = pickle.dumps((None, value))
        except Exception as error:  # noqa: BLE001 - raised again by the other side
            answer = pickle.dumps((error, None))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    # Other output must not get between the answers.
    _answers, sys.stdout = sys.stdout, sys.stderr
    serve(sys.stdin.buffer, _answers.buffer)
