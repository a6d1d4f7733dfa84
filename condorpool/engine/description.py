"""The submit description: exactly what HTCondor gets for the jobs of a crew."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.engine import reach, secrets
from condorpool.engine import submitdir as names
from condorpool.engine.payload import RecordedInitializer
from condorpool.runner.container import PYTHON
from condorpool.runner.names import PROGRAM
from condorpool.values import plain
from condorpool.values.events import KILLSTATS
from condorpool.values.exceptions import SubmitError

#: The most jobs that are in the queue at once when the user sets no limit.  With ten times as
#: many, each query of the access point takes a second.
QUEUE_LIMIT = 1_000

#: Environment variables that the program loader, the C library and the interpreter read when
#: they start; none is secret.  HTCondor itself sets PYTHON_CPU_COUNT.
BEFORE_PYTHON = tuple(
    """PATH LD_LIBRARY_PATH LD_PRELOAD PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX
    TZ LANG LANGUAGE LC_ALL LC_COLLATE LC_CTYPE LC_MESSAGES LC_MONETARY LC_NUMERIC LC_TIME
    GLIBC_TUNABLES MALLOC_ARENA_MAX MALLOC_CHECK_ MALLOC_CONF MALLOC_MMAP_THRESHOLD_ MALLOC_PERTURB_
    MALLOC_TOP_PAD_ MALLOC_TRIM_THRESHOLD_
    PYTHONHASHSEED PYTHONUTF8 PYTHONCOERCECLOCALE
    PYTHONOPTIMIZE PYTHONDEVMODE PYTHONWARNINGS PYTHONWARNDEFAULTENCODING PYTHONINTMAXSTRDIGITS
    PYTHONMALLOC PYTHONMALLOCSTATS PYTHONTRACEMALLOC PYTHONFAULTHANDLER PYTHONASYNCIODEBUG
    PYTHONSAFEPATH PYTHONNOUSERSITE PYTHONUSERBASE PYTHONPLATLIBDIR PYTHONDONTWRITEBYTECODE
    PYTHONPYCACHEPREFIX PYTHONNODEBUGRANGES PYTHON_GIL PYTHON_JIT PYTHON_CONTEXT_AWARE_WARNINGS
    PYTHON_THREAD_INHERIT_CONTEXT""".split()
)

#: Options of the interpreter that can change the results of calls; others, like the
#: frozen_modules=off of notebooks, only take time.
_X_OPTIONS = (
    "dev", "utf8", "int_max_str_digits", "warn_default_encoding", "no_debug_ranges", "gil",
    "context_aware_warnings", "thread_inherit_context",
)  # fmt: skip

#: Started like this, the program is imported from the archive beside it, already compiled.
START = (
    "import os, sys; "
    # With -P no folder of the user's may come first.
    "sys.path[: sys.path[:1] == ['']] = ['', os.path.abspath(sys.argv.pop(1))]; "
    f"import {PROGRAM} as program; program.main(sys.argv[1:])"
)


@dataclass(frozen=True)
class JobOptions:
    """How jobs are described, and what happens to them and their files.

    Calls whose options differ never share a job.

    Parameters
    ----------
    submitkwargs
        The user's own commands, checked; they override ours.
    python
        Interpreter on the execution point; None for this one's path, or whatever
        Python of the same version the execution point has.
    task_timeout
        Seconds that a call may take.
    secrets
        Environment variables that jobs get although they are secret, by name or pattern.
    limit_directory_access
        More files and folders that jobs may reach through HTCondor; None for all.
    processes
        The most jobs at once, if the user set a limit.
    cpus
        How many CPUs the HTCondor pool has.
    linger
        Seconds that a runner, or its slot, waits for the next call.
    retire_after
        Seconds after which a runner takes no new chunk.
    maxtasksperchild
        Chunks that a runner makes; None for any number.
    """

    submitkwargs: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    task_timeout: float | None = None
    secrets: tuple[str, ...] = ()
    limit_directory_access: tuple[str, ...] | None = ()
    processes: int | None = None
    cpus: int = 1
    linger: float = 0.0
    retire_after: float = math.inf
    maxtasksperchild: int | None = None
    initializer: Callable[..., object] | RecordedInitializer | None = None
    initargs: tuple[Any, ...] = ()
    killstats: tuple[str, ...] = KILLSTATS
    cleanup: bool = True
    cleanfailed: bool = False
    cleanupfiles: tuple[str, ...] = ()

    def recorded(self) -> dict[str, Any]:
        """Return the options for a `CrewRecord`; the initializer is in the crew's own file."""
        facts = dict(vars(self))
        del facts["initializer"], facts["initargs"]
        if self.retire_after == math.inf:
            del facts["retire_after"]  # JSON has no infinite number, and it is the default
        return {**facts, "submitkwargs": dict(self.submitkwargs)}

    @classmethod
    def restored(
        cls, facts: Mapping[str, Any], initializer: RecordedInitializer | None = None
    ) -> JobOptions:
        """Return recorded options, maybe of another version of condorpool.

        Raises ValueError if they are none.
        """
        options: JobOptions = plain.checked(facts, cls)
        return dataclasses.replace(options, initializer=initializer)

    def limit(self, *, is_resident: bool) -> int:
        """Return the most jobs at once; no more runners than the HTCondor pool has CPUs."""
        return self.processes or (min(self.cpus, QUEUE_LIMIT) if is_resident else QUEUE_LIMIT)


