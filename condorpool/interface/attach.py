"""Resuming the calls of another process."""

from __future__ import annotations

from typing import Any

from condorpool.cleaner.owner import notebook_path
from condorpool.interface.leftovers import leftovers
from condorpool.interface.openpools import open_pools
from condorpool.interface.pool import Pool
from condorpool.values.exceptions import CondorPoolError


def attach(name: str | None = None, pool: Pool | None = None) -> Any:
    """Resume calls of a process that has ended; without a name list what there is.

    Parameters
    ----------
    name
        The name that was given to the calls, the function's, or the end of the submit
        directory's name.  Of several the latest is resumed, one of this notebook first.
    pool
        The pool that gets the result; by default a new one, at the access point
        where the jobs are.

    Raises
    ------
    CondorPoolError
        There are no such calls, or another process has them.

    Examples
    --------
    >>> import condorpool
    >>> condorpool.attach()
    nothing was left behind
    """
    found = leftovers()
    if name is None:
        return found
    matching = [left for left in found if name == left.name or left.run.endswith(name)]
    here = notebook_path()
    matching.sort(key=lambda left: (not left.in_use, bool(here) and left.notebook == here))
    if not matching:
        # This process may have taken them up already, together with other calls.
        for known in (result for owner in open_pools() for result in owner.jobs[::-1]):
            if known.name == name:
                return known
        there = ", ".join(dict.fromkeys(left.name for left in found)) or "nothing"
        raise CondorPoolError(f"no calls named {name!r} were left behind: there is {there}.")
    if matching[-1].in_use:
        raise CondorPoolError(f"{name!r} is {matching[-1].in_use}: {matching[-1].entry.cure}.")
    left = matching[-1]
    if pool is None:
        alive = left.entry.access_point() is not None
        origin: dict[str, Any] = dict(left.entry.origin) if alive else {}
        pool = Pool(**origin, submitdir=left.entry.path.parent)
    return pool.take_up(left)
