"""Keep one personal HTCondor while somebody uses it, then end it and delete its folder.

This is a program: ``python -IS guardian.py FOLDER LOCK COMMAND...`` runs
COMMAND, which becomes ``condor_master``.  It imports nothing of condorpool, is
nobody's child, and ends by itself; see `condorpool.personal.daemons`.

It adopts whatever HTCondor's programs and the users' jobs leave behind (it is
their "child subreaper"), so that everything that descends from ``condor_master``
is found below it, and nothing else is.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Jobs that keep an unused HTCondor: idle, running, transferring their output.
ACTIVE = "JobStatus == 1 || JobStatus == 2 || JobStatus == 6"

# Made first and deleted last, so it also tells that a folder is ours.
START_LOCK = "condorpool-start.lock"

# Shared by the processes that use it.
USERS_LOCK = "users.lock"

SIGNALS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD}

# How long HTCondor may take to shut down, and then its leftovers to obey.
SHUTDOWN_SECONDS = 6.0
TERMINATE_SECONDS = 1.0

# How long a schedd that does not answer may be just restarting.
PATIENCE_SECONDS = 30.0


class _Ended(Exception):  # noqa: N818 - the end is expected
    """Raised by a signal handler, to leave a wait."""


class Guardian:
    """The parent of one ``condor_master``.

    Parameters
    ----------
    folder
        The personal HTCondor's folder, which holds ``users.lock``.
    command
        What becomes ``condor_master``.
    """

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self.command = command
        # Opened once and never closed: closing any descriptor of the file
        # would drop this process's lock.
        self.users = os.open(folder / USERS_LOCK, os.O_RDWR | os.O_CLOEXEC)
        self.master = 0
        self.asking = 0
        # Why it ends: "unused", "stop", "keep" or "died".  Set once.
        self.reason = ""
        self.status = ""
        self.state: dict[str, object] = {"guardian": [os.getpid(), start_time(os.getpid())]}

    def run(self) -> None:
        """Start HTCondor, wait until it should end, end it."""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in SIGNALS:
            signal.signal(number, self._handle)
        self._start_master()
        try:
            if self._record(master=[self.master, start_time(self.master)]):
                self._wait(self._watch)
        finally:
            # Even after a fault of ours nothing may run on.
            self._record(stopping=True)
            self._stop_daemons()
        if self.reason == "died":
            self._record(ended=self.status)
            self.reason = ""
            self._wait(self._wait_for_readers)
            if self.reason == "died" and self._is_detached():
                return
        if self.reason != "keep":
            delete(self.folder)

    # Starting

    def _start_master(self) -> None:
        guardian = os.getpid()
        pid = os.fork()
        if pid:
            self.master = pid
            return
        try:
            # If the guardian is killed, HTCondor shuts down fast by itself.
            _prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
            if os.getppid() != guardian:
                os._exit(1)
            # What Python and our caller ignore, jobs would ignore, too.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvp(self.command[0], self.command)  # noqa: S606 - no shell is wanted
        except OSError as error:
            print(f"{self.command[0]}: {error}", flush=True)  # noqa: T201 - this is the log
        finally:
            os._exit(127)

    def _record(self, **facts: object) -> bool:
        """Write what others need to know about us; tell whether that was possible."""
        self.state.update(facts)
        new = self.folder / "state.json.new"
        try:
            new.write_text(json.dumps(self.state))
            new.replace(self.folder / "state.json")
        except OSError as error:
            # A full disk must not keep us from ending what runs.
            print(f"guardian: {error}", flush=True)  # noqa: T201 - this is the log
            return False
        return True

    # Waiting

    def _wait(self, wait: Callable[[], None]) -> None:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            wait()
        except _Ended:
            pass
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def _handle(self, number: int, _frame: object) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        else:
            self._end("keep" if number == signal.SIGUSR1 else "stop")

    def _end(self, reason: str) -> None:
        # Only the first reason counts, and only it leaves the wait: a second
        # signal must not interrupt the shutdown.
        if not self.reason:
            self.reason = reason
            raise _Ended

    def _watch(self) -> None:
        """Return when nobody uses HTCondor and no job needs it."""
        looks = 1
        while True:
            # Blocks until the last user has gone, however it ended.
            fcntl.lockf(self.users, fcntl.LOCK_EX)
            if self._is_detached():
                fcntl.lockf(self.users, fcntl.LOCK_UN)
                while True:
                    signal.pause()
            # Where jobs were, one look is not enough: a late-materialized
            # cluster may just be between two of them.
            looks = 2 if self._has_active_jobs() else looks - 1
            if looks <= 0:
                # The lock is held from now on, so that nobody can begin to
                # use an HTCondor that is about to end.
                self.reason = "unused"
                return
            fcntl.lockf(self.users, fcntl.LOCK_UN)
            time.sleep(1)

    def _wait_for_readers(self) -> None:
        """Wait until nobody can want to read the logs of what died."""
        fcntl.lockf(self.users, fcntl.LOCK_EX)
        self.reason = "died"

    def _is_detached(self) -> bool:
        return (self.folder / "detached").exists()

    def _has_active_jobs(self) -> bool:
        """Ask the schedd; one that does not answer may have jobs, for a while."""
        if not (self.folder / "ready").exists():
            return False
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                answer = self._ask_queue()
                if answer is not None:
                    return bool(answer.strip())
            time.sleep(0.5)
        return False

    def _ask_queue(self) -> str | None:
        command = [
            "condor_q",
            "-allusers",
            "-constraint",
            ACTIVE,
            "-limit",
            "1",
            "-af",
            "JobStatus",
        ]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as asking:
            self.asking = asking.pid
            try:
                answer, _ = asking.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                asking.kill()
                return None
            finally:
                self.asking = 0
        self._reap()
        return answer.decode() if asking.returncode == 0 else None

    def _reap(self) -> None:
        """Bury the dead, among them orphans that jobs have left to us."""
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if dead.si_pid == self.asking:
                    return  # subprocess wants to bury this one itself
                _, status = os.waitpid(dead.si_pid, 0)
                if dead.si_pid == self.master:
                    self.master = 0
                    self.status = _describe(status)
                    self._end("died")

    # Ending

    def _stop_daemons(self) -> None:
        """End HTCondor, and every process that it and its jobs have left."""
        if self.master:
            os.kill(self.master, signal.SIGQUIT)  # a fast shutdown
            self._reap_until(lambda: not self.master, SHUTDOWN_SECONDS)
        self._signal_descendants(signal.SIGTERM)
        self._reap_until(lambda: not descendants(os.getpid()), TERMINATE_SECONDS)
        # A process that forks while we look appears in the next round.
        while self._signal_descendants(signal.SIGKILL):
            self._reap_until(lambda: not descendants(os.getpid()), 0.1)
        # All that is left is dead; in a container nobody else may bury it.
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _signal_descendants(self, number: int) -> bool:
        pids = descendants(os.getpid())
        for pid in pids:
            # Only we can bury it, so the id still means the same process.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return bool(pids)

    def _reap_until(self, done: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self._reap()
            if done() or time.monotonic() > deadline:
                return
            time.sleep(0.01)


def delete(folder: Path) -> None:
    """Delete a folder that starters may be waiting for.

    Its start lock goes last and is held until then: who gets it afterwards
    finds that the file is no longer in place, and begins anew.
    """
    lock = os.open(folder / START_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    remove(folder)
    os.close(lock)


def remove(folder: Path) -> None:
    """Delete the folder, whose start lock the caller holds."""
    empty(folder)
    with suppress(FileNotFoundError):
        (folder / START_LOCK).unlink()
    # A starter that is already back has put its new lock there.
    with suppress(OSError):
        folder.rmdir()
        if folder.parent.name == shared_name():
            folder.parent.rmdir()


def shared_name() -> str:
    """Return the name, among other users' files, of the folder for this user's."""
    return f"condorpool-{os.geteuid()}"


def empty(folder: Path) -> None:
    """Delete all that is in the folder but its start lock, which the caller holds."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            _open_up(entry)
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != START_LOCK:
            with suppress(FileNotFoundError):
                entry.unlink()


def _open_up(folder: Path) -> None:
    """Let us delete what a job has locked itself out of."""
    if os.geteuid() == 0:
        return  # root needs no permission, and follows nobody's links
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 - as os.walk gives it
            if not os.path.islink(path):  # noqa: PTH114
                with suppress(OSError):
                    os.chmod(path, 0o700)  # noqa: PTH101


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks; 0 if there is none (a zombie is none).

    Together with the id it names a process for good: ids are used again.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else 0


def descendants(pid: int) -> list[int]:
    """Return all living processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - the quickest way
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields and fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # The name before them may hold blanks and parentheses.
    return text.rpartition(")")[2].split()


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def main(arguments: list[str]) -> None:
    """Leave the caller, and guard."""
    folder, lock, *command = arguments
    # The caller gave us the lock that says that we live; HTCondor must not
    # inherit it, or a daemon that outlives us would keep it.
    os.set_inheritable(int(lock), False)
    if os.fork():
        os._exit(0)
    Guardian(Path(folder), command).run()


if __name__ == "__main__":
    main(sys.argv[1:])
