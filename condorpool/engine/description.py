"""The submit description: exactly what HTCondor gets for one call of map."""

from __future__ import annotations

import dataclasses
import difflib
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
from condorpool.engine import submitdir as names
from condorpool.engine.payload import PROGRAM
from condorpool.runner.program import PYTHON

#: Jobs of a map that are in the queue at once, at most, when the user sets no limit.
#: Ten times as many keep the access point, and all who ask it, waiting for a second.
QUEUE_LIMIT = 1_000

#: What the program loader, the C library and the interpreter read when they start; nothing
#: secret is in these.  PYTHON_CPU_COUNT is HTCondor's to set.
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

#: Options of the interpreter that change what calls come to; others, like the
#: frozen_modules=off of notebooks, only take time.
_X_OPTIONS = (
    "dev", "utf8", "int_max_str_digits", "warn_default_encoding", "no_debug_ranges", "gil",
    "context_aware_warnings", "thread_inherit_context",
)  # fmt: skip

#: Started like this the program comes compiled, out of the archive beside it.
START = (
    "import os, sys; "
    # No folder of the user's is first where the interpreter was told so (-P).
    "sys.path[: sys.path[:1] == ['']] = ['', os.path.abspath(sys.argv.pop(1))]; "
    f"import {PROGRAM} as program; program.main(sys.argv[1:])"
)


@dataclass(frozen=True)
class JobOptions:
    """How jobs are described, and what becomes of them.

    Calls whose options differ never share a job.

    Parameters
    ----------
    submitkwargs
        The user's own commands, checked; they win.
    python
        Interpreter on the execution point; None for this one's path, or whatever
        Python of the same version the execution point has.
    task_timeout
        Seconds that a call may take.
    processes
        The most jobs at once, if the user said so.
    cpus
        How many CPUs the HTCondor pool has.
    linger
        Seconds that a runner waits for the next call, or a slot is kept for it.
    retire_after
        Seconds after which a runner takes no new chunk.
    maxtasksperchild
        Chunks that a runner makes; None for any number.
    """

    submitkwargs: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    task_timeout: float | None = None
    processes: int | None = None
    cpus: int = 1
    linger: float = 0.0
    retire_after: float = math.inf
    maxtasksperchild: int | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    killstats: tuple[str, ...] = ("Held", "Suspended")
    cleanup: bool = True
    cleanfailed: bool = False
    cleanupfiles: tuple[str, ...] = ()

    def recorded(self) -> dict[str, Any]:
        """Return all that can be written down; the initializer is in the crew's file."""
        facts = dict(vars(self))
        del facts["initializer"], facts["initargs"]
        return {**facts, "submitkwargs": dict(self.submitkwargs)}

    @classmethod
    def restored(cls, facts: Mapping[str, Any], *initializer: Any) -> JobOptions:
        """Return what was recorded, maybe by another version of condorpool."""
        names = {known.name for known in dataclasses.fields(cls)}
        kept = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in facts.items()
            if name in names
        }
        return cls(**kept, initializer=initializer[0], initargs=initializer[1])

    def limit(self, *, is_resident: bool) -> int:
        """Return the most jobs at once: no more runners than they can have CPUs."""
        return self.processes or (min(self.cpus, QUEUE_LIMIT) if is_resident else QUEUE_LIMIT)


#: Keys that condorpool sets itself: with others it would not find its own files.
RESERVED = frozenset(
    """arguments error executable hold initial_dir initialdir input leave_in_queue log
    materialize_max_idle max_idle max_materialize noop_job output output_destination queue shell
    stderr stdin stdout transfer_executable transfer_output_remaps universe""".split()
)

# The second term is for jobs that a factory makes later: it cannot be edited itself.
_OUT_OF_LEASE = (
    "(JobStatus == 1 || JobStatus == 5) && time() > CondorpoolLease"
    " && time() > EnteredCurrentStatus + {}"
)

#: Seconds for which jobs that are idle or held outlive whoever wants them.
LEASE = 86_400.0

