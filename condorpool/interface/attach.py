"""Resuming the calls of another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from condorpool.cleaner.owner import notebook_path
from condorpool.engine.submitdir import run_of
from condorpool.interface.leftovers import leftovers
from condorpool.interface.openpools import open_pools, workloads
from condorpool.interface.pool import Pool
from condorpool.values.exceptions import CondorPoolError


def attach(name: str | None = None, pool: Pool | None = None) -> Any:
    """Resume calls of a process that has ended; without a name return a list of such calls.

    Parameters
    ----------
    name
        The ``name`` of the calls, the name of their function, or the end of the submit
        directory's name.  If several match, the latest of this notebook is resumed, else
        the latest.
    pool
        The pool that gets the result; by default a new one, at the access point
        where the jobs are.

    Raises
    ------
    CondorPoolError
        There are no such calls, or another process works on them.

    Examples
    --------
    >>> import condorpool
    >>> condorpool.attach()
    nothing was left behind
    """
    found = leftovers()
    if name is None:
        return found
    # This process may keep them under their name: then nothing has to be resumed.
    if named := [result for work in workloads() for result in work.results.named(name)]:
        return named[-1]
    end = run_of(Path(name))
    matching = [
        leftover
        for leftover in found
        if name == leftover.name or (end and leftover.run.endswith(end))
    ]
    here = notebook_path()
    matching.sort(
        key=lambda leftover: (not leftover.in_use, bool(here) and leftover.notebook == here)
    )
    if not matching:
        # This process may have resumed them already, together with other calls.
        for known in (result for owner in open_pools() for result in owner.jobs[::-1]):
            if known.name == name:
                return known
        names = ", ".join(dict.fromkeys(leftover.name for leftover in found))
        hint = f" attach() can resume: {names}." if names else ""
        raise CondorPoolError(f"no calls named {name!r} were left behind.{hint}")
    if matching[-1].in_use:
        raise CondorPoolError(f"{name!r} is {matching[-1].in_use}: {matching[-1].entry.cure}.")
    leftover = matching[-1]
    if pool is None:
        alive = leftover.entry.access_point() is not None
        origin: dict[str, Any] = dict(leftover.entry.origin) if alive else {}
        pool = Pool(**origin, submitdir=leftover.entry.path.parent)
    return pool.take_up(leftover)
