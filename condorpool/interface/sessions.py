"""The submit directories of one pool: new ones, and those taken over from other processes."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from condorpool.access.accesspoint import AccessPoint
from condorpool.cleaner import custody, registry
from condorpool.cleaner.owner import kernel_id, notebook_path
from condorpool.display.notices import tell
from condorpool.engine import description
from condorpool.engine.chunks import Chunk
from condorpool.engine.session import MOST_RECORDS, Session
from condorpool.engine.staffing import Staffing
from condorpool.engine.state import SessionState
from condorpool.engine.submitdir import SubmitDir
from condorpool.engine.tracker import tracker
from condorpool.interface.leftovers import Leftover
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.folders import weakness
from condorpool.values.locks import uninterrupted

#: Seconds between the notices that say what a closing pool waits for.
_NOTE_INTERVAL = 10.0


class Sessions:
    """The sessions of a pool: one for each ``submitdir`` in which it submits calls.

    Parameters
    ----------
    on_exit
        What happens to their jobs when this process ends without closing the pool.
    """

    def __init__(self, access_point: AccessPoint, on_exit: str) -> None:
        self._access_point = access_point
        self._on_exit = on_exit
        self._lease = 0.0 if on_exit == "keep" else description.LEASE
        self._by_folder: dict[Path, Session] = {}
        #: When and where the latest chunks were made, in all sessions.
        self.chunk_records: deque[Chunk] = deque(maxlen=MOST_RECORDS)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_folder.values()))

    def get(self, base: Path) -> Session:
        """Return the session whose submit directory is in this folder, a new one if needed."""
        return self._by_folder.get(base) or self._begin(base)

    def staffing(self, base: Path) -> Staffing:
        """Return the staffing of the session that `get` would return, but write nothing."""
        if known := self._by_folder.get(base):
            return known.staffing
        return Staffing(SessionState(SubmitDir.new(base), self._access_point, self._lease))

    @uninterrupted
    def _begin(self, base: Path) -> Session:
        """Make a submit directory, registered so that it is cleaned up if this process dies."""
        directory = SubmitDir.new(base)
        custody.register(directory.path, self._access_point, self._on_exit)
        try:
            directory.make(
                lease=self._lease,
                queue=self._access_point.queue,
                kernel=kernel_id(),
                notebook=notebook_path(),
            )
            session = Session(directory, self._access_point, self._lease)
        except BaseException:
            custody.unregister(directory.path)
            raise
        _tell_risks(directory.path)
        self.follow(session, base)
        return session

    def take_over(self, leftover: Leftover) -> Session:
        """Become the owner of the submit directory of a process that has ended; then `follow` it.

        Raises
        ------
        CondorPoolError
            Another process took it over first, or still works on it; or the jobs are in
            the queue of another access point.
        """
        here, origin = self._access_point, leftover.entry.origin
        there = here if origin == here.origin else leftover.entry.access_point()
        if there and there.queue != here.queue:
            raise CondorPoolError(
                f"the jobs of {leftover.name!r} are at access point {there.name}, and this pool's "
                f"are at {here.name}: condorpool.attach({leftover.name!r}) makes a pool there."
            )
        directory = custody.take_up(leftover.entry, self._on_exit, here.origin)
        return Session.taken_up(directory, here)

    def follow(self, session: Session, base: Path | None = None) -> None:
        """Have the tracker follow a session; later calls in ``base`` are posted there, too."""
        session.chunk_records = self.chunk_records
        session.revival.on_change = self._note_change
        self._by_folder[base or session.directory.path] = session
        tracker().follow(session)

    def _note_change(self, line: str) -> None:
        """Tell the user that HTCondor has ended, and have the new one stay for the jobs."""
        with contextlib.suppress(OSError):
            custody.keep_running(self._access_point)
        tell(line)

    def terminate(self) -> None:
        """Remove every job."""
        for session in self:
            session.terminate()

    def end(self, patience: float) -> None:
        """Wait until all jobs have ended, and clean up.

        Parameters
        ----------
        patience
            Seconds for an access point that does not answer, and for values to be read.
        """
        noted = time.monotonic()

        def note(what: str) -> None:
            nonlocal noted
            if time.monotonic() - noted > _NOTE_INTERVAL:
                noted = time.monotonic()
                tell(f"waiting for {what} before the pool is closed")

        sessions = list(self._by_folder.items())
        are_over = [session.wait_all(note, tell, patience) for _, session in sessions]
        with uninterrupted:
            for (folder, session), is_over in zip(sessions, are_over, strict=True):
                if self._by_folder.pop(folder, None):  # another thread may end it too
                    _leave(session, is_over=is_over)

    def forget(self) -> None:
        """Drop the sessions and leave their jobs alone: they belong to the parent process."""
        self._by_folder = {}


def _tell_risks(path: Path) -> None:
    """Print a notice, once, if others could change what a new submit directory depends on."""
    if why := weakness(path, trust_owners=True):
        _tell_once(
            f"{why}, who could replace the submit directory in it and run their code as you. "
            "Choose a folder that only you can change: Pool(submitdir=...)."
        )
    if why := registry.why_elsewhere():
        _tell_once(
            f"{registry.state()} notes what must be cleaned up, because {why}. It may be deleted "
            "at a restart: set XDG_STATE_HOME to a folder that only you can change."
        )


@functools.cache
def _tell_once(line: str) -> None:
    tell(line)


def _leave(session: Session, *, is_over: bool) -> None:
    """Clean up a session whose calls have ended."""
    tracker().unfollow(session)
    session.close()
    path = session.directory.path
    if is_over:
        why = session.clean()
        if why and (displaced := session.directory.displaced):
            why = f"{why}; it {displaced}"
        custody.unregister(path, why, is_quiet=session.is_quiet)
    else:
        tell(f"some jobs of {path} are still queued; clean-up continues in the background")
        custody.hand_over(path)
    session.directory.close()  # results that users keep refer to it