#: The submit commands of HTCondor 25 (condor_submit's manual page) that serve such jobs.
KNOWN = frozenset(
    """accounting_group accounting_group_user allow_arguments_v1 allow_environment_v1
    allowed_execute_duration allowed_job_duration append_files batch_extra_submit_args batch_id
    batch_name batch_project batch_queue batch_runtime buffer_block_size buffer_files
    buffer_size checkpoint_destination checkpoint_exit_code compress_files concurrency_limits
    concurrency_limits_expr container_image container_is_common container_service_names
    container_target_dir copy_to_spool core_size coresize cron_day_of_month cron_day_of_week
    cron_hour cron_minute cron_month cron_prep_time cron_window cuda_version dagman_log
    deferral_prep_time deferral_time deferral_window delegate_job_gsi_credentials_lifetime
    description disk_usage docker_image docker_network_type docker_override_entrypoint
    docker_pull_policy docker_send_credentials dont_encrypt_input_files
    dont_encrypt_output_files email_attributes encrypt_execute_directory encrypt_input_files
    encrypt_output_files env environment erase_output_and_error_on_restart exit_requirements
    fetch_files file_remaps get_env getenv gpus_maximum_capability gpus_minimum_capability
    gpus_minimum_memory gpus_minimum_runtime hold_kill_sig image_size job_ad_information_attrs
    job_lease_duration job_machine_attrs job_machine_attrs_history_length job_max_vacate_time
    jobset keep_claim_idle kill_sig kill_sig_timeout load_profile local_files manifest
    manifest_dir match_list_length max_job_retirement_time max_retries max_transfer_input_mb
    max_transfer_output_mb memory_usage mount_under_scratch next_job_start_delay nice_user
    notification notify_user on_exit_hold on_exit_hold_reason on_exit_hold_subcode
    on_exit_remove periodic_hold periodic_hold_reason periodic_hold_subcode periodic_release
    periodic_remove periodic_vacate preferences preserve_relative_paths primary_unix_group prio
    priority project_name public_input_files rank remove_kill_sig request_cpus request_disk
    request_gpus request_memory require_gpus requirements retry_request_disk
    retry_request_memory retry_request_memory_increase retry_request_memory_max retry_until
    run_as_owner scitokens_file send_credential should_transfer_files skip_filechecks
    skip_if_dataflow stack_size starter_debug starter_log stream_error stream_input
    stream_output submit_event_notes submit_event_user_notes success_exit_code
    suspend_job_at_exec transfer_checkpoint_files transfer_common_input transfer_container
    transfer_error transfer_input transfer_input_files transfer_output transfer_output_files
    transfer_plugins ulog_execute_attrs use_oauth_services use_scitoken use_scitokens
    use_x509userproxy want_ads want_graceful_removal want_io_proxy want_job_networking
    when_to_transfer_output x509userproxy""".split()
)

#: Sites invent resources (``request_fpgas``) and services (``mytoken_oauth_scopes``).
_OPEN = re.compile(r"request_\w+|require_\w+|\w+_oauth_\w+|my\.\w+|\+\w+", re.IGNORECASE)

_LISTS = ("transfer_input_files", "transfer_output_files")


