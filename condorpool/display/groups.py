"""Held jobs and failed calls, grouped by what is the matter with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from condorpool.values import holds
from condorpool.values.exceptions import JobError

#: Reasons and messages are cut: a whole standard error may be in one.
LONGEST = 400

#: Groups of held jobs, or of failed calls, at most.
MOST_GROUPS = 20

# The order matters: a slot has a host in it, and a host has numbers.
_VARYING = re.compile(
    r"""<\d[^>\s]*>                      # <127.0.0.1:9618?addrs=...>
    |   \S*@[\w.-]+                      # slot1_2@host.example.org
    |   (?<!\w)/[^\s,;:()'"]+            # /path/of/a/file
    |   \b[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b  # host.example.org
    |   \d+(?:\.\d+)*
    |   …""",
    re.VERBOSE,
)


def fold(reason: str) -> str:
    """Return a hold reason with an ellipsis for each host, slot, path and number.

    Reasons of jobs that are held for the same cause are then the same.
    """
    return _VARYING.sub("…", reason[:LONGEST])


def common(one: str, other: str) -> str:
    """Return what two reasons that fold alike have in common, with ellipses for the rest."""
    parts = iter(_VARYING.findall(other[:LONGEST]))
    return _VARYING.sub(lambda m: m[0] if m[0] == next(parts, "") else "…", one[:LONGEST])


@dataclass(frozen=True)
class Held:
    """Jobs that are held for the same cause.

    Parameters
    ----------
    reason
        What their reasons have in common.
    times
        How often the one of them that was held most often has been held: more than once if jobs
        are held again after a release.
    """

    key: str
    reason: str
    code: int
    subcode: int
    count: int
    cure: str
    needs_memory: bool
    times: int = 1


@dataclass(frozen=True)
class Failed:
    """Calls that failed alike; ``message`` is what theirs have in common."""

    kind: str
    message: str
    count: int


def key_of(reason: str, code: int, subcode: int) -> str:
    """Return what is the same for jobs that are held for the same cause."""
    return f"{code}.{subcode} {fold(reason)}"


class HeldGroups:
    """Groups reasons for holds again and again; each is folded once."""

    def __init__(self) -> None:
        self._folded: dict[str, str] = {}
        self._common: dict[str, str] = {}  # by what is folded

    def update(self, reasons: Mapping[tuple[str, int, int, int], int]) -> tuple[Held, ...]:
        """Return the largest groups of jobs, from how many are held for each reason.

        A reason is its text, its codes, and how often the job has been held.
        """
        groups: dict[tuple[str, int, int], Held] = {}
        for (reason, code, subcode, times), count in reasons.items():
            if reason not in self._folded:  # there may be as many as jobs
                self._folded[reason] = folded = fold(reason)
                self._common[folded] = common(self._common.get(folded, reason), reason)
            folded = self._folded[reason]
            found = groups.get((folded, code, subcode))
            groups[folded, code, subcode] = Held(
                key=key_of(reason, code, subcode),
                reason=self._common[folded],
                code=code,
                subcode=subcode,
                count=count + (found.count if found else 0),
                cure=holds.cure(code, subcode).replace("()", ""),  # here are buttons
                needs_memory=(code, subcode) in holds.MEMORY,
                times=max(times, found.times if found else 1),
            )
        return tuple(sorted(groups.values(), key=lambda held: -held.count)[:MOST_GROUPS])


class FailedGroups:
    """Groups exceptions again and again; each is read once."""

    def __init__(self) -> None:
        self._counted = 0
        self._groups: dict[tuple[str, str], Failed] = {}

    def update(self, errors: Mapping[int, BaseException]) -> tuple[Failed, ...]:
        """Return the groups of all exceptions, the largest first."""
        # A copy in one step of the interpreter: another thread adds to it.
        known = list(errors.values())
        if len(known) < self._counted:  # failed calls are made again
            self._groups.clear()
            self._counted = 0
        new, self._counted = known[self._counted :], len(known)
        for error in new:
            text = error.what if isinstance(error, JobError) else _first_line(error)
            kind, message = type(error).__name__, text[:LONGEST]
            key = kind, fold(message)
            if key not in self._groups and len(self._groups) >= MOST_GROUPS:
                key, kind, message = ("", ""), "others", ""
            before = self._groups.get(key, Failed(kind, message, 0))
            self._groups[key] = Failed(kind, common(before.message, message), before.count + 1)
        return tuple(sorted(self._groups.values(), key=lambda group: -group.count))


def _first_line(error: BaseException) -> str:
    try:
        return str(error).strip().partition("\n")[0]
    except BaseException:  # noqa: BLE001 - the class is the user's; without its text it is counted
        return ""
