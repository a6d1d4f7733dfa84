"""Measure what condorpool costs, against raw htcondor2 or multiprocessing in the same run.

    bench.py [ROW ...]

Starts its own personal HTCondor with two CPUs.  Prints medians, with the baseline
("floor" or "local") of the same run and the value to reach.  Nothing else should run
on the machine meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import multiprocessing
import os
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import psutil

import condorpool
from condorpool import personal
from condorpool.access.bindings import classad2, htcondor2

#: Seconds after which the negotiator and the slots are done with the last job.
PAUSE = 3.0

ROWS: dict[str, Callable[[personal.PersonalHTCondor, Path], None]] = {}


def row(function: Callable[[personal.PersonalHTCondor, Path], None]) -> Callable[..., None]:
    """Register a function as a row of the table, under its name."""
    ROWS[function.__name__.replace("_", "-")] = function
    return function


def raw(schedd: str, version: str, folder: Path, jobs: int) -> float:
    """Submit jobs that run an empty Python program; return the seconds until all have ended."""
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
    """Run code in a new interpreter; return the seconds that it takes, including startup."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    return time.perf_counter() - started


def compare(what: str, ours: list[float], floor: list[float], unit: str = "s") -> None:
    """Print a line of the table: our median, the floor's, and their ratio."""
    mine, theirs = statistics.median(ours), statistics.median(floor)
    print(
        f"{what:<44} {mine:8.3f} {unit:<3} floor {theirs:8.3f}   ratio {mine / theirs:5.2f}",
        flush=True,
    )