def check(submitkwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return submit commands as HTCondor takes them.

    Raises
    ------
    TypeError, ValueError
        A key or value that HTCondor would misread or ignore, named.
    """
    if not isinstance(submitkwargs, Mapping):
        raise TypeError(f"submitkwargs is a mapping, not {type(submitkwargs).__name__}")
    checked = {}
    for key, value in submitkwargs.items():
        if not isinstance(key, str):
            raise TypeError(f"submitkwargs key {key!r} is not a string")
        if key.lower() in RESERVED:
            raise ValueError(
                f"submitkwargs[{key!r}] is set by condorpool itself; leave it out. "
                f"Reserved are {', '.join(sorted(RESERVED))}."
            )
        # HTCondor reads them in any case of letters; here, equal ones must meet.
        checked[key.lower() if key.lower() in KNOWN else key] = _text(key, value)
    everything = " ".join(checked.values())
    for key in checked:
        used = f"$({key})" in everything
        if key.lower() not in KNOWN and not _OPEN.fullmatch(key) and not used:
            near = difflib.get_close_matches(key.lower(), KNOWN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see the condor_submit manual page."
            raise ValueError(
                f"submitkwargs[{key!r}] is no submit command of HTCondor, which would ignore it: "
                f"{hint} (An attribute of your own is written 'My.{key}'.)"
            )
    return checked


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, (str, int, float)):
        text = str(value)
    elif isinstance(value, (list, tuple)) and key.lower() in _LISTS:
        text = ", ".join(map(str, value))
    elif isinstance(value, os.PathLike):
        text = os.fspath(value)
    else:
        raise TypeError(
            f"submitkwargs[{key!r}] is a string, number or bool, not {type(value).__name__}"
        )
    if "\n" in text or "\x1f" in text:
        raise ValueError(f"submitkwargs[{key!r}] has a line break, which a submit command cannot")
    if text.rstrip().endswith("\\"):
        raise ValueError(
            f"submitkwargs[{key!r}] ends with a backslash, which would join it to the next command"
        )
    return text


def _quoted(arguments: list[str]) -> str:
    """Write arguments in HTCondor's "new" syntax."""
    words = ["'" + word.replace("'", "''") + "'" for word in arguments]
    return '"' + _literal(" ".join(words).replace('"', '""')) + '"'


def _literal(text: str) -> str:
    """Keep a path's dollar signs from being read as macros."""
    return text.replace("$", "$(DOLLAR)")


def title(name: str) -> str:
    """Write a name for people to see: HTCondor makes nothing of it."""
    # $$ cannot be quoted, and a backslash at the end would take the next command in.
    return _literal(re.sub(r"\$+", "$", name).rstrip("\\")) or "calls"


# What differs between the jobs of a cluster; no path has a NUL that could be taken for one.
_JOB, _CHUNK, _FIRST, _END = "\0job", "\0chunk", "\0first", "\0end"


def _filled(text: str) -> str:
    """Put HTCondor's macros where jobs differ."""
    text = text.replace(_JOB, "$(ClusterId).$(ProcId)")
    return re.sub("\0([a-z]+)", r"$(\1)", text)


def _environment(run: str) -> str:
    # Without a seed of the user's, the jobs of a run agree at least with each other on
    # the hashes of strings, and the order of sets.
    seed = zlib.crc32(run.encode())
    known = {"PYTHONHASHSEED": str(seed), **os.environ}
    if known["PYTHONHASHSEED"] == "random":
        known["PYTHONHASHSEED"] = str(seed)
    words = [
        f"{name}='" + known[name].replace("'", "''") + "'"
        for name in BEFORE_PYTHON
        if name in known and "\n" not in known[name]
    ]
    return '"' + _literal(" ".join(words).replace('"', '""')) + '"'


def interpreter_options() -> list[str]:
    """Return the options with which this interpreter was started, for the one of a job."""
    options = ["-O"] * sys.flags.optimize + ["-b"] * sys.flags.bytes_warning
    options += ["-s"] * sys.flags.no_user_site
    options += [f"-W{option}" for option in sys.warnoptions]
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
    """Describe the jobs of a crew.

    Parameters
    ----------
    batch
        Its number, for jobs that make one chunk each: the calls ``$(first)`` to
        ``$(end)``, from ``$(chunk)``.  None for resident runners.
    limit
        The most jobs that are in the queue at once.
    keep_claim
        Seconds for which HTCondor keeps the slot for the next jobs.
    lease
        Seconds after which jobs that wait leave the queue unless somebody renews
        it; 0 for never.
    shared
        Files with shared objects that go along.
    defaults
        Commands for this access point.
    """
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
        options.python or sys.executable,
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
        # A shell is everywhere, also where the submit directory is mounted noexec.
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
        # The factory makes jobs as others end, so that the queue stays short,
        # and submitting takes no time: 10,000 jobs in 30 ms.
        "max_materialize": str(limit),
        **defaults,
    }
    if batch is None:
        # HTCondor's channel from the job to the submit directory: chirp.
        description["want_io_proxy"] = "True"
    if keep_claim > 0:
        description["keep_claim_idle"] = str(round(keep_claim))
    if lease:
        description["My.CondorpoolLease"] = "0"
        description["periodic_remove"] = _OUT_OF_LEASE.format(round(lease))
    if sends_environment(options.submitkwargs):
        description["environment"] = _environment(run)
    for key, value in options.submitkwargs.items():
        name = key.lower() if key.lower() in description else key
        extends = name in _LISTS and description[name] != '""'
        description[name] = f"{description[name]}, {value}" if extends else value
        if name == "periodic_remove" and lease:
            description[name] = f"({value}) || ({_OUT_OF_LEASE.format(round(lease))})"
    return description


def renew(access_point: AccessPoint, run: str, lease: float) -> None:
    """Let the jobs of a run that wait stay in the queue for another lease from now on."""
    until = str(round(time.time() + lease))
    access_point.edit(f'CondorpoolRun == "{run}"', "CondorpoolLease", until)


def sends_environment(submitkwargs: Mapping[str, str]) -> bool:
    """Whether the environment goes along: not when the user says what a job gets."""
    return not {key.lower() for key in submitkwargs} & {"environment", "env", "getenv", "get_env"}
