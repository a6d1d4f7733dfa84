"""The job's standard streams: what calls print, and streams that calls close or replace."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes that are kept of what the calls of a chunk print: the last ones.
MAX_PRINTED = 1 << 20


class Streams:
    """Standard input, output and error, which are the job's own files.

    Attributes
    ----------
    kept
        Duplicates of descriptors 0 to 2, which a call may close or replace.
    are_whole
        Whether every stream could be restored so far.
    wrote
        Whether ``sys.stdout`` or ``sys.stderr`` was written to since the last `note`.
    """

    def __init__(self) -> None:
        self.kept = [os.dup(number) for number in range(3)]
        self.files = [file_of(number) for number in range(3)]
        self.sizes = [0, 0, 0]
        self.are_whole = True
        self.wrote = False
        self.checks_all = False
        self.begins = self.sizes[:]
        self.marks: list[tuple[int, int, int]] = []
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and stream.encoding.lower() != "utf-8":
                stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # as printed() reads it
        self.restore()

    def restore(self) -> None:
        """Reopen the streams that calls closed."""
        for number, file in enumerate(self.files):
            if file_of(self.kept[number]) == file:
                os.dup2(self.kept[number], number)
            elif file_of(number) == file:  # a call closed the duplicate; it may be another file now
                self.kept[number] = os.dup(number)
            else:
                self.kept[number], self.are_whole = -1, False
        if is_closed(sys.stdin):
            sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc] # noqa: SIM115
        self.wrote = self.wrote or is_closed(sys.stdout) or is_closed(sys.stderr)
        if is_closed(sys.stdout):
            sys.stdout = sys.__stdout__ = open(1, "w", -1, "utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115
        if is_closed(sys.stderr):
            sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115

    def begin(self) -> None:
        """Note that what is printed from now on belongs to the calls of the next chunk."""
        flush()
        self._measure()
        self.begins, self.marks, self.checks_all = self.sizes[:], [], False
        self._listen()

    def note(self, call: int) -> None:
        """Note that what was printed since the last time was printed by this call."""
        wrote = self.wrote
        flush()
        if self._measure():
            if self.marks and self.marks[-1][0] == call:
                del self.marks[-1]
            self.marks.append((call, self.sizes[1], self.sizes[2]))
            # It was not written through sys.stdout or sys.stderr: short calls that do that are
            # noticed only by looking after each of them.
            self.checks_all = self.checks_all or not wrote
        wrote = wrote or self.checks_all
        if wrote:
            self._listen()
            self.wrote = self.checks_all

    def _measure(self) -> bool:
        """Read the sizes of output and error; return whether one has grown."""
        grown = False
        for which in (1, 2):
            try:
                size = os.fstat(self.kept[which]).st_size
            except OSError:
                continue
            grown, self.sizes[which] = grown or size > self.sizes[which], size
        return grown

    def _listen(self) -> None:
        """Have the next write to ``sys.stdout`` or ``sys.stderr`` noted: only that one is slowed."""
        self.wrote = False
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.write = _Listener(self, stream)  # type: ignore[method-assign]
            except (AttributeError, TypeError):
                self.checks_all = True  # it is not ours, and has no room for that

    def printed(self) -> dict[str, Any]:
        """Return what the calls printed, for the outcome; empty if they printed nothing.

        ``printed`` has the texts of output and error, the last `MAX_PRINTED` bytes of each;
        ``prints`` the number of each call that printed, and where its text begins in both;
        ``lost`` each call of whose text bytes are not in them, and how many; ``spans`` where the texts are
        in the job's own files, in bytes.
        """
        if not self.marks:
            return {}
        texts, places, lost = [], [], dict.fromkeys((call for call, *_ in self.marks), 0)
        for which in (1, 2):
            begin, end = self.begins[which], self.sizes[which]
            kept = max(begin, end - MAX_PRINTED)
            data = self._read(which, kept, end)
            parts, at, position = [], [], 0
            for call, *ends in self.marks:
                stop = max(begin, ends[which - 1])  # a call may have truncated the file
                part = data[max(0, begin - kept) : max(0, stop - kept)].decode("utf-8", "replace")
                lost[call] += max(0, min(kept, stop) - begin)
                parts.append(part)
                at.append(position)
                position, begin = position + len(part), stop
            texts.append("".join(parts))
            places.append(at)
        about: dict[str, Any] = {
            "printed": tuple(texts),
            "prints": [(call, *at) for (call, *_), *at in zip(self.marks, *places)],
            "spans": list(zip(self.begins[1:], self.sizes[1:])),
        }
        if lost := {call: count for call, count in lost.items() if count}:
            about["lost"] = list(lost.items())
        return about

    def _read(self, which: int, begin: int, end: int) -> bytes:
        """Return what is in a stream's file between two places."""
        try:
            if end > begin:
                with open(f"/proc/self/fd/{self.kept[which]}", "rb") as file:
                    file.seek(begin)
                    return file.read(end - begin)
        except OSError:
            pass  # a limit that a call has set, for example
        return b""


class _Listener:
    """The ``write`` of a standard stream, until it is called once."""

    def __init__(self, streams: Streams, stream: Any) -> None:
        self.streams, self.stream = streams, stream

    def __call__(self, text: str) -> Any:
        self.streams.wrote = True
        vars(self.stream).pop("write", None)
        return self.stream.write(text)


def file_of(number: int) -> tuple[int, int] | None:
    """Return the identity of the file that a descriptor refers to; None if it is closed."""
    try:
        about = os.fstat(number)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def is_closed(stream: Any) -> bool:
    """Return whether a standard stream cannot be used any more."""
    try:
        return bool(stream.closed)
    except (AttributeError, ValueError):  # it is None, or its buffer was detached
        return True


def flush() -> None:
    """Flush what the calls printed; a call may have closed the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def say(line: str) -> None:
    """Write a line to the job's standard error."""
    try:
        sys.stderr.write(f"condorpool: {line}\n")
    except (AttributeError, OSError, ValueError):
        pass
