"""The configuration of a personal HTCondor, and its account and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from condorpool.personal import guardian
from condorpool.personal.install import Installation, user_name

# HTCondor never runs jobs as root, and its daemons need an account: "nobody".
ACCOUNT = 65534
_CAPABILITIES = "-all,+dac_override,+dac_read_search,+fowner"

MARK = guardian.MARK

#: Seconds for which slots are kept; with a negotiation every second, longer gains nothing.
CLAIMS = 2.0

_CONFIGURATION = """\
# Written by condorpool for one personal HTCondor.
RELEASE_DIR = {installation.sbin.parent}
SBIN = {installation.sbin}
BIN = {installation.bin}
LIBEXEC = {installation.libexec}
LIB = {installation.lib}
LOCAL_DIR = {local}
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
RUN = $(LOCAL_DIR)/run
use ROLE: Personal

# This machine only.
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
USE_SHARED_PORT = False
COLLECTOR_PORT = 0
COLLECTOR_HOST = $(CONDOR_HOST):$(COLLECTOR_PORT)
MASTER_ADDRESS_FILE = $(RUN)/master_address
COLLECTOR_ADDRESS_FILE = $(RUN)/collector_address
SCHEDD_ADDRESS_FILE = $(RUN)/schedd_address

# This user only: the schedd would run the jobs of all users under one account.
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
# Otherwise root gets the name of the daemons' account (condor_auth_fs.cpp).
FS_ROOT_TO_CONDOR = False
SEC_PASSWORD_DIRECTORY = $(LOCAL_DIR)/passwords.d
SEC_TOKEN_DIRECTORY = $(LOCAL_DIR)/tokens.d
SEC_TOKEN_SYSTEM_DIRECTORY = $(LOCAL_DIR)/tokens.d
ALLOW_READ = {users}
ALLOW_WRITE = {users}
ALLOW_DAEMON = {users}
ALLOW_NEGOTIATOR = {users}
ALLOW_ADMINISTRATOR = {users}

# Short waits matter more here than large numbers of jobs.
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 0
NEGOTIATOR_CYCLE_DELAY = 0
SCHEDD_INTERVAL = 1
SCHEDD_MIN_INTERVAL = 0
UPDATE_INTERVAL = 2
# Otherwise each user has twenty offers a cycle (schedd.cpp, CurbMatchmaking): twenty jobs that
# match nothing use them up, and no other job is ever offered.
SCHEDD_ENABLE_PER_USER_MATCH_LIMITS = False
# Otherwise a starter asks its shadow what to do after the transfer of files and, if the shadow
# does not know of its end yet, asks again 5 s later (genericRequestGuidance in jic_shadow.cpp).
GUIDANCE_MUMS_THE_WORD = True
# A job that is removed while its slot is being claimed leaves a claim that the schedd does not
# know and the startd holds for half an hour.  So the startd takes unused slots back after 5 s.
IS_OWNER = State =?= "Claimed" && Activity =?= "Idle" && time() - EnteredCurrentActivity > 5
POLLING_INTERVAL = 2

# After a restart jobs must not have the ids of earlier ones, whose files may remain.
SCHEDD_CLUSTER_INITIAL_VALUE = {first}
# The queue's file is written anew once an hour, should another program have deleted it.
QUEUE_CLEAN_INTERVAL = 3600

# One slot, from which each job takes what it requests.
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
{cpus}
RUNBENCHMARKS = 0
# HTCondor asks each plugin at the start what it can do; the others take half a second.
FILETRANSFER_PLUGINS = $(LIBEXEC)/curl_plugin, $(LIBEXEC)/data_plugin
# Answering in the collector itself is quicker than in a child.
COLLECTOR_QUERY_WORKERS = 0
SINGULARITY = /usr/bin/false
MAIL = /bin/true
# A new installation must not restart daemons that run.
MASTER_CHECK_NEW_EXEC_INTERVAL = 0
# A daemon that crashed or was restarted comes back in 2 s, not in 10.
MASTER_BACKOFF_CONSTANT = 1
# A job that uses more memory than it requested is held, within seconds.
use POLICY : HOLD_IF_MEMORY_EXCEEDED
STARTER_INITIAL_UPDATE_INTERVAL = 1
STARTER_UPDATE_INTERVAL = 3
PID_SNAPSHOT_INTERVAL = 2
STARTER_JOB_ENVIRONMENT = "{mark}={folder}"
"""


def fair_memory() -> int:
    """Return the memory that a job gets for each CPU, in MiB.

    HTCondor's own default, 128 MiB, holds every job that imports numpy.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return max(128, int(0.8 * total / (os.cpu_count() or 1)))


def make_local(local: Path) -> None:
    """Make the folders that HTCondor's programs write to."""
    for path in (local, *(local / name for name in guardian.FOLDERS)):
        path.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(path, ACCOUNT, ACCOUNT)
    # Root's jobs run in here under the daemons' account, and list it.
    (local / "execute").chmod(0o755)


def text(
    folder: Path,
    installation: Installation,
    cpus: int | None,
    settings: Mapping[str, str],
    first: int,
) -> str:
    """Return HTCondor's configuration for the personal one in this folder.

    ``first`` is the number of the first cluster.
    """
    number = "" if cpus is None else f"NUM_CPUS = {cpus}"
    configured = _CONFIGURATION.format(
        installation=installation,
        folder=folder,
        local=folder / "local",
        users=_allowed_users(),
        cpus=number,
        first=first,
        mark=MARK,
    )
    return configured + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _allowed_users() -> str:
    """Return the users that may talk to the daemons, in HTCondor's syntax."""
    names = [user_name()]
    if os.geteuid() == 0:
        # Root's name where HTCondor's own account exists.
        names.append("condor")
    return ", ".join(f"{name}@*/127.0.0.1" for name in names)


def master(installation: Installation) -> list[str]:
    """Return the command that starts all daemons."""
    command = [str(installation.master), "-f"]
    if os.geteuid() != 0:
        return command
    # Without no_setuid_fixup the starter's access() check refuses an interpreter
    # in root's home.
    return [
        "setpriv",
        f"--reuid={ACCOUNT}",
        f"--regid={ACCOUNT}",
        "--clear-groups",
        f"--inh-caps={_CAPABILITIES}",
        f"--ambient-caps={_CAPABILITIES}",
        f"--bounding-set={_CAPABILITIES}",
        "--securebits=+no_setuid_fixup",
        # Changing the account cleared the signal that the guardian set.
        "--pdeathsig=QUIT",
        *command,
    ]


def daemon_environment(folder: Path, installation: Installation) -> dict[str, str]:
    """Return the environment of the daemons."""
    # Nothing else of the user's: HTCondor also reads settings from the environment,
    # and the notebook's library paths could break its programs.
    kept = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    return {**inherited, **environment(folder, installation), MARK: str(folder)}


def environment(folder: Path, installation: Installation) -> dict[str, str]:
    """Return the variables by which HTCondor's tools find the one in this folder."""
    path = os.environ.get("PATH", os.defpath)
    variables = {
        "CONDOR_CONFIG": str(folder / "condor_config"),
        "PATH": os.pathsep.join([str(installation.bin), str(installation.sbin), path]),
    }
    if os.geteuid() == 0:
        # The tools stay root, because only root may read the configuration.
        variables["CONDOR_IDS"] = "0.0"
    return variables
