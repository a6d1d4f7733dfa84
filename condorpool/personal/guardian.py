"""Run one personal HTCondor while processes use it, then end it and delete its folder.

This is a program: ``python -IS guardian.py FOLDER LOCK COMMAND...`` runs
COMMAND, which becomes ``condor_master``.  It imports nothing of condorpool (so it is one file),
detaches from its parent, and ends by itself; see `condorpool.personal.daemons`.

It adopts the orphans of HTCondor's programs and of the users' jobs (it is their
"child subreaper"), so that its descendants are exactly the processes that
``condor_master`` and its children have started.

The folder may be in one for temporary files, from which other programs delete what is
old, or everything.  It is locked, and its files get a new time of access, which such programs
honor; what is deleted all the same is made again (`Files`).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Jobs for which an unused HTCondor stays: idle, running, transferring their output.
ACTIVE = "JobStatus == 1 || JobStatus == 2 || JobStatus == 6"

# Made first and deleted last, so it also marks a folder as ours.
START_LOCK = "condorpool-start.lock"

# Shared by the processes that use it.
USERS_LOCK = "users.lock"

# Every process of a personal HTCondor, this one too, has the folder in this variable, which
# proves that it is ours when the guardian or the files are gone.
MARK = "_CONDORPOOL_PERSONAL"

# What the guardian says about itself.
STATE = "state.json"

# Locked by the guardian as long as it lives.
ALIVE_LOCK = "alive.lock"

# What the guardian makes again if it is deleted: the folders, and the files that it does not
# write itself, in this order.
FOLDERS = ("execute", "lock", "log", "run", "spool", "tokens.d", "passwords.d")
KEPT = (
    "local",
    *(f"local/{name}" for name in FOLDERS),
    *(f"local/run/{daemon}_address" for daemon in ("master", "collector", "schedd")),
    *("condor_config", "installation.json", "ready", "detached", START_LOCK),
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# The file of the queue, which only its schedd can write again.
QUEUE = "local/spool/job_queue.log"

# Seconds between two looks at them, and between two times at which all files get a new time
# of access: programs that clean folders delete what was not used for days.
LOOK_SECONDS = 1.0
TOUCH_SECONDS = 3600.0

# Daemons without which no job runs, and the seconds for which one of them may be missing while
# condor_master starts it again.
DAEMONS = {"condor_schedd", "condor_startd", "condor_collecto", "condor_negotiat"}
MISSING_SECONDS = 8.0

SIGNALS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM}

# Seconds that HTCondor has to shut down, and then what remains of it to obey SIGTERM.
SHUTDOWN_SECONDS = 6.0
TERMINATE_SECONDS = 1.0

# Seconds for which a schedd that does not answer may be restarting.
PATIENCE_SECONDS = 30.0


class _Ended(Exception):  # noqa: N818 - the end is expected
    """Raised by a signal handler, to leave a wait."""


class Files:
    """The folder and its files, which other programs may delete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with suppress(OSError):  # systemd-tmpfiles leaves alone what is in a locked folder
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)
        # Path → what it was at the last look: its status, and the content of a file.
        self.known: dict[str, tuple[os.stat_result, bytes]] = {}
        self.touch_at = 0.0

    @property
    def in_place(self) -> bool:
        """Whether the folder still exists."""
        return in_place(self.descriptor, self.folder)

    def look(self) -> None:
        """Make again what is missing."""
        for name in KEPT:
            with suppress(OSError), self._parent(name) as folder:  # tried again in a second
                self._look_at(name, folder)
        if time.monotonic() >= self.touch_at:
            self.touch_at = time.monotonic() + TOUCH_SECONDS
            self._touch()

    @contextmanager
    def _parent(self, name: str) -> Iterator[int]:
        """Open the folder that a path is in, without following links: jobs may make some."""
        folder = os.dup(self.descriptor)
        try:
            for parent in name.split("/")[:-1]:
                outer, folder = folder, os.open(parent, _FOLDER, dir_fd=folder)
                os.close(outer)
            yield folder
        finally:
            os.close(folder)

    def _look_at(self, name: str, folder: int) -> None:
        known, base = self.known.get(name), name.rpartition("/")[2]
        try:
            about = os.stat(base, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            if known and not stat.S_ISLNK(known[0].st_mode):
                _restore(folder, base, *known)
            return
        if known is None or _differs(about, known[0]):
            self.known[name] = about, _content(folder, base, about)

    def _touch(self) -> None:
        """Give the folder and all in it a new time of access, and leave the other times alone."""
        for _, _, files, folder in os.fwalk(".", dir_fd=self.descriptor):
            _use(folder, "")
            for name in files:
                _use(folder, name)


def _use(folder: int, name: str) -> None:
    """Give a file, or the folder itself, a new time of access."""
    with suppress(OSError):
        about = os.stat(name, dir_fd=folder, follow_symlinks=False) if name else os.fstat(folder)
        times = time.time_ns(), about.st_mtime_ns
        if name:
            os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)
        else:
            os.utime(folder, ns=times)


