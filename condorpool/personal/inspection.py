"""The status of a personal HTCondor, and its access point."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.capacity import total_cpus
from condorpool.personal import configuration, folders, guardian
from condorpool.personal.install import Installation
from condorpool.values.events import STATE_OF_STATUS
from condorpool.values.exceptions import HTCondorError, PersonalError


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


def status(folder: str | os.PathLike[str] | None = None) -> PersonalStatus:
    """Return what is known about the personal HTCondor in a folder; start nothing."""
    path = folders.resolve(folder)
    if not folders.is_made(path):
        return PersonalStatus(path, running=False)
    state = folders.state(path)
    if not folders.is_guarded(path):
        return PersonalStatus(path, running=False, ended=str(state.get("ended", "")))
    access_point = access_point_in(path)
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
    """Return the access point of the one in a folder; None if none runs: its queue is gone, too.

    Raises
    ------
    HTCondorError
        One is starting or ending.
    """
    path = folders.resolve(folder)
    if not (folders.is_made(path) and folders.is_guarded(path)):
        return None
    access_point = access_point_in(path)
    if access_point is None:
        raise HTCondorError(
            f"the personal HTCondor in {path} is starting or ending and has no address now. "
            "Try again later."
        )
    return access_point


def surrounding() -> AccessPoint | None:
    """Return the access point of the one that runs this process as a job; None outside a job.

    Raises
    ------
    PersonalError
        It takes no jobs from this account, under which it runs root's jobs.
    """
    folder = os.environ.get(configuration.MARK)
    if not folder or "_CONDOR_JOB_AD" not in os.environ:
        return None
    owner = Path(folder).stat().st_uid
    if owner != os.geteuid():
        raise PersonalError(
            f"this call runs in a job of the personal HTCondor in {folder}. User {owner} started "
            f"it, and it takes no jobs from user {os.geteuid()}, under which the job runs. Submit "
            "from the notebook what the call returns, or run the notebook as a user other than "
            "root."
        )
    return access_point_in(Path(folder))


def environment(folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return the variables that command-line tools need to talk to the one in a folder.

    Raises
    ------
    PersonalError
        None runs there.
    """
    path = folders.resolve(folder)
    if not (folders.is_made(path) and folders.is_guarded(path) and (path / "ready").exists()):
        raise PersonalError(
            f"no personal HTCondor runs in {path}. Start one with `condorpool personal start`."
        )
    return configuration.environment(path, installation_of(path))


def installation_of(folder: Path) -> Installation:
    """Return the programs that the one in this folder was started with."""
    known = folders.read_json(folder / "installation.json")
    if not known:
        raise PersonalError(
            f"installation.json is missing in {folder}. If HTCondor runs there, it is made again: "
            "try again in a few seconds."
        )
    return Installation(
        **{name: Path(known[name]) for name in ("sbin", "bin", "libexec", "lib")},
        version=known["version"],
        source=known["source"],
    )


def access_point_in(folder: Path) -> AccessPoint | None:
    """Return the access point in a folder; None until the daemons have written their addresses."""
    run = folder / "local/run"
    schedd = _address(run / "schedd_address")
    collector = _address(run / "collector_address")
    if schedd is None or collector is None:
        return None
    try:
        started = (run / "schedd_address").stat().st_mtime
        made = (folder / "condor_config").stat().st_mtime_ns
    except FileNotFoundError:
        return None  # the folder is being deleted
    return AccessPoint(
        name=f"personal HTCondor in {folder}",
        schedd_address=schedd[0],
        collector_address=collector[0],
        version=schedd[1],
        started=started,
        max_keep_claim=configuration.CLAIMS,
        memory=configuration.fair_memory(),
        relocate=lambda: access_point_in(folder),
        origin={"personal": str(folder)},
        queue=f"{folder} {made}",  # the next one in this folder has a queue of its own
    )


def is_over(access_point: AccessPoint) -> bool:
    """Return whether one has ended, or another one is in its folder."""
    folder = Path(access_point.origin["personal"])
    if folders.is_guarded(folder) and not folders.state(folder).get("ended"):
        now = access_point_in(folder)  # none while another one starts
        return now is not None and now.queue != access_point.queue
    return True


def last_cluster(folder: Path) -> int:
    """Return the number of the last cluster in the queue of a dead one, if its file remains."""
    try:
        log = (folder / guardian.QUEUE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    found = re.findall(r"^103 0+\.0+ NextClusterNum (\d+)", log, re.MULTILINE)
    return int(found[-1]) if found else 0


def _address(path: Path) -> list[str] | None:
    """Return a daemon's address and version."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return lines if len(lines) >= 2 else None


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
    states = (STATE_OF_STATUS[int(job["JobStatus"])] for job in jobs)
    return dict(Counter(state.word for state in states))
