"""What jobs can reach at the access point: the submit directory, and the files that are sent.

Through HTCondor's channel (chirp), a job could read and write every file of the user.  The
attribute ``LimitDirectoryAccess`` has the job's shadow refuse all others.  An access point that
has a limit of its own (``LIMIT_DIRECTORY_ACCESS``) ignores the job's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

#: The attribute of jobs, as in a submit description.
ATTRIBUTE = "My.LimitDirectoryAccess"

#: Submit commands that name files at the access point that HTCondor sends to jobs.
_NAME_FILES = (
    "transfer_input_files", "transfer_common_input", "public_input_files", "transfer_plugins",
    "container_image", "x509userproxy", "scitokens_file",
)  # fmt: skip

#: Files in a folder that are looked at for links that lead out of it, and links that are followed.
_LOOKED_AT, _FOLLOWED = 10_000, 200


def limit(directory: Path, commands: Mapping[str, str], also: Iterable[str]) -> str:
    """Return the value of `ATTRIBUTE` for jobs with these submit commands.

    Parameters
    ----------
    also
        More files and folders that jobs may reach.
    """
    own = f"{_resolved(directory)}/"
    # As it is written, too: the access point may know it by another name.
    reached = [_literal(f"{directory}/"), own]
    for path in _sent(commands):
        if path[0] == "$":  # a macro, and probably a whole path
            reached.append(path)
            continue
        where = os.path.join(directory, path)  # noqa: PTH118 - keeps the last slash
        reached += [_of_macro(where)] if "$" in path else _with_links(where)
    for path in also:
        reached += _with_links(path)
    others = [item for item in reached[2:] if not item.startswith(own)]
    text = ", ".join(dict.fromkeys(map(_one, [*reached[:2], *others])))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _sent(commands: Mapping[str, str]) -> Iterator[str]:
    """Yield the files that HTCondor reads at the access point, not those with a URL."""
    if commands.get("use_x509userproxy", "").lower() == "true":
        yield os.environ.get("X509_USER_PROXY", f"/tmp/x509up_u{os.geteuid()}")  # noqa: S108
    for key in _NAME_FILES:
        for item in commands.get(key, "").split(","):
            # A plugin is given as ``scheme = path``.
            path = re.sub(r"^[\w.+-]+\s*=\s*", "", item.strip())
            path = re.sub(r"\$ENV\((\w+)\)", lambda name: os.environ.get(name[1], name[0]), path)
            if path and not re.match(r"[\w.+-]+://", path):
                yield path


def _of_macro(path: str) -> str:
    """Return a path with a macro, which HTCondor expands for each job."""
    folder, name = os.path.split(path)
    return path if "$" in folder else f"{_resolved(folder)}/{name}"


def _with_links(path: str) -> Iterator[str]:
    """Yield a path and, if it is a folder, where the links in it lead to."""
    if not os.path.isdir(path):  # noqa: PTH112
        yield _resolved(path)
        return
    yield f"{_resolved(path)}/"
    links = (entry for entry in islice(_below(path), _LOOKED_AT) if entry.is_symlink())
    for link in islice(links, _FOLLOWED):
        if not link.is_dir():  # HTCondor sends no folder that a link leads to
            yield _resolved(link.path)


def _below(folder: str) -> Iterator[os.DirEntry[str]]:
    folders = [folder]
    while folders:
        with (
            suppress(OSError),
            os.scandir(folders.pop()) as entries,
        ):  # HTCondor says what it cannot read
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _resolved(path: str | Path) -> str:
    """Return where a path leads to, as a limit must name it unless it is a folder."""
    return _literal(os.path.realpath(path).rstrip("/"))


def _literal(text: str) -> str:
    return text.replace("$", "$(DOLLAR)")


def _one(path: str) -> str:
    """Return a path as one item of the limit; what is no folder stands for all that begins so.

    A comma would end the item.  HTCondor takes one asterisk in each, for any text.
    """
    path = re.sub(",.*,|,", "*", path)
    return path if path.endswith("/") or "*" in path else f"{path}*"
