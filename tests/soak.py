"""Break what condorpool stands on, at random moments, for as long as you like.

    python tests/soak.py [ROUNDS [SEED [KIND...]]]

Each round makes calls on a personal HTCondor of its own and lets one fault happen (see `KINDS`, and
``soak_rounds.py``, which has the rounds in one process).  Whatever it was, and whenever it came:
results are exact, or an error of the right class says so while all other values stay exact; nothing
hangs; and in the end no job, no process, no submit directory, and no entry of the registry remains.
A table has the counts of each kind.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

#: Rounds at the same time.
AT_ONCE = 3

#: Seconds after which a process of a round hangs, and within which a round must be cleaned up.
HANGS, CLEANED = 400, 300

ROUNDS = Path(__file__).with_name("soak_rounds.py")


class Fault(AssertionError):
    """What must not happen did."""


class Round:
    """One round: a folder, a registry, and a personal HTCondor that no other round has."""

    def __init__(self, number: int, scratch: Path, chance: random.Random) -> None:
        self.chance = chance
        self.home = scratch / str(number)
        self.folder = self.home / "work"
        self.folder.mkdir(parents=True)
        self.htcondor = self.home / "htcondor"
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(self.home / "state"),
            "CONDORPOOL_PERSONAL": str(self.htcondor),
            "CONDOR_CONFIG": os.devnull,
            "PYTHONPATH": os.pathsep.join([str(ROUNDS.parents[1]), str(ROUNDS.parent)]),
        }

    def start(self, kind: str, *words: object) -> subprocess.Popen[str]:
        """Start a process that makes the calls of a round."""
        seed = str(self.chance.randrange(10**9))
        with (self.home / "stderr").open("ab") as stderr:
            return subprocess.Popen(
                [sys.executable, ROUNDS, kind, seed, self.folder, *map(str, words)],
                env=self.environment, cwd=self.folder, text=True,
                stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
            )  # fmt: skip

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the last line that a process prints: what came of its calls."""
        try:
            out, _ = process.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler writes where it hangs
            process.wait()
            raise Fault(f"hangs\n{self.errors()}") from None
        try:
            return dict(json.loads(out.splitlines()[-1]))
        except (IndexError, ValueError):
            raise Fault(f"ended with {process.returncode}\n{self.errors()}") from None

    def errors(self) -> str:
        """Return the end of what the round's processes have written to stderr."""
        return (self.home / "stderr").read_text(errors="replace")[-6000:]

    def command(self, *words: str) -> str:
        """Run the command line of condorpool."""
        done = subprocess.run(
            [sys.executable, "-m", "condorpool", *words], check=False,
            env=self.environment, cwd=self.folder, text=True, capture_output=True, timeout=HANGS,
        )  # fmt: skip
        return done.stdout

    def processes(self) -> Iterator[psutil.Process]:
        """Yield all processes of this round: they have its folder in their environment."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if f"{self.home}/" in str([*process.environ().values(), *process.cmdline()]):
                    yield process

    def cleaners(self) -> list[psutil.Process]:
        """Return the cleaners of this round."""
        return [each for each in self.processes() if "condorpool.cleaner" in str(each.cmdline())]

    def entries(self) -> list[Path]:
        """Return the files of the registry that stand for a submit directory."""
        return [path for path in (self.home / "state").rglob("*.json") if path.is_file()]

    def remains(self) -> list[str]:
        """Return what is left of the round, in words."""
        found = [
            f"directory {path.name} with {[each.name for each in path.iterdir()]}"
            for path in self.folder.rglob(".condorpool-*")
        ]
        found += [f"entry {path.name}" for path in self.entries()]
        if not found:  # asking all processes takes long
            found += [f"process {' '.join(each.cmdline())[:120]}" for each in self.processes()]
        return found

    def check_clean(self) -> None:
        """Wait until nothing is left; meanwhile do what the user's next process would do."""
        end = time.monotonic() + CLEANED
        swept = 0.0
        while remains := self.remains():
            if time.monotonic() > end:
                raise Fault("\n".join(["remains:", *remains, self.log()]))
            if time.monotonic() > swept + 5:
                self.command("clean")
                swept = time.monotonic()
            time.sleep(0.5)

    def remove_all(self) -> None:
        """Delete all submit directories, as their user does."""
        for known in json.loads(self.command("ls", "--json")):
            self.command("rm", "--yes", known["submit_directory"])

    def log(self) -> str:
        """Return what the cleaners have written down."""
        logs = (self.home / "state").rglob("*.log")
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in logs)

    def end(self) -> None:
        """End what a failed round has left."""
        for process in list(self.processes()):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def in_one_process(kind: str) -> Callable[[Round], str]:
    """Return the function for a round whose fault comes from its own process."""

    def play(this: Round) -> str:
        made = this.finish(this.start(kind))
        if made["fault"]:
            raise Fault(f"{made['fault']}\n{this.errors()}")
        return str(made["came"])

    return play


