"""Held jobs and failed calls, grouped by cause."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from condorpool.values import holds
from condorpool.values.exceptions import JobError, JobRemovedError
from condorpool.values.text import one_line

#: Reasons and messages are cut to this length: one may contain a whole standard error.
LONGEST = 400

#: At most this many groups of held jobs, and of failed calls.
MOST_GROUPS = 20

# The order matters: a slot name contains a host name, and a host name may contain numbers.
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

    This makes the reasons of jobs that are held for the same cause equal.
    """
    return _VARYING.sub("…", reason[:LONGEST])


def common(one: str, other: str) -> str:
    """Return the common text of two reasons that fold alike, with ellipses for the rest."""
    parts = iter(_VARYING.findall(other[:LONGEST]))
    return _VARYING.sub(lambda m: m[0] if m[0] == next(parts, "") else "…", one[:LONGEST])


@dataclass(frozen=True)
class Held:
    """Jobs that are held for the same cause.

    Parameters
    ----------
    reason
        The common text of their reasons.
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
    """Calls that failed or were removed alike.

    Parameters
    ----------
    message
        The common text of their messages.
    call
        The number of the first of them that became known.
    """

    kind: str
    message: str
    count: int
    call: int = 0

    @property
    def word(self) -> str:
        """What happened to them."""
        return "removed" if self.kind == JobRemovedError.__name__ else "failed"


def key_of(reason: str, code: int, subcode: int) -> str:
    """Return a key that jobs held for the same cause share."""
    return f"{code}.{subcode} {one_line(fold(reason), LONGEST)}"


class HeldGroups:
    """Groups hold reasons at each update, and folds each reason only once."""

    def __init__(self) -> None:
        self._folded: dict[str, str] = {}
        self._common: dict[str, str] = {}  # by folded reason

    def update(self, reasons: Mapping[tuple[str, int, int, int], int]) -> tuple[Held, ...]:
        """Return the largest groups, given how many jobs are held for each reason.

        A reason is its text, its codes, and how often the job has been held.
        """
        groups: dict[tuple[str, int, int], Held] = {}
        for (reason, code, subcode, times), count in reasons.items():
            if reason not in self._folded:  # there may be one for each job
                self._folded[reason] = folded = fold(reason)
                self._common[folded] = common(self._common.get(folded, reason), reason)
            folded = self._folded[reason]
            found = groups.get((folded, code, subcode))
            groups[folded, code, subcode] = Held(
                key=key_of(reason, code, subcode),
                reason=one_line(self._common[folded], LONGEST),
                code=code,
                subcode=subcode,
                count=count + (found.count if found else 0),
                cure=holds.cure(code, subcode).replace("()", ""),  # users press buttons here
                needs_memory=(code, subcode) in holds.MEMORY,
                times=max(times, found.times if found else 1),
            )
        return tuple(sorted(groups.values(), key=lambda held: -held.count)[:MOST_GROUPS])


class FailedGroups:
    """Groups exceptions at each update, and reads each exception only once."""

    def __init__(self) -> None:
        self._counted = 0
        self._groups: dict[tuple[str, str], Failed] = {}

    def update(self, errors: Mapping[int, BaseException]) -> tuple[Failed, ...]:
        """Return the groups of all exceptions, the largest first."""
        # list() copies in one step of the interpreter, while another thread adds to the mapping.
        known = list(errors.items())
        if len(known) < self._counted:  # failed calls are being rerun
            self._groups.clear()
            self._counted = 0
        new, self._counted = known[self._counted :], len(known)
        for call, error in new:
            text = error.what if isinstance(error, JobError) else _first_line(error)
            kind, message = type(error).__name__, one_line(text, LONGEST)
            key = kind, fold(message)
            if key not in self._groups and len(self._groups) >= MOST_GROUPS:
                key, kind, message = ("", ""), "others", ""
            before = self._groups.get(key, Failed(kind, message, 0, call))
            self._groups[key] = Failed(
                kind, common(before.message, message), before.count + 1, before.call
            )
        return tuple(sorted(self._groups.values(), key=lambda group: -group.count))


def _first_line(error: BaseException) -> str:
    try:
        return str(error).strip().partition("\n")[0]
    except BaseException:  # noqa: BLE001 - the user's class; counted without its text
        return ""
