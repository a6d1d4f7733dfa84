"""The owner of submit directories: a process, and the notebook that it runs."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from condorpool.personal import guardian


@dataclass(frozen=True)
class Owner:
    """A process, with a name that no other process ever has.

    Parameters
    ----------
    start
        When it started, in clock ticks.
    boot, space
        The boot of the machine, and the PID namespace: each container numbers its
        own processes.
    """

    pid: int
    start: int
    boot: str
    space: str
    host: str

    @classmethod
    def this(cls) -> Owner:
        """Return this process."""
        pid = os.getpid()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")  # noqa: PTH115 - no path
        return cls(pid, guardian.start_time(pid), boot, space, socket.gethostname())

    @classmethod
    def named(cls, name: str) -> Owner | None:
        """Return the owner whose folder has this name; None for any other folder."""
        process, _, host = name.partition("@")
        try:
            pid, start, boot, space = process.split("-")
            return cls(int(pid), int(start), boot, space, host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}-{self.boot}-{self.space}@{self.host}"

    @property
    def is_local(self) -> bool:
        """Whether it ran on this machine and in this container, maybe before a reboot."""
        here = Owner.this()
        return (self.host, self.space) == (here.host, here.space)

    @property
    def is_alive(self) -> bool:
        """Whether it runs; also true if that cannot be known from here."""
        here = Owner.this()
        if self.host != here.host:
            return True
        if (self.boot, self.space) != (here.boot, here.space):
            return False  # if it still runs in another container, it holds the directory's lock
        # Zero is no start time: the owner has handed the directory over, or has ended.
        return guardian.start_time(self.pid) == self.start != 0


def kernel_id() -> str:
    """Return this process's id as a Jupyter kernel, which a restart keeps; empty if it is none."""
    application = sys.modules.get("ipykernel.kernelapp")
    if not application or not application.IPKernelApp.initialized():
        return ""
    file = Path(application.IPKernelApp.instance().connection_file)
    return file.stem.removeprefix("kernel-")


def notebook_path() -> str:
    """Return the path of the notebook that this kernel runs; empty if Jupyter does not say."""
    return os.environ.get("JPY_SESSION_NAME", "")
