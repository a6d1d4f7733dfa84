"""A personal HTCondor: its start and end, and what it is doing."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.outlook import total_cpus
from condorpool.personal import configuration, folders, guardian
from condorpool.personal.install import Installation, find
from condorpool.values.exceptions import (
    HTCondorError,
    HTCondorNotFoundError,
    PersonalError,
    VersionSkewError,
)

if TYPE_CHECKING:
    from types import TracebackType

_STOP_SECONDS = 30.0

_STATES = {
    1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held",
    6: "transferring output", 7: "suspended",
}  # fmt: skip

Progress = Callable[[str], object]


class PersonalHTCondor:
    """A personal HTCondor that runs.

    It stays as long as a process that called `start` for it lives, and then
    until no job is idle or running; one that was started ``detached`` stays
    until `stop`.

    Parameters
    ----------
    folder
        Holds all its files.
    installation
        The programs that it was started with.
    access_point
        Where its jobs are submitted.
    master_pid
        The process that starts all others.
    """

    def __init__(
        self,
        folder: Path,
        installation: Installation,
        access_point: AccessPoint,
        master_pid: int,
    ) -> None:
        self.folder = folder
        self.installation = installation
        self.master_pid = master_pid
        self._access_point = access_point
        self._master_start = guardian.start_time(master_pid)

    def __repr__(self) -> str:
        return f"PersonalHTCondor({str(self.folder)!r}, master_pid={self.master_pid})"

    @property
    def schedd_address(self) -> str:
        """Where jobs are submitted, as ``<127.0.0.1:9618>``."""
        return self._access_point.schedd_address

    @property
    def collector_address(self) -> str:
        """Who knows the slots, as ``<127.0.0.1:9618>``."""
        return self._access_point.collector_address

    @property
    def config(self) -> Path:
        """The configuration file, for ``CONDOR_CONFIG``."""
        return self.folder / "condor_config"

    @property
    def alive(self) -> bool:
        """Whether its ``condor_master`` still runs."""
        return guardian.start_time(self.master_pid) == self._master_start != 0

    def environment(self) -> dict[str, str]:
        """Return the variables that HTCondor's command-line tools need to talk to it."""
        return configuration.environment(self.folder, self.installation)

    def access_point(self) -> AccessPoint:
        """Return where to submit jobs; a schedd that was restarted has a new address."""
        self._access_point = _access_point(self.folder) or self._access_point
        return self._access_point

    def log_tails(self, lines: int = 15) -> str:
        """Return the last lines of each daemon's log."""
        return _log_tails(self.folder, lines)

    def stop(self, *, keep_folder: bool = False) -> None:
        """End it now, whoever else uses it, and delete its folder."""
        stop(self.folder, keep_folder=keep_folder)

    def __enter__(self) -> PersonalHTCondor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class PersonalStatus:
    """What is known about a personal HTCondor.

    Parameters
    ----------
    folder
        Where it is, or would be.
    running
        Whether it runs.
    detached
        Whether it stays until it is stopped.
    version
        HTCondor's, as ``25.14.1``.
    guardian_pid, master_pid
        The processes that keep and run it.
    users
        The processes that use it.
    cpus
        How many it offers.
    jobs
        Number of jobs in the queue by state.
    ended
        How ``condor_master`` ended, if it was not stopped.
    """

    folder: Path
    running: bool
    detached: bool = False
    version: str = ""
    guardian_pid: int | None = None
    master_pid: int | None = None
    users: list[int] = field(default_factory=list)
    cpus: int = 0
    jobs: dict[str, int] = field(default_factory=dict)
    ended: str = ""


# Starting


