"""Which of the known names a user means."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path


def matching(name: str, known: Collection[str], folders: Iterable[Path] = ()) -> list[str]:
    """Return the known names that a name stands for: itself, or else all that begin with it.

    An empty name, or one of dots alone, begins none.  A folder whose name begins with a dot is
    found without the dot, too.

    Parameters
    ----------
    folders
        Folders that are known by their names, and can also be given as paths.
    """
    if name in known:
        return [name]
    if "/" in name:
        path = Path(name)
        return [f.name for f in folders if f.name == path.name and f.resolve() == path.resolve()]
    if not name.strip("."):
        return []
    return sorted(k for k in {*known} if k.startswith(name) or k.lstrip(".").startswith(name))


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a question that names the known name most like this one; empty if none is like it."""
    near = difflib.get_close_matches(name, sorted({*known}), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
