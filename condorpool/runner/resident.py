"""A resident runner: it makes the calls of one chunk after another (PROTOCOL.md)."""

from __future__ import annotations

import os
import time

from . import container, names
from .chirp import Chirp
from .streams import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .calls import Worker
    from .watch import Watch

#: Seconds after which a chunk that can be split is, even if other runners have enough to do.
LONG = 1.0


class Runner:
    """Takes chunks by renaming their tokens, writes outcomes, announces them.

    Parameters
    ----------
    posted, taken
        Folders below the submit directory.
    job
        This job's ``ClusterId.ProcId``.
    peers
        How many runners there may be.  The more there are, the more tokens each of them
        chooses from and the less often it looks, so that together they are no burden.
    """

    def __init__(self, worker: Worker, posted: str, taken: str, job: str, peers: int) -> None:
        self.worker, self.posted, self.taken = worker, posted, taken
        self.job, self.peers = job, peers
        self.chirp = Chirp()
        self.tokens: list[str] = []
        self.misses = 0
        self.closed = False
        self.place = self.pick = int(job.rpartition(".")[2])
        self.seed = os.getpid()
        self.pause = max(0.05, min(5.0, 0.005 * peers))

    def serve(self, linger: float, retire_after: float, chunks: int) -> None:
        """Take chunks until none has come for ``linger`` seconds, or it is time to retire."""
        started = idle_since = time.monotonic()
        for token in self.tokens_from_earlier_run():
            self.work(token)
        done, delay = 0, 0.002
        watch: Watch | None = None
        while not (chunks and done >= chunks) and time.monotonic() - started < retire_after:
            token = self.take()
            if token:
                self.work(token)
                done, delay, idle_since = done + 1, 0.002, time.monotonic()
                if self.worker.spoiled:
                    say(
                        "this job ends, because a call changed something that cannot be restored "
                        f"({self.worker.spoiled})"
                    )
                    return
                if watch and not watch.is_open():
                    watch = None
                continue
            remaining = idle_since + linger - time.monotonic()
            if self.closed or remaining <= 0:
                return
            if watch is None and self.worker.is_submit_machine:
                watch = self.new_watch()
                if watch:
                    continue  # look once more, for what was posted before the watch began
            if watch:
                watch.wait(remaining)
            else:
                time.sleep(min(delay, remaining))
                delay = min(delay * 1.2, self.pause)

    def new_watch(self) -> Watch | None:
        """Watch the folder of posted chunks, if this machine can."""
        from .watch import Watch

        try:
            return Watch(f"{self.worker.submit_dir}/{self.posted}")
        except (OSError, AttributeError):
            self.worker.is_submit_machine = False
            return None

    def tokens_from_earlier_run(self) -> list[str]:
        """Return the tokens that this job has taken: at its start, in an earlier run."""
        taken = self.chirp.retry(self.chirp.names, self.taken)
        return [name.partition("@")[0] for name in taken if name.endswith("@" + self.job)]

    def look(self) -> None:
        """List what is posted."""
        posted = self.chirp.names(self.posted)
        self.closed = names.CLOSED in posted
        tokens = [name for name in posted if name[0].isdigit()]
        tokens.sort(key=lambda token: [int(part) for part in token.split("-")])
        self.tokens, self.misses, self.pick = tokens, 0, self.place

    def take(self) -> str:
        """Take a chunk; return its token, empty if there is none.

        Each runner picks among the first of its list, initially at a place of its own
        and then at random, so that runners seldom want the same one; a list
        that proves stale is read again.  So a chunk costs a few operations, however
        many there are, and the first are made first.
        """
        while True:
            if not self.tokens or self.misses > 3:
                self.chirp.retry(self.look)
            if not self.tokens:
                return ""
            first = min(len(self.tokens), 2 * self.peers) if self.peers > 1 else 1
            token = self.tokens.pop(self.pick % first)
            # Importing random costs each job milliseconds; this is the C standard's rand().
            self.seed = (self.seed * 1103515245 + 12345) & 0x7FFFFFFF
            self.pick = self.seed >> 8
            try:
                self.chirp.ask("rename", f"{self.posted}/{token}", self.taken_path(token))
                return token
            except FileNotFoundError:
                self.misses += 1  # another runner was quicker
            except self.chirp.disconnected:
                if token in self.tokens_from_earlier_run():
                    return token

    def taken_path(self, token: str) -> str:
        """Return the path of a token that this job has taken."""
        return f"{self.taken}/{token}@{self.job}"

    def read(self, name: str) -> tuple[dict[str, Any], list[Any]]:
        """Read a container of the submit directory."""
        if self.worker.shares:
            return container.read(f"{self.worker.submit_dir}/{name}")
        data: tuple[dict[str, Any], list[Any]] = self.chirp.retry(self.chirp.read, name)
        return data

    def work(self, token: str) -> None:
        """Make the calls of a taken chunk, write the outcome and announce it."""
        batch, first, end, origin = map(int, token.split("-"))
        call, name = f"{batch}.call", f"{batch}-{first}"
        frames = self.read(f"{batch}-{origin}.chunk")[1]
        size, begun = sum(len(frame) for frame in frames), time.monotonic()

        def shrink(done: int, end: int, seconds: float) -> int:
            """Post the second half of the remaining calls, if other runners may want it."""
            nonlocal token, begun
            # The runner that takes it reads the whole chunk.
            if end - done < 2 or seconds < max(self.pause, size / 1e6):
                return end
            middle, before = done + (end - done + 1) // 2, self.taken_path(token)
            try:
                self.chirp.ensure_connected()
                if time.monotonic() < begun + LONG:
                    self.look()
                    if self.tokens:
                        return end
                rest = f"{batch}-{origin + middle}-{origin + end}-{origin}"
                self.chirp.create(f"{self.posted}/{rest}")
            except OSError:
                # The access point may be restarting.  The calls continue, and the next
                # operation connects again: this one may still be answered.
                self.chirp.disconnect()
                return end
            token, begun = f"{name}-{origin + middle}-{origin}", time.monotonic()
            try:
                self.chirp.ask("rename", before, self.taken_path(token))
            except FileNotFoundError:
                pass  # it was given to other runners: at worst they make these calls, too
            except OSError:
                self.chirp.disconnect()
            return middle

        about, frames = self.worker.make(
            call,
            lambda: self.read(call),
            frames,
            first - origin,
            end - origin,
            shrink,
            self.pause,
        )
        about["job"] = self.job
        self.chirp.retry(self.chirp.ensure_connected)
        self.write(f"{name}.outcome", about, frames)
        self.chirp.retry(self.chirp.ask, "ulog", f"{names.ANNOUNCES} {name}")
        try:
            self.chirp.retry(self.chirp.ask, "unlink", self.taken_path(token))
        except FileNotFoundError:
            pass  # the client was quicker

    def write(self, name: str, about: dict[str, Any], frames: list[Any]) -> None:
        """Write a container into the submit directory."""
        if self.worker.shares:
            try:
                container.write(f"{self.worker.submit_dir}/{name}", about, frames)
                return
            except OSError:
                # A call may have lowered what this process may write, for good.
                if not self.worker.spoiled:
                    raise
        self.chirp.retry(self.chirp.write, name, self.job, about, frames)
