"""Whom a folder can be trusted to: who could replace what is in it, and how it is held open.

Whoever may write to a folder may rename and replace everything in it, also what belongs to
others, unless it has the sticky bit, as ``/tmp`` does.  So a path is this user's own only if
that holds for each folder on the way to it (`weakness`).  Where it does not, a folder is
opened once and checked, and its files are reached through its descriptor (`HeldFolder`).
"""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import stat
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import platformdirs

#: File systems with access lists of their own, beside which modes mean nothing: ``/afs/cern.ch``
#: seems to be open to all.
OTHER_RULES = {"afs", "fuse.eosd", "fuse.eosxd"}

#: Links on the way to a folder, as in the kernel.
_MAX_LINKS = 40


def in_home(kind: str) -> Path | None:
    """Return condorpool's folder of a kind (``"state"``, ``"cache"``); None if there is no home."""
    try:
        folder: Path = getattr(platformdirs, f"user_{kind}_path")("condorpool")
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # as "~", where it is not known


def make(folder: Path, mode: int = 0o700) -> None:
    """Make a folder, and those above it that are missing, with this mode whatever the umask."""
    missing = [folder] if not folder.is_dir() else []
    while missing and not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        each.mkdir(mode, exist_ok=True)


def weakness(path: Path, *, trust_owners: bool = False) -> str:
    """Return why others could replace what is at ``path``, as a clause; empty if they could not.

    Parameters
    ----------
    path
        If it does not exist, the last folder on the way to it counts.
    trust_owners
        Whether the owners of the folders above are trusted; those of the home folder's are.
    """
    way = [*_way_to(path)]
    above_home = _home().parents
    for number, (step, about) in enumerate(way, 1):
        is_last, is_owned = number == len(way), about.st_uid in (0, os.geteuid())
        if stat.S_ISLNK(about.st_mode):
            why = "" if is_owned else f"belongs to {_name_of(about.st_uid)}"
        elif not is_owned and (is_last or not (trust_owners or step in above_home)):
            why = f"belongs to {_name_of(about.st_uid)}"
        elif about.st_mode & stat.S_ISVTX and is_owned and not is_last:
            why = ""
        else:
            why = _writers(step, about)
        if why and _is_enforced(step, about):
            return f"{step} {why}"
    return ""


def private(folder: Path | None) -> str:
    """Make a folder that only this user can change, unless it is there; return why it is none."""
    if folder is None:
        return "there is no home folder"
    try:
        make(folder)
        return weakness(folder) or ("" if os.access(folder, os.W_OK) else f"{folder} is read-only")
    except OSError as error:
        return f"{folder}: {error.strerror}"


