"""A personal HTCondor: its folder, its configuration, who uses it, its start and end.

Who may do what is decided by three locks in the folder:

``condorpool-start.lock``
    Held while one starts, joins or deletes the personal HTCondor.
``alive.lock``
    Held by the guardian as long as it lives.  Held: it runs.  Free: what is
    in the folder is left from a dead one.
``users.lock``
    Shared by the processes that use it.  The guardian waits for it, and so
    learns that the last user has gone, however that one ended.

Nobody waits for the guardian while it holds the start lock, because the
guardian needs that one to delete the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.personal import guardian
from condorpool.personal.install import Installation, find
from condorpool.values.exceptions import (
    HTCondorError,
    HTCondorNotFoundError,
    PersonalError,
    VersionSkewError,
)

if TYPE_CHECKING:
    from types import TracebackType

# HTCondor never runs jobs as root, and its daemons want an account: "nobody".
_ACCOUNT = 65534
_CAPABILITIES = "-all,+dac_override,+dac_read_search,+fowner"

# Every process of a personal HTCondor has its folder in this variable, so that
# it can be proven to be ours when the guardian is gone.
_MARK = "_CONDORPOOL_PERSONAL"

#: Seconds for which slots are kept: a negotiation every second gives others as soon.
CLAIMS = 2.0

_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.03

_STATES = {
    1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held",
    6: "transferring output", 7: "suspended",
}  # fmt: skip

_CONFIGURATION = """\
# Written by condorpool for one personal HTCondor.
RELEASE_DIR = {installation.sbin.parent}
SBIN = {installation.sbin}
BIN = {installation.bin}
LIBEXEC = {installation.libexec}
LIB = {installation.lib}
LOCAL_DIR = {local}
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
RUN = $(LOCAL_DIR)/run
use ROLE: Personal

# This machine only.
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
USE_SHARED_PORT = False
COLLECTOR_PORT = 0
COLLECTOR_HOST = $(CONDOR_HOST):$(COLLECTOR_PORT)
MASTER_ADDRESS_FILE = $(RUN)/master_address
COLLECTOR_ADDRESS_FILE = $(RUN)/collector_address
SCHEDD_ADDRESS_FILE = $(RUN)/schedd_address

# This user only: the schedd runs jobs under one account, whoever submits them.
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
# Otherwise root would be called what the daemons' account is called.
FS_ROOT_TO_CONDOR = False
SEC_PASSWORD_DIRECTORY = $(LOCAL_DIR)/passwords.d
SEC_TOKEN_DIRECTORY = $(LOCAL_DIR)/tokens.d
SEC_TOKEN_SYSTEM_DIRECTORY = $(LOCAL_DIR)/tokens.d
ALLOW_READ = {users}
ALLOW_WRITE = {users}
ALLOW_DAEMON = {users}
ALLOW_NEGOTIATOR = {users}
ALLOW_ADMINISTRATOR = {users}

# Quick answers rather than large numbers.
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 0
NEGOTIATOR_CYCLE_DELAY = 0
SCHEDD_INTERVAL = 1
SCHEDD_MIN_INTERVAL = 0
UPDATE_INTERVAL = 2
# Otherwise a cycle has twenty offers for each user: as many jobs that match nothing take them all,
# and no other job is ever offered.
SCHEDD_ENABLE_PER_USER_MATCH_LIMITS = False
# Otherwise a starter asks its shadow what to do after the transfer of files, and if that has not
# heard of its end yet, asks again 5 s later.
GUIDANCE_MUMS_THE_WORD = True
# A job that is removed while its slot is being claimed leaves a claim that the schedd knows nothing
# of, and the startd holds it for half an hour.  What nobody uses is to be had again soon.
IS_OWNER = State =?= "Claimed" && Activity =?= "Idle" && time() - EnteredCurrentActivity > 5
POLLING_INTERVAL = 2