@row
def first_call(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure one call in a new process, against one raw job in a new process."""
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


def show(what: str, value: float, unit: str, against: str) -> None:
    """Print a line of the table: a value, and what to compare it with."""
    print(f"{what:<44} {value:8.4g} {unit:<3} {against}", flush=True)


def median(action: Callable[[], object], times: int) -> float:
    """Return the median time of an action, in seconds."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def trivial(x: int) -> int:
    """Return the next number."""
    return x + 1


@row
def warm(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure calls and maps while runners linger, against multiprocessing.Pool(2)."""
    with (
        condorpool.Pool(personal=htcondor, submitdir=folder) as pool,
        multiprocessing.Pool(2) as local,
    ):
        pool.map(time.sleep, [0.5] * 4, chunksize=1)  # starts both runners
        for what, calls, reach in (("1,000", 1000, 0.04), ("10,000", 10_000, 0.15)):
            ours = median(lambda n=calls: pool.map(trivial, range(n)), 9)
            floor = median(lambda n=calls: local.map(trivial, range(n)), 9)
            show(
                f"map of {what} trivial calls, warm", ours, "s", f"reach {reach}  local {floor:.4f}"
            )
        ours = median(lambda: pool.apply(abs, (-1,)), 101) * 1000
        floor = median(lambda: local.apply(abs, (-1,)), 101) * 1000
        show("warm single call", ours, "ms", f"reach 6  local {floor:.3f}")
        ours = median(lambda: pool.map(time.sleep, [0.1] * 200, chunksize=1), 1)
        show("200 calls of 0.1 s, of ideal", 100 * 10 / ours, "%", "reach 97")
        time.sleep(5)
        show(
            "single call after 5 s without calls",
            median(lambda: pool.apply(abs, (-1,)), 1) * 1000,
            "ms",
            "",
        )


@row
def million(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure 1,000,000 trivial calls in one map."""
    with (
        condorpool.Pool(personal=htcondor, submitdir=folder) as pool,
        multiprocessing.Pool(2) as local,
    ):
        pool.map(time.sleep, [0.5] * 4, chunksize=1)
        floor = median(lambda: local.map(trivial, range(1_000_000)), 1)
        before = _resident()
        ours = median(lambda: pool.map(trivial, range(1_000_000)), 1)
        show("1,000,000 trivial calls", ours, "s", f"reach {2 * floor + 2:.1f}  local {floor:.2f}")
        show("  memory kept", _resident() - before, "MiB", "")
        before, most, started = _resident(), 0.0, time.perf_counter()
        for value in pool.imap(trivial, iter(range(1_000_000)), 1000):
            if not value % 100_000:
                most = max(most, _resident() - before)
        show("imap of a generator of 1,000,000", time.perf_counter() - started, "s", "")
        show("  most additional memory", most, "MiB", "")


@row
def uneven(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure calls of which a few are long, with the default and with chosen chunk sizes."""
    seconds = [1.0] * 4 + [0.02] * 196
    with condorpool.Pool(personal=htcondor, submitdir=folder) as pool:
        pool.map(time.sleep, [0.5] * 4, chunksize=1)
        for size in (None, 1, 25, 100):
            took = median(lambda size=size: pool.map(time.sleep, seconds, size), 1)
            show(f"uneven calls, chunksize={size}, of ideal", 50 * sum(seconds) / took, "%", "")


@row
def arrays(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure sending 20 arrays of 10 MB to jobs, and getting 20 from them."""
    data = [numpy.full(1_250_000, float(i)) for i in range(20)]
    with condorpool.Pool(personal=htcondor, submitdir=folder) as pool:
        pool.map(numpy.ones, [1] * 4, chunksize=1)
        show(
            "20 arrays of 10 MB in, sums out",
            median(lambda: pool.map(numpy.sum, data), 5),
            "s",
            "reach 0.6",
        )
        sizes = [1_250_000] * 20
        show(
            "20 arrays of 10 MB out",
            median(lambda: pool.map(numpy.ones, sizes), 5),
            "s",
            "reach 1.4",
        )


@row
def slow_cycle(_: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure the second map where the negotiator works once a minute, as in production."""
    settings = {
        "NEGOTIATOR_INTERVAL": "60", "NEGOTIATOR_MIN_INTERVAL": "60", "NEGOTIATOR_CYCLE_DELAY": "60",
        "SCHEDD_INTERVAL": "300", "SCHEDD_MIN_INTERVAL": "5",
    }  # fmt: skip
    with personal.start(folder / "slow", cpus=2, settings=settings) as slow:
        time.sleep(12)
        with condorpool.Pool(personal=slow, submitdir=folder) as pool:
            pool.map(time.sleep, [1] * 4, chunksize=1)
            time.sleep(2)
            ours = median(lambda: pool.map(trivial, range(10)), 3)
            show("second map of 10, minute cycle, lingering", ours, "s", "reach 0.03")
        with condorpool.Pool(personal=slow, submitdir=folder) as pool:
            ours = median(lambda: pool.map(trivial, range(10)), 1)
            show("the same in a new pool, on a warm claim", ours, "s", "reach 0.3")


@row
def footprint(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure a client's memory, and count the files that remain after it."""
    place = folder / "footprint"
    code = (
        "import condorpool, pathlib, resource\n"
        f"with condorpool.Pool(personal={str(htcondor.folder)!r}, submitdir={str(place)!r}) as pool:\n"
        "    pool.map(abs, range(100_000))\n"
        "print(int(pathlib.Path('/proc/self/statm').read_text().split()[1]) / 256)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    show("client after a map of 100,000", float(done.stdout), "MiB", "reach 60")
    show("  files that remain", len(list(place.iterdir())), "", "reach 0")


@row
def thousand_jobs(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure 1,000 calls as 1,000 jobs, against 1,000 raw jobs."""
    place = htcondor.access_point()
    with condorpool.Pool(personal=htcondor, submitdir=folder, maxtasksperchild=1) as pool:
        started = time.perf_counter()
        pool.map(abs, range(1000), chunksize=1)
        ours = time.perf_counter() - started
    time.sleep(PAUSE)
    floor = raw(place.schedd_address, place.version, folder, 1000)
    compare("1,000 calls as 1,000 jobs", [ours], [floor])


def nap(_: int) -> tuple[float, float]:
    """Return when a short call began and ended."""
    begun = time.perf_counter()
    time.sleep(0.02)
    return begun, time.perf_counter()


@row
def reports(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure which part of their time runners report how many calls they have made."""
    for way, what in (("IF_NEEDED", "shared"), ("YES", "by chirp")):
        commands = {"should_transfer_files": way}
        with condorpool.Pool(2, personal=htcondor, submitdir=folder, submitkwargs=commands) as pool:
            times = pool.map(nap, range(1000), chunksize=500)
        gaps, seconds = [], 0.0
        for chunk in (times[:500], times[500:]):
            gaps += [after[0] - before[1] for before, after in itertools.pairwise(chunk)]
            seconds += chunk[-1][1] - chunk[0][0]
        usual = statistics.median(gaps)
        share = 100 * sum(max(0.0, gap - usual) for gap in gaps) / seconds
        show(f"reports of how many calls were made ({what})", share, "%", "reach < 1")


def _processor_seconds(htcondor: personal.PersonalHTCondor) -> Counter[str]:
    """Return the CPU seconds of HTCondor's processes so far, by their names."""
    used: Counter[str] = Counter()
    for process in psutil.Process(htcondor.master_pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            used[process.name()] += sum(process.cpu_times()[:2])
    return used


def _listings(folder: Path, seconds: float) -> float:
    """Return how often per second a folder is listed."""
    libc, opened, closed = ctypes.CDLL(None), 0x20, 0x10
    handle = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(handle, os.fsencode(folder), opened | closed)
    size, end = 0, time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        if select.select([handle], [], [], remaining)[0]:
            size += len(os.read(handle, 65536))
    os.close(handle)
    return size / 16 / 2 / seconds  # an event is 16 bytes, a listing two events


@row
def runners(_: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure what 60 idle runners that look for chunks by chirp cost the access point."""
    count, seconds, place = 60, 20.0, folder / "runners"
    submit = {"should_transfer_files": "YES", "request_memory": "32MB", "request_disk": "1MB"}
    with (
        # Starters send updates about their jobs as rarely as at a site.
        personal.start(
            folder / "many", cpus=count, settings={"STARTER_UPDATE_INTERVAL": "300"}
        ) as many,
        condorpool.Pool(
            count, personal=many, submitdir=place, submitkwargs=submit, linger=300
        ) as pool,
    ):
        pool.map(time.sleep, [12.0] * count, chunksize=1)  # starts all runners
        time.sleep(10)  # until the looks are at their rarest and the daemons are quiet
        (posted,) = place.glob("*/*.posted")
        log, costs, looks, lines = posted.parent / "events.log", [], 0.0, 0
        family = psutil.Process(many.master_pid).children(recursive=True)
        shadows = [p for p in family if p.name() == "condor_shadow"]
        programs = [p for p in family if not p.name().startswith("condor_")]
        for is_stopped in (False, True):  # the cost while runners are stopped is HTCondor's own
            for program in programs if is_stopped else []:
                program.suspend()
            before, lines_before = _processor_seconds(many), log.read_bytes().count(b"\n")
            rate = _listings(posted, seconds)
            used = _processor_seconds(many) - before
            costs.append({name: 100 * spent / seconds for name, spent in used.items()})
            if not is_stopped:
                looks, lines = rate, log.read_bytes().count(b"\n") - lines_before
        for program in programs:
            program.resume()
        memory = statistics.median(p.memory_full_info().pss for p in shadows) / 2**20
        show(f"{len(shadows)} idle runners: looks", looks, "/s", "")
        show("  lines of the event log", lines / seconds, "/s", "")
        for name in ("condor_shadow", "condor_starter", "condor_schedd"):
            busy, still = (cost.get(name, 0.0) for cost in costs)
            show(f"  all {name}s", busy, "%", f"of a core; runners stopped {still:.2f}")
        busy, still = (cost.get("condor_shadow", 0.0) for cost in costs)
        show("  a look", 10 * (busy - still) / looks, "ms", "of a shadow's CPU")
        # From 10 runners on, a crew looks 200 times a second in total.
        thousand = 200 * (busy - still) / looks + 1000 * still / len(shadows)
        show("  shadows of 1,000 idle runners", thousand, "%", "of a core, reach 10")
        show("  memory of a shadow (PSS)", memory, "MiB", "")


@contextlib.contextmanager
def dask_jobqueue(folder: Path) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Run two dask workers as HTCondor jobs."""
    from dask_jobqueue import HTCondorCluster
    from distributed import Client

    cluster = HTCondorCluster(
        cores=1, memory="1GB", disk="10MB", log_directory=str(folder / "dask")
    )
    with cluster, Client(cluster) as client:
        cluster.scale(2)
        client.wait_for_workers(2)
        yield (
            lambda: client.submit(abs, -1, pure=False).result(),
            lambda: client.gather(client.map(trivial, range(1000), pure=False)),
        )


@contextlib.contextmanager
def ipyparallel(folder: Path) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Run two engines on this machine, without HTCondor."""
    import ipyparallel

    with ipyparallel.Cluster(n=2, ipython_dir=str(folder / "ipython"), log_level=30) as client:
        view = client.load_balanced_view()
        yield (
            lambda: view.apply_sync(abs, -1),
            lambda: view.map_sync(trivial, range(1000), chunksize=125),
        )


@contextlib.contextmanager
def parsl(folder: Path) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Run two workers as HTCondor jobs."""
    import parsl
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import CondorProvider

    provider = CondorProvider(
        init_blocks=2, max_blocks=2, cores_per_slot=1, environment={"PATH": os.environ["PATH"]}
    )
    executor = HighThroughputExecutor(
        address="127.0.0.1", max_workers_per_node=1, provider=provider, encrypted=False
    )
    config = parsl.Config([executor], run_dir=str(folder / "parsl"), usage_tracking=0)
    with parsl.load(config):
        one, many = parsl.python_app(abs), parsl.python_app(trivial)
        yield (
            lambda: one(-1).result(),
            lambda: [future.result() for future in [many(x) for x in range(1000)]],
        )


@row
def peers(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure the same calls with other tools, if they are installed."""
    os.environ.update(htcondor.environment())  # they use HTCondor's command-line tools
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for peer in (dask_jobqueue, ipyparallel, parsl):
        if importlib.util.find_spec(peer.__name__) is None:
            continue
        started = time.perf_counter()
        with peer(folder) as (one, thousand):
            one()
            show(f"{peer.__name__}: start and first call", time.perf_counter() - started, "s", "")
            show("  warm single call", 1000 * median(one, 51), "ms", "")
            show("  map of 1,000 trivial calls, warm", median(thousand, 3), "s", "")


class LockWatch(threading.Thread):
    """Measures the longest time for which other threads could not run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.worst = 0.0
        self.done = False

    def run(self) -> None:
        """Sleep in short steps and keep the longest one."""
        last = time.perf_counter()
        while not self.done:
            time.sleep(0.001)
            now = time.perf_counter()
            self.worst, last = max(self.worst, now - last), now


@row
def submit_10000(htcondor: personal.PersonalHTCondor, folder: Path) -> None:
    """Measure how soon map_async returns for 10,000 jobs, and what they cost this process."""
    with condorpool.Pool(personal=htcondor, submitdir=folder, maxtasksperchild=1) as pool:
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
    """Measure the named rows, or all."""
    personal.install()
    with tempfile.TemporaryDirectory(prefix="condorpool-bench-") as name:
        folder = Path(name)
        with personal.start(folder / "personal", cpus=2) as htcondor:
            time.sleep(12)  # in its first 10 s a schedd does not keep claims (keep_claim_idle)
            for row_name in names or ROWS:
                ROWS[row_name](htcondor, folder)
                time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1:])