def is_mine(path: Path) -> bool:
    """Return whether what is at a path is this user's, however open it is."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def is_own(about: os.stat_result) -> bool:
    """Return whether a file or folder is this user's, and no other user may write to it."""
    return about.st_uid == os.geteuid() and not about.st_mode & 0o022


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each folder and link that decides what is at a path, as far as they exist."""
    step, rest, links = Path("/"), [*path.absolute().parts[1:]], 0
    yield step, step.lstat()
    while rest:
        name = rest.pop(0)
        following = step.parent if name == ".." else step / name
        try:
            about = following.lstat()
        except FileNotFoundError:
            return
        yield following, about
        if not stat.S_ISLNK(about.st_mode):
            step = following
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = following.readlink()
        step = Path("/") if target.is_absolute() else step
        rest = [*target.parts[target.is_absolute() :], *rest]


def _is_enforced(step: Path, about: os.stat_result) -> bool:
    """Return whether its owner and mode say who may write to a folder."""
    if os.statvfs(step.parent if stat.S_ISLNK(about.st_mode) else step).f_flag & os.ST_RDONLY:
        return False
    device = f"{os.major(about.st_dev)}:{os.minor(about.st_dev)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for mount in map(str.split, mounts):
            if mount[2] == device:
                return mount[mount.index("-") + 1] not in OTHER_RULES
    return True


def _writers(folder: Path, about: os.stat_result) -> str:
    """Return who else may write to a folder, as a clause; empty if no other user may."""
    if about.st_mode & stat.S_IWOTH:
        return "can be written to by other users"
    if not about.st_mode & stat.S_IWGRP:
        return ""
    # Where there is an access list, the group's bits are the most that anyone in it has.
    if "system.posix_acl_access" in _attributes(folder):
        return "can be written to by the users in its access list"
    if _is_private_group(about.st_gid):
        return ""
    return f"can be written to by {_name_of_group(about.st_gid)}"


def _attributes(folder: Path) -> list[str]:
    try:
        return os.listxattr(folder)
    except OSError:  # the file system has none
        return []


@functools.cache
def _is_private_group(number: int) -> bool:
    """Return whether no other user is in a group: it is root's, or this user's own."""
    user = _user(os.geteuid())
    try:
        group = grp.getgrgid(number)
    except KeyError:
        return number in (0, os.geteuid())
    return number == 0 or (group.gr_name == user and set(group.gr_mem) <= {user})


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # containers run under ids that have no name
        return ""


def _name_of(number: int) -> str:
    return f"user {number}" + (f" ({name})" if (name := _user(number)) else "")


def _name_of_group(number: int) -> str:
    try:
        return f"group {grp.getgrgid(number).gr_name}"
    except KeyError:
        return f"group {number}"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # HOME is not set, and the user has no name
        return Path("/")


class HeldFolder:
    """A folder of this user's that is held open, so that it stays the same.

    ``folder / name`` is a file in this folder, whatever its path names by now: another user
    who may write to the folder above may have renamed it and put one of his own there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._closer: Callable[[], object] = int  # nothing to close

    def __truediv__(self, name: str) -> HeldFile:
        return HeldFile(self, name)

    @property
    def here(self) -> str:
        """The folder's path by its descriptor, which only this process can use.

        Raises FileNotFoundError if no folder is at its path, and PermissionError if the one
        there is not this user's, or others may write to it.
        """
        if self._descriptor < 0:
            self.open()
        return f"/proc/self/fd/{self._descriptor}"

    def names(self) -> list[str]:
        """Return the names of the files in it."""
        return os.listdir(self.here)

    def open(self) -> None:
        """Open it and check whose it is; see `here`."""
        # Not through a link, whose target may be any folder of this user's.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path, flags)
        except NotADirectoryError as error:
            raise _denied(f"{self.path} is not a folder") from error
        about = os.fstat(descriptor)
        if not is_own(about):
            os.close(descriptor)
            belongs = f"belongs to {_name_of(about.st_uid)}"
            writers = "can be written to by other users"
            raise _denied(f"{self.path} {writers if about.st_uid == os.geteuid() else belongs}")
        # The files in use refer to it, so none of them is in another folder afterward.
        self._closer = closer = weakref.finalize(self, os.close, descriptor)
        closer.atexit = False
        self._descriptor = descriptor

    def close(self) -> None:
        """Close it; it is opened and checked again when it is next used."""
        self._descriptor = -1
        self._closer()

    @property
    def is_in_place(self) -> bool:
        """Whether its path still names it; also if that cannot be seen, as while a server is away."""
        try:
            held = os.stat(self.here)
        except OSError:
            return False
        try:
            return os.path.samestat(held, os.lstat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    @property
    def place(self) -> Path:
        """Where it is now."""
        return Path(self.here).readlink()


class HeldFile(os.PathLike[str]):
    """A file in a held folder, like a `Path` but that it is printed as users know it."""

    def __init__(self, folder: HeldFolder, name: str) -> None:
        self._folder = folder
        self._name = name

    def __fspath__(self) -> str:
        return f"{self._folder.here}/{self._name}"

    def __str__(self) -> str:
        return f"{self._folder.path}/{self._name}"

    def exists(self) -> bool:
        """Return whether it is there."""
        return os.path.exists(self)

    def is_file(self) -> bool:
        """Return whether it is there, and a file."""
        return os.path.isfile(self)

    def stat(self) -> os.stat_result:
        """Return its status."""
        return os.stat(self)

    def open(self, *args: Any, **kwargs: Any) -> IO[Any]:
        """Open it."""
        file: IO[Any] = open(self, *args, **kwargs)  # noqa: SIM115 - its caller closes it
        return file


def _denied(why: str) -> PermissionError:
    return PermissionError(errno.EACCES, why)
