"""Keywords for the resources of jobs: how each is read, and the submit commands that it sets."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from condorpool.access.accesspoint import check_expression
from condorpool.interface.options import checks
from condorpool.values.sizes import size_in


def mebibytes(name: str, value: Any) -> int:
    """Return a size in MiB, rounded up."""
    if isinstance(value, str):
        size = size_in("M", value)
        if size is None:
            raise ValueError(
                f"{name}={value!r} is not a size: write '2GB', for example, or a number of MiB"
            )
        number = size
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
    else:
        raise TypeError(
            f"{name} must be a size such as '2GB' or a number of MiB, not {type(value).__name__}"
        )
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={value!r}: a size must be more than 0")
    return math.ceil(number)


def _text(name: str, value: Any) -> str:
    text = os.fspath(checks.kind(name, value, (str, os.PathLike), "a string"))
    if not isinstance(text, str) or not text.strip() or "\n" in text:
        raise ValueError(f"{name}={value!r} must be one line of text")
    return text


def _image(name: str, value: Any) -> str:
    text = _text(name, value)
    # HTCondor would look for a relative path in the submit directory.
    return str(Path(text).absolute()) if Path(text).exists() else text


def _expression(name: str, value: Any) -> str:
    return check_expression(name, _text(name, value))


def _duration(name: str, value: Any) -> float:
    # For the timer that ends a call, 0 means no limit.
    return checks.seconds(name, value, least=0.001)


def _secrets(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        raise TypeError(f"{name} must be names of environment variables, without their values")
    given = (value,) if isinstance(value, str) else tuple(checks.iterable(name, value))
    for each in given:
        checks.kind(name, each, str, "names of environment variables")
        if not re.fullmatch(r"[\w*]+", each):
            # Not shown: it may be a value.
            raise ValueError(f"{name} has an item that is no name of an environment variable")
        if "*" not in each and each not in os.environ:
            raise ValueError(
                f"{name} has {each!r}, and no environment variable has this name: set it in "
                "os.environ first, or correct the name"
            )
    return given


def _reached(name: str, value: Any) -> tuple[str, ...] | None:
    """Return more paths that jobs may reach; None for no limit."""
    if isinstance(value, bool):
        return () if value else None
    single = isinstance(value, (str, os.PathLike))
    given = (value,) if single else tuple(checks.iterable(name, value))
    return tuple(str(Path(_text(name, each)).absolute()) for each in given)


#: Each keyword: the function that checks it, and the submit commands that it sets.  A command
#: without a value is not set, but users must not give it along with the keyword.
KEYWORDS: Mapping[str, tuple[Callable[[str, Any], Any], Mapping[str, str]]] = {
    "memory": (mebibytes, {"request_memory": "{}MB"}),
    "memory_max": (
        mebibytes,
        {
            "retry_request_memory": "",
            "retry_request_memory_increase": "RequestMemory * 2",
            "retry_request_memory_max": "{}MB",
        },
    ),
    "disk": (mebibytes, {"request_disk": "{}MB"}),
    "cpus": (checks.count, {"request_cpus": "{}"}),
    "gpus": (checks.count, {"request_gpus": "{}"}),
    "container_image": (_image, {"container_image": "{}", "docker_image": ""}),
    "requirements": (_expression, {"requirements": "{}"}),
    "python": (_text, {}),
    "task_timeout": (_duration, {}),
    "secrets": (_secrets, {}),
    "limit_directory_access": (_reached, {}),
}


def check(given: Mapping[str, Any], submitkwargs: Mapping[str, str]) -> dict[str, Any]:
    """Return the checked values of the resource keywords that are not None.

    Raises
    ------
    TypeError, ValueError
        A value is wrong, or a command in ``submitkwargs`` means the same as a keyword.
    """
    checked = {}
    for name, (read, commands) in KEYWORDS.items():
        value = given.get(name)
        if value is None:
            continue
        checked[name] = read(name, value)
        for key in submitkwargs:
            if key.lower() in commands:
                raise ValueError(f"{name}= and submitkwargs[{key!r}] mean the same: give only one")
    return checked


def commands(resources: Mapping[str, Any], submitkwargs: Mapping[str, str]) -> dict[str, str]:
    """Return the submit commands for checked keywords.

    Parameters
    ----------
    submitkwargs
        The user's other commands.
    """
    if "memory_max" in resources:
        most, first = resources["memory_max"], resources.get("memory")
        if first is None and "request_memory" not in submitkwargs:
            raise ValueError(
                "memory_max needs memory, too: the amount that a job requests at first"
            )
        if first is not None and first > most:
            raise ValueError(f"memory={first} is more than memory_max={most} (MiB)")
    return {
        command: template.format(value)
        for name, value in resources.items()
        for command, template in KEYWORDS[name][1].items()
        if template
    }
