"""The command ``condorpool``."""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import condorpool
from condorpool import personal
from condorpool.cli import demo, submitdirs
from condorpool.cli.console import agrees, jobs_in_words, say, warn
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.matching import did_you_mean
from condorpool.values.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A command adds its parser to these, and sets what it runs as `run`.
Commands = Any


#: The status of programs that were interrupted, or whose reader has gone: as a shell shows it.
INTERRUPTED, NO_READER = 128 + signal.SIGINT, 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as with `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have any letters
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # As `| head` does.  What Python could not write is dropped, else it complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    # As Ctrl-C does: raise, so that unfinished work is cleaned up on the way out.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:
        raise
    except CondorPoolError as error:
        warn(str(error))
        return 1
    except OSError as error:
        warn(f"{error.filename or 'error'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        warn("interrupted")
        return INTERRUPTED


def _terminate(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


#: What other programs, and condorpool's functions, call a command.
_OTHER_WORDS = {
    "list": "ls",
    "status": "ps",
    "jobs": "ps",
    **dict.fromkeys(("forget", "remove", "delete"), "rm"),
}


class _Parser(argparse.ArgumentParser):
    """A parser that suggests the command or the option that may be meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an option that there is not, where the options that there are are known."""
        found, rest = super().parse_known_args(args, namespace)
        if wrong := [word.partition("=")[0] for word in rest if word.startswith("-")]:
            known = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"there is no option {wrong[0]}.{did_you_mean(wrong[0], known)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        if wrong := re.search(r"invalid choice: '(.*?)' \(", message):
            word = ast.literal_eval(f"'{wrong[1]}'")
            known = [name for action in self._actions for name in action.choices or ()]
            other = _OTHER_WORDS.get(word, word)
            message = f"there is no command {word!r}.{did_you_mean(other, known)}"
        super().error(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="condorpool", description="multiprocessing.Pool whose calls run as HTCondor jobs."
    )
    parser.add_argument(
        "--version", action="version", version=f"condorpool {condorpool.__version__}"
    )
    commands = _commands(parser, title="commands", metavar="COMMAND")
    demo.add(commands)
    submitdirs.add(commands)
    _add_personal(commands)
    return parser


def _commands(parser: argparse.ArgumentParser, **words: Any) -> Commands:
    """Add commands to a parser, which shows its help if none is given."""

    def show_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=show_help)
    return parser.add_subparsers(**words)


# condorpool personal


def _add_personal(commands: Commands) -> None:
    text = "an HTCondor of your own on this machine"
    parser = commands.add_parser("personal", help=text, description=f"Run {text}.")
    actions = _commands(parser, title="actions", metavar="ACTION")

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
    start.add_argument("--cpus", type=_count, metavar="N", help="offer N CPUs (default: all)")

    stop = _add(
        actions, "stop", _stop, "stop the personal HTCondor, and delete its folder and jobs"
    )
    stop.add_argument("-y", "--yes", action="store_true", help="do not ask, even if it has jobs")
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


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"takes a whole number of 1 or more, not {text!r}")
    return int(text)


def _add(
    actions: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _install(arguments: argparse.Namespace) -> int:
    found = personal.install(force=arguments.force, mirror=arguments.mirror, progress=say)
    say(f"HTCondor {found.version} ({found.source}): {found.sbin}")
    return 0


def _start(arguments: argparse.Namespace) -> int:
    running = personal.start(arguments.folder, detached=True, cpus=arguments.cpus, progress=say)
    say(
        f"A personal HTCondor {running.installation.version} runs in {running.folder}.\n"
        "Pool() uses it; `condorpool personal stop` ends it."
    )
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    known = personal.status(arguments.folder)
    if known.running and known.jobs:
        say(f"The personal HTCondor in {known.folder} has jobs: {jobs_in_words(known.jobs)}.")
        if not agrees("Stop it, and remove them?", yes=arguments.yes):
            say("Nothing was stopped.")
            return 1
    ran = personal.stop(arguments.folder, keep_folder=arguments.keep_folder)
    say("Stopped." if ran else f"No personal HTCondor runs in {known.folder}.")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    known = personal.status(arguments.folder)
    if not known.running:
        why = f" (condor_master {known.ended})" if known.ended else ""
        say(
            f"No personal HTCondor runs in {known.folder}{why}. "
            "Start one with `condorpool personal start`."
        )
        return 1
    users = ", ".join(map(str, known.users))
    say(
        f"A personal HTCondor {known.version} runs in {known.folder}\n"
        f"    processes  condor_master {known.master_pid}, guardian {known.guardian_pid}\n"
        f"    CPUs       {known.cpus}\n"
        f"    jobs       {jobs_in_words(known.jobs)}\n"
        f"    used by    {f'process {users}' if users else 'no process'}\n"
        f"    stays      {'until stopped' if known.detached else 'while it is used or has jobs'}"
    )
    return 0


def _env(arguments: argparse.Namespace) -> int:
    for name, value in personal.environment(arguments.folder).items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201 - a shell reads it
    return 0
