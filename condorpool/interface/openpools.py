"""The pools of this process that are not cleaned up, and what happens to them at its end."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from condorpool.cleaner.owner import kernel_id
from condorpool.display.notices import tell
from condorpool.values.exceptions import CondorPoolError

if TYPE_CHECKING:
    from condorpool.interface.handle import Handle
    from condorpool.interface.pool import Pool
    from condorpool.interface.workload import Workload

_workloads: set[Workload] = set()

#: The work of the pool that calls were posted in last; None before, or if the pool is dropped.
_latest: Callable[[], Workload | None] = lambda: None  # noqa: E731


def add(workload: Workload) -> None:
    """Note that a pool has jobs, or will have some."""
    global _latest  # noqa: PLW0603 - of the process, as the set is
    _workloads.add(workload)
    _latest = weakref.ref(workload)


def discard(workload: Workload) -> None:
    """Note that a pool is cleaned up."""
    _workloads.discard(workload)


def latest() -> Handle | None:
    """Return the result of the last call of all pools, or its iterator."""
    workload = _latest()
    return workload.results.last if workload else None


def workloads() -> list[Workload]:
    """Return the work of the pools that have, or had, jobs and are not cleaned up."""
    return list(_workloads)


def open_pools() -> list[Pool]:
    """Return the pools of this process that have, or had, jobs and are not cleaned up."""
    return [workload.pool for workload in workloads()]


@atexit.register
def _close_all() -> None:
    """Do for pools that were not closed what leaving ``with`` does.

    A kernel has no time for that: its cleaner does what is not done here.
    """
    hurries = bool(kernel_id())
    for workload in workloads():
        on_exit = workload.settings.on_exit
        if on_exit == "keep" or (on_exit == "wait" and hurries and workload.is_busy):
            continue
        try:
            workload.stop_feeding()  # no more results are taken
            if on_exit == "remove":
                workload.terminate()
            workload.is_closed = True
            # The program is over: an access point that does not answer is not waited for.
            workload.end(patience=0.5 if hurries else 5.0)
            workload.close()
        except CondorPoolError as error:
            tell(str(error))


def _forget() -> None:
    # The pools of a forked child are its parent's, and only its parent may end them.
    for workload in _workloads:
        workload.disown()
    _workloads.clear()


os.register_at_fork(after_in_child=_forget)
