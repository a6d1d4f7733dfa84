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
    """

    def __init__(self) -> None:
        self.kept = [os.dup(number) for number in range(3)]
        self.files = [file_of(number) for number in range(3)]
        self.sizes = [0, 0, 0]
        self.are_whole = True
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and stream.encoding.lower() != "utf-8":
                stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # as printed() reads it
        self.restore()
        self.printed()

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
        if is_closed(sys.stdout):
            sys.stdout = sys.__stdout__ = open(1, "w", -1, "utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115
        if is_closed(sys.stderr):
            sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115

    def printed(self) -> tuple[str, str] | None:
        """Return what was printed to output and error since the last time; None if nothing."""
        flush()
        texts = []
        for which in (1, 2):
            kept, begin, text = self.kept[which], self.sizes[which], b""
            try:
                size = self.sizes[which] = os.fstat(kept).st_size
                if size > begin:
                    begin = max(begin, size - MAX_PRINTED)
                    with open(f"/proc/self/fd/{kept}", "rb") as file:
                        file.seek(begin)
                        text = file.read(size - begin)
            except OSError:
                pass  # not a regular file: there is nothing to read, and that is no error
            texts.append(text.decode("utf-8", "replace"))
        return (texts[0], texts[1]) if texts[0] or texts[1] else None


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
