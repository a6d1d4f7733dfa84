"""Submit commands that users add: ``submitkwargs``."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

from condorpool.engine.description import LISTS
from condorpool.interface.options import checks

#: Commands that condorpool sets itself: with other values it would not find its own files.
_RESERVED = frozenset(
    """arguments error executable hold initial_dir initialdir input leave_in_queue log
    materialize_max_idle max_idle max_materialize noop_job output output_destination queue shell
    stderr stdin stdout transfer_executable transfer_output_remaps universe""".split()
)

#: Submit commands of HTCondor 25 (condor_submit's manual page).  A key that is almost one of these is
#: a mistake, which HTCondor would ignore.  All others are passed on: sites define their own.
_KNOWN = frozenset(
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

#: The least similarity at which one name is a misspelling of another: one letter more or less, or
#: two that changed places.  ``request_tpus`` is no misspelling of ``request_gpus``.
_ALIKE = 0.92


def check(submitkwargs: Mapping[str, Any] | None) -> dict[str, str]:
    """Return submit commands as HTCondor takes them.

    Raises
    ------
    TypeError, ValueError
        HTCondor would misread or ignore a key or value; the message names it.
    """
    given = {} if submitkwargs is None else submitkwargs
    checks.kind("submitkwargs", given, Mapping, "a mapping")
    return {_key(key): _value(key, value) for key, value in given.items()}


def is_known(key: str) -> bool:
    """Return whether this is a submit command of HTCondor, or an attribute of the job."""
    return key.lower() in _KNOWN or key.lower().startswith(("my.", "+"))


def _key(key: str) -> str:
    """Return a key in lower case: HTCondor ignores case, and equal keys must replace each other."""
    checks.kind(f"the key {key!r} of submitkwargs", key, str, "a string")
    if not re.fullmatch(r"\+?[\w.]+", key):
        raise ValueError(f"submitkwargs[{key!r}]: a submit command is one word")
    command = key.lower()
    if command.lstrip("+").removeprefix("my.") == "limitdirectoryaccess":
        raise ValueError(
            f"submitkwargs[{key!r}] is set by condorpool itself: name more folders, or False for no "
            "limit, with limit_directory_access="
        )
    if command.startswith(("my.", "+")):
        return key  # an attribute of the job, which HTCondor shows as it is written
    if command in _RESERVED:
        raise ValueError(
            f"submitkwargs[{key!r}] is set by condorpool itself; omit it. "
            f"Reserved are {', '.join(sorted(_RESERVED))}."
        )
    near = difflib.get_close_matches(command, _KNOWN, n=1, cutoff=_ALIKE)
    if near and command not in _KNOWN:
        raise ValueError(
            f"submitkwargs[{key!r}] is not a submit command of HTCondor, which would ignore it: "
            f"did you mean {near[0]!r}? (An attribute of your own is written 'My.{key}'.)"
        )
    return command


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, (str, int, float)):
        text = str(value)
    elif isinstance(value, (list, tuple)) and key.lower() in LISTS:
        text = ", ".join(map(str, value))
    elif isinstance(value, os.PathLike):
        text = os.fspath(value)
    else:
        raise TypeError(
            f"submitkwargs[{key!r}] must be a string, number or bool, not {type(value).__name__}"
        )
    if "\n" in text or "\x1f" in text:
        raise ValueError(f"submitkwargs[{key!r}] must not contain a line break")
    if text.rstrip().endswith("\\"):
        raise ValueError(
            f"submitkwargs[{key!r}] must not end with a backslash: it would continue on the next line"
        )
    return text