def start(
    folder: str | os.PathLike[str] | None = None,
    *,
    detached: bool = False,
    cpus: int | None = None,
    settings: Mapping[str, str] | None = None,
    timeout: float = 30,
    progress: Progress | None = None,
) -> PersonalHTCondor:
    """Start a personal HTCondor, or use the one that runs, and return it ready for jobs.

    This process counts as a user of it until it ends.

    Parameters
    ----------
    folder
        Where it keeps its files; it is made, and deleted in the end.  By
        default each user has one folder on each machine.
    detached
        Let it stay until `stop`, not only while somebody uses it.
    cpus
        How many it offers.  By default the machine's.
    settings
        Lines of HTCondor configuration.  Like ``cpus``, they are for one that
        is started now.
    timeout
        Seconds that the start may take.
    progress
        Called with a line of text when something is started.

    Raises
    ------
    HTCondorNotFoundError
        No HTCondor is installed; nothing is downloaded here.
    PersonalError
        It did not start; with the daemons' last words.
    """
    if sys.platform != "linux":
        raise PersonalError(
            "a personal HTCondor needs Linux. Use an HTCondor pool by its configuration here."
        )
    path = folders.resolve(folder)
    deadline = time.monotonic() + timeout
    installation = None if folders.is_guarded(path) else _installed()
    while time.monotonic() < deadline:
        launched = False
        try:
            with folders.start_lock(path, deadline):
                if not folders.is_guarded(path):
                    launched = True
                    if progress:
                        progress(f"Starting a personal HTCondor in {path}")
                    _launch(path, installation or _installed(), cpus, settings or {})
                # False: its guardian is ending it, or looks at the queue.
                if folders.use(path):
                    if detached:
                        (path / "detached").touch(mode=0o600)
                    return _wait_until_ready(path, deadline)
        except BaseException as error:
            # The start lock is free again: the guardian needs it to end.
            if launched:
                _end(path)
            elif isinstance(error, _GoneError):
                _end(path)
                continue
            if isinstance(error, OSError):
                raise folders.cannot(f"start HTCondor in {path}", error) from error
            raise
        time.sleep(folders.POLL_SECONDS)
    raise PersonalError(f"the HTCondor that ran in {path} has not ended in {timeout:g} s.")


class _GoneError(PersonalError):
    """The personal HTCondor that we wait for is being stopped, or has ended."""


def _installed() -> Installation:
    installation = find()
    if installation is None:
        raise HTCondorNotFoundError(
            "no HTCondor is installed here. `condorpool personal install` brings one, "
            "without root and into your cache folder only."
        )
    return installation


