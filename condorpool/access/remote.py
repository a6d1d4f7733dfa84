"""An access point that is reached through another machine, over ssh.

Everything but the submit directory is there: an agent, which is this module run
as a program, asks that machine's HTCondor, and answers through its standard
output.  The submit directory must be on a file system that both machines share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import pickle
import shlex
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.values.exceptions import HTCondorError, HTCondorNotFoundError
from condorpool.values.locks import uninterrupted

#: The agent's first line: what login scripts print comes before it.
_READY = b"condorpool-agent-1\n"


class Agent:
    """The program on the other machine, started when it is needed."""

    def __init__(self, host: str, schedd: str | None, collector: str | None) -> None:
        self.host = host
        self._wanted = (schedd, collector)
        self._lock = threading.Lock()
        self._ssh: subprocess.Popen[bytes] | None = None

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Have a method of the access point called there; return what it returns."""
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
            # Not asked again: what submits may have been done before the line broke.
            _end(ssh)
            raise HTCondorError(
                f"the connection to {self.host} was lost ({type(lost).__name__}). Look what "
                "is in the queue there, and try again."
            ) from lost
        if error:
            raise error
        return value

    def _start(self) -> subprocess.Popen[bytes]:
        path = shlex.quote(str(Path(__file__).parents[2]))
        command = f"PYTHONPATH={path} exec {shlex.quote(sys.executable)} -m {__name__}"
        with tempfile.TemporaryFile() as complaints:
            try:
                ssh = subprocess.Popen(
                    ["ssh", "-T", "-o", "BatchMode=yes", "--", self.host, command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    start_new_session=True,  # an interrupt is not for the connection
                )
            except OSError as error:
                raise HTCondorNotFoundError(f"remote={self.host!r} needs ssh: {error}.") from error
            # When the program ends the pipe does, and ssh with it; pools may need it till then.
            weakref.finalize(self, _end, ssh).atexit = False
            if _READY not in iter(ssh.stdout.readline, b""):  # type: ignore[union-attr]
                _end(ssh)
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip()
                raise HTCondorNotFoundError(
                    f"cannot submit through {self.host}: {said or 'ssh ended'}. `ssh {self.host}` "
                    f"must work without a password, and {sys.executable} with condorpool be there."
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


@dataclasses.dataclass
class RemoteAccessPoint(AccessPoint):
    """Does everything through an agent on another machine."""

    agent: Agent = dataclasses.field(kw_only=True, repr=False)

    @classmethod
    def reach(cls, host: str, schedd: str | None, collector: str | None) -> RemoteAccessPoint:
        """Find an access point from another machine, by default its own."""
        agent = Agent(host, schedd, collector)
        known = agent.ask("locate", schedd, collector)
        known["origin"] = {**known["origin"], "remote": host}
        return cls(**known, agent=agent)


def _relayed(name: str, method: Any) -> Any:
    @functools.wraps(method)
    def relay(self: RemoteAccessPoint, *args: Any, **kwargs: Any) -> Any:
        return self.agent.ask(name, *args, **kwargs)

    return relay


for _name, _method in list(vars(AccessPoint).items()):
    if inspect.isfunction(_method) and not _name.startswith("_"):
        setattr(RemoteAccessPoint, _name, _relayed(_name, _method))


# -- on the other machine --------------------------------------------------------------


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until nobody asks any more."""
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
            answer = pickle.dumps((None, list(value) if isinstance(value, Iterator) else value))
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            answer = pickle.dumps((error, None))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    # Whatever else is printed must not come between the answers.
    _answers, sys.stdout = sys.stdout, sys.stderr
    serve(sys.stdin.buffer, _answers.buffer)
