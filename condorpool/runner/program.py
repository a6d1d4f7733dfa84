"""The program of a job: make the calls of chunks and write their outcomes.

    main(["serve", CREW, POSTED, TAKEN, JOB, PEERS, LINGER, RETIRE_AFTER, CHUNKS])
    main(["once", CREW, CALL, CHUNK, OUTCOME, ORIGIN, FIRST, END])

The first is a resident runner: it takes chunks from the submit directory until
none remains, then waits a little for more (PROTOCOL.md says who may do what).
The second makes the calls of one chunk, for sites that forbid chirp.
"""

from __future__ import annotations

import os

from . import container, sharing
from .calls import Worker
from .names import EX_CANNOT_WRITE, EX_NO_CHIRP, EX_SOFTWARE
from .outcomes import describe
from .resident import Runner
from .streams import flush, say

# A call may have replaced or deleted it.
_exit = os._exit


def main(arguments: list[str]) -> None:
    """Run the job and end this process at once, whatever happens."""
    status = EX_SOFTWARE
    try:
        status = run(arguments)
    except (OSError, container.DamagedError) as error:
        say(f"cannot read the payload or write the outcome: {error!r}")
        status = EX_CANNOT_WRITE
    except BaseException as error:
        say(f"the runner has failed: {describe(error, {})}")
    finally:
        # Threads that a call started and exit handlers that hang must not keep a job
        # whose calls have ended; multiprocessing's workers end like this, too.
        try:
            flush()
        finally:
            _exit(status)


def run(arguments: list[str]) -> int:
    """Run the job; return its exit code."""
    mode, crew, *others = arguments
    # Jobs of root's personal HTCondor run as another user.
    container.owners = {0, os.geteuid()}
    worker = Worker(container.read(crew))
    return once(worker, *others) if mode == "once" else serve(worker, *others)


def serve(
    worker: Worker,
    posted: str,
    taken: str,
    job: str,
    peers: str,
    linger: str,
    retire_after: str,
    chunks: str,
) -> int:
    """Make the calls of all chunks that this runner can take."""
    try:
        runner = Runner(worker, posted, taken, job, int(peers))
    except (KeyError, OSError, ValueError) as error:
        say(f"no channel to the access point: {error!r}")
        return EX_NO_CHIRP
    sharing.read_from(runner.read)
    runner.serve(float(linger), float(retire_after), int(chunks))
    return 0


def once(
    worker: Worker, call: str, chunk: str, outcome: str, origin: str, first: str, end: str
) -> int:
    """Make the calls of one chunk, unless an earlier run of this job did."""
    if os.path.getsize(outcome):
        return 0
    folder = worker.submit_dir + "/"
    sharing.read_from(lambda name: container.read(folder + name))
    begin = int(origin)
    about, values = worker.make(
        call,
        lambda: container.read(folder + call),
        lambda: container.read(folder + chunk)[1],
        int(first) - begin,
        int(end) - begin,
    )
    about["chunk"] = outcome.partition(".")[0]
    container.write(folder + outcome, about, values)
    return 0
