"""A resident runner: it makes the calls of one chunk after another (PROTOCOL.md)."""

from __future__ import annotations

import errno
import os
import time

from . import container, names
from .calls import NEVER
from .chirp import Chirp
from .streams import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .calls import Worker
    from .watch import Watch

#: Seconds after which a chunk is split, even if other chunks are posted.
LONG = 1.0

#: The time between two reports on how many calls were made, at least, as a multiple of what
#: writing one takes.
REPORT_SHARE = 100.0


#: Errors that may pass: no room, no quota (which has no number of its own in chirp).
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EIO}

#: Seconds for which a runner waits for room for an outcome.
ROOM_WAIT = 1200.0


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
        chooses from and the less often it looks, so that together they do not overload
        the access point.
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
        self.made = f"{taken.rpartition('.')[0]}.{names.MADE}/{job}"
        self.report_interval = names.report_interval(peers)
        self.report_after = 0.0

    def serve(self, linger: float, retire_after: float, chunks: int) -> None:
        """Take chunks until none has come for ``linger`` seconds, or it is time to retire."""
        started = idle_since = time.monotonic()
        for token in self.tokens_from_earlier_run():
            # What the earlier run has reported does not count any more.
            batch, first = token.split("-")[:2]
            self.report(batch, first)
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
                    continue  # look again: a chunk may have been posted before the watch began
            if watch:
                watch.wait(remaining)
            else:
                time.sleep(min(delay, remaining))
                delay = min(delay * 1.2, self.pause)

    def new_watch(self) -> Watch | None:
        """Return a watch on the folder of posted chunks; None if this machine has no inotify."""
        from .watch import Watch

        try:
            return Watch(f"{self.worker.submit_dir}/{self.posted}")
        except (OSError, AttributeError):
            self.worker.is_submit_machine = False
            return None

    def tokens_from_earlier_run(self) -> list[str]:
        """Return the tokens that carry this job's id: at its start, those of an earlier run."""
        taken = self.chirp.retry(self.chirp.names, self.taken)
        pairs = (name.partition("@") for name in taken)
        return [token for token, _, job in pairs if job == self.job and names.is_token(token)]

    def look(self) -> None:
        """List the posted chunks."""
        posted = self.chirp.names(self.posted)
        self.closed = names.CLOSED in posted
        tokens = list(filter(names.is_token, posted))
        tokens.sort(key=lambda token: [int(part) for part in token.split("-")])
        self.tokens, self.misses, self.pick = tokens, 0, self.place

    def take(self) -> str:
        """Take a chunk; return its token, or an empty string if no chunk is posted.

        Each runner picks among the first tokens of its list, initially at a place of its
        own and then at random, so that two runners rarely want the same one.  A list that
        proves stale is read again.  So a chunk costs a few operations, however many chunks
        there are, and early chunks are made first.
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
            # Not through retry(): a rename that was done but not answered would fail the
            # second time, as if another runner had taken the chunk.
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
        size, begun = 0, time.monotonic()

        self.report_after = max(self.report_after, begun + self.report_interval)

        def arguments() -> list[Any]:
            """Read the arguments of the whole chunk."""
            nonlocal size, begun
            frames = self.read(f"{batch}-{origin}.chunk")[1]
            size, begun = sum(len(frame) for frame in frames), time.monotonic()
            return frames

        def between(done: int, end: int, failed: int, each: float, splits: bool) -> int:
            """Split the chunk, and report how many calls were made; return the new end."""
            if splits:
                end = shrink(done, end, each * (end - done))
            if done < end and time.monotonic() > self.report_after:
                made = origin + done - first
                self.report(batch, first, made, failed, each * made)
            return end

        def shrink(done: int, end: int, seconds: float) -> int:
            """Post the second half of the remaining calls if that helps; return the new end."""
            nonlocal token, begun
            # Another runner must find the half and read the whole chunk's arguments.
            if end - done < 2 or seconds < max(self.pause, size / 1e6):
                return end
            middle, before = done + (end - done + 1) // 2, self.taken_path(token)
            try:
                self.chirp.ensure_connected()
                if time.monotonic() < begun + LONG:
                    self.look()
                    if self.tokens:
                        return end
                # Before the rename below: if this job ends between the two, both tokens
                # contain the second half.  In the other order no token would.
                rest = f"{batch}-{origin + middle}-{origin + end}-{origin}"
                self.chirp.put(f"{self.posted}/{rest}")
            except OSError:
                # The access point may be restarting.  The calls continue on a new connection:
                # on this one a late answer would be taken for that of the next operation.
                self.chirp.disconnect()
                return end
            token, begun = f"{name}-{origin + middle}-{origin}", time.monotonic()
            try:
                self.chirp.ask("rename", before, self.taken_path(token))
            except FileNotFoundError:
                pass  # the client posted it again: at worst another runner makes these calls, too
            except OSError:
                self.chirp.disconnect()
            return middle

        about, frames = self.worker.make(
            call,
            lambda: self.read(call),
            arguments,
            first - origin,
            end - origin,
            between,
            self.pause,
        )
        about.update(job=self.job, chunk=name)
        self.chirp.retry(self.chirp.ensure_connected)
        self.write(f"{name}.outcome", about, frames)
        self.announce(name)
        try:
            self.chirp.retry(self.chirp.ask, "unlink", self.taken_path(token))
        except FileNotFoundError:
            pass  # the client deleted it first, or the first try was not answered

    def announce(self, name: str) -> None:
        """Have the event log say that the outcome of a chunk is there."""
        try:
            # Retried, so the event may come twice; the client uses the first.
            self.chirp.retry(self.chirp.ask, "ulog", f"{names.ANNOUNCES} {name}")
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise  # else the client finds the outcome when it looks at the disk

    def report(
        self,
        batch: int | str,
        first: int | str,
        made: int = 0,
        failed: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Write how many calls of a chunk were made, for displays; where that fails, do without.

        When it is written is when the next call begins.
        """
        begun = time.monotonic()
        text = f"{batch} {first} {made} {failed} {seconds:.3f}\n"
        try:
            if self.worker.shares:
                with open(f"{self.worker.submit_dir}/{self.made}", "w") as file:
                    file.write(text)
            else:
                self.chirp.ensure_connected()
                self.chirp.put(self.made, len(text), [text.encode()])
        except OSError:
            # As after a split: a late answer would be taken for that of the next operation.
            self.chirp.disconnect()
        now = time.monotonic()
        self.report_after = now + max(self.report_interval, REPORT_SHARE * (now - begun))

    def write(self, name: str, about: dict[str, Any], frames: list[Any]) -> None:
        """Write a container into the submit directory; while there is no room for it, wait."""
        size, pause = sum(len(frame) for frame in frames), 0.0
        give_up = time.monotonic() + ROOM_WAIT
        while True:
            begun = time.monotonic()
            try:
                if not pause or self.disk()[1] >= size or begun > give_up:
                    self.write_now(name, about, frames)
                    break
            except OSError as error:
                if error.errno not in NO_ROOM or begun > give_up or self.disk()[0] < size:
                    raise
            self.say_full()
            pause = min(max(1.0, 10 * (time.monotonic() - begun)), names.ROOM_INTERVAL)
            time.sleep(pause)
        if pause:
            self.say_full(is_full=False)

    def disk(self) -> tuple[float, float]:
        """Return the bytes of the submit directory's disk, and those that are free."""
        try:
            if self.worker.shares:
                found = os.statvfs(self.worker.submit_dir)
                return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
            return self.chirp.disk(self.posted)
        except (OSError, ValueError, IndexError):
            return NEVER, NEVER

    def say_full(self, *, is_full: bool = True) -> None:
        """Tell the client that there is no room for an outcome, or is again."""
        name = f"{self.made.rpartition('/')[0]}/{names.FULL}"
        try:
            if is_full:
                self.chirp.ask("close", self.chirp.open(name, "wct")[0])
            else:
                self.chirp.ask("unlink", name)
        except OSError:
            self.chirp.disconnect()

    def write_now(self, name: str, about: dict[str, Any], frames: list[Any]) -> None:
        """Write a container into the submit directory."""
        if self.worker.shares:
            try:
                container.write(f"{self.worker.submit_dir}/{name}", about, frames)
                return
            except OSError:
                # A call may have lowered this process's limits permanently.  By chirp
                # another process writes the file.
                if not self.worker.spoiled:
                    raise
        self.chirp.retry(self.chirp.write, name, self.job, about, frames)
