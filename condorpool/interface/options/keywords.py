"""The keywords of `Pool` and its verbs: each name and type is written here, and only here."""

from __future__ import annotations

import functools
import inspect
import math
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from condorpool.interface.job import QueuedJob
from condorpool.personal import PersonalHTCondor
from condorpool.values.events import KILLSTATS
from condorpool.values.holds import Policy

F = TypeVar("F", bound=Callable[..., Any])

#: What a function may return that is asked about one held job.
Decision = Literal["raise", "wait", "remove", "release"]

OnHold = Policy | Callable[[QueuedJob], Decision]

#: How progress may be shown; ``"auto"`` depends on notebook or terminal, or on the pool.
Progress = Literal["auto", "widget", "text"]

#: What happens to the work of an unclosed pool when the process ends.
OnExit = Literal["wait", "remove", "keep"]


class JobKeywords(TypedDict, total=False):
    """Keywords that describe jobs: for `Pool`, and for verbs, where they update the pool's own."""

    memory: str | float | None
    memory_max: str | float | None
    disk: str | float | None
    cpus: int | None
    gpus: int | None
    task_timeout: float | None
    container_image: str | os.PathLike[str] | None
    requirements: str | None
    python: str | os.PathLike[str] | None
    secrets: str | Iterable[str] | None
    limit_directory_access: bool | str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None
    submitkwargs: Mapping[str, Any] | None
    jobkwargs: Mapping[str, Any] | None


class CallKeywords(JobKeywords, total=False):
    """Keywords of all verbs."""

    on_hold: OnHold | None
    echo: bool | None
    progress: Progress | None


class ResultKeywords(CallKeywords, total=False):
    """Keywords of the verbs that take all their items at once."""

    name: str | None
    overwrite: bool
    return_exceptions: bool
    maxtries: int


class PoolKeywords(CallKeywords, total=False):
    """Keywords of `Pool` and `Executor`, beside the arguments of `multiprocessing`."""

    schedd: str | None
    collector: str | None
    personal: PersonalHTCondor | Path | str | bool | None
    remote: str | None
    killstats: Iterable[str]
    submitdir: str | os.PathLike[str]
    linger: float
    retire_after: float
    on_exit: OnExit


#: Default values of keywords; all others are None.
DEFAULTS: Mapping[str, Any] = {
    "progress": "auto",
    "overwrite": False,
    "return_exceptions": False,
    "maxtries": 5,
    "killstats": KILLSTATS,
    "submitdir": ".",
    "linger": 10.0,
    "retire_after": math.inf,
    "on_exit": "wait",
}


_hints = functools.cache(typing.get_type_hints)


def takes(keywords: type) -> Callable[[F], F]:
    """Give a function the signature that its ``**kwargs: Unpack[keywords]`` stands for.

    Type checkers know it from there.  `inspect.signature`, which the Tab key and ``?`` ask, and
    `typing.get_type_hints` do not: Python 3.10 has no Unpack, and condorpool needs none to run.
    """

    def add(function: F) -> F:
        signature = inspect.signature(function)
        *parameters, rest = signature.parameters.values()
        del function.__annotations__[rest.name]
        function.__annotations__.update(_hints(keywords))
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
