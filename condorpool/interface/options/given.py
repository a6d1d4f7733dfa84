"""The keywords that a user gave, completed with defaults; a wrong one gets a hint."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from condorpool.interface.options import commands, resources
from condorpool.interface.options.keywords import DEFAULTS, PoolKeywords, ResultKeywords
from condorpool.values.matching import is_same, nearest

#: The arguments of a pool and of its verbs beside the keywords.
_OF_POOL = ("processes", "initializer", "initargs", "maxtasksperchild", "context")
_OF_VERBS = ("chunksize", "callback", "error_callback")

#: Arguments of some verbs alone.
_OF_SOME: Mapping[str, str] = {
    **dict.fromkeys(ResultKeywords.__annotations__, "map(), starmap() and apply()"),
    **dict.fromkeys(("callback", "error_callback"), "the asynchronous forms of map() and apply()"),
    **dict.fromkeys(("args", "kwds"), "apply() and apply_async()"),
    "buffersize": "imap() and imap_unordered()",
}

#: What other libraries call an argument.
_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("n_jobs", "n_workers", "num_workers", "workers"), "processes"),
    **dict.fromkeys(("n_processes", "nproc", "num_processes"), "processes"),
    **dict.fromkeys(("cores", "n_cpus", "n_cores"), "cpus"),
    **dict.fromkeys(("mem", "ram"), "memory"),
    "max_memory": "memory_max",
    "timeout": "task_timeout",
    "image": "container_image",
    "kwargs": "kwds",
    "mp_context": "context",
}

#: What an executor calls arguments of a pool.
OF_EXECUTOR: Mapping[str, str] = {
    "processes": "max_workers",
    "maxtasksperchild": "max_tasks_per_child",
    "context": "mp_context",
}


def complete(
    kind: type, given: Mapping[str, Any], spelled: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return a value for each keyword: what was given, or the default.

    Parameters
    ----------
    kind
        The class that names the keywords, as `PoolKeywords`.
    spelled
        What the caller calls other arguments of a pool.

    Raises
    ------
    TypeError
        There is no such keyword; the message names the one that is probably meant.
    """
    known = dict.fromkeys(kind.__annotations__)
    for name in given:
        if name not in known:
            raise TypeError(
                f"got an unexpected keyword argument {name!r}: {_hint(name, kind, spelled)}"
            )
    return {name: given.get(name, DEFAULTS.get(name)) for name in known}


def _hint(name: str, kind: type, spelled: Mapping[str, str]) -> str:
    keywords, is_pool = [*kind.__annotations__], kind is PoolKeywords
    own = {*keywords, *(_OF_POOL if is_pool else _OF_VERBS)}
    meant = _meant(name)
    if meant in own and spelled.get(meant, meant) != name:
        return f"did you mean {spelled.get(meant, meant)}?"
    if is_pool and meant in {*_OF_VERBS, *_OF_SOME}:
        return f"pass {meant} to map(), apply_async() and so on."
    if not is_pool and meant in {*_OF_POOL, *PoolKeywords.__annotations__}:
        return f"pass {meant} to Pool() itself."
    if meant in _OF_SOME:
        return f"only {_OF_SOME[meant]} take {meant}."
    if commands.is_known(name):
        return f"submit commands are passed as submitkwargs={{{name!r}: ...}}."
    return f"the keywords are {', '.join(keywords)}."


def _meant(name: str) -> str:
    """Return the argument of a pool or a verb that is probably meant; empty if none is."""
    others = dict(_ELSEWHERE)
    for keyword, (_, sets) in resources.KEYWORDS.items():
        others.update(dict.fromkeys(sets, keyword))
    others |= {spelling: argument for argument, spelling in OF_EXECUTOR.items()}
    known = {*_OF_POOL, *PoolKeywords.__annotations__, *_OF_VERBS, *_OF_SOME}
    near = nearest(name, known | others.keys())
    # Many submit commands are like some argument.
    if commands.is_known(name) and not is_same(name, near):
        return ""
    return near if near in known else others.get(near, "")