# The last term keeps jobs that a factory makes later: a renewal does not reach the factory,
# which gives them the lease that it was submitted with.
_OUT_OF_LEASE = (
    "(JobStatus == 1 || JobStatus == 5) && time() > CondorpoolLease"
    " && time() > EnteredCurrentStatus + {}"
)

#: Seconds for which idle and held jobs stay in the queue after their owner and its cleaner died.
LEASE = 86_400.0

#: Commands that take a list of files; the user's are added to ours.
LISTS = ("transfer_input_files", "transfer_output_files")


def _quoted(arguments: list[str]) -> str:
    """Write arguments in HTCondor's "new" syntax."""
    words = ["'" + word.replace("'", "''") + "'" for word in arguments]
    return '"' + _literal(" ".join(words).replace('"', '""')) + '"'


def _literal(text: str) -> str:
    """Keep a path's dollar signs from being read as macros."""
    return text.replace("$", "$(DOLLAR)")


def title(name: str) -> str:
    """Return a name as HTCondor shows it, on one line: none of it is read as a macro."""
    name = "".join(char if char.isprintable() else " " for char in name)
    # $$ cannot be quoted, and a backslash at the end would continue on the next line.
    return _literal(re.sub(r"\$+", "$", name).rstrip("\\ ")) or "calls"


# Surrogates stand for bytes that are not UTF-8, which the bindings refuse.
_NO_LINE = re.compile("[\0\n\r\ud800-\udfff]")

# HTCondor reads $$ when it has found a slot, and $(DOLLAR) twice: neither can be quoted.
_NOT_LITERAL = re.compile(rf"{_NO_LINE.pattern}|\$\$|\$\(DOLLAR\)", re.IGNORECASE)


def _check(given: Mapping[str, str], wrong: re.Pattern[str], what: str) -> None:
    """Raise unless a submit description, which has lines, can contain these values of the user's."""
    for name, value in given.items():
        if wrong.search(name + value):
            raise SubmitError(
                f"{name}={value!r} has {what}, which HTCondor does not take as it is. Change it. "
                "Nothing was submitted."
            )


# Placeholders for what differs between the jobs of a cluster; no path contains a NUL.
_JOB, _CHUNK, _FIRST, _END = "\0job", "\0chunk", "\0first", "\0end"


def _filled(text: str) -> str:
    """Replace the placeholders with HTCondor's macros."""
    text = text.replace(_JOB, "$(ClusterId).$(ProcId)")
    return re.sub("\0([a-z]+)", r"$(\1)", text)


def _environment(run: str) -> str:
    # If the user set no seed, all jobs of a run get the same one, so that they agree on the
    # hashes of strings and the order of sets.
    seed = zlib.crc32(run.encode())
    known = {"PYTHONHASHSEED": str(seed), **os.environ}
    if known["PYTHONHASHSEED"] == "random":
        known["PYTHONHASHSEED"] = str(seed)
    words = [
        f"{name}='" + known[name].replace("'", "''") + "'"
        for name in BEFORE_PYTHON
        # Others are set by the runner, from the pool's private file.
        if name in known and not _NOT_LITERAL.search(known[name])
    ]
    return '"' + _literal(" ".join(words).replace('"', '""')) + '"'


def interpreter_options() -> list[str]:
    """Return the options that this interpreter was started with, for the jobs' interpreters."""
    options = ["-O"] * sys.flags.optimize + ["-b"] * sys.flags.bytes_warning
    options += ["-s"] * sys.flags.no_user_site
    options += [f"-W{option}" for option in sys.warnoptions if not _NOT_LITERAL.search(option)]
    for name in _X_OPTIONS:
        value = sys._xoptions.get(name)  # noqa: SLF001 - documented
        if value is not None:
            options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return options