def owner_killed(this: Round) -> str:
    """Kill the owner, maybe its cleaner, and maybe a process that resumes its calls."""
    chance = this.chance
    on_exit = chance.choice(["wait", "wait", "remove"])
    scan = "scan" if on_exit == "wait" and chance.random() < 0.5 else ""
    owner = this.start("owner", on_exit, scan)
    assert owner.stdout
    owner.stdout.readline()
    time.sleep(chance.uniform(0, 2.5) ** 2 / 2)  # more often early than late
    also = chance.random()
    if also < 0.3:
        _kill(this.cleaners())
    owner.kill()
    if 0.2 < also < 0.6:
        time.sleep(chance.uniform(0, 2))
        _kill(this.cleaners())
    if also > 0.9:  # a reboot: nothing runs any more
        _kill(list(this.processes()))
    maps = [json.loads(line) for line in owner.stdout.read().splitlines()]
    owner.stdout.close()
    owner.wait()
    if maps and scan and chance.random() < 0.5:
        attached = this.start("attach", f"{scan}-0")
        time.sleep(chance.uniform(0, 3))
        attached.kill()
        attached.communicate()
    if maps and scan:
        check_named(this, maps, scan)
    this.check_clean()
    made = {path.name for path in this.folder.iterdir()}
    lost = [name for names in maps for name in names if name not in made]
    if lost and on_exit == "wait":
        raise Fault(f"calls {lost} were not made\n{this.log()}")
    return "exact"


def check_named(this: Round, maps: list[list[str]], scan: str) -> None:
    """Resume the maps that have a name, compare their values, and remove them."""
    for number, names in enumerate(maps):
        found = this.finish(this.start("attach", f"{scan}-{number}"))
        if found.get("values") != names:
            raise Fault(f"{scan}-{number}: {found} instead of {names}\n{this.log()}")
    this.remove_all()


def outcome_damaged(this: Round) -> str:
    """Damage an outcome on disk before it is read: never a wrong value, others stay."""
    owner = this.start("finished", "scan")
    assert owner.stdout
    expected = json.loads(owner.stdout.readline())
    end = time.monotonic() + HANGS
    while len(outcomes := sorted(this.folder.glob(".condorpool-*/*.outcome"))) < len(expected):
        if time.monotonic() > end:
            raise Fault(f"no outcomes\n{this.errors()}")
        time.sleep(0.05)
    owner.kill()
    owner.communicate()
    damaged = this.chance.choice(outcomes)
    how = damage(damaged, outcomes, this.chance)
    found = this.finish(this.start("attach", "scan"))
    first = int(damaged.name.partition("-")[2].partition(".")[0])
    got = found.get("partly") or found.get("values")
    wrong = [n for n, value in enumerate(got or [None]) if value not in {expected[n], None}]
    missing = [n for n, value in enumerate(got or [None]) if value is None]
    if wrong or not set(missing) <= {first}:
        raise Fault(f"{how} {damaged.name}: {found}")
    this.remove_all()
    this.check_clean()
    return found["error"] if missing else "exact"


def damage(path: Path, others: list[Path], chance: random.Random) -> str:
    """Damage a file in one of many ways; return which."""
    data = bytearray(path.read_bytes())
    how = chance.choice(
        ["flipped", "flipped", "truncated", "emptied", "folder", "replaced", "longer", "deleted"]
    )
    if how == "flipped":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "truncated":
        del data[chance.randrange(len(data)) :]
    elif how == "emptied":
        data.clear()
    elif how == "longer":
        data += b"x"
    elif how == "replaced":
        data = bytearray(chance.choice([each for each in others if each != path]).read_bytes())
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "deleted":
        path.write_bytes(data)
    return how


#: The faults; in which process they happen.
KINDS: dict[str, Callable[[Round], str]] = {
    "owner killed": owner_killed,
    "outcome damaged": outcome_damaged,
    **{
        kind: in_one_process(kind)
        for kind in (
            "daemon killed", "guardian killed", "jobs acted on", "disk full", "files deleted",
            "directory renamed", "no descriptors", "no memory", "big stdout",
        )
    },
}  # fmt: skip


def play(number: int, seed: int, kind: str, scratch: Path) -> tuple[str, str]:
    """Play a round; return its kind and what came of it."""
    this = Round(number, scratch, random.Random(f"{seed}-{number}"))
    try:
        came = KINDS[kind](this)
        this.check_clean()
    except Exception as error:  # noqa: BLE001 - it is reported
        came = "FAULT"
        print(
            f"round {number} ({kind}, seed {seed}): {type(error).__name__}: {error}\n", flush=True
        )
    this.end()
    shutil.rmtree(this.home, ignore_errors=True)
    return kind, came


def main(kinds: list[str], count: int = 200, seed: int | None = None) -> int:
    """Play rounds, some at once, and return the number of faults."""
    seed = random.randrange(10**6) if seed is None else seed
    names = [name for name in KINDS if not kinds or name.replace(" ", "-") in kinds]
    if len(names) < len(kinds):
        sys.exit(f"the kinds are {', '.join(name.replace(' ', '-') for name in KINDS)}")
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        threads = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
        rounds = [
            threads.submit(play, n, seed, names[n % len(names)], Path(scratch))
            for n in range(count)
        ]
        try:
            for done in concurrent.futures.as_completed(rounds):
                kind, came = done.result()
                counts[kind][came] += 1
        finally:  # also when it is stopped before
            threads.shutdown(cancel_futures=True)
            print(f"{sum(sum(each.values()) for each in counts.values())} rounds (seed {seed})")
            for kind, came_of in counts.items():
                words = ", ".join(f"{number} {what}" for what, number in sorted(came_of.items()))
                print(f"{kind:20} {sum(came_of.values()):4}  {words}", flush=True)
    return sum(came_of["FAULT"] for came_of in counts.values())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    words = [word for word in sys.argv[1:] if not word.isdigit()]
    sys.exit(min(1, main(words, *numbers)))
