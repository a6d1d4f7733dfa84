"""Names of calls: under which results are kept, for the notebook or script that made the calls."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condorpool.cleaner import custody
from condorpool.cleaner.owner import notebook_path
from condorpool.display.notices import tell
from condorpool.engine import submitdir
from condorpool.engine.fingerprint import differences
from condorpool.engine.records import Manifest
from condorpool.engine.submitdir import program
from condorpool.interface import openpools
from condorpool.interface.leftovers import Leftover, leftovers
from condorpool.interface.options import checks
from condorpool.interface.results import Result
from condorpool.interface.tracebacks import for_users
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.matching import did_you_mean
from condorpool.values.text import plural


@dataclass(frozen=True)
class Kept:
    """Results that are kept under a name: those of a pool of this process, or of another one.

    Parameters
    ----------
    place
        The notebook or script that made the calls.
    """

    digest: str
    place: str
    result: Result[Any] | None = None
    leftover: Leftover | None = None

    @property
    def is_here(self) -> bool:
        """Whether the name is one of this notebook or script."""
        return self.place == here()

    @property
    def in_use(self) -> str:
        """The other process that uses them, if one does."""
        return self.leftover.in_use if self.leftover else ""

    def forget(self) -> int:
        """Delete them, with the jobs that still make calls; return how many results there were."""
        if self.leftover:
            ended = self.leftover.counts.ended
            _forget_leftover(self.leftover)
            return ended
        assert self.result is not None  # noqa: S101 - one of the two is given
        ended = self.result.calls_ended
        if not self.result.ready():
            self.result.remove()
        self.result.forget()
        return ended


def forget(name: str, *, everywhere: bool = False) -> int:
    """Delete the results that are kept under a name; return how many calls had some.

    Jobs that still make such calls are removed.

    Parameters
    ----------
    name
        The ``name`` that was given to calls in this notebook or script.
    everywhere
        Whether to delete also results that another notebook or script keeps under this name.

    Raises
    ------
    CondorPoolError
        Another process uses them, or only other notebooks have results with this name.
        Nothing was deleted.

    Examples
    --------
    >>> import condorpool
    >>> with condorpool.Pool() as pool:
    ...     values = pool.map(abs, [-1, 2], name="scan")
    >>> condorpool.forget("scan")
    2
    """
    with for_users:
        checks.calls_name(name)
        found = find(name)
        chosen = [kept for kept in found if everywhere or kept.is_here]
        if found and not chosen:
            places = ", ".join(dict.fromkeys(kept.place for kept in found))
            raise CondorPoolError(
                f"the results named {name!r} are those of {places}: run forget() there, or "
                f"condorpool.forget({name!r}, everywhere=True) here. Nothing was deleted."
            )
        if not found and (hint := did_you_mean(name, kept_names())):
            tell(f"no results are kept under the name {name!r}.{hint}")
        check_use(name, chosen)
        return sum(kept.forget() for kept in chosen)


def here() -> str:
    """Return the notebook that this process runs, else its script, else its folder."""
    return notebook_path() or program()


def find(name: str) -> list[Kept]:
    """Return what is kept under a name; last what is most likely meant."""
    found = [
        Kept(each.digest, _place(each.manifest), leftover=each)
        for each in leftovers()
        if each.digest and each.chain[0][1].name == name
    ]
    found.sort(key=lambda kept: (kept.is_here, not kept.in_use))
    for work in openpools.workloads():
        for result in work.results.named(name):
            place = _place(result._session.directory.manifest)  # noqa: SLF001 - users need it not
            found.append(Kept(result.digest, place, result=result))
    return found


def kept_names() -> set[str]:
    """Return the names under which results are kept."""
    here = {result.name for work in openpools.workloads() for result in work.results.named()}
    return here | {each.name for each in leftovers() if each.digest}


def check_use(name: str, chosen: Sequence[Kept]) -> None:
    """Raise `CondorPoolError` if another process uses any of these results."""
    for kept in chosen:
        if kept.leftover and kept.in_use:
            raise CondorPoolError(
                f"the results named {name!r} are {kept.in_use}: {kept.leftover.entry.cure}. "
                "Nothing was deleted."
            )


def same(name: str, digest: str) -> Kept | None:
    """Return the results of equal calls that are kept under a name; None if there are none.

    Raises
    ------
    ValueError
        This notebook or script keeps results of other calls under the name, or another
        process uses those of equal calls.
    """
    found = find(name)
    ours = [kept for kept in found if kept.is_here]
    equal = [kept for kept in found if kept.digest == digest]
    free = [kept for kept in equal if not kept.in_use]
    if free:
        return free[-1]
    if ours and ours[-1].in_use:
        raise ValueError(
            f"name={name!r} is {ours[-1].in_use}: choose another name, or wait for that process"
        )
    if ours:
        changed = differences(ours[-1].digest, digest) or "the function or the items"
        raise ValueError(
            f"name={name!r} has the results of other calls: {changed} changed. Add overwrite=True "
            f"to replace these results, or choose another name. condorpool.forget({name!r}) "
            "deletes them."
        )
    return None


def tell_reuse(name: str, kept: Kept, result: Result[Any]) -> None:
    """Print a notice that results are reused."""
    of = "" if kept.is_here else f" in {Path(kept.place).name or 'another process'}"
    tell(
        f"{name!r}: reusing {result.calls_ended:,} of {plural(result.calls, 'result')} computed "
        f"earlier{of} (condorpool.forget({name!r}) deletes them)"
    )


def _place(manifest: Manifest) -> str:
    return manifest.notebook or manifest.program


def _forget_leftover(leftover: Leftover) -> None:
    """Take the name from calls of a process that has ended, and have a cleaner delete the rest."""
    entry, numbers = leftover.entry, {number for number, _ in leftover.chain}
    directory = custody.take_up(entry, entry.on_exit, entry.origin)
    try:
        for number, record in leftover.chain:
            unnamed = replace(record, name="", digest="")
            directory.record(submitdir.facts_name(number), unnamed)
        others = directory.batches().keys() - numbers
        if not others and not directory.unreadable:
            custody.mark(directory.path, on_exit="delete")
        elif not leftover.counts.waiting + leftover.counts.running + leftover.counts.held:
            for number in numbers:
                directory.discard_batch(number)
    finally:
        with contextlib.suppress(FileNotFoundError):
            custody.hand_over(directory.path)