def _launch(
    folder: Path, installation: Installation, cpus: int | None, settings: Mapping[str, str]
) -> None:
    """Prepare the folder and start the guardian in it."""
    _end_leftovers(folder)
    guardian.empty(folder)
    alive = os.open(folder / folders.ALIVE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        configuration.make_local(folder / "local")
        (folder / "condor_config").write_text(
            configuration.text(folder, installation, cpus, settings), encoding="utf-8"
        )
        (folder / "installation.json").write_text(
            json.dumps(asdict(installation), default=str), encoding="utf-8"
        )
        # Before the guardian looks: it ends what nobody uses.
        if not folders.use(folder):
            raise PersonalError(f"{folder / guardian.USERS_LOCK} is locked by another program.")
        _start_guardian(folder, installation, alive)
    finally:
        # The guardian has it now.
        os.close(alive)


def _start_guardian(folder: Path, installation: Installation, alive: int) -> None:
    program = str(Path(guardian.__file__).resolve())
    with (folder / "guardian.log").open("ab") as log:
        # It forks and lives on as nobody's child; what we start ends at once.
        subprocess.run(
            [
                sys.executable,
                "-IS",
                program,
                folder,
                str(alive),
                *configuration.master(installation),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=configuration.daemon_environment(folder, installation),
            pass_fds=[alive],
            start_new_session=True,
            check=True,
        )


def _wait_until_ready(folder: Path, deadline: float) -> PersonalHTCondor:
    """Return when a job would find its slot; report at once what prevents that."""
    ready = folder / "ready"
    while True:
        state = folders.state(folder)
        if state.get("stopping"):
            raise _GoneError(_explain(folder, _why_ended(state)))
        if not folders.is_guarded(folder):
            raise _GoneError(_explain(folder, "the process that guards it has ended"))
        if not ready.exists() and (death := _daemon_death(folder)):
            raise PersonalError(_explain(folder, death))
        access_point = _access_point(folder)
        if "master" in state and access_point and _answers(access_point):
            ready.touch(mode=0o600)
            return _running(folder, access_point, state)
        if time.monotonic() > deadline:
            raise PersonalError(_explain(folder, "it was not ready in time"))
        time.sleep(folders.POLL_SECONDS)


def _answers(access_point: AccessPoint) -> bool:
    try:
        access_point.query("false", ["ClusterId"])
        return any(True for _ in access_point.slots())
    except VersionSkewError:
        raise  # it will not answer later, either
    except HTCondorError:
        return False


def _running(folder: Path, access_point: AccessPoint, state: Mapping[str, Any]) -> PersonalHTCondor:
    return PersonalHTCondor(
        folder, _installation(folder), access_point, master_pid=int(state["master"][0])
    )


def _installation(folder: Path) -> Installation:
    """Return the programs that the one in this folder was started with."""
    known = folders.read_json(folder / "installation.json")
    return Installation(
        **{name: Path(known[name]) for name in ("sbin", "bin", "libexec", "lib")},
        version=known["version"],
        source=known["source"],
    )


def _access_point(folder: Path) -> AccessPoint | None:
    """Return where to submit, as soon as the daemons have written their addresses."""
    run = folder / "local/run"
    schedd = _address(run / "schedd_address")
    collector = _address(run / "collector_address")
    if schedd is None or collector is None:
        return None
    try:
        started = (run / "schedd_address").stat().st_mtime
        made = (folder / "condor_config").stat().st_mtime_ns
    except FileNotFoundError:
        return None  # it is being deleted
    return AccessPoint(
        name=f"personal HTCondor in {folder}",
        schedd_address=schedd[0],
        collector_address=collector[0],
        version=schedd[1],
        started=started,
        claims=configuration.CLAIMS,
        memory=configuration.fair_memory(),
        relocate=lambda: _access_point(folder),
        origin={"personal": str(folder)},
        queue=f"{folder} {made}",  # the next one in this folder has a queue of its own
    )


def _address(path: Path) -> list[str] | None:
    """Return a daemon's address and version."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return lines if len(lines) >= 2 else None


# What went wrong


def _why_ended(state: Mapping[str, Any]) -> str:
    ended = state.get("ended")
    return f"condor_master {ended}" if ended else "it was stopped by somebody else"


def _daemon_death(folder: Path) -> str | None:
    """Return what condor_master says about a daemon that ended while it should start."""
    try:
        text = (folder / "local/log/MasterLog").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"The (\w+) \(pid \d+\) ((?:exited|died|was killed).*)", text)
    if found:
        return f"its {found[1].lower()} {found[2]}"
    found = re.search(r"Failed to listen.*|\S+: Cannot execute.*|Create_Process failed.*", text)
    return found[0] if found else None


def _explain(folder: Path, what: str) -> str:
    room = shutil.disk_usage(folder).free
    full = f" The disk is full ({room / 2**20:.0f} MB are left)." if room < 20 * 2**20 else ""
    tails = _log_tails(folder, 8)
    return (
        f"the personal HTCondor in {folder} did not start: {what}.{full}\n"
        f"Its logs end with:\n{tails}"
    )


def _log_tails(folder: Path, lines: int) -> str:
    """Return the last lines of the guardian's and each daemon's log."""
    logs = [folder / "guardian.log", *sorted((folder / "local/log").glob("*Log*"))]
    tails = []
    for log in logs:
        try:
            text = log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        last = text.splitlines()[-lines:]
        if last:
            tails += [f"--- {log.name}", *last]
    return "\n".join(tails)


# Stopping


def stop(folder: str | os.PathLike[str] | None = None, *, keep_folder: bool = False) -> bool:
    """End a personal HTCondor now, with its jobs, whoever uses it; tell whether one ran.

    Returns when no process of it is left.

    Parameters
    ----------
    folder
        As for `start`.
    keep_folder
        Leave its files, to look at the logs.  The next `start` there deletes them.
    """
    path = folders.resolve(folder)
    if not folders.is_made(path):
        return False
    ran = folders.is_guarded(path)
    _end(path, keep_folder=keep_folder)
    return ran


def _end(folder: Path, *, keep_folder: bool = False) -> None:
    """End what runs in the folder, and see to it that nothing is left."""
    request = signal.SIGUSR1 if keep_folder else signal.SIGTERM
    deadline = time.monotonic() + _STOP_SECONDS
    asked = None
    # The last that it does is to delete its files, so also wait for itself.
    while folders.is_guarded(folder) or folders.living({"guardian": asked}, "guardian"):
        state = folders.state(folder)
        if asked is None:
            asked = state.get("guardian")
            _signal_guardian(state, request)
        elif state.get("guardian", asked) != asked:
            return  # that one has ended, and somebody has already started another
        if time.monotonic() > deadline:
            if not _signal_guardian({"guardian": asked}, signal.SIGKILL):
                raise PersonalError(
                    f"the HTCondor in {folder} runs where this process cannot see it, perhaps in "
                    "another container: stop it there."
                )
            deadline += _STOP_SECONDS
        time.sleep(folders.POLL_SECONDS / 2)
    folders.unuse(folder)
    _clear_dead(folder, keep_folder=keep_folder)


def _signal_guardian(state: Mapping[str, Any], number: int) -> bool:
    pid = folders.living(state, "guardian")
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return pid is not None


def _clear_dead(folder: Path, *, keep_folder: bool) -> None:
    """Clear up behind a guardian that could not do so."""
    try:
        lock = os.open(folder / guardian.START_LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # it could
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        in_place = folders.in_place(lock, folder / guardian.START_LOCK)
        if in_place and not folders.is_guarded(folder):
            _end_leftovers(folder)
            if not keep_folder:
                guardian.remove(folder)
    finally:
        os.close(lock)


def _end_leftovers(folder: Path) -> None:
    """End the processes of an HTCondor whose guardian was killed.

    condor_master shuts down by itself then; this waits for it, and ends what
    it could not.
    """
    if _have_ended(folder, 5):
        return
    for number, patience in ((signal.SIGTERM, 1), (signal.SIGKILL, 5)):
        for pid in _leftovers(folder):
            with suppress(OSError):
                os.kill(pid, number)
        if _have_ended(folder, patience):
            return
    raise PersonalError(
        f"processes of the HTCondor that ran in {folder} cannot be ended: "
        f"{', '.join(map(str, _leftovers(folder)))}."
    )


def _have_ended(folder: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while _leftovers(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(folders.POLL_SECONDS)
    return True


def _leftovers(folder: Path) -> list[int]:
    """Return the processes that are proven to be of this folder's HTCondor."""
    mark = f"{configuration.MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it has ended, or is another user's
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    master = folders.living(folders.state(folder), "master")
    if master is not None:
        found += [master, *guardian.descendants(master)]
    return sorted(set(found) - {os.getpid()})


# Looking


def status(folder: str | os.PathLike[str] | None = None) -> PersonalStatus:
    """Return what is known about the personal HTCondor in a folder; it starts nothing."""
    path = folders.resolve(folder)
    if not folders.is_made(path):
        return PersonalStatus(path, running=False)
    state = folders.state(path)
    if not folders.is_guarded(path):
        return PersonalStatus(path, running=False, ended=str(state.get("ended", "")))
    access_point = _access_point(path)
    return PersonalStatus(
        path,
        running=access_point is not None and folders.living(state, "master") is not None,
        detached=(path / "detached").exists(),
        version=str(folders.read_json(path / "installation.json").get("version", "")),
        guardian_pid=folders.living(state, "guardian"),
        master_pid=folders.living(state, "master"),
        users=_users(path),
        cpus=_cpus(access_point),
        jobs=_jobs(access_point),
        ended=str(state.get("ended", "")),
    )


def running(folder: str | os.PathLike[str]) -> AccessPoint | None:
    """Return the access point of the one in a folder; None if there is none, nor its queue.

    Raises
    ------
    HTCondorError
        One is starting or ending.
    """
    path = folders.resolve(folder)
    if not (folders.is_made(path) and folders.is_guarded(path)):
        return None
    access_point = _access_point(path)
    if access_point is None:
        raise HTCondorError(f"the personal HTCondor in {path} has not told its address (yet).")
    return access_point


def surrounding() -> AccessPoint | None:
    """Return the access point of the one whose job this process is; None if it is none.

    Raises
    ------
    PersonalError
        It takes no jobs from this account, in which root's jobs run.
    """
    folder = os.environ.get(configuration.MARK)
    if not folder or "_CONDOR_JOB_AD" not in os.environ:
        return None
    owner = Path(folder).stat().st_uid
    if owner != os.geteuid():
        raise PersonalError(
            f"this call is a job of the personal HTCondor in {folder}, which user {owner} has "
            f"started and which takes no jobs from the job's own user {os.geteuid()}. Have the call "
            "return what is to be done and submit that from the notebook, or run the notebook "
            "as another user than root."
        )
    return _access_point(Path(folder))


def environment(folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return the variables with which command-line tools talk to the one in a folder.

    Raises
    ------
    PersonalError
        None runs there.
    """
    path = folders.resolve(folder)
    if not (folders.is_made(path) and folders.is_guarded(path) and (path / "ready").exists()):
        raise PersonalError(
            f"no personal HTCondor runs in {path}: `condorpool personal start` starts one."
        )
    return configuration.environment(path, _installation(path))


def _users(folder: Path) -> list[int]:
    """Return the processes that share the users' lock, as the kernel lists them."""
    try:
        inode = (folder / guardian.USERS_LOCK).stat().st_ino
        text = Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return []
    found = re.findall(rf"POSIX +ADVISORY +READ +(\d+) \w+:\w+:{inode} ", text)
    return sorted({int(pid) for pid in found})


def _cpus(access_point: AccessPoint | None) -> int:
    if access_point is None:
        return 0
    try:
        return total_cpus(access_point.slots())
    except HTCondorError:
        return 0


def _jobs(access_point: AccessPoint | None) -> dict[str, int]:
    if access_point is None:
        return {}
    try:
        jobs = access_point.query("true", ["JobStatus"])
    except HTCondorError:
        return {}
    return dict(Counter(_STATES.get(int(job["JobStatus"]), "unknown") for job in jobs))
