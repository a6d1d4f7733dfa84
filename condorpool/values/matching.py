"""Which of the known names a user means."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from condorpool.values.exceptions import CondorPoolError

#: How alike two names must be, from 0 to 1, and those of two or three letters.
_ALIKE, _ALIKE_IF_SHORT = 0.75, 0.6


def meant(
    name: str, known: Collection[str], folders: Mapping[str, Path], *, unknown: str, hint: str
) -> str:
    """Return the one known name that a name stands for; the arguments are those of `matching`.

    Parameters
    ----------
    unknown, hint
        What the error says if there is none: what happened, and what to do next.

    Raises
    ------
    CondorPoolError
        It stands for none, or for several.
    """
    found = matching(name, known, folders)
    if not found:
        raise CondorPoolError(f"{unknown}.{did_you_mean(name, known)} {hint}".rstrip())
    if len(found) > 1:
        raise CondorPoolError(f"several names begin with {name!r}: {', '.join(found)}.")
    return found[0]


def matching(name: str, known: Collection[str], folders: Mapping[str, Path]) -> list[str]:
    """Return the known names that a name stands for: itself, or else all that begin with it.

    An empty name, or one of dots alone, begins none.

    Parameters
    ----------
    folders
        Folders by their names; each can also be given with the dot that hides it, or by its path.
    """
    if name in known:
        return [name]
    if "/" in name:
        return [known for known, folder in folders.items() if _is_path_of(Path(name), folder)]
    begin = name.removeprefix(".")
    if begin in folders:
        return [begin]
    found = {word for word in known if word.startswith(name)} if name.strip(".") else set()
    if begin.strip("."):
        found |= {word for word in folders if word.startswith(begin)}
    return sorted(found)


def _is_path_of(path: Path, folder: Path) -> bool:
    same_name = path.name.removeprefix(".") == folder.name.removeprefix(".")
    return same_name and path.parent.resolve() == folder.parent.resolve()


def nearest(name: str, known: Collection[str]) -> str:
    """Return the known name that is most like this one, or that alone begins with it; else nothing.

    Capitals, underscores and dashes do not matter.
    """
    words = {_plain(word): word for word in sorted({*known}, reverse=True)}
    begin = _plain(name)
    alike = _ALIKE if len(begin) > 3 else _ALIKE_IF_SHORT
    near = difflib.get_close_matches(begin, words, n=1, cutoff=alike)
    longer = near or [word for word in words if len(begin) > 2 and word.startswith(begin)]
    return words[longer[0]] if len(longer) == 1 else ""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a question that names the known name most like this one; empty if none is like it."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""


def is_same(name: str, other: str) -> bool:
    """Return whether names differ only in what does not matter to `nearest`."""
    return _plain(name) == _plain(other)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