def build(
    *,
    directory: Path,
    crew: int,
    batch: int | None,
    limit: int,
    keep_claim: float,
    batch_name: str,
    run: str,
    lease: float,
    shared: Sequence[str],
    options: JobOptions,
    defaults: Mapping[str, str],
) -> dict[str, str]:
    """Return the submit description of a crew's jobs.

    Parameters
    ----------
    batch
        The batch's number, for jobs that make one chunk each: the calls ``$(first)`` to
        ``$(end)``, from ``$(chunk)``.  None for runners.
    limit
        The most jobs that are in the queue at once.
    keep_claim
        Seconds for which HTCondor keeps the slot for the next jobs.
    lease
        Seconds after which waiting jobs leave the queue unless the owner renews
        it; 0 for never.
    shared
        Files with shared objects to send.
    defaults
        Commands for this access point.
    """
    python = options.python or sys.executable
    what = "a line break, or bytes that are not UTF-8"
    _check(options.submitkwargs, _NO_LINE, what)
    _check({"python": python, "submitdir": str(directory)}, _NOT_LITERAL, f"$$, $(DOLLAR), {what}")
    shipped = [*names.SHIPPED, names.crew_name(crew), *shared]
    if batch is None:
        outcome = ""
        task = ["serve", names.crew_name(crew), names.posted_name(crew), names.taken_name(crew)]
        task += [_JOB, str(limit), f"{options.linger:g}", f"{options.retire_after:g}"]
        task += [str(options.maxtasksperchild or 0)]
    else:
        outcome = names.outcome_name(batch, _FIRST)
        call, chunk = names.call_name(batch), names.chunk_name(batch, _CHUNK)
        task = ["once", names.crew_name(crew), call, chunk, outcome, _CHUNK, _FIRST, _END]
        shipped += [call, chunk]
    arguments = [
        names.LAUNCHER,
        python,
        "" if options.python else PYTHON,
        outcome,
        *interpreter_options(),
        "-c",
        START,
        names.SUPPORT,
        *task,
    ]
    description = {
        "universe": "vanilla",
        "batch_name": title(batch_name),
        "My.CondorpoolRun": f'"{run}"',
        "My.CondorpoolCrew": str(crew),
        # Every machine has a shell, and it works if the submit directory is mounted noexec.
        "executable": "/bin/sh",
        "transfer_executable": "False",
        "arguments": _filled(_quoted(arguments)),
        "initialdir": _literal(str(directory)),
        "log": names.EVENT_LOG,
        "output": _filled(names.stdout_name(_JOB)),
        "error": _filled(names.stderr_name(_JOB)),
        "should_transfer_files": "IF_NEEDED",
        "transfer_input_files": _filled(", ".join(shipped)),
        "transfer_output_files": _filled(outcome) or '""',
        "request_cpus": "1",
        # The factory makes jobs as others end, so that the queue stays short
        # and submitting is quick: 10,000 jobs in 30 ms.
        "max_materialize": str(limit),
        **defaults,
    }
    if batch is None:
        # HTCondor's channel from the job to the submit directory: chirp.
        description["want_io_proxy"] = "True"
    if options.limit_directory_access is not None:
        description[reach.ATTRIBUTE] = reach.limit(
            directory, options.submitkwargs, options.limit_directory_access
        )
    if keep_claim > 0:
        description["keep_claim_idle"] = str(round(keep_claim))
    if lease:
        description["My.CondorpoolLease"] = "0"
        description["periodic_remove"] = _OUT_OF_LEASE.format(round(lease))
    if getenv_of(options.submitkwargs) is None:
        description["environment"] = _environment(run)
    for key, value in options.submitkwargs.items():
        name = key.lower() if key.lower() in description else key
        extends = name in LISTS and description[name] != '""'
        if name in {"getenv", "get_env"}:
            value = secrets.public(value)  # noqa: PLW2901 - as it is written
        description[name] = f"{description[name]}, {value}" if extends else value
        if name == "periodic_remove" and lease:
            description[name] = f"({value}) || ({_OUT_OF_LEASE.format(round(lease))})"
    return description


def jobs_of(run: str) -> str:
    """Return the constraint for the jobs of a submit directory, by its name."""
    return f'CondorpoolRun == "{run}"'


def renew(access_point: AccessPoint, run: str, lease: float) -> None:
    """Let waiting jobs of a run stay in the queue for another lease from now on."""
    until = str(round(time.time() + lease))
    access_point.edit(jobs_of(run), "CondorpoolLease", until)


def getenv_of(submitkwargs: Mapping[str, str]) -> str | None:
    """Return the user's ``getenv``, empty if another command sets the environment; else None."""
    given = {key.lower(): value for key, value in submitkwargs.items()}
    if not given.keys() & {"environment", "env", "getenv", "get_env"}:
        return None
    return given.get("getenv") or given.get("get_env") or ""
