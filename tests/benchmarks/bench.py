"""What condorpool costs, against raw htcondor2 in the same run, as a table of ratios.

    bench.py [ROW ...]

Starts a personal HTCondor with two CPUs for itself.  Each row is measured several
times in turn with its floor, and medians are compared.  Nothing else should run
on the machine meanwhile.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import condorpool
from condorpool import personal
from condorpool.access.bindings import classad2, htcondor2

#: Seconds after which negotiator and slots have forgotten the last job.
PAUSE = 3.0

ROWS: dict[str, Callable[[personal.PersonalHTCondor, Path], None]] = {}


def row(function: Callable[[personal.PersonalHTCondor, Path], None]) -> Callable[..., None]:
    """Make a function a row of the table, called by its name."""
    ROWS[function.__name__.replace("_", "-")] = function
    return function


def raw(schedd: str, version: str, folder: Path, jobs: int) -> float:
    """Submit jobs of an empty Python program with htcondor2 alone; return the seconds to their end."""
    log = folder / f"raw-{time.time_ns()}.log"
    log.touch()
    description = htcondor2.Submit(
        {
            "executable": sys.executable,
            "arguments": "-c pass",
            "transfer_executable": "False",
            "should_transfer_files": "IF_NEEDED",
            "initialdir": str(folder),
            "output": f"{log.name}.$(n).out",
            "error": f"{log.name}.$(n).err",
            "log": str(log),
            "request_cpus": "1",
        }
    )
    location = classad2.ClassAd({"MyAddress": schedd, "CondorVersion": version})
    started = time.perf_counter()
    htcondor2.Schedd(location).submit(
        description, itemdata=iter([{"n": str(n)} for n in range(jobs)])
    )
    ended, events = 0, htcondor2.JobEventLog(str(log))
    while ended < jobs:
        for event in events.events(stop_after=1):
            ended += event.type == htcondor2.JobEventType.JOB_TERMINATED
            if ended == jobs:
                break
    return time.perf_counter() - started


RAW_ONCE = """
import sys; sys.path.insert(0, {here!r})
import bench; from pathlib import Path
bench.raw({schedd!r}, {version!r}, Path({folder!r}), 1)
"""

POOL_ONCE = """
import condorpool
with condorpool.Pool(personal={htcondor!r}, submitdir={folder!r}, linger=0) as pool:
    assert pool.apply(abs, (-1,)) == 1
"""


def fresh(code: str) -> float:
    """Run code in a fresh interpreter; return the seconds it takes, all included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    return time.perf_counter() - started


def compare(what: str, ours: list[float], floor: list[float], unit: str = "s") -> None:
    """Print a line of the table."""
    mine, theirs = statistics.median(ours), statistics.median(floor)
    print(
        f"{what:<44} {mine:8.3f} {unit:<3} floor {theirs:8.3f}   ratio {mine / theirs:5.2f}",
        flush=True,
    )


@row
def first_call(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """One call in a fresh process, against one raw job in a fresh process."""
    place = htcondor.access_point()
    facts = {
        "here": str(Path(__file__).parent), "schedd": place.schedd_address, "version": place.version,
        "folder": str(folder), "htcondor": str(htcondor.folder),
    }  # fmt: skip
    ours, floor = [], []
    for _ in range(7):
        time.sleep(PAUSE)
        floor.append(fresh(RAW_ONCE.format(**facts)))
        time.sleep(PAUSE)
        ours.append(fresh(POOL_ONCE.format(**facts)))
    compare("first call of a fresh process", ours, floor)


@row
def thousand_jobs(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """1,000 calls as 1,000 jobs, against 1,000 raw jobs."""
    place = htcondor.access_point()
    with condorpool.Pool(personal=htcondor, submitdir=folder) as pool:
        started = time.perf_counter()
        pool.map(abs, range(1000), chunksize=1)
        ours = time.perf_counter() - started
    time.sleep(PAUSE)
    floor = raw(place.schedd_address, place.version, folder, 1000)
    compare("1,000 calls as 1,000 jobs", [ours], [floor])


class LockWatch(threading.Thread):
    """Measures for how long at most other threads could not run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.worst = 0.0
        self.done = False

    def run(self) -> None:
        """Sleep in small steps and note the longest."""
        last = time.perf_counter()
        while not self.done:
            time.sleep(0.001)
            now = time.perf_counter()
            self.worst, last = max(self.worst, now - last), now


@row
def submit_10000(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Return of a map_async of 10,000 jobs, and what the pending jobs cost this process."""
    with condorpool.Pool(personal=htcondor, submitdir=folder) as pool:
        pool.apply(abs, (1,))
        before = _resident()
        watch = LockWatch()
        watch.start()
        started = time.perf_counter()
        pool.map_async(abs, range(10_000), chunksize=1)
        took = time.perf_counter() - started
        time.sleep(3)
        watch.done = True
        print(f"{'map_async of 10,000 jobs returns after':<44} {took:8.3f} s")
        print(f"{'  longest hold of the interpreter lock':<44} {watch.worst:8.3f} s")
        print(f"{'  memory for 10,000 pending jobs':<44} {_resident() - before:8.1f} MiB")
        pool.terminate()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(names: list[str]) -> None:
    """Measure the rows that are named, or all."""
    personal.install()
    with tempfile.TemporaryDirectory(prefix="condorpool-bench-") as name:
        folder = Path(name)
        with personal.start(folder / "personal", cpus=2) as htcondor:
            time.sleep(12)  # a schedd is itself only after its first ten seconds
            for row_name in names or ROWS:
                ROWS[row_name](htcondor, folder)
                time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1:])
