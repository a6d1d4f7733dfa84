"""The keywords that a user gave, completed with defaults; a wrong one gets a hint."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from condorpool.interface.options import commands, resources
from condorpool.interface.options.keywords import DEFAULTS, PoolKeywords, ResultKeywords

#: The arguments of a pool and of its verbs beside the keywords.
_OF_POOL = ("processes", "initializer", "initargs", "maxtasksperchild")
_OF_VERBS = ("chunksize", "callback", "error_callback")

#: What other libraries call an argument.
_ELSEWHERE: Mapping[str, str] = {
    "max_workers": "processes",
    "n_jobs": "processes",
    "n_workers": "processes",
    "num_workers": "processes",
    "workers": "processes",
    "cores": "cpus",
    "image": "container_image",
}


def complete(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for each keyword: what was given, or the default.

    Parameters
    ----------
    kind
        The class that names the keywords, as `PoolKeywords`.

    Raises
    ------
    TypeError
        There is no such keyword; the message names the one that is probably meant.
    """
    known = dict.fromkeys(kind.__annotations__)
    for name in given:
        if name not in known:
            raise TypeError(f"got an unexpected keyword argument {name!r}: {_hint(name, kind)}")
    return {name: given.get(name, DEFAULTS.get(name)) for name in known}


def _hint(name: str, kind: type) -> str:
    keywords = [*kind.__annotations__]
    is_pool = kind is PoolKeywords
    own = [*keywords, *(_OF_POOL if is_pool else _OF_VERBS)]
    meant = _meant(name, own)
    of_pool = {*_OF_POOL, *PoolKeywords.__annotations__} - {*own}
    if is_pool and name in {*_OF_VERBS, *ResultKeywords.__annotations__}:
        return f"pass {name} to map(), apply_async() and so on."
    if not is_pool and meant in of_pool:
        return f"pass {meant} to Pool() itself."
    if name in ResultKeywords.__annotations__:
        return f"only map(), starmap() and apply(), and their asynchronous forms, take {name}."
    if meant in own and meant != name:
        return f"did you mean {meant}?"
    if commands.is_known(name):
        return f"submit commands are passed as submitkwargs={{{name!r}: ...}}."
    return f"the keywords are {', '.join(keywords)}."


def _meant(name: str, own: Collection[str]) -> str:
    """Return the keyword that is probably meant; empty if none is."""
    for keyword, (_, sets) in resources.KEYWORDS.items():
        if name.lower() in sets:
            return keyword
    if name in PoolKeywords.__annotations__ or name in _OF_POOL:
        return name
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    near = () if commands.is_known(name) else difflib.get_close_matches(name, own, n=1)
    return next(iter(near), "")
