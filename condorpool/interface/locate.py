"""How a pool finds its HTCondor."""

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
    """Return the access point that the arguments name, else a default one.

    The default is the HTCondor that is configured here, else the user's personal
    HTCondor, started if needed.  In a job of a personal HTCondor it is that one.
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
    started = embedded.start(folder, progress=tell)
    return started.access_point()