# One slot, of which each job takes what it asks for.
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
{cpus}
RUNBENCHMARKS = 0
# The others are asked at the start what they can do, which takes half a second.
FILETRANSFER_PLUGINS = $(LIBEXEC)/curl_plugin, $(LIBEXEC)/data_plugin
# Answering in the collector itself is quicker than in a child.
COLLECTOR_QUERY_WORKERS = 0
SINGULARITY = /usr/bin/false
MAIL = /bin/true
# An installation that is renewed must not restart what runs.
MASTER_CHECK_NEW_EXEC_INTERVAL = 0
# A daemon that crashed or was restarted comes back in 2 s, not in 10.
MASTER_BACKOFF_CONSTANT = 1
# A job that uses more memory than it asked for is held, and told so soon.
use POLICY : HOLD_IF_MEMORY_EXCEEDED
STARTER_INITIAL_UPDATE_INTERVAL = 1
STARTER_UPDATE_INTERVAL = 3
PID_SNAPSHOT_INTERVAL = 2
POLLING_INTERVAL = 2
STARTER_JOB_ENVIRONMENT = "{mark}={folder}"
"""

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
        return _environment(self.folder, self.installation)

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


# Using: one open file for each folder that this process uses


@dataclass(frozen=True)
class _Use:
    pid: int
    descriptor: int


# A process must not open users.lock twice: closing either file would drop its
# lock.  And a child that was forked does not inherit the lock.
_uses: dict[Path, _Use] = {}
_uses_lock = threading.Lock()


def _use(folder: Path) -> bool:
    """Count this process among the users; False while the guardian ends or looks at the queue."""
    path = folder / guardian.USERS_LOCK
    with _uses_lock:
        use = _uses.get(folder)
        if use is None or use.pid != os.getpid() or not _in_place(use.descriptor, path):
            _unuse(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            use = _uses[folder] = _Use(os.getpid(), descriptor)
        try:
            fcntl.lockf(use.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _unuse(folder: Path) -> None:
    use = _uses.pop(folder, None)
    # In a forked child the descriptor is the parent's, but closing it is
    # right there too: it never held a lock of the child's.
    if use is not None:
        os.close(use.descriptor)


def _in_place(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


# The folder


def default_folder() -> Path:
    """Return where this user's personal HTCondor is, unless another folder is named."""
    chosen = os.environ.get("CONDORPOOL_PERSONAL")
    if chosen:
        return Path(chosen).expanduser()
    # Not in the home folder, which may be on a network file system.
    return Path(tempfile.gettempdir(), guardian.shared_name(), "personal")


def _resolve(folder: str | os.PathLike[str] | None) -> Path:
    """Return the folder's one name; that of what must not be a link is kept."""
    path = Path(default_folder() if folder is None else folder).expanduser().absolute()
    base = _shared(path) or path
    return base.parent.resolve() / path.relative_to(base.parent)


def _shared(folder: Path) -> Path | None:
    """Return the folder around it if that is this user's among other users' files."""
    return folder.parent if folder.parent.name == guardian.shared_name() else None


def _make_folder(folder: Path) -> None:
    """Make the folder, private to this user, or raise."""
    shared = _shared(folder)
    try:
        if shared is not None:
            shared.parent.mkdir(parents=True, exist_ok=True)
            shared.mkdir(mode=0o700, exist_ok=True)
            _check_private(shared)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_private(folder)
        _check_ours(folder)
    except FileNotFoundError:
        return  # deleted by a guardian meanwhile; the caller tries again
    except OSError as error:
        raise _cannot(f"make the folder {folder}", error) from error


def _is_made(folder: Path) -> bool:
    """Tell whether a personal HTCondor is in the folder, dead or alive; raise if it is planted."""
    try:
        for path in filter(None, (_shared(folder), folder)):
            _check_private(path)
        return (folder / guardian.START_LOCK).exists()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot(f"look into {folder}", error) from error


