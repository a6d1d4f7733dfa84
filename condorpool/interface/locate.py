"""How a pool finds its HTCondor."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from condorpool import personal as embedded
from condorpool.access.accesspoint import AccessPoint, is_configured
from condorpool.access.remote import RemoteAccessPoint
from condorpool.display import running_kernel
from condorpool.display.notices import tell
from condorpool.values.exceptions import HTCondorNotFoundError, InstallError

#: The environment variable that answers the question whether to install HTCondor.
INSTALL = "CONDORPOOL_INSTALL"


def find_access_point(
    schedd: str | None = None,
    collector: str | None = None,
    personal: embedded.PersonalHTCondor | Path | str | bool | None = None,
    remote: str | None = None,
) -> AccessPoint:
    """Return the access point that the arguments name, else a default one.

    The default is the HTCondor that is configured here, else the user's personal
    HTCondor, started if needed.  In a job of a personal HTCondor it is that one.
    If no HTCondor is installed, the user is asked whether to install it.

    Raises
    ------
    HTCondorNotFoundError
        There is none, and the user cannot be asked, or does not want to install it.
    """
    if personal and (schedd or collector or remote):
        raise ValueError("personal excludes schedd, collector and remote: pass only one kind")
    if remote:
        return RemoteAccessPoint.reach(remote, schedd, collector)
    if schedd or collector:
        return AccessPoint.locate(schedd, collector)
    if personal in (None, True) and (around := embedded.surrounding()):
        tell(
            "this pool is in a job, and its jobs need free slots while that job waits for them. "
            "Give the outer pool fewer processes than there are slots."
        )
        return around
    if personal is None or personal is False:
        if is_configured():
            return AccessPoint.locate()
        if personal is False:
            raise HTCondorNotFoundError(
                "no HTCondor is configured here, and personal=False does not start one. "
                "Set CONDOR_CONFIG, or pass schedd and collector."
            )
    if isinstance(personal, embedded.PersonalHTCondor):
        return personal.access_point()
    folder = None if personal in (None, True) else Path(str(personal))
    try:
        started = embedded.start(folder, progress=tell)
    except HTCondorNotFoundError:
        _install()
        started = embedded.start(folder, progress=tell)
    return started.access_point()


def _install() -> None:
    """Install HTCondor if the user wants that; else raise the error that says how to install it."""
    try:
        embedded.check()
    except InstallError as error:
        raise HTCondorNotFoundError(
            f"no HTCondor is configured or installed here. {error}"
        ) from None
    what = f"in {embedded.place()} (60 MB, without root)"
    answer = os.environ.get(INSTALL)
    if answer is None:
        answer = _ask(f"No HTCondor is installed here. Install it {what}? [y/N] ")
    if answer.strip().lower() not in {"1", "y", "yes", "true", "on"}:
        line = "condorpool personal install"
        if running_kernel():
            line = "from condorpool import personal; personal.install()"
        raise HTCondorNotFoundError(
            f"no HTCondor is configured or installed here. The next line installs it {what}; "
            f"with {INSTALL}=1 in the environment, condorpool does so when it is needed.\n    {line}"
        ) from None
    embedded.install(progress=tell)


def _ask(question: str) -> str:
    """Return the user's answer; empty if there is nobody who could answer."""
    is_terminal = all(stream and stream.isatty() for stream in (sys.stdin, sys.stdout))
    if threading.current_thread() is not threading.main_thread():
        return ""
    if not is_terminal and not running_kernel():
        return ""
    try:
        return input(question)
    except (EOFError, NotImplementedError):  # a kernel whose front end takes no input
        return ""
