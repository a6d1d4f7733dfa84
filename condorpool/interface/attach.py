"""Resuming the calls of another process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from condorpool.cleaner.owner import notebook_path
from condorpool.interface.leftovers import Leftover, leftovers
from condorpool.interface.openpools import open_pools, workloads
from condorpool.interface.pool import Pool
from condorpool.interface.results import Result
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.matching import meant


def attach(name: str | os.PathLike[str] | Leftover | None = None, pool: Pool | None = None) -> Any:
    """Resume calls of a process that has ended; without a name return a list of such calls.

    Parameters
    ----------
    name
        The ``name`` of the calls, the name of their function, or the name or path of the
        submit directory; or how only that name begins.  If several calls have it, the latest
        of this notebook are resumed, else the latest.  Also one entry of the list.
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
    chosen = name if isinstance(name, Leftover) else _chosen(os.fspath(name), found)
    return _resumed(chosen, pool) if isinstance(chosen, Leftover) else chosen


def _chosen(name: str, found: Sequence[Leftover]) -> Leftover | Result[Any]:
    """Return the calls that a name stands for: those of this process have a result."""
    kept = [result for work in workloads() for result in work.results.named()]
    # This process may have resumed them already, together with other calls.
    here = [result for owner in open_pools() for result in owner.jobs]
    names = [each.name for each in found]
    word = meant(
        name,
        {*names, *(each.run for each in found), *(result.name for result in [*kept, *here])},
        {each.run: each.entry.path for each in found},
        unknown=f"no calls named {name!r} were left behind",
        hint=f"attach() can resume: {', '.join(dict.fromkeys(names))}." if names else "",
    )
    notebook = notebook_path()
    left = [each for each in found if word in (each.name, each.run)]
    left.sort(key=lambda each: (not each.in_use, bool(notebook) and each.notebook == notebook))
    # What this process keeps under the name has not to be resumed.
    results = [[each for each in some if each.name == word] for some in (here, kept)]
    chosen: list[Leftover | Result[Any]] = [*results[0], *left, *results[1]]
    return chosen[-1]


def _resumed(leftover: Leftover, pool: Pool | None) -> Result[Any]:
    """Resume calls in a pool, by default a new one."""
    if leftover.in_use:
        raise CondorPoolError(f"{leftover.name!r} is {leftover.in_use}: {leftover.entry.cure}.")
    if pool is None:
        alive = leftover.entry.access_point() is not None
        origin: dict[str, Any] = dict(leftover.entry.origin) if alive else {}
        pool = Pool(**origin, submitdir=leftover.entry.path.parent)
    return pool.take_up(leftover)
