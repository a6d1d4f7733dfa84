"""Where a pool finds its HTCondor."""

from __future__ import annotations

from pathlib import Path

from condorpool import personal as embedded
from condorpool.access.accesspoint import AccessPoint, is_configured
from condorpool.access.remote import RemoteAccessPoint
from condorpool.display.notices import tell
from condorpool.values.exceptions import HTCondorNotFoundError


def find_access_point(
    schedd: str | None = None,
    collector: str | None = None,
    personal: embedded.PersonalHTCondor | Path | str | bool | None = None,
    remote: str | None = None,
) -> AccessPoint:
    """Return the access point that the arguments name, else the best there is.

    In this order: what the arguments say; the HTCondor that is configured here;
    the user's personal HTCondor, started if need be.  A call that is a job of a
    personal HTCondor submits to the same.
    """
    if personal and (schedd or collector or remote):
        raise ValueError(
            "give either personal or schedd, collector and remote: they exclude each other"
        )
    if remote:
        return RemoteAccessPoint.reach(remote, schedd, collector)
    if schedd or collector:
        return AccessPoint.locate(schedd, collector)
    if personal in (None, True) and (around := embedded.surrounding()):
        tell(
            "a pool in a job: its jobs need slots beside those of the jobs that wait for them. "
            "Leave some free: give the notebook's pool fewer processes."
        )
        return around
    if personal is None or personal is False:
        if is_configured():
            return AccessPoint.locate()
        if personal is False:
            raise HTCondorNotFoundError(
                "no HTCondor is configured here and personal=False forbids to start one. "
                "Set CONDOR_CONFIG, or give schedd and collector."
            )
    if isinstance(personal, embedded.PersonalHTCondor):
        return personal.access_point()
    folder = None if personal in (None, True) else Path(str(personal))
    started = embedded.start(folder, progress=tell)
    return started.access_point()
