"""The submit directory: every file of a pool, and the only place that knows their names."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from condorpool.engine.payload import support_archive
from condorpool.values.exceptions import SubmitError

LAUNCHER = "launch.sh"
SUPPORT = "support.zip"
EVENT_LOG = "events.log"
MANIFEST = "manifest.json"

#: What a job needs beside its own chunk.
SHIPPED = (LAUNCHER, SUPPORT)


def call_name(batch: int) -> str:
    """Name the file that all chunks of a batch share."""
    return f"{batch}.call"


def chunk_name(batch: int, index: int | str) -> str:
    """Name the file with the arguments of a chunk."""
    return f"{batch}-{index}.chunk"


def outcome_name(batch: int, index: int | str) -> str:
    """Name the file that the job leaves for a chunk."""
    return f"{batch}-{index}.outcome"


def stdout_name(batch: int, index: int | str) -> str:
    """Name the standard output of the job of a chunk."""
    return f"{batch}-{index}.out"


def stderr_name(batch: int, index: int | str) -> str:
    """Name the standard error of the job of a chunk."""
    return f"{batch}-{index}.err"


class SubmitDir:
    """One private folder inside the user's ``submitdir``, with all that a pool writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path.name
        self.log = path / EVENT_LOG

    @classmethod
    def create(cls, base: Path) -> SubmitDir:
        """Make a new submit directory in ``base`` and put there what every job needs."""
        here = cls(base / f"condorpool-{uuid.uuid4().hex[:12]}")
        with here.explained():
            base.mkdir(parents=True, exist_ok=True)
            here.path.mkdir(mode=0o700)
            try:
                here._fill()
            except BaseException:
                shutil.rmtree(here.path, ignore_errors=True)
                raise
        return here

    def _fill(self) -> None:
        launcher = resources.files("condorpool.runner").joinpath(LAUNCHER)
        self.write(LAUNCHER, launcher.read_bytes())
        self.write(SUPPORT, support_archive())
        # Whoever finds the folder after its owner has died reads whose it was.
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "created": time.time()}
        self.write(MANIFEST, json.dumps(owner).encode())
        # HTCondor appends; the file must be there before anybody can watch it.
        self.write(EVENT_LOG, b"")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the file system refuses into an error that says what to do."""
        try:
            yield
        except OSError as error:
            raise SubmitError(
                f"cannot write the submit directory {self.path}: {error.strerror or error}. "
                "Nothing was submitted. Free space there or give another place with "
                "Pool(submitdir=...)."
            ) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a private file beside its name and move it into place."""
        scratch = self.path / f"{name}.tmp"
        with open(scratch, "wb", opener=_private) as file:
            file.write(data)
        scratch.replace(self.path / name)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def text(self, name: str) -> str | None:
        """Return what a file says, or None if there is none (yet)."""
        try:
            return (self.path / name).read_text(errors="replace")
        except OSError:
            return None

    def tail(self, name: str, lines: int = 12, size: int = 8192) -> str:
        """Return the last lines of a file, at most ``size`` bytes of them."""
        try:
            with (self.path / name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.rstrip().splitlines()[-lines:])

    def discard_batch(self, batch: int, keep: Iterable[int] = ()) -> None:
        """Delete the files of a batch, but for those of the chunks to keep."""
        kept = {f"{batch}-{index}" for index in keep}
        for file in self._files():
            stem = file.name.partition(".")[0]
            if stem.partition("-")[0] == str(batch) and stem not in kept:
                with contextlib.suppress(OSError):
                    os.unlink(file.path)  # noqa: PTH108 - 40,000 of these

    def _files(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                return list(entries)
        except OSError:
            return []

    def remove(self) -> None:
        """Delete the folder and all in it; what is gone already is no error."""
        shutil.rmtree(self.path, ignore_errors=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_TRUNC, 0o600)
