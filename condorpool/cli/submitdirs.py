"""The commands for the submit directories of processes that run or have ended."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from condorpool.cleaner import custody, registry
from condorpool.cleaner.ending import in_words
from condorpool.cleaner.registry import Entry
from condorpool.engine.description import jobs_of
from condorpool.engine.records import BatchRecord
from condorpool.engine.submitdir import SubmitDir, run_of
from condorpool.interface.leftovers import Leftover, Missing, leftovers
from condorpool.values.exceptions import CondorPoolError, HTCondorError, words_of

# A command adds its parser to these, and sets what it runs as `run`.
Commands = Any


def add(commands: Commands) -> None:
    """Add the commands."""
    for name, run, text in (
        ("ls", _ls, "list your submit directories: in use, being cleaned up, or kept"),
        ("ps", _ps, "show the jobs of submit directories in use or being cleaned up"),
        ("clean", _clean, "clean up after processes that were killed"),
        ("show", _show, "show how many calls have ended, and how many failed with which error"),
        ("results", _results, "print the results of calls, or write them to a file"),
        ("rm", _rm, "remove submit directories and their jobs"),
        ("logs", _logs, "show what was cleaned up, when and why, and the error output of jobs"),
    ):
        parser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        if name in {"rm", "logs"}:
            several = "+" if name == "rm" else "*"
            parser.add_argument("names", nargs=several, metavar="NAME", help="as `ls` shows it")
        if name in {"show", "results"}:
            parser.add_argument(
                "name", metavar="NAME", help="the name of calls or of a submit directory"
            )
        if name == "clean":
            parser.add_argument(
                "--gone",
                metavar="HOST",
                help="keep the submit directories of a machine that will not come back",
            )
        if name == "results":
            parser.add_argument(
                "-o",
                "--output",
                metavar="FILE",
                type=Path,
                help="write a pickled list: values, exceptions, None for calls that have not ended",
            )


def _ls(_: argparse.Namespace) -> int:
    for entry in _entries():
        print(f"{entry.run}  {_state(entry)}\n    {entry.path}")
        directory = SubmitDir(entry.path)
        for number, batch in sorted(directory.batches().items()):
            if batch.reruns is None:
                print(f"    {_in_words(directory, number, batch)}")
    return 0


def _in_words(directory: SubmitDir, number: int, batch: BatchRecord) -> str:
    cell = f" in cell {batch.cell}" if batch.cell else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch.time))
    text = f"{batch.name or batch.title}{cell}, {when}"
    if batch.calls is None:  # an imap's results are deleted when they are delivered
        return text
    ended = directory.calls_ended(number, batch.crew, batch.calls)
    return f"{text}: {ended:,} of {batch.calls:,} calls have ended"


def _ps(_: argparse.Namespace) -> int:
    for entry in _entries():
        if entry.owner:
            print(f"{entry.run}  {_state(entry)}\n    {_jobs(entry)}")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    if arguments.gone:
        kept = custody.disown(arguments.gone)
        for entry in kept:
            print(
                f"{entry.path}: kept. Take it up with condorpool.attach(), or remove it with "
                f"`condorpool rm {entry.run}`."
            )
        if not kept:
            print(f"Nothing to keep: {arguments.gone} has no submit directory that is not in use.")
        return 0
    leftover = custody.sweep()
    for entry in leftover:
        print(
            f"{entry.path}: clean-up has started (on_exit={entry.on_exit!r}). "
            "See its jobs with `condorpool ps`."
        )
    if not leftover:
        print("Nothing was left behind.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    for leftover in _calls(arguments.name):
        failed = [value for value in leftover.values() if isinstance(value, BaseException)]
        print(
            f"{leftover.name}: {leftover.calls} calls, {leftover.ended} ended, "
            f"{len(failed)} of them failed"
        )
        print(f"    {_state(leftover.entry)}\n    {leftover.entry.path}")
        for error, count in Counter(
            f"{type(e).__name__}: {words_of(e)}" for e in failed
        ).most_common(10):
            print(f"    {count} x {error}")
    return 0


def _results(arguments: argparse.Namespace) -> int:
    values = [None if value is Missing else value for value in _calls(arguments.name)[-1].values()]
    if arguments.output:
        arguments.output.write_bytes(cloudpickle.dumps(values))
        print(f"{arguments.output}: {len(values)} results")
    else:
        print("\n".join(map(repr, values)))
    return 0


def _calls(name: str) -> list[Leftover]:
    named = [each for each in leftovers() if name == each.name or _is_end(name, each.run)]
    if not named:
        raise CondorPoolError(f"there are no calls named {name}: see `condorpool ls`.")
    return named


def _rm(arguments: argparse.Namespace) -> int:
    entries = [_find(name) for name in arguments.names]
    for entry in entries:
        if entry.in_use:
            raise CondorPoolError(f"{entry.run} is {entry.in_use}: {entry.cure}.")
    for entry in entries:
        if entry.owner:
            entry.write(on_exit="delete")  # its cleaner reads this, or a new one
        else:
            custody.adopt(entry, "delete")
        print(f"{entry.path}: is being removed, with its jobs")
    custody.sweep()
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    log = registry.state() / registry.LOG
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    names = arguments.names
    print("\n".join(line for line in lines if not names or any(name in line for name in names)))
    for entry in _entries():
        directory = SubmitDir(entry.path)
        for file in sorted(entry.path.glob("job-*.err")) if _is_named(entry, names) else ():
            if text := directory.tail(file.name):
                print(f"--- {file}\n{text}")
    return 0


def _entries() -> Iterator[Entry]:
    yield from sorted(registry.everything(), key=lambda entry: entry.since)


def _find(name: str) -> Entry:
    found = [entry for entry in _entries() if _is_named(entry, [name])]
    if len(found) != 1:
        many = "more than one" if found else "no"
        raise CondorPoolError(f"{many} submit directory is named {name}: see `condorpool ls`.")
    return found[0]


def _is_named(entry: Entry, names: Sequence[str]) -> bool:
    return any(_is_end(name, entry.run) for name in names)


def _is_end(name: str, run: str) -> bool:
    last = run_of(Path(name))
    return bool(last) and run.endswith(last)


def _state(entry: Entry) -> str:
    owner = entry.owner
    if owner is None:
        return entry.note or "kept"
    if entry.in_use:
        notebook = (SubmitDir.found(entry.path) or SubmitDir(entry.path)).manifest.notebook
        return entry.in_use + f" ({notebook})" * bool(notebook)
    if registry.is_claimed(entry.file.parent):
        return entry.note or f"process {owner.pid} has ended; clean-up starts in a moment"
    return f"process {owner.pid} has ended: clean up after it with `condorpool clean`"


def _jobs(entry: Entry) -> str:
    try:
        access_point = entry.access_point()
        jobs = access_point.query(jobs_of(entry.run), ["JobStatus"]) if access_point else []
    except HTCondorError as error:
        return str(error)
    return in_words(jobs) or "no jobs"
