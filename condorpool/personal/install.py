"""The HTCondor programs of this machine: found, or installed into the user's cache."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condorpool.personal import debian, guardian
from condorpool.values import plain
from condorpool.values.exceptions import InstallError, PersonalError
from condorpool.values.folders import in_home, make, weakness

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = "condorpool's own"
_RECORD = "installation.json"
_STAGING = "htcondor.staging-"


@dataclass(frozen=True)
class Installation:
    """Where HTCondor's programs are.

    Parameters
    ----------
    sbin, bin, libexec, lib
        The folders that HTCondor's configuration knows by these names.
    version
        As ``25.14.1``; empty if the programs do not print it.
    source
        How it was found, for messages.
    """

    sbin: Path
    bin: Path
    libexec: Path
    lib: Path
    version: str
    source: str

    @property
    def master(self) -> Path:
        """The program that starts all others."""
        return self.sbin / "condor_master"


# Finding


def find() -> Installation | None:
    """Return the HTCondor that is installed here, or None.

    An installation of condorpool's own comes first, because the user asked
    for it.  Then come ``condor_master`` on the PATH, the
    HTCondor that is configured, the system's, and conda's.

    Raises
    ------
    InstallError
        Another user could have put condorpool's own there.
    """
    own = _own(place())
    if own is not None:
        _check_safe(place())
        return own
    for folder, source in _places():
        if os.access(folder / "condor_master", os.X_OK):
            return _at(folder, source)
    return None


def _places() -> Iterator[tuple[Path, str]]:
    """Yield the folders that may hold ``condor_master``, the preferred ones first."""
    for name in ("condor_master", "condor_version"):
        program = shutil.which(name)
        if program:
            # Often only the folder with the users' commands is on the PATH.
            yield Path(program).parent, "PATH"
            yield Path(program).parent.parent / "sbin", "PATH"
    ask = shutil.which("condor_config_val")
    if ask:
        done = subprocess.run([ask, "SBIN"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            yield Path(done.stdout.strip()), "HTCondor's configuration"
    yield Path("/usr/sbin"), "the system"
    for root in (os.environ.get("CONDA_PREFIX"), sys.prefix):
        if root:
            yield Path(root, "sbin"), "conda environment"
            yield Path(root, "bin"), "conda environment"


def _at(sbin: Path, source: str) -> Installation:
    root = sbin.parent
    return Installation(
        sbin=sbin,
        bin=_first(root, ("bin",), "condor_q") or sbin,
        libexec=_first(
            root, ("libexec/condor", "lib/condor/libexec", "lib64/condor/libexec", "libexec"), "*"
        )
        or root / "libexec",
        lib=_first(root, ("lib/condor", "lib64/condor", "lib64", "lib"), "*condor*")
        or root / "lib",
        version=_version(sbin / "condor_master"),
        source=source,
    )


def _first(root: Path, names: tuple[str, ...], holds: str) -> Path | None:
    """Return the first of these folders that holds such a file."""
    return next((root / name for name in names if any((root / name).glob(holds))), None)


def _version(master: Path) -> str:
    try:
        done = subprocess.run([master, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return _parse_version(done.stdout)


def _parse_version(text: str) -> str:
    found = re.search(r"CondorVersion: (\d+(?:\.\d+)+)", text)
    return found[1] if found else ""


def _check_safe(folder: Path) -> None:
    """Raise unless only this user can put programs there."""
    if why := weakness(folder):
        raise InstallError(
            f"{why}: programs in {folder} are not safe to run. Name a folder that only you can "
            "change in the environment variable CONDORPOOL_CACHE."
        )


def _own(prefix: Path) -> Installation | None:
    """Return what an earlier `install` put there, unless the folder was moved since."""
    prefix = prefix.resolve()
    try:
        record = plain.checked(plain.parse((prefix / _RECORD).read_bytes()), dict[str, Any])
    except (OSError, ValueError):
        return None
    # The programs name their loader by an absolute path.
    if record.get("prefix") != str(prefix):
        return None
    usr = prefix / "usr"
    return Installation(
        sbin=usr / "sbin",
        bin=usr / "bin",
        libexec=usr / "libexec/condor",
        lib=usr / "lib/condor",
        version=str(record.get("version", "")),
        source=OURS,
    )


# Installing


def install(
    *, force: bool = False, mirror: str | None = None, progress: debian.Progress | None = print
) -> Installation:
    """Return the HTCondor that is installed here; if there is none, install it.

    Debian's packages are unpacked into the user's cache folder (``CONDORPOOL_CACHE``
    names another).  That needs no root and changes nothing else.  An interrupted
    installation is never used.

    Parameters
    ----------
    force
        Install even if HTCondor is installed.
    mirror
        Address of a Debian mirror.  By default the one that apt uses here.
    progress
        Called with lines of text.

    Raises
    ------
    InstallError
        It cannot be installed.  The message says what to do instead.
    """
    found = None if force else find()
    if found is not None:
        return found
    uri = check(mirror)
    say = progress or (lambda _line: None)
    cache = _cache()
    with _understandable(cache), _exclusive(cache, say) as lock:
        _check_safe(cache)
        # Another process may have done it while we waited for the lock.
        done = None if force else _own(cache / "htcondor")
        return done or _install(cache, uri, lock, say)


def check(mirror: str | None = None) -> str:
    """Return the address of the Debian mirror that `install` would use.

    Raises
    ------
    InstallError
        HTCondor cannot be installed on this machine.
    PersonalError
        This user could not use it.
    """
    user_name()
    debian.check_machine()
    uri = mirror or debian.mirror()
    if uri is None:
        raise InstallError(
            "apt's sources on this machine name no mirror of Debian's main archive: give one with "
            f"`--mirror URL`. Or: {debian.ELSEWHERE}"
        )
    return uri


def user_name() -> str:
    """Return the name by which HTCondor knows this user; raise PersonalError if there is none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise PersonalError(
            f"user {os.geteuid()} has no name on this machine, and HTCondor knows users only by "
            "name. Add a line for this user to /etc/passwd."
        ) from None


