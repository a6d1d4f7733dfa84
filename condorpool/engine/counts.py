"""How many calls are in each state: the one vocabulary of all displays, and numbers that add up."""

from __future__ import annotations

from typing import NamedTuple

from condorpool.values.text import plural


class CallCounts(NamedTuple):
    """How many calls are in each state; each call is in exactly one.

    Its text has the states in which there are calls, and always those that are done:
    ``3 done, 1 failed, 2 running``.

    Attributes
    ----------
    done
        Calls that returned a value.
    failed
        Calls that raised, or were lost with their job.
    removed
        Calls whose job was removed, and calls that were taken back.
    running
        Calls that running jobs are making right now: one for each of these jobs, also while
        it is not known yet which calls a job has just taken.
    held
        Calls of held jobs, and calls that only held jobs could make.
    waiting
        All other calls.
    """

    done: int = 0
    failed: int = 0
    removed: int = 0
    running: int = 0
    held: int = 0
    waiting: int = 0

    @property
    def ended(self) -> int:
        """How many calls are done, failed or removed."""
        return self.done + self.failed + self.removed

    @property
    def total(self) -> int:
        """How many calls there are."""
        return sum(self)

    @property
    def shown(self) -> dict[str, int]:
        """The numbers to show by their words: all but zeros, except for calls that are done."""
        return {
            word: count
            for word, count in zip(self._fields, self, strict=True)
            if count or word == "done"
        }

    @property
    def parts(self) -> list[str]:
        """What `summary` says, state by state."""
        others = [f"{n:,} {word}" for word, n in self.shown.items() if word != "done"]
        return [f"{self.done:,} of {plural(self.total, 'call')} done", *others]

    @property
    def summary(self) -> str:
        """How far the calls are: ``3 of 10 calls done, 1 failed, 2 running, 4 waiting``."""
        return ", ".join(self.parts)

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {word}" for word, count in self.shown.items())
