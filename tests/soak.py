"""Kill processes that use condorpool, and their cleaners, at random moments.

    python tests/soak.py [NUMBER [SEED]]

Whatever was killed and when: in the end no job, no directory, no process and no entry of
the registry remains, and with ``on_exit="wait"`` every posted call was made.  All results
of maps with a name can then be read until `condorpool rm`, even if a process that took
them up was killed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from condorpool import personal
from condorpool.cleaner import custody, registry
from condorpool.interface.leftovers import leftovers

OWNER = """
import json, os, sys, time
import condorpool

def work(name, seconds):
    time.sleep(seconds)
    open(name, "w").close()
    return name

htcondor, folder, on_exit, missing, scan = sys.argv[1:]
print("READY", flush=True)
pool = condorpool.Pool(processes=2, personal=htcondor, submitdir=folder, on_exit=on_exit)
for number in range(20):
    names = [f"{number}-{i}" for i in range(4)]
    called = scan and f"{scan}-{number}"
    result = pool.starmap_async(work, [(name, 0.2) for name in names], chunksize=1, name=called)
    print(json.dumps(names), flush=True)
    if number % 5 == 1:
        pool.apply_async(abs, (1,), submitkwargs={"transfer_input_files": missing,
                                                  "should_transfer_files": "YES"})
    if number % 3 == 2:
        pool.starmap(work, [(f"{number}-{i}", 0) for i in "xyz"], chunksize=1)
    time.sleep(0.1)
"""


ATTACH = "import sys, condorpool; condorpool.attach(sys.argv[1]).get()"


def kill_cleaner(owner: Path | None) -> None:
    """Kill the cleaner of an owner's folder, whatever it is doing."""
    for process in psutil.process_iter() if owner else ():
        with contextlib.suppress(psutil.Error):
            if str(owner) in process.cmdline():
                process.kill()


def lost_results(maps: list[list[str]], scan: str) -> list[str]:
    """Return the results that cannot be read of maps with a name; remove these maps."""
    kept = [each for each in leftovers() if each.name.startswith(f"{scan}-")]
    values = {each.name: each.values() for each in kept}
    lost = [
        name
        for number, names in enumerate(maps)
        for name, value in zip(names, values.get(f"{scan}-{number}", [None] * 4), strict=True)
        if name != value
    ]
    for run in {each.run for each in kept}:
        subprocess.run(
            [sys.executable, "-m", "condorpool", "rm", run], check=True, stdout=subprocess.DEVNULL
        )
    return lost


def kill_one(number: int, chance: random.Random, htcondor: Path, base: Path) -> str:
    """Start an owner, kill it and maybe its cleaner; return what was lost, in words."""
    folder = base / f"owner-{number}"
    folder.mkdir()
    on_exit = chance.choice(["wait", "wait", "remove"])
    scan = folder.name if on_exit == "wait" and chance.random() < 0.5 else ""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, htcondor, folder, on_exit, folder / "missing", scan],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert owner.stdout
    owner.stdout.readline()
    mine = f"{owner.pid}-"
    time.sleep(chance.uniform(0, 2.5) ** 2 / 2)  # more often early than late
    home = next((f for f in registry.folders() if f.name.startswith(mine)), None)
    also = chance.random()
    if also < 0.3:
        kill_cleaner(home)
    owner.kill()
    if 0.2 < also < 0.6:
        time.sleep(chance.uniform(0, 2))
        kill_cleaner(home)
    if scan and chance.random() < 0.5:
        command = [sys.executable, "-c", ATTACH, f"{scan}-0"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as attached:
            time.sleep(chance.uniform(0, 2))
            attached.kill()
    maps = [json.loads(line) for line in owner.stdout.read().splitlines()]
    owner.stdout.close()
    owner.wait()
    end, lost = time.monotonic() + 240, []
    while list(folder.glob(".condorpool-*")) or (home and home.exists()):
        if time.monotonic() > end:
            return f"{folder} ({on_exit}): {list(folder.iterdir())}"
        entries = [entry for entry in registry.everything() if entry.path.parent == folder]
        if scan and entries and not any(entry.owner for entry in entries):
            lost += lost_results(maps, scan)
            scan = ""
        custody.sweep()  # what the user's next process would do
        if chance.random() < 0.05:
            kill_cleaner(home)
        time.sleep(0.5)
    if lost or (scan and maps):
        return f"{folder}: the results {lost or maps} are lost"
    posted = [name for names in maps for name in names]
    lost = [name for name in posted if on_exit == "wait" and not (folder / name).exists()]
    return f"{folder}: calls {lost} were not made" if lost else ""


def main(count: int = 200, seed: int | None = None) -> int:
    """Kill ``count`` owners, four at a time, and return the number of faults."""
    seed = random.randrange(10**6) if seed is None else seed
    chance = random.Random(seed)
    settings = {"MEMORY": "100000"}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_STATE_HOME"] = f"{scratch}/state"
        base = Path(scratch, "work")
        base.mkdir()
        htcondor = personal.start(Path(scratch, "personal"), cpus=12, settings=settings)
        with htcondor, concurrent.futures.ThreadPoolExecutor(4) as threads:
            faults = list(
                threads.map(
                    lambda n: kill_one(n, random.Random(chance.random()), htcondor.folder, base),
                    range(count),
                )
            )
            faults = [fault for fault in faults if fault]
            end = time.monotonic() + 30
            while registry.folders() and time.monotonic() < end:  # those of `condorpool rm`
                time.sleep(0.5)
            jobs = htcondor.access_point().query(
                "true", ["ClusterId", "CondorpoolRun", "JobStatus"]
            )
            faults += [f"a job remains: {job}" for job in jobs]
            faults += [f"an entry remains: {entry}" for entry in registry.everything()]
            faults += [f"a folder remains: {folder}" for folder in registry.folders()]
            faults += [f"a directory remains: {path}" for path in base.glob("*/.condorpool-*")]
            if faults:
                print((registry.state() / registry.LOG).read_text()[-20_000:])
    print(f"{count} owners killed (seed {seed})", *faults, sep="\n")
    return len(faults)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(min(1, main(*map(int, sys.argv[1:]))))
