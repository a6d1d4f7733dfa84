"""Control-C at random moments of a pool's verbs: nothing hangs, nothing is lost.

    python tests/interrupts.py COUNT [SEED]

Every verb is interrupted 0 to 50 ms after its start.  Then calls must still be made, the
pool must close, and no job and no file may remain.  The test suite does a few hundred of
these; this program is for thousands.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import condorpool

#: Seconds after which something that should be quick counts as hanging.
PATIENCE = 60


class Interrupter:
    """Sends this process SIGINT after a delay, from a thread of its own."""

    def __init__(self) -> None:
        # In C, unlike most of threading, so that interrupts cannot corrupt it.
        self.orders = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            delay, sent = self.orders.get()
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGINT)
            sent.append(True)

    def interrupt(self, verb, delay: float) -> None:
        """Call ``verb`` and interrupt it after ``delay`` seconds; the interrupt may come after it."""
        sent = []
        try:
            self.orders.put((delay, sent))
            verb()
            time.sleep(PATIENCE)
        except KeyboardInterrupt:
            while not sent:
                time.sleep(0.0001)
            return
        raise AssertionError("no interrupt came")


def verbs(pool, executor):
    """Return the verbs to interrupt."""
    return [
        lambda: pool.map(abs, range(8)),
        lambda: pool.map(abs, range(50), chunksize=1),
        lambda: pool.apply(abs, (-1,)),
        lambda: list(pool.imap(abs, range(20), chunksize=3)),
        lambda: list(pool.imap_unordered(abs, range(10))),
        lambda: pool.starmap(pow, [(2, n) for n in range(5)]),
        lambda: pool.map_async(abs, range(10), chunksize=1).remove(),
        lambda: pool.map_async(time.sleep, [0.01] * 4).hold(),
        lambda: pool.map_async(abs, range(30), callback=len).get(),
        lambda: [r.release() for r in pool.jobs],
        lambda: pool.share(list(range(100))),
        lambda: executor.submit(abs, -3).result(),
        lambda: list(executor.map(abs, range(10))),
        lambda: [future.cancel() for future in [executor.submit(abs, n) for n in range(5)]],
        lambda: condorpool.Pool(2),
        lambda: repr(pool) + repr([r.status() for r in pool.jobs]),
    ]


def main(count: int, seed: int) -> None:
    """Interrupt ``count`` verbs, then check that the pool still works and nothing remains."""
    chance = random.Random(seed)
    interrupter = Interrupter()
    folder = Path(tempfile.mkdtemp(prefix="interrupts-"))
    done = 0
    while done < count:
        pool = condorpool.Pool(2, submitdir=folder)
        executor = condorpool.Executor(2, submitdir=folder)
        for _ in range(min(100, count - done)):
            verb = chance.choice(verbs(pool, executor))
            interrupter.interrupt(verb, chance.uniform(0.0, 0.22) ** 2)
            done += 1
            if chance.random() < 0.1:
                for result in pool.jobs:
                    result.release()
                got = pool.map_async(abs, range(-5, 5)).get(PATIENCE)
                assert got == [abs(n) for n in range(-5, 5)], got
        for result in pool.jobs:
            result.release()
        faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)
        for end in (pool.close, executor.shutdown):
            interrupter.interrupt(end, chance.uniform(0.0, 0.5))
            done += 1
        pool.join()
        executor.shutdown()
        faulthandler.cancel_dump_traceback_later()
        print(f"{done} interrupts", flush=True)
    remaining = list(folder.glob(".condorpool-*"))
    assert not remaining, f"left behind: {remaining}"
    folder.rmdir()


if __name__ == "__main__":
    # A process that a shell script starts in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6))
