"""A running personal HTCondor, and how it starts."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.personal import configuration, folders, guardian
from condorpool.personal.inspection import (
    access_point_in,
    installation_of,
    is_over,
    last_cluster,
)
from condorpool.personal.install import Installation, find, user_name
from condorpool.personal.stopping import end, end_leftovers, stop
from condorpool.values.exceptions import (
    HTCondorError,
    HTCondorNotFoundError,
    PersonalError,
    VersionSkewError,
)

if TYPE_CHECKING:
    from types import TracebackType

Progress = Callable[[str], object]


#: Seconds that a start may take.
START_SECONDS = 30.0


@dataclass(frozen=True)
class How:
    """How a personal HTCondor is started: see `start`, and ``first``, its first cluster."""

    detached: bool
    cpus: int | None
    settings: Mapping[str, str]
    first: int = 1


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
    how
        How it was started.
    """

    def __init__(
        self,
        folder: Path,
        installation: Installation,
        access_point: AccessPoint,
        master_pid: int,
        how: How,
    ) -> None:
        self.folder = folder
        self.installation = installation
        self.master_pid = master_pid
        self._access_point = access_point
        self._how = how
        self._master_start = guardian.start_time(master_pid)

    def __repr__(self) -> str:
        return f"PersonalHTCondor({str(self.folder)!r}, master_pid={self.master_pid})"

    @property
    def schedd_address(self) -> str:
        """Where jobs are submitted, as ``<127.0.0.1:9618>``."""
        return self._access_point.schedd_address

    @property
    def collector_address(self) -> str:
        """Where slots are listed, as ``<127.0.0.1:9618>``."""
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
        self._access_point = access_point_in(self.folder) or self._access_point
        return replace(self._access_point, is_over=is_over, successor=self._successor)

    def _successor(self, ended: AccessPoint) -> AccessPoint:
        """Return the access point that takes the place of one here that has ended."""
        if folders.was_stopped(self.folder) and not folders.is_guarded(self.folder):
            raise PersonalError(
                f"the personal HTCondor in {self.folder} was stopped. "
                "Start it with `condorpool personal start`, or make a new Pool."
            )
        last = max(ended.last_cluster, last_cluster(self.folder))
        # In hundreds, so that users see which jobs are of another one.
        detached = self._how.detached or (self.folder / "detached").exists()
        how = replace(self._how, detached=detached, first=last // 100 * 100 + 101)
        return _start(self.folder, how, time.monotonic() + START_SECONDS).access_point()

    def log_tails(self, lines: int = 15) -> str:
        """Return the last lines of each daemon's log."""
        return _log_tails(self.folder, lines)

    def stop(self, *, keep_folder: bool = False) -> None:
        """End it now, even if other processes use it, and delete its folder."""
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


# Starting


def start(
    folder: str | os.PathLike[str] | None = None,
    *,
    detached: bool = False,
    cpus: int | None = None,
    settings: Mapping[str, str] | None = None,
    timeout: float = START_SECONDS,
    progress: Progress | None = None,
) -> PersonalHTCondor:
    """Start a personal HTCondor, or use the one that runs, and return it ready for jobs.

    This process counts as a user of it until it ends.

    Parameters
    ----------
    folder
        Where it keeps its files.  `start` makes the folder, and it is deleted in
        the end.  By default each user has one folder on each machine.
    detached
        Keep it running until `stop`, not only while processes use it.
    cpus
        How many it offers.  By default all of the machine.
    settings
        HTCondor configuration, by name.  Like ``cpus``, it does not change one
        that already runs.
    timeout
        Seconds that the start may take.
    progress
        Called with a line of text when something is started.

    Raises
    ------
    HTCondorNotFoundError
        No HTCondor is installed.  `start` downloads nothing.
    PersonalError
        It did not start.  The message has the last lines of the daemons' logs.
    """
    if sys.platform != "linux":
        raise PersonalError(
            "a personal HTCondor needs Linux. On this machine, configure HTCondor for an existing "
            "pool (CONDOR_CONFIG)."
        )
    path, how = folders.resolve(folder), How(detached, cpus, settings or {})
    return _start(path, how, time.monotonic() + timeout, progress)


def _start(
    path: Path, how: How, deadline: float, progress: Progress | None = None
) -> PersonalHTCondor:
    begun = time.monotonic()
    installation = None if folders.is_guarded(path) else _installed()
    while time.monotonic() < deadline:
        launched = False
        try:
            with folders.start_lock(path, deadline):
                if not folders.is_guarded(path):
                    launched = True
                    if progress:
                        progress(f"Starting a personal HTCondor in {path}")
                    _launch(path, installation or _installed(), how)
                # False: its guardian is ending it or asking the queue.  Try again soon.
                if folders.use(path):
                    if how.detached:
                        (path / "detached").touch(mode=0o600)
                    return _wait_until_ready(path, deadline)
        except BaseException as error:
            # The start lock is free again: the guardian needs it to end.
            if launched:
                end(path)
            elif isinstance(error, _GoneError):
                end(path)
                continue
            if isinstance(error, OSError):
                raise folders.cannot(f"start HTCondor in {path}", error) from error
            raise
        time.sleep(folders.POLL_SECONDS)
    raise PersonalError(
        f"the HTCondor that ran in {path} has not ended in {deadline - begun:.0f} s. "
        "Stop it with `condorpool personal stop`, then try again."
    )


class _GoneError(PersonalError):
    """The personal HTCondor that we wait for is being stopped, or has ended."""


def _installed() -> Installation:
    user_name()  # before the folder is made: without one, HTCondor cannot be used
    installation = find()
    if installation is None:
        raise HTCondorNotFoundError(
            "no HTCondor is installed here. Run `condorpool personal install`, which needs no root "
            "and writes only to your cache folder."
        )
    return installation


def _launch(folder: Path, installation: Installation, how: How) -> None:
    """Prepare the folder and start the guardian in it."""
    end_leftovers(folder)
    guardian.empty(folder)
    alive = os.open(folder / guardian.ALIVE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        configuration.make_local(folder / "local")
        (folder / "condor_config").write_text(
            configuration.text(folder, installation, how.cpus, how.settings, how.first),
            encoding="utf-8",
        )
        facts = {**asdict(installation), "cpus": how.cpus, "settings": dict(how.settings)}
        (folder / "installation.json").write_text(json.dumps(facts, default=str), encoding="utf-8")
        # Before the guardian starts: it ends an HTCondor without users.
        if not folders.use(folder):
            raise PersonalError(
                f"another program has locked {folder / guardian.USERS_LOCK}. End that program, "
                "or name another folder."
            )
        _start_guardian(folder, installation, alive)
    finally:
        # The guardian holds the lock now, by the descriptor that it inherited.
        os.close(alive)


def _start_guardian(folder: Path, installation: Installation, alive: int) -> None:
    program = str(Path(guardian.__file__).resolve())
    with (folder / "guardian.log").open("ab") as log:
        # The guardian forks and detaches; the process that we start ends at once.
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
    """Return when a job would find a slot; raise at once if something prevents that."""
    ready = folder / "ready"
    while True:
        state = folders.state(folder)
        if state.get("stopping"):
            raise _GoneError(_explain(folder, _why_ended(state)))
        if not folders.is_guarded(folder):
            raise _GoneError(_explain(folder, "its guardian process has ended"))
        if not ready.exists() and (death := _daemon_death(folder)):
            raise PersonalError(_explain(folder, death))
        access_point = access_point_in(folder)
        # A file that another program has deleted is made again in a moment.
        known = folders.read_json(folder / "installation.json")
        if "master" in state and known and access_point and _answers(access_point):
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
    known = folders.read_json(folder / "installation.json")
    detached = (folder / "detached").exists()
    return PersonalHTCondor(
        folder,
        installation_of(folder),
        access_point,
        master_pid=int(state["master"][0]),
        how=How(detached, known.get("cpus"), known.get("settings", {})),
    )


# What went wrong


def _why_ended(state: Mapping[str, Any]) -> str:
    ended = state.get("ended")
    return f"condor_master {ended}" if ended else "another process stopped it"


def _daemon_death(folder: Path) -> str | None:
    """Return what condor_master logged about a daemon that ended at the start; None if none."""
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
    full = f" The disk is full ({room / 2**20:.0f} MB free)." if room < 20 * 2**20 else ""
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
