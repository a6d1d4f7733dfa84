"""The commands for the submit directories of processes that run or have ended.

It is longer than other modules since each command brings its options and its help.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle

from condorpool.cleaner import custody, registry
from condorpool.cleaner.registry import Entry
from condorpool.cli.console import Cell, agrees, as_json, calls, jobs_in_words, say, table, warn
from condorpool.engine.counts import CallCounts
from condorpool.engine.description import jobs_of
from condorpool.engine.records import BatchRecord
from condorpool.engine.submitdir import SubmitDir
from condorpool.interface.leftovers import Leftover, Missing, found_in
from condorpool.interface.names import Kept
from condorpool.values.events import STATE_OF_STATUS
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorError,
    JobRemovedError,
    words_of,
)
from condorpool.values.matching import did_you_mean, meant
from condorpool.values.text import one_line, plural

# A command adds its parser to these, and sets what it runs as `run`.
Commands = Any

#: Seconds to wait for a cleaner that deletes directories.
PATIENCE = 20.0

_NAME = "the name of calls, or the name or path of a submit directory; or how only that name begins"


@dataclass(frozen=True)
class Listed:
    """A submit directory, its calls, and the records of batches whose calls cannot be counted.

    Parameters
    ----------
    unreadable
        What else is in it and cannot be read, if anything.
    """

    entry: Entry
    calls: list[Leftover]
    others: list[BatchRecord]
    unreadable: str

    @property
    def names(self) -> set[str]:
        """The names that stand for it or its calls."""
        names = {each.name for each in self.calls} | {
            each.name or each.title for each in self.others
        }
        return {self.entry.run, *names}

    def only(self, name: str) -> Listed:
        """Return it with the calls that a name stands for."""
        if name == self.entry.run:
            return self
        return replace(
            self,
            unreadable="",
            calls=[each for each in self.calls if each.name == name],
            others=[each for each in self.others if (each.name or each.title) == name],
        )

    def is_all_of(self, whole: Listed) -> bool:
        """Return whether this has all that is in the directory."""
        return (self.names, self.unreadable) == (whole.names, whole.unreadable)

    @property
    def counts(self) -> CallCounts:
        """How many of all its calls are in each state."""
        return CallCounts(*map(sum, zip(*(each.counts for each in self.calls), strict=True)))


def add(commands: Commands) -> None:
    """Add the commands."""

    def command(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        return parser

    def names(parser: argparse.ArgumentParser, several: str) -> None:
        parser.add_argument("names", nargs=several, metavar="NAME", help=_NAME)

    def json(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    ls = command("ls", _ls, "list your calls and submit directories: in use, unfinished, or kept")
    ps = command("ps", _ps, "show unfinished work, and its jobs")
    clean = command("clean", _clean, "clean up after processes that were killed")
    show = command("show", _show, "show how far calls are, and which errors they raised")
    results = command(
        "results",
        _results,
        "print the results of calls, or write them to a file; exits with 1 if some have none",
    )
    rm = command("rm", _rm, "delete submit directories with their results, and remove their jobs")
    logs = command(
        "logs", _logs, "show what was cleaned up, when and why, and the error output of jobs"
    )
    for parser in (ls, ps, logs):
        names(parser, "*")
    rm.add_argument("-y", "--yes", action="store_true", help="do not ask")
    names(rm, "+")
    for parser in (show, results):
        parser.add_argument("name", metavar="NAME", help=_NAME)
    clean.add_argument(
        "--gone",
        metavar="HOST",
        help="keep the submit directories of a machine that will not come back",
    )
    results.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write a pickled list: the value of each call, or the exception that says why there "
        "is none",
    )
    for parser in (ls, ps, show, results):
        json(parser)


# -- looking -----------------------------------------------------------------------------
def _ls(arguments: argparse.Namespace) -> int:
    listed = _chosen(arguments.names)
    if arguments.json:
        as_json([_facts(each) for each in listed])
        return 0
    if not listed:
        say("There are no submit directories: no work is under way, and no results are kept.")
        return 0
    rows = []
    for each in listed:
        state, run = _state(each.entry), Cell(each.entry.run)
        for known in each.calls:
            when = _cells(known.time, known.cell, known.notebook)
            rows.append([Cell(known.name), calls(known.counts), *when, run, state])
        for other in each.others:
            what = "an iterator" if other.calls is None else "not all written"
            when = _cells(other.time, other.cell, "")
            rows.append([Cell(other.name or other.title), Cell(what), *when, run, state])
        if each.unreadable:
            why = Cell(each.unreadable, "red")
            rows.append([Cell("-"), Cell("cannot be read"), *_cells(each.entry.since), run, why])
        elif not each.calls and not each.others:
            rows.append([Cell("-"), Cell("no calls"), *_cells(each.entry.since), run, state])
    table(("name", "calls", "submitted", "where", "submit directory", "state"), rows)
    return 0


def _cells(when: float, cell: int = 0, notebook: str = "") -> list[Cell]:
    """Return when and where calls were submitted."""
    where = Path(notebook).name + (f" [{cell}]" if cell else "")
    return [Cell(_when(when)), Cell(where.strip())]


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _ps(arguments: argparse.Namespace) -> int:
    rows, facts = [], []
    for each in _chosen(arguments.names):
        jobs, problem = _jobs(each.entry)
        if not (each.entry.owner or jobs or arguments.names):
            continue  # kept, and without jobs: no work
        facts.append({**_facts(each), "jobs": jobs, "problem": problem})
        how_far = calls(each.counts) if each.calls else Cell("")
        rows.append(
            [
                Cell(each.entry.run),
                Cell(problem or jobs_in_words(jobs)),
                how_far,
                _state(each.entry),
            ]
        )
    if arguments.json:
        as_json(facts)
    elif rows:
        table(("submit directory", "jobs", "calls", "state"), rows)
    else:
        say("No work is under way.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    facts = []
    for each in _chosen([arguments.name]):
        for known in each.calls:
            errors = Counter(map(_in_line, known.words().values())).most_common(10)
            facts.append(
                {
                    **_facts(replace(each, calls=[])),
                    **_facts_of_calls(known),
                    "errors": [{"error": error, "calls": count} for error, count in errors],
                }
            )
            if arguments.json:
                continue
            where = f" in cell {known.cell}" if known.cell else ""
            where += f" of {known.notebook}" if known.notebook else ""
            say(f"{known.name}: {known.counts.summary}")
            say(f"    submitted {_when(known.time)}{where}")
            say(f"    {_state(each.entry).text}\n    {each.entry.path}")
            for error, count in errors:
                say(f"    {count:,} x {error}")
        if each.unreadable and not arguments.json:
            say(f"{each.entry.run}: {each.unreadable}")
        if not each.calls and arguments.json:
            facts.append({**_facts(each), "errors": []})
        elif not each.calls:
            say(f"{each.entry.run}: it has no calls that can be counted")
            say(f"    {_state(each.entry).text}\n    {each.entry.path}")
    if arguments.json:
        as_json(facts)
    return 0


def _results(arguments: argparse.Namespace) -> int:
    known = sorted(
        (found for each in _chosen([arguments.name]) for found in each.calls),
        key=lambda found: found.time,
    )
    if not known:
        raise CondorPoolError(
            f"{arguments.name!r} has no calls whose results are here: iterators pass theirs on."
        )
    latest = known[-1]
    if len(known) > 1:
        warn(
            f"{arguments.name!r} stands for {plural(len(known), 'map')}: these are the results of "
            f"the latest, {latest.name!r} in {latest.run}."
        )
    values, counts = latest.values(), latest.counts
    if arguments.output:
        _write(arguments.output, values)
        say(f"{arguments.output}: {counts.summary}")
    elif arguments.json:
        as_json({**_facts_of_calls(latest), "results": [_fact(value) for value in values]})
    else:
        say("\n".join(map(_shown, values)))
    missing = sum(value is Missing or isinstance(value, BaseException) for value in values)
    if not missing:
        return 0
    warn(f"{plural(missing, 'call')} without a value: {counts.summary}")
    return 1


def _write(path: Path, values: Sequence[Any]) -> None:
    """Write a list that can be read without condorpool, if its values can."""
    there = [
        LookupError(f"call {number} has not been made yet") if value is Missing else value
        for number, value in enumerate(values)
    ]
    try:
        data = cloudpickle.dumps(there)
    except Exception as error:
        raise CondorPoolError(f"the results cannot be pickled: {words_of(error)}.") from error
    path.write_bytes(data)


def _shown(value: Any) -> str:
    """Return the result of a call in words that are no Python value if there is none."""
    if value is Missing:
        return "(not made yet)"
    if isinstance(value, BaseException):
        return f"({_end_of(value)}: {_in_words(value)})"
    return words_of_value(value)


def _fact(value: Any) -> dict[str, str]:
    if value is Missing:
        return {"state": "not made yet"}
    if isinstance(value, BaseException):
        return {"state": _end_of(value), "error": _in_words(value)}
    return {"state": "done", "value": words_of_value(value)}


def words_of_value(value: Any) -> str:
    """Return the ``repr`` of a value, or its class if its own code fails."""
    try:
        return repr(value)
    except BaseException as error:  # noqa: BLE001 - the user's class may raise anything
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def _end_of(error: BaseException) -> str:
    return "removed" if isinstance(error, JobRemovedError) else "failed"


def _in_words(error: BaseException) -> str:
    return _in_line(f"{type(error).__name__}: {words_of(error)}")


def _in_line(text: str) -> str:
    return one_line(text, 500)


# -- cleaning up -------------------------------------------------------------------------
def _clean(arguments: argparse.Namespace) -> int:
    if arguments.gone:
        kept = custody.disown(arguments.gone)
        for entry in kept:
            say(
                f"{entry.path}: kept. Take it up with condorpool.attach(), or remove it with "
                f"`condorpool rm {entry.run}`."
            )
        if not kept:
            hint = did_you_mean(arguments.gone, [o.host for o in registry.folders().values()])
            say(
                f"Nothing to keep: {arguments.gone} has no submit directory that is not in use.{hint}"
            )
        return 0
    leftover = custody.sweep()
    for entry in leftover:
        say(
            f"{entry.path}: clean-up has started (on_exit={entry.on_exit!r}). "
            "See its jobs with `condorpool ps`."
        )
    if not leftover:
        kinds = Counter(_kind(entry) for entry in registry.everything())
        rest = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        there = f" Submit directories: {rest} (see `condorpool ls`)." if rest else ""
        say(f"Nothing to clean up.{there}")
    return 0


def _rm(arguments: argparse.Namespace) -> int:
    everything = {each.entry.run: each for each in _everything()}
    chosen: dict[str, Listed] = {}
    for name in arguments.names:
        found = _named(name, list(everything.values()))
        if len(found) > 1:
            runs = ", ".join(each.entry.run for each in found)
            raise CondorPoolError(
                f"{name!r} stands for calls in several submit directories: {runs}. Name one of "
                "these. Nothing was deleted."
            )
        (each,) = found
        before = chosen.get(each.entry.run, replace(each, calls=[], others=[]))
        chosen[each.entry.run] = replace(
            each,
            calls=before.calls + [one for one in each.calls if one not in before.calls],
            others=before.others + [one for one in each.others if one not in before.others],
            unreadable=before.unreadable or each.unreadable,
        )
    for run, each in chosen.items():
        if each.entry.in_use:
            named = [known.name for known in each.calls if known.digest]
            there = f", or run condorpool.forget({named[0]!r}) there" if named else ""
            raise CondorPoolError(
                f"{run} is {each.entry.in_use}: {each.entry.cure}{there}. Nothing was deleted."
            )
        others = everything[run].names - each.names
        if not each.is_all_of(everything[run]) and (
            each.others or not all(known.digest for known in each.calls)
        ):
            raise CondorPoolError(
                f"{run} has other calls, too: {', '.join(sorted(others)) or 'unreadable ones'}. "
                f"`condorpool rm {run}` deletes all of them. Nothing was deleted."
            )
    say("This deletes, with all results and jobs:")
    table(("submit directory", "calls"), [_doomed(each) for each in chosen.values()])
    if not agrees("Delete?", yes=arguments.yes):
        say("Nothing was deleted.")
        return 1
    whole = []
    for run, each in chosen.items():
        if each.is_all_of(everything[run]):
            whole.append(each.entry)
            continue
        for known in each.calls:  # results that have a name: the directory stays for the others
            Kept(known.digest, known.notebook, leftover=known).forget()
            say(f"{known.name}: removed from {each.entry.path}")
    return _delete(whole)


def _doomed(each: Listed) -> list[Cell]:
    texts = [f"{known.name}: {known.counts.summary}" for known in each.calls]
    texts += [other.name or other.title for other in each.others]
    return [Cell(each.entry.run), Cell("; ".join(texts) or "no calls")]


def _delete(entries: Sequence[Entry]) -> int:
    """Have cleaners delete submit directories, and wait for a while until they are gone."""
    rest, tries = {entry.path: entry for entry in entries}, Counter[Path]()

    def is_over(path: Path) -> bool:
        entry = rest.get(path)
        is_kept = entry and entry.owner is None and tries[path] >= custody.TRIES
        return entry is None or bool(entry.in_use or is_kept)

    end = time.monotonic() + PATIENCE
    while not all(map(is_over, rest)) and time.monotonic() < end:
        for path, entry in rest.items():
            # A cleaner that was about to keep it may do so once more.
            if not tries[path] or (entry.owner is None and not is_over(path)):
                tries[path] += 1
                with contextlib.suppress(FileNotFoundError):  # it was taken up or cleaned up
                    custody.delete(entry)
        time.sleep(0.1)
        rest = {entry.path: entry for entry in registry.everything() if entry.path in tries}
    for path in tries:
        found = rest.get(path)
        if found is None:
            say(f"{path}: removed")
        elif is_over(path):
            say(f"{path}: not removed: {found.in_use or found.note}")
        else:
            say(f"{path}: is being removed. {found.note}".rstrip() + " See `condorpool ps`.")
    return int(any(map(is_over, rest)))


def _logs(arguments: argparse.Namespace) -> int:
    log = registry.state() / registry.LOG
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = text.splitlines()
    everything = _everything()
    # Of directories that no longer exist, the log alone knows the names.
    logged = set(re.findall(r"(condorpool-[0-9a-f]+): ", text))
    runs = {run for name in arguments.names for run in _runs(name, everything, logged)}
    if arguments.names:
        lines = [line for line in lines if any(f"{run}:" in line for run in runs)]
    if lines:
        say("\n".join(lines))
    errors = [
        (file, text)
        for each in everything
        if not arguments.names or each.entry.run in runs
        for file in sorted(each.entry.path.glob("job-*.err"))
        if (text := SubmitDir(each.entry.path).tail(file.name))
    ]
    for file, text in errors:
        say(f"--- {file}\n{text}")
    if not lines and not errors:
        say("Nothing was cleaned up yet, and no job has written to its standard error.")
    return 0


def _runs(name: str, everything: Sequence[Listed], logged: set[str]) -> list[str]:
    """Return the submit directories that a name stands for, also those that were cleaned up."""
    known = set.union(logged, *(each.names for each in everything))
    word = _meant(name, known, everything)
    return [each.entry.run for each in everything if word in each.names] or [word]


# -- names -------------------------------------------------------------------------------
def _everything() -> list[Listed]:
    """Return all submit directories of this user, the oldest first."""
    entries = [entry for entry in registry.everything() if not entry.was_deleted]
    return [_listed(entry) for entry in sorted(entries, key=lambda entry: entry.since)]


def _listed(entry: Entry) -> Listed:
    known, unreadable = found_in(entry)
    counted = {number for each in known for number, _ in each.chain}
    batches = SubmitDir(entry.path).batches()
    others = [b for n, b in sorted(batches.items()) if n not in counted and b.reruns is None]
    return Listed(entry, known, others, unreadable)


def _chosen(names: Iterable[str]) -> list[Listed]:
    """Return the submit directories that names stand for, with these calls; all if there are none."""
    everything = _everything()
    names = list(names)
    return [found for name in names for found in _named(name, everything)] if names else everything


def _named(name: str, everything: Sequence[Listed]) -> list[Listed]:
    word = _meant(name, set().union(*(each.names for each in everything)), everything)
    return [each.only(word) for each in everything if word in each.names]


def _meant(name: str, known: set[str], everything: Sequence[Listed]) -> str:
    """Return the one name that is meant."""
    return meant(
        name,
        known,
        {each.entry.run: each.entry.path for each in everything},
        unknown=f"nothing is named {name!r}",
        hint="`condorpool ls` lists all names.",
    )


# -- states ------------------------------------------------------------------------------
def _kind(entry: Entry) -> str:
    """Return what happens to a submit directory, in a word or two."""
    if entry.owner is None:
        return "kept"
    if entry.in_use:
        return "in use"
    return "being cleaned up" if registry.is_claimed(entry.file.parent) else "left behind"


def _state(entry: Entry) -> Cell:
    owner = entry.owner
    if owner is None:
        return Cell(entry.note or "kept")
    if entry.in_use:
        return Cell(entry.in_use, "green")
    if registry.is_claimed(entry.file.parent):
        begins = f"process {owner.pid} has ended; clean-up starts in a moment"
        return Cell(entry.note or begins, "yellow")
    text = f"process {owner.pid} has ended: clean up after it with `condorpool clean`"
    return Cell(text, "yellow")


def _jobs(entry: Entry) -> tuple[dict[str, int], str]:
    """Return how many jobs are in each state, and why that is not known, if so."""
    try:
        access_point = entry.access_point()
        jobs = access_point.query(jobs_of(entry.run), ["JobStatus"]) if access_point else []
    except HTCondorError as error:
        return {}, str(error)
    return dict(Counter(STATE_OF_STATUS[job["JobStatus"]].word for job in jobs)), ""


def _facts(listed: Listed) -> dict[str, Any]:
    """Return what `ls --json` says of a submit directory."""
    entry = listed.entry
    owner = entry.owner
    return {
        "submit_directory": entry.run,
        "path": str(entry.path),
        "state": _kind(entry),
        "note": entry.note,
        "unreadable": listed.unreadable or None,
        "on_exit": entry.on_exit,
        "process": {"pid": owner.pid, "host": owner.host} if owner else None,
        "calls": [_facts_of_calls(each) for each in listed.calls],
    }


def _facts_of_calls(known: Leftover) -> dict[str, Any]:
    counts = known.counts
    return {
        "name": known.name,
        "submitted": known.time,
        "notebook": known.notebook,
        "cell": known.cell or None,
        "counts": {"total": counts.total, **counts._asdict()},
    }
