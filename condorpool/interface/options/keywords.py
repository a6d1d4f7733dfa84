"""The keywords of `Pool` and of its verbs: each is named and typed here, and only here."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from condorpool.values.events import KILLSTATS

if TYPE_CHECKING:
    from condorpool.interface.job import QueuedJob
    from condorpool.personal import PersonalHTCondor

F = TypeVar("F", bound=Callable[..., Any])

#: What a wait does when only held jobs remain.
Policy = Literal["raise", "wait", "remove"]

#: What a function may answer that is asked about one held job.
Decision = Literal["raise", "wait", "remove", "release"]

OnHold = Policy | Callable[["QueuedJob"], Decision]

#: How progress may be shown; ``"auto"`` is what suits the place, or what the pool has.
Progress = Literal["auto", "widget", "text"]

#: What happens at the end of the process to work of a pool that was not closed.
OnExit = Literal["wait", "remove", "keep"]


class JobKeywords(TypedDict, total=False):
    """What describes jobs: for `Pool`, and for a verb, where it updates the pool's own."""

    memory: str | float | None
    memory_max: str | float | None
    disk: str | float | None
    cpus: int | None
    gpus: int | None
    task_timeout: float | None
    container_image: str | os.PathLike[str] | None
    requirements: str | None
    python: str | os.PathLike[str] | None
    submitkwargs: Mapping[str, Any] | None
    jobkwargs: Mapping[str, Any] | None


class CallKeywords(JobKeywords, total=False):
    """What all verbs take."""

    on_hold: OnHold | None
    echo: bool | None
    progress: Progress | None


class ResultKeywords(CallKeywords, total=False):
    """What verbs take beside that whose calls are all known at once."""

    name: str | None
    return_exceptions: bool
    maxtries: int


class PoolKeywords(CallKeywords, total=False):
    """What `Pool` takes beside multiprocessing's arguments, and so what `Executor` does."""

    schedd: str | None
    collector: str | None
    personal: PersonalHTCondor | Path | str | bool | None
    remote: str | None
    killstats: Iterable[str]
    submitdir: str | os.PathLike[str]
    linger: float
    retire_after: float
    on_exit: OnExit


#: What keywords are that were not given; all others are None.
DEFAULTS: Mapping[str, Any] = {
    "progress": "auto",
    "return_exceptions": False,
    "maxtries": 5,
    "killstats": KILLSTATS,
    "submitdir": ".",
    "linger": 10.0,
    "retire_after": math.inf,
    "on_exit": "wait",
}


def takes(keywords: type) -> Callable[[F], F]:
    """Give a function the signature that its ``**kwargs: Unpack[keywords]`` stands for.

    Type checkers know it from there.  The Tab key and ``?`` ask `inspect.signature`, which does not.
    """

    def add(function: F) -> F:
        signature = inspect.signature(function)
        *parameters, _ = signature.parameters.values()
        for name, hint in keywords.__annotations__.items():
            parameters.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=DEFAULTS.get(name),
                    annotation=getattr(hint, "__forward_arg__", hint),
                )
            )
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return add


def complete(keywords: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for each keyword: what was given, or the default.

    Raises
    ------
    TypeError
        A keyword that there is not, with the one that is probably meant.
    """
    known = dict.fromkeys(keywords.__annotations__)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
            raise TypeError(f"got an unexpected keyword argument {name!r}: {hint}")
    return {name: given.get(name, DEFAULTS.get(name)) for name in known}