def _check_private(folder: Path) -> None:
    """Raise unless nobody else can have put anything there.

    Where everybody may write, as in the folder for temporary files, another
    user could have made it before us.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        why = "is not a folder"
    elif about.st_uid != os.geteuid():
        why = f"belongs to user {about.st_uid}"
    elif about.st_mode & 0o022:
        why = "may be written to by others"
    else:
        return
    raise PersonalError(
        f"{folder} {why}: it is not safe to run HTCondor there. Remove it, or name another "
        "folder (CONDORPOOL_PERSONAL in the environment, or `folder`)."
    )


def _check_ours(folder: Path) -> None:
    """Raise if the folder holds anything but a personal HTCondor: it will be deleted."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        folder.chmod(0o700)
    elif guardian.START_LOCK not in names:
        raise PersonalError(
            f"{folder} holds other files ({', '.join(sorted(names)[:3])}): HTCondor needs a "
            "folder of its own, which is deleted when it stops. Name another one."
        )


@contextmanager
def _start_lock(folder: Path, deadline: float) -> Iterator[None]:
    """Hold the folder's start lock; make the folder if it is not there."""
    path = folder / guardian.START_LOCK
    while True:
        _make_folder(folder)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # the folder was deleted meanwhile
        except OSError as error:
            raise _cannot(f"write in {folder}", error) from error
        try:
            if _flock(descriptor, deadline) and _in_place(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise PersonalError(f"another process is still starting HTCondor in {folder}.")


def _flock(descriptor: int, deadline: float) -> bool:
    """Lock the file by the deadline, or return False."""
    while not _flock_now(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _flock_now(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_guarded(folder: Path) -> bool:
    """Tell whether the folder has a living guardian."""
    try:
        descriptor = os.open(folder / "alive.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _flock_now(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(folder: Path) -> dict[str, Any]:
    """Return what the guardian has written down."""
    return _read_json(folder / "state.json")


def _living(state: Mapping[str, Any], name: str) -> int | None:
    """Return the id of a process in the state, if it is still that process."""
    pid, started = state.get(name) or (0, 0)
    return int(pid) if started and guardian.start_time(int(pid)) == started else None


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
    path = _resolve(folder)
    deadline = time.monotonic() + timeout
    installation = None if _is_guarded(path) else _installed()
    while time.monotonic() < deadline:
        launched = False
        try:
            with _start_lock(path, deadline):
                if not _is_guarded(path):
                    launched = True
                    if progress:
                        progress(f"Starting a personal HTCondor in {path}")
                    _launch(path, installation or _installed(), cpus, settings or {})
                # False: its guardian is ending it, or looks at the queue.
                if _use(path):
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
                raise _cannot(f"start HTCondor in {path}", error) from error
            raise
        time.sleep(_POLL_SECONDS)
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
    alive = os.open(folder / "alive.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        _make_local(folder / "local")
        (folder / "condor_config").write_text(
            _configuration(folder, installation, cpus, settings), encoding="utf-8"
        )
        (folder / "installation.json").write_text(
            json.dumps(asdict(installation), default=str), encoding="utf-8"
        )
        # Before the guardian looks: it ends what nobody uses.
        if not _use(folder):
            raise PersonalError(f"{folder / guardian.USERS_LOCK} is locked by another program.")
        _start_guardian(folder, installation, alive)
    finally:
        # The guardian has it now.
        os.close(alive)


def _make_local(local: Path) -> None:
    """Make the folders that HTCondor's programs write to."""
    names = ("execute", "lock", "log", "run", "spool", "tokens.d", "passwords.d")
    for path in (local, *(local / name for name in names)):
        path.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(path, _ACCOUNT, _ACCOUNT)
    # Jobs of root run in here as that other account, and look around.
    (local / "execute").chmod(0o755)


def _configuration(
    folder: Path, installation: Installation, cpus: int | None, settings: Mapping[str, str]
) -> str:
    number = "" if cpus is None else f"NUM_CPUS = {cpus}"
    text = _CONFIGURATION.format(
        installation=installation,
        folder=folder,
        local=folder / "local",
        users=_allowed_users(),
        cpus=number,
        mark=_MARK,
    )
    return text + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _allowed_users() -> str:
    """Return who may talk to the daemons, in HTCondor's words."""
    try:
        names = [pwd.getpwuid(os.geteuid()).pw_name]
    except KeyError:
        raise PersonalError(
            f"user {os.geteuid()} has no name on this machine, and HTCondor knows its users by "
            "name only: add a line to /etc/passwd."
        ) from None
    if os.geteuid() == 0:
        # What root is called where HTCondor's own account exists.
        names.append("condor")
    return ", ".join(f"{name}@*/127.0.0.1" for name in names)


def _start_guardian(folder: Path, installation: Installation, alive: int) -> None:
    program = str(Path(guardian.__file__).resolve())
    with (folder / "guardian.log").open("ab") as log:
        # It forks and lives on as nobody's child; what we start ends at once.
        subprocess.run(
            [sys.executable, "-IS", program, folder, str(alive), *_master(installation)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_daemon_environment(folder, installation),
            pass_fds=[alive],
            start_new_session=True,
            check=True,
        )


def _master(installation: Installation) -> list[str]:
    command = [str(installation.master), "-f"]
    if os.geteuid() != 0:
        return command
    # Without no_setuid_fixup the starter's access() says that an interpreter
    # in root's home may not be run.
    return [
        "setpriv",
        f"--reuid={_ACCOUNT}",
        f"--regid={_ACCOUNT}",
        "--clear-groups",
        f"--inh-caps={_CAPABILITIES}",
        f"--ambient-caps={_CAPABILITIES}",
        f"--bounding-set={_CAPABILITIES}",
        "--securebits=+no_setuid_fixup",
        # Changing the account has cleared the one that the guardian set.
        "--pdeathsig=QUIT",
        *command,
    ]


def _daemon_environment(folder: Path, installation: Installation) -> dict[str, str]:
    # Nothing else of the user's: HTCondor takes settings from the environment
    # too, and libraries that were meant for the notebook would confuse it.
    kept = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    return {**inherited, **_environment(folder, installation), _MARK: str(folder)}


def _environment(folder: Path, installation: Installation) -> dict[str, str]:
    path = os.environ.get("PATH", os.defpath)
    environment = {
        "CONDOR_CONFIG": str(folder / "condor_config"),
        "PATH": os.pathsep.join([str(installation.bin), str(installation.sbin), path]),
    }
    if os.geteuid() == 0:
        # So that the tools stay root, who alone may read the configuration.
        environment["CONDOR_IDS"] = "0.0"
    return environment


def _wait_until_ready(folder: Path, deadline: float) -> PersonalHTCondor:
    """Return when a job would find its slot; report at once what prevents that."""
    ready = folder / "ready"
    while True:
        state = _state(folder)
        if state.get("stopping"):
            raise _GoneError(_explain(folder, _why_ended(state)))
        if not _is_guarded(folder):
            raise _GoneError(_explain(folder, "the process that guards it has ended"))
        if not ready.exists() and (death := _daemon_death(folder)):
            raise PersonalError(_explain(folder, death))
        access_point = _access_point(folder)
        if "master" in state and access_point and _answers(access_point):
            ready.touch(mode=0o600)
            return _running(folder, access_point, state)
        if time.monotonic() > deadline:
            raise PersonalError(_explain(folder, "it was not ready in time"))
        time.sleep(_POLL_SECONDS)


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
    known = _read_json(folder / "installation.json")
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
        claims=CLAIMS,
        memory=_fair_memory(),
        relocate=lambda: _access_point(folder),
        origin={"personal": str(folder)},
        queue=f"{folder} {made}",  # the next one in this folder has a queue of its own
    )


def _fair_memory() -> int:
    """Return the MiB that each CPU's job may have.

    HTCondor's own default, 128 MiB, holds every job that imports numpy.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return max(128, int(0.8 * total / (os.cpu_count() or 1)))


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


def _cannot(what: str, error: OSError) -> PersonalError:
    cure = "Name another folder (CONDORPOOL_PERSONAL in the environment, or `folder`)."
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        cure = "The disk is full: make room, or name another folder (CONDORPOOL_PERSONAL)."
    return PersonalError(f"cannot {what}: {error.strerror or error}. {cure}")


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
    path = _resolve(folder)
    if not _is_made(path):
        return False
    ran = _is_guarded(path)
    _end(path, keep_folder=keep_folder)
    return ran


def _end(folder: Path, *, keep_folder: bool = False) -> None:
    """End what runs in the folder, and see to it that nothing is left."""
    request = signal.SIGUSR1 if keep_folder else signal.SIGTERM
    deadline = time.monotonic() + _STOP_SECONDS
    asked = None
    # The last that it does is to delete its files, so also wait for itself.
    while _is_guarded(folder) or _living({"guardian": asked}, "guardian"):
        state = _state(folder)
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
        time.sleep(_POLL_SECONDS / 2)
    with _uses_lock:
        _unuse(folder)
    _clear_dead(folder, keep_folder=keep_folder)


def _signal_guardian(state: Mapping[str, Any], number: int) -> bool:
    pid = _living(state, "guardian")
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
        in_place = _in_place(lock, folder / guardian.START_LOCK)
        if in_place and not _is_guarded(folder):
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
        time.sleep(_POLL_SECONDS)
    return True


def _leftovers(folder: Path) -> list[int]:
    """Return the processes that are proven to be of this folder's HTCondor."""
    mark = f"{_MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it has ended, or is another user's
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    master = _living(_state(folder), "master")
    if master is not None:
        found += [master, *guardian.descendants(master)]
    return sorted(set(found) - {os.getpid()})


# Looking


def status(folder: str | os.PathLike[str] | None = None) -> PersonalStatus:
    """Return what is known about the personal HTCondor in a folder; it starts nothing."""
    path = _resolve(folder)
    if not _is_made(path):
        return PersonalStatus(path, running=False)
    state = _state(path)
    if not _is_guarded(path):
        return PersonalStatus(path, running=False, ended=str(state.get("ended", "")))
    access_point = _access_point(path)
    return PersonalStatus(
        path,
        running=access_point is not None and _living(state, "master") is not None,
        detached=(path / "detached").exists(),
        version=str(_read_json(path / "installation.json").get("version", "")),
        guardian_pid=_living(state, "guardian"),
        master_pid=_living(state, "master"),
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
    path = _resolve(folder)
    if not (_is_made(path) and _is_guarded(path)):
        return None
    access_point = _access_point(path)
    if access_point is None:
        raise HTCondorError(f"the personal HTCondor in {path} has not told its address (yet).")
    return access_point


def environment(folder: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return the variables with which command-line tools talk to the one in a folder.

    Raises
    ------
    PersonalError
        None runs there.
    """
    path = _resolve(folder)
    if not (_is_made(path) and _is_guarded(path) and (path / "ready").exists()):
        raise PersonalError(
            f"no personal HTCondor runs in {path}: `condorpool personal start` starts one."
        )
    return _environment(path, _installation(path))


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
        slots = list(access_point.slots())
    except HTCondorError:
        return 0
    return sum(int(slot["TotalSlotCpus"]) for slot in slots if slot.get("SlotType") != "Dynamic")


def _jobs(access_point: AccessPoint | None) -> dict[str, int]:
    if access_point is None:
        return {}
    try:
        jobs = access_point.query("true", ["JobStatus"])
    except HTCondorError:
        return {}
    return dict(Counter(_STATES.get(int(job["JobStatus"]), "unknown") for job in jobs))
