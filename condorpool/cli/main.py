"""The command ``condorpool``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from condorpool import personal
from condorpool.cli import demo, submitdirs
from condorpool.values.exceptions import CondorPoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A command adds its parser to these, and sets what it runs as `run`.
Commands = Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = _parser().parse_args(argv)
    # As Ctrl-C does: raise, so that unfinished work is cleaned up on the way out.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(arguments.run(arguments))
    except CondorPoolError as error:
        print(f"condorpool: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("condorpool: interrupted", file=sys.stderr)
        return 130


def _terminate(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="condorpool", description="multiprocessing.Pool whose calls run as HTCondor jobs."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo.add(commands)
    submitdirs.add(commands)
    _add_personal(commands)
    return parser


# condorpool personal


def _add_personal(commands: Commands) -> None:
    text = "an HTCondor of your own on this machine"
    parser = commands.add_parser("personal", help=text, description=f"Run {text}.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    install = _add(
        actions, "install", _install, "find or install HTCondor's programs, without root"
    )
    install.add_argument(
        "--force", action="store_true", help="install even if HTCondor is installed"
    )
    install.add_argument("--mirror", metavar="URL", help="the Debian mirror to download from")

    start = _add(
        actions, "start", _start, "start a personal HTCondor, which runs until you stop it"
    )
    start.add_argument("--cpus", type=int, metavar="N", help="offer N CPUs (default: all)")

    stop = _add(
        actions, "stop", _stop, "stop the personal HTCondor, and delete its folder and jobs"
    )
    stop.add_argument("--keep-folder", action="store_true", help="keep its files, to read the logs")

    status = _add(actions, "status", _status, "show whether one runs, who uses it, and its jobs")
    env = _add(
        actions,
        "env",
        _env,
        'print shell variables for its condor_q etc.: eval "$(condorpool personal env)"',
    )
    for action in (start, stop, status, env):
        action.add_argument("--folder", metavar="DIR", help="the folder with its files")


def _add(
    actions: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _install(arguments: argparse.Namespace) -> int:
    # Flushed, because pipes are buffered and the user waits.
    found = personal.install(
        force=arguments.force,
        mirror=arguments.mirror,
        progress=lambda line: print(line, flush=True),
    )
    print(f"HTCondor {found.version} ({found.source}): {found.sbin}")
    return 0


def _start(arguments: argparse.Namespace) -> int:
    running = personal.start(
        arguments.folder,
        detached=True,
        cpus=arguments.cpus,
        progress=lambda line: print(line, flush=True),
    )
    print(
        f"A personal HTCondor {running.installation.version} runs in {running.folder}.\n"
        "Pool() uses it; `condorpool personal stop` ends it."
    )
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    ran = personal.stop(arguments.folder, keep_folder=arguments.keep_folder)
    print("Stopped." if ran else "No personal HTCondor runs.")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    known = personal.status(arguments.folder)
    if not known.running:
        why = f" (condor_master {known.ended})" if known.ended else ""
        print(
            f"No personal HTCondor runs in {known.folder}{why}. "
            "Start one with `condorpool personal start`."
        )
        return 1
    jobs = ", ".join(f"{count} {state}" for state, count in known.jobs.items())
    users = ", ".join(map(str, known.users))
    print(f"A personal HTCondor {known.version} runs in {known.folder}")
    print(f"  processes  condor_master {known.master_pid}, guardian {known.guardian_pid}")
    print(f"  CPUs       {known.cpus}")
    print(f"  jobs       {jobs or 'none'}")
    print(f"  used by    {f'process {users}' if users else 'no process'}")
    print(f"  stays      {'until stopped' if known.detached else 'while it is used or has jobs'}")
    return 0


def _env(arguments: argparse.Namespace) -> int:
    for name, value in personal.environment(arguments.folder).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0
