"""The checked arguments of a pool, and the options of a call that result from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.engine.description import JobOptions, title
from condorpool.interface.options import checks, commands, resources
from condorpool.interface.options.given import complete
from condorpool.interface.options.keywords import (
    DEFAULTS,
    OnExit,
    OnHold,
    PoolKeywords,
    Progress,
)
from condorpool.personal import PersonalHTCondor


@dataclass(frozen=True)
class CallOptions:
    """The options of one call of a verb: its own keywords, else those of its pool.

    Parameters
    ----------
    base
        The folder that the submit directory is in.
    """

    base: Path
    job: JobOptions
    on_hold: OnHold | None
    echo: bool
    progress: Progress | None
    name: str | None
    overwrite: bool
    return_exceptions: bool
    maxtries: int


class Settings:
    """The arguments of a `Pool`, which its verbs may override.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it.
    """

    def __init__(
        self,
        processes: int | None,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        maxtasksperchild: int | None,
        keywords: PoolKeywords,
    ) -> None:
        given = complete(PoolKeywords, keywords)
        self.processes = checks.optional_count("processes", processes)
        try:
            self.maxtasksperchild = checks.optional_count("maxtasksperchild", maxtasksperchild)
        except TypeError as error:  # multiprocessing raises ValueError, for this argument alone
            raise ValueError(str(error)) from None
        self.initializer = checks.function("initializer", initializer)
        self.initargs = checks.positional("initargs", initargs)
        self.submitkwargs = commands.check(given["submitkwargs"])
        self.resources = resources.check(given, self.submitkwargs)
        resources.commands(self.resources, self.submitkwargs)
        self.killstats = checks.killstats(given["killstats"])
        self.jobkwargs = {
            **checks.jobkwargs({"submitdir": given["submitdir"]}),
            "killstats": self.killstats,
            **checks.jobkwargs(given["jobkwargs"]),
        }
        self.on_hold = checks.on_hold(given["on_hold"])
        self.linger = checks.seconds("linger", given["linger"])
        self.retire_after = checks.seconds(
            "retire_after", given["retire_after"], least=0.001, may_be_infinite=True
        )
        self.schedd, self.collector, self.remote = (
            checks.kind(name, given[name], (str, type(None)), "a string")
            for name in ("schedd", "collector", "remote")
        )
        self.personal = checks.kind(
            "personal",
            given["personal"],
            (PersonalHTCondor, str, os.PathLike, bool, type(None)),
            "a bool, a folder or a PersonalHTCondor",
        )
        self.on_exit = checks.one_of("on_exit", given["on_exit"], OnExit)
        self.echo = checks.kind("echo", given["echo"] or False, bool, "True or False")
        self.progress = checks.one_of("progress", given["progress"], Progress, None)

    def of_call(
        self, kind: type, keywords: Mapping[str, Any], access_point: AccessPoint, cpus: int
    ) -> CallOptions:
        """Return the options of a call; ``kind`` says which keywords it takes, as `ResultKeywords`.

        Parameters
        ----------
        cpus
            The number of CPUs of the HTCondor pool.
        """
        given = {**DEFAULTS, **complete(kind, keywords)}
        submit = commands.check(given["submitkwargs"])
        asked = {**self.resources, **resources.check(given, submit)}
        described = resources.commands(asked, {**self.submitkwargs, **submit})
        if "memory_max" in asked:
            access_point.check_memory_max()
        name = given.get("name")
        if name is not None:
            described["batch_name"] = title(checks.calls_name(name))
        overwrite = checks.kind("overwrite", given["overwrite"], bool, "True or False")
        if overwrite and name is None:
            raise ValueError("overwrite=True replaces the results of a name: add name=, or omit it")
        progress = checks.one_of("progress", given["progress"], Progress, None)
        echo = checks.kind("echo", given.get("echo"), (bool, type(None)), "True or False")
        job = {**self.jobkwargs, **checks.jobkwargs(given["jobkwargs"])}
        return CallOptions(
            base=Path(job.pop("submitdir")).absolute(),
            job=JobOptions(
                submitkwargs={**self.submitkwargs, **described, **submit},
                python=asked.get("python"),
                task_timeout=asked.get("task_timeout"),
                secrets=asked.get("secrets", ()),
                limit_directory_access=asked.get("limit_directory_access", ()),
                processes=self.processes,
                cpus=cpus,
                linger=self.linger,
                retire_after=self.retire_after,
                maxtasksperchild=self.maxtasksperchild,
                initializer=self.initializer,
                initargs=self.initargs,
                **job,
            ),
            on_hold=checks.on_hold(given.get("on_hold")) or self.on_hold,
            echo=self.echo if echo is None else echo,
            progress=self.progress if progress == "auto" else progress,
            name=name,
            overwrite=overwrite,
            return_exceptions=given["return_exceptions"],
            maxtries=checks.count("maxtries", given["maxtries"]),
        )