def _differs(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_mtime_ns) != (other.st_ino, other.st_mtime_ns)


def _content(folder: int, name: str, about: os.stat_result) -> bytes:
    # A job may have linked a file of another user there.
    if not stat.S_ISREG(about.st_mode) or about.st_uid != os.fstat(folder).st_uid:
        return b""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
        return file.read(1 << 20)


def _restore(folder: int, name: str, about: os.stat_result, content: bytes) -> None:
    """Make a file or folder again as it was."""
    if stat.S_ISDIR(about.st_mode):
        os.mkdir(name, 0o700, dir_fd=folder)
        made = os.open(name, _FOLDER, dir_fd=folder)
    else:
        # Others must find it whole, and what was made meanwhile stays.
        new, flags = f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)
        made = os.open(new, flags, 0o600, dir_fd=folder)
    try:
        if os.geteuid() == 0:
            os.fchown(made, about.st_uid, about.st_gid)
        os.fchmod(made, stat.S_IMODE(about.st_mode))
        if stat.S_ISREG(about.st_mode):
            os.write(made, content)
            os.utime(made, ns=(time.time_ns(), about.st_mtime_ns))  # which identifies the queue
            os.link(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.unlink(new, dir_fd=folder)
    finally:
        os.close(made)


class Guardian:
    """The parent of one ``condor_master``.

    Parameters
    ----------
    folder
        The personal HTCondor's folder, which holds ``users.lock``.
    alive
        The locked ``alive.lock``.
    command
        What becomes ``condor_master``.
    """

    def __init__(self, folder: Path, alive: int, command: list[str]) -> None:
        self.folder = folder
        self.command = command
        self.files = Files(folder)
        self.alive = alive
        # Never closed: closing any descriptor of the file would drop this process's lock.
        # More than one if the file was deleted: the users of that one still lock it.
        self.users = [os.open(folder / USERS_LOCK, os.O_RDWR | os.O_CLOEXEC)]
        self.missing_since = 0.0  # a daemon is missing; 0 if none is
        # The schedd, 0 if none ran, whose queue's file was deleted: its successor has no queue.
        self.last_with_queue: int | None = None
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
        signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
        self._start_master()
        try:
            if self._record(master=[self.master, start_time(self.master)]):
                self._wait(self._watch)
        finally:
            # Even after an error of ours no process may remain.
            self._record(stopping=True)
            self._stop_daemons()
        # Where that cannot be written, nobody could know that it has died.
        if self.reason == "died" and self._record(ended=self.status) and self.files.in_place:
            self.reason = ""
            self._wait(self._wait_for_readers)
            if self.reason == "died" and self._is_detached():
                return
        if self.reason != "keep":
            delete(self.files)

    # Starting

    def _start_master(self) -> None:
        guardian = os.getpid()
        pid = os.fork()
        if pid:
            self.master = pid
            return
        try:
            # If the guardian is killed, condor_master gets SIGQUIT: a fast shutdown.
            _prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
            # A guardian that was killed before the prctl sends nothing.
            if os.getppid() != guardian:
                os._exit(1)
            # Jobs would inherit the signals that Python and our caller ignore.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvp(self.command[0], self.command)  # noqa: S606 - no shell is wanted
        except OSError as error:
            print(f"{self.command[0]}: {error}", flush=True)  # noqa: T201 - this is the log
        finally:
            os._exit(127)

    def _record(self, **facts: object) -> bool:
        """Write our state for other processes; return whether that was possible."""
        self.state.update(facts)
        new = self.folder / f"{STATE}.new"
        try:
            new.write_text(json.dumps(self.state))
            new.replace(self.folder / STATE)
        except OSError as error:
            # A full disk must not keep us from ending HTCondor.
            print(f"guardian: {error}", flush=True)  # noqa: T201 - this is the log
            return False
        return True

    # Waiting

    def _wait(self, wait: Callable[[], None]) -> None:
        # Signals are blocked everywhere else, so that handlers raise _Ended only in here.
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            wait()
        except _Ended:
            pass
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def _handle(self, number: int, _frame: object) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGALRM:
            self._look()
        else:
            self._end("keep" if number == signal.SIGUSR1 else "stop")

    def _end(self, reason: str) -> None:
        # Only the first reason counts, and only it leaves the wait: a second
        # signal must not interrupt the shutdown.
        if not self.reason:
            self.reason = reason
            raise _Ended

    def _watch(self) -> None:
        """Return when no process uses HTCondor and no job needs it."""
        looks = 1
        while True:
            # Blocks until the last user has ended: the kernel drops the locks even of
            # a process that is killed.
            self._lock_users(fcntl.LOCK_EX)
            if self._is_detached():
                self._lock_users(fcntl.LOCK_UN)
                while True:
                    signal.pause()
            # After jobs, one look at an empty queue is not enough: a late-materialized
            # cluster may be between two of its jobs.
            looks = 2 if self._has_active_jobs() else looks - 1
            if looks <= 0:
                # Keep the lock, so that no process can begin to use an HTCondor
                # that is about to end.
                self.reason = "unused"
                return
            self._lock_users(fcntl.LOCK_UN)
            time.sleep(1)

    def _lock_users(self, kind: int) -> None:
        for descriptor in self.users:  # also one that is added meanwhile
            fcntl.lockf(descriptor, kind)

    def _wait_for_readers(self) -> None:
        """Wait until no user remains who may read the logs of the dead daemons."""
        self._lock_users(fcntl.LOCK_EX)
        self.reason = "died"

    def _is_detached(self) -> bool:
        return (self.folder / "detached").exists()

    def _has_active_jobs(self) -> bool:
        """Return whether jobs need HTCondor; wait a while for a schedd that does not answer."""
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
        """Reap dead children, also the adopted orphans of jobs."""
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if dead.si_pid == self.asking:
                    return  # subprocess must reap this one itself
                _, status = os.waitpid(dead.si_pid, 0)
                if dead.si_pid == self.master:
                    self.master = 0
                    self.status = _describe(status)
                    self._end("died")

    # Looking after

    def _look(self) -> None:
        """Repair the folder; end if it was deleted, or a daemon is missing."""
        if not self.master:
            return  # it has ended, and the files remain only to be read
        # A folder that is made again does not help programs that work in the last one.
        if not self.files.in_place or _works_in_deleted(self.master):
            self.status = "lost its folder, which was deleted"
            self._end("died")
        try:
            self.files.look()
            self._look_at_locks()
        except OSError as error:
            print(f"guardian: {error}", flush=True)  # noqa: T201 - this is the log
        running = self._daemons()
        if running is None:
            return
        missing = DAEMONS - running.keys()
        if not missing:
            self.missing_since = 0.0
        elif not self.missing_since:
            self.missing_since = time.monotonic()
        elif time.monotonic() - self.missing_since > MISSING_SECONDS:
            self.status = f"cannot keep {' and '.join(sorted(missing))} running"
            self._end("died")
        if self._is_queue_lost(running.get("condor_schedd", 0)):
            self.status = "lost its queue, whose file was deleted"
            self._end("died")

    def _is_queue_lost(self, schedd: int) -> bool:
        """Return whether a new schedd runs, and the file of the last one's queue was deleted."""
        if not (self.folder / QUEUE).exists():
            if self.last_with_queue is None:
                self.last_with_queue = schedd
        elif self.last_with_queue == schedd:
            self.last_with_queue = None  # it has written the file again
        return bool(schedd) and self.last_with_queue not in (None, schedd)

    def _look_at_locks(self) -> None:
        if not in_place(self.alive, self.folder / ALIVE_LOCK):
            lock = os.open(self.folder / ALIVE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process looks whether it is locked
                os.close(lock)
            else:
                os.close(self.alive)
                self.alive = lock
        users = self.folder / USERS_LOCK
        if not in_place(self.users[-1], users):
            self.users.append(os.open(users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if not (self.folder / STATE).exists():
            self._record()

    def _daemons(self) -> dict[str, int] | None:
        """Return the daemons that condor_master runs; None if unknown, or before all had started."""
        if "ready" not in self.files.known:
            return None
        running: dict[str, int] = {}
        try:
            children = Path(f"/proc/{self.master}/task/{self.master}/children").read_text("ascii")
        except OSError:  # not every kernel has it
            return None
        for pid in children.split():
            with suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
                running[name] = int(pid)
        return running

    # Ending

    def _stop_daemons(self) -> None:
        """End HTCondor, and every remaining process of it and its jobs."""
        if self.master:
            os.kill(self.master, signal.SIGQUIT)  # a fast shutdown
            self._reap_until(lambda: not self.master, SHUTDOWN_SECONDS)
        self._signal_descendants(signal.SIGTERM)
        self._reap_until(lambda: not descendants(os.getpid()), TERMINATE_SECONDS)
        # A process that forks while we look appears in the next round.
        while self._signal_descendants(signal.SIGKILL):
            self._reap_until(lambda: not descendants(os.getpid()), 0.1)
        # Only zombies remain, and a container may have no init that reaps them.
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _signal_descendants(self, number: int) -> bool:
        pids = descendants(os.getpid())
        for pid in pids:
            # One that has just ended keeps its id until it is reaped, here by us.
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


def delete(files: Files) -> None:
    """Delete a folder whose start lock other processes may be waiting for.

    The lock is held until its file is deleted, which is the last one.  A process that
    gets the lock then finds that the file is no longer in place, and starts again.
    """
    if not files.in_place:
        return
    lock = os.open(files.folder / START_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if files.in_place:  # else another process has made a new one there
        remove(files.folder)
    os.close(lock)


def remove(folder: Path) -> None:
    """Delete the folder, whose start lock the caller holds."""
    empty(folder)
    with suppress(FileNotFoundError):
        (folder / START_LOCK).unlink()
    # Not empty if another process has already put a new start lock there.
    with suppress(OSError):
        folder.rmdir()
        if folder.parent.name == shared_name():
            folder.parent.rmdir()


def shared_name() -> str:
    """Return the name of this user's own folder in a shared one."""
    return f"condorpool-{os.geteuid()}"


def empty(folder: Path) -> None:
    """Delete everything in the folder except its start lock, which the caller holds."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            _open_up(entry)
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != START_LOCK:
            with suppress(FileNotFoundError):
                entry.unlink()


def _open_up(folder: Path) -> None:
    """Restore the permissions that we need to delete folders; a job may have removed them."""
    if os.geteuid() == 0:
        return  # root needs none, and must not follow a link that a job puts there meanwhile
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 - as os.walk gives it
            if not os.path.islink(path):  # noqa: PTH114
                with suppress(OSError):
                    os.chmod(path, 0o700)  # noqa: PTH101


def in_place(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one at this path."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _works_in_deleted(pid: int) -> bool:
    """Return whether a process's working directory was deleted."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd").endswith(" (deleted)")  # noqa: PTH115 - no path
    return False


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks; 0 if it has ended (a zombie has).

    Ids are reused; an id together with its start time is not.
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
    # The name before it may contain blanks and parentheses.
    return text.rpartition(")")[2].split()


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def main(arguments: list[str]) -> None:
    """Detach from the caller, and run the guardian."""
    folder, lock, *command = arguments
    # The caller passed us the locked alive.lock.  HTCondor must not inherit it:
    # a daemon that outlives us would keep it locked.
    os.set_inheritable(int(lock), False)
    if os.fork():
        os._exit(0)
    Guardian(Path(folder), int(lock), command).run()


if __name__ == "__main__":
    main(sys.argv[1:])