def place() -> Path:
    """Return the folder that `install` installs HTCondor in."""
    return _cache() / "htcondor"


def _install(cache: Path, uri: str, lock: int, say: debian.Progress) -> Installation:
    final = cache / "htcondor"
    for leftover in cache.glob(_STAGING + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(cache).free
    if free < debian.SPACE_NEEDED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=cache))
    try:
        packages, suite = debian.download(staging / "apt", uri, lock, say)
        say("Unpacking")
        prefix = staging / "prefix"
        prefix.mkdir(0o700)  # the umask may let others write in the folders below
        debian.unpack(packages, prefix)
        debian.relocate(prefix, final)
        version = _parse_version(debian.run_staged(prefix, "usr/sbin/condor_master", "-version"))
        record = {"prefix": str(final), "version": version, "suite": suite}
        (prefix / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        # A rename cannot replace a folder that has files, so there are two.  A process
        # that looks between them finds no installation.
        if final.exists():
            final.rename(staging / "replaced")
        prefix.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    done = _own(final)
    if done is None or not _version(done.master):
        shutil.rmtree(final, ignore_errors=True)
        raise InstallError(
            f"programs in {cache} cannot be run (is it mounted with noexec?). "
            "Name another folder in the environment variable CONDORPOOL_CACHE."
        )
    say(f"HTCondor {done.version} is installed in {final} ({_size_of(final)})")
    return done


def _size_of(folder: Path) -> str:
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    return f"{size / 2**20:.0f} MB"


def _cache() -> Path:
    chosen = os.environ.get("CONDORPOOL_CACHE")
    path = Path(chosen).expanduser() if chosen else in_home("cache")
    path = path or Path(tempfile.gettempdir(), guardian.shared_name(), "cache")
    return path.resolve()


@contextmanager
def _exclusive(cache: Path, say: debian.Progress) -> Iterator[int]:
    """Hold the lock that lets one process install at a time; yield its descriptor."""
    make(cache)
    descriptor = os.open(cache / "htcondor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another process that is installing")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _understandable(cache: Path) -> Iterator[None]:
    """Turn an OSError about the cache folder into an InstallError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            need = debian.SPACE_NEEDED // 2**20
            text = f"there is no room for HTCondor in {cache}: the installation needs {need} MB."
            cure = "Free space there, or name"
        else:
            text = f"HTCondor cannot be installed in {cache}: {error}."
            cure = "Name"
        raise InstallError(
            f"{text} {cure} another folder in the environment variable CONDORPOOL_CACHE."
        ) from error
