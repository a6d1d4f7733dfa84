"""The processes of ``soak.py``'s rounds: each makes calls, and most let a fault happen.

    python soak_rounds.py KIND SEED FOLDER [WORD...]

The last line that it prints is JSON: what came of the calls.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
from disks import tmpfs

import condorpool
from condorpool import CondorPoolError, JobFailedError, JobRemovedError, ResultTimeoutError

cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: Calls of a round, and seconds that its results may take: a daemon that was killed starts again.
CALLS, PATIENCE = 40, 150

Allowed = tuple[type[BaseException], ...]


def square(number: int, seconds: float = 0.05, size: int = 0) -> Any:
    """Return a number's square, and maybe many bytes."""
    time.sleep(seconds)
    return (number * number, b"x" * size) if size else number * number


def touch(name: str, seconds: float) -> str:
    """Leave a file that shows that the call was made."""
    time.sleep(seconds)
    Path(name).touch()
    return name


def shout(number: int, size: int) -> int:
    """Print much."""
    for _ in range(size // 1000):
        print("x" * 999)
    return number * number


class Verdict:
    """What came of a round's calls."""

    def __init__(self) -> None:
        self.came, self.fault = "exact", ""

    def check(self, result: Any, expected: list[Any], allowed: Allowed = ()) -> None:
        """Compare results; an error must be of an allowed class, and all other values exact."""
        try:
            values = result.get(timeout=PATIENCE)
        except ResultTimeoutError:
            self.fault = f"nothing came for {PATIENCE} s: {result.counts()}"
            return
        except allowed as error:
            self.came = type(error).__name__
            values = result.values(missing=None)
            expected = [e if v is not None else None for e, v in zip(expected, values, strict=True)]
        except BaseException as error:  # noqa: BLE001 - it is reported
            self.fault = f"{type(error).__name__}: {error}"
            return
        if values != expected:
            self.fault = f"wrong values: {str(values)[:500]}"


def new_pool(folder: str | Path, **options: Any) -> condorpool.Pool:
    """Return a pool on the round's personal HTCondor."""
    return condorpool.Pool(
        **{
            "personal": True,
            "processes": 3,
            "submitdir": folder,
            "progress": None,
            "jobkwargs": {"cleanfailed": True},
            **options,
        }
    )


def some_options(chance: random.Random) -> dict[str, Any]:
    """Return options that change the way of a call."""
    return {
        "maxtasksperchild": chance.choice([None, None, None, 1]),
        "submitkwargs": chance.choice([{}, {"should_transfer_files": "YES"}]),
        "linger": chance.choice([0, 5]),
    }


def during(
    chance: random.Random,
    folder: str,
    fault: Callable[[condorpool.Pool, Any], None],
    allowed: Allowed,
    **options: Any,
) -> Verdict:
    """Let a fault happen during a map; another one must be exact when the fault is over."""
    verdict = Verdict()
    expected = [n * n for n in range(CALLS)]
    with new_pool(folder, **{**some_options(chance), **options}) as pool:
        result = pool.map_async(square, range(CALLS), chunksize=chance.choice([None, 1, 7]))
        time.sleep(chance.uniform(0, 2.5))
        fault(pool, result)
        verdict.check(result, expected, allowed)
        if verdict.came != "exact" or verdict.fault:
            pool.terminate()
    if not verdict.fault:
        with new_pool(folder) as pool:
            verdict.check(pool.map_async(square, range(10)), expected[:10])
    return verdict


def of_this_round(names: str) -> Iterator[psutil.Process]:
    """Yield the processes of this round's HTCondor that have one of these words in their command."""
    home = os.environ["CONDORPOOL_PERSONAL"]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if any(name in command for name in names.split()) and home in str(process.environ()):
                assert process.pid != os.getpid()
                yield process


def daemon_killed(chance: random.Random, folder: str) -> Verdict:
    """Kill one or two of HTCondor's processes."""

    def kill(pool: condorpool.Pool, result: Any) -> None:
        for name in chance.sample(DAEMONS, chance.choice([1, 1, 2])):
            for process in list(of_this_round(name))[:1]:
                with suppress(psutil.Error):
                    process.kill()
            time.sleep(chance.uniform(0, 1))

    return during(chance, folder, kill, ())


DAEMONS = [f"condor_{name}" for name in "schedd startd negotiator collector shadow starter".split()]


def guardian_killed(chance: random.Random, folder: str) -> Verdict:
    """Kill the process that guards the personal HTCondor, its master, or all of it."""

    def kill(pool: condorpool.Pool, result: Any) -> None:
        for process in of_this_round(
            chance.choice(["personal/guardian.py", "condor_master", "personal/guardian.py condor_"])
        ):
            with suppress(psutil.Error):
                process.kill()

    return during(chance, folder, kill, (CondorPoolError,))


def jobs_acted_on(chance: random.Random, folder: str) -> Verdict:
    """Hold, remove, evict, and suspend jobs, in any order; then let them go."""

    def act(pool: condorpool.Pool, result: Any) -> None:
        for _ in range(chance.randrange(1, 8)):
            jobs = [job for job in result.jobs if not job.state.is_final]
            verb = chance.choice(["hold", "release", "remove", "vacate", "suspend", "Continue"])
            if jobs:
                getattr(chance.choice(jobs), verb)()
            time.sleep(chance.uniform(0, 0.6))
        for _ in range(2):  # an action on a job in transition may come to nothing
            result.release()
            result.Continue()
            time.sleep(1)

    return during(chance, folder, act, (JobRemovedError, JobFailedError), on_hold=_release)


def _release(job: Any) -> str:
    return "release"


@contextmanager
def small_disk(folder: str) -> Iterator[str]:
    """Mount a file system of 3 MB."""
    small = Path(folder, "small")
    with tmpfs(small, "3m"):
        yield str(small)
    small.rmdir()


def disk_full(chance: random.Random, folder: str) -> Verdict:
    """Fill the file system of the submit directory with outcomes, or with something else."""
    verdict = Verdict()
    with small_disk(folder) as small:
        with new_pool(small, **some_options(chance)) as pool:
            size = chance.choice([0, 200_000])
            result = pool.starmap_async(square, [(n, 0.05, size) for n in range(CALLS)])
            if not size:
                time.sleep(chance.uniform(0, 1.5))
                fill(f"{small}/filler")
            grow = ["mount", "-o", "remount,size=40m", small]  # calls wait for room
            threading.Timer(chance.uniform(0.5, 6), subprocess.run, [grow]).start()
            expected = [square(n, 0, size) for n in range(CALLS)]
            verdict.check(result, expected, (CondorPoolError, OSError))
            if verdict.came != "exact" or verdict.fault:
                pool.terminate()
        if not verdict.fault:
            with new_pool(small) as pool:
                verdict.check(pool.map_async(square, range(10)), [n * n for n in range(10)])
    return verdict


def fill(path: str) -> None:
    """Write a file until its file system is full."""
    with suppress(OSError), Path(path).open("wb") as file:
        while True:
            file.write(b"x" * 4096)


def files_deleted(chance: random.Random, folder: str) -> Verdict:
    """Delete some of the personal HTCondor's files, as cleaners of /tmp do."""

    def delete(pool: condorpool.Pool, result: Any) -> None:
        home = Path(os.environ["CONDORPOOL_PERSONAL"])
        files = [f for f in home.rglob("*") if f.is_file() and "execute" not in f.parts]
        for file in chance.sample(files, min(len(files), chance.choice([1, 3, 1000]))):
            if not {"spool", "job_queue.log"} & {*file.parts}:  # what HTCondor itself cannot lose
                file.unlink(missing_ok=True)

    return during(chance, folder, delete, (CondorPoolError,))


def directory_renamed(chance: random.Random, folder: str) -> Verdict:
    """Move the submit directory away, and maybe back."""
    away = Path(folder, "away")

    def rename(pool: condorpool.Pool, result: Any) -> None:
        for path in Path(folder).glob(".condorpool-*"):
            path.rename(away)
            time.sleep(chance.uniform(0, 3))
            if chance.random() < 0.5:
                with suppress(OSError):  # HTCondor has made it anew to write an event
                    away.rename(path)

    verdict = during(chance, folder, rename, (CondorPoolError, OSError))
    if away.exists():
        subprocess.run(["rm", "-rf", away], check=True)
    return verdict


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """Lower a limit of this process."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def no_descriptors(chance: random.Random, folder: str) -> Verdict:
    """Leave this process no file descriptors for a while."""

    def starve(pool: condorpool.Pool, result: Any) -> None:
        others, used = [], len(os.listdir("/proc/self/fd"))
        with limited(resource.RLIMIT_NOFILE, used + chance.choice([0, 1, 3])):
            end = time.monotonic() + chance.uniform(0.5, 2)
            while time.monotonic() < end:
                with suppress(CondorPoolError, OSError):
                    others.append(pool.apply_async(square, (1,), maxtries=1))
                    others[-1].get(timeout=0.1)
                time.sleep(0.05)
        for other in others:  # else close() raises their errors
            with suppress(CondorPoolError, OSError):
                other.get(timeout=PATIENCE)

    return during(chance, folder, starve, (CondorPoolError, OSError))


def no_memory(chance: random.Random, folder: str) -> Verdict:
    """Leave this process no memory for large values for a while."""
    verdict, size = Verdict(), 30_000_000
    with new_pool(folder, **some_options(chance)) as pool:
        result = pool.starmap_async(square, [(n, 0.3, size) for n in range(4)], chunksize=1)
        used = psutil.Process().memory_info().vms
        with limited(resource.RLIMIT_AS, used + 20_000_000):
            time.sleep(chance.uniform(1, 4))
        expected = [square(n, 0, size) for n in range(4)]
        verdict.check(result, expected, (CondorPoolError, MemoryError, OSError))
        if not verdict.fault:
            verdict.check(pool.map_async(square, range(10)), [n * n for n in range(10)])
    return verdict


def big_stdout(chance: random.Random, folder: str) -> Verdict:
    """Print much more than anybody reads."""
    verdict, size = Verdict(), chance.choice([100_000, 5_000_000, 40_000_000])
    with new_pool(folder, **some_options(chance)) as pool:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = pool.starmap_async(shout, [(n, size) for n in range(6)], chunksize=2)
        verdict.check(result, [n * n for n in range(6)])
        assert result.printed()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        if grown > 300:
            verdict.fault = f"{grown} MB more memory for 6 x {size} bytes of output"
    return verdict


def owner(chance: random.Random, folder: str, on_exit: str, scan: str = "") -> None:
    """Make calls until this process is killed."""
    print("READY", flush=True)
    missing = {"transfer_input_files": f"{folder}/missing", "should_transfer_files": "YES"}
    pool = new_pool(folder, processes=2, on_exit=on_exit)
    for number in range(20):
        names = [f"{number}-{i}" for i in range(4)]
        called = f"{scan}-{number}" if scan else None
        pool.starmap_async(touch, [(name, 0.2) for name in names], chunksize=1, name=called)
        print(json.dumps(names), flush=True)
        if number % 5 == 1:
            pool.apply_async(abs, (1,), submitkwargs=missing)
        if number % 3 == 2:
            pool.starmap(touch, [(f"{number}-{i}", 0) for i in "xyz"], chunksize=1)
        time.sleep(0.1)


def finished(chance: random.Random, folder: str, name: str) -> None:
    """Make calls with a name, and wait until this process is killed."""
    pool = new_pool(folder)
    pool.map_async(square, range(12), chunksize=1, name=name)
    print(json.dumps([n * n for n in range(12)]), flush=True)
    time.sleep(600)


def attach(chance: random.Random, folder: str, name: str) -> dict[str, Any]:
    """Resume calls; return their values, or the error and the values that there are."""
    result = condorpool.attach(name)
    try:
        return {"values": result.get(timeout=PATIENCE)}
    except CondorPoolError as error:
        partly = list(result.values(missing=None))
        return {"error": type(error).__name__, "partly": partly, "text": str(error)[:300]}


if __name__ == "__main__":
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, seed, folder, *words = sys.argv[1:]
    made = globals()[kind.replace(" ", "_")](random.Random(int(seed)), folder, *words)
    gc.collect()
    print(json.dumps(vars(made) if isinstance(made, Verdict) else made), flush=True)
