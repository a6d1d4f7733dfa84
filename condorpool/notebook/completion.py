"""Tab completion after the names of magics."""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher
from IPython.core.interactiveshell import InteractiveShell

from condorpool.interface.leftovers import leftovers
from condorpool.interface.pool import Pool
from condorpool.notebook import lines, selection

_LINE = re.compile(r"(?:.*=)?\s*%%?(condor(?:_\w+)?)\s(.*)")

#: Magics that take jobs, and the words that each takes for several jobs.
_ON_JOBS = {
    "condor_hold": ("all",),
    "condor_release": ("held", "all"),
    "condor_rm": ("held", "all"),
    "condor_why": ("held", "all"),
    "condor_log": ("held", "all"),
}

#: Magics that take the name of calls.
_ON_CALLS = ("condor_attach", "condor_forget")


def candidates(line: str, shell: InteractiveShell) -> tuple[str, list[str]] | None:
    """Return the last word of a magic's line and its completions; None for other lines."""
    found = _LINE.fullmatch(line)
    if not found:
        return None
    magic, rest = found.groups()
    word = re.split(r"\s", rest)[-1]
    if word.startswith("-") and magic in lines.OF_MAGIC:
        known = list(lines.OF_MAGIC[magic].takes_value)
    elif magic in _ON_CALLS:
        known = list(dict.fromkeys(each.name for each in leftovers()[::-1]))
        if magic == "condor_forget":
            known += [each.name for each in selection.known_results()]
    elif magic in _ON_JOBS:
        named = [name for name, value in shell.user_ns.items() if selection.is_job_or_result(value)]
        known = [*_ON_JOBS[magic], *(job.id for job in selection.known_jobs()), *named]
        known += [each.name for each in selection.known_results() if each.name.isidentifier()]
    else:
        word = re.split(r"[^\w.]", word)[-1]
        known = _expressions(word, shell)
        if magic == "condor_pool":
            known += [f"{name}=" for name in inspect.signature(Pool).parameters]
    return word, [each for each in dict.fromkeys(known) if each.startswith(word)]


def _expressions(word: str, shell: InteractiveShell) -> list[str]:
    completer: Any = shell.Completer
    return list(completer.attr_matches(word) if "." in word else completer.global_matches(word))


def install(shell: InteractiveShell) -> None:
    """Add completion for the lines of magics."""

    @context_matcher(identifier="condorpool", priority=10)  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> dict[str, Any]:
        found = candidates(context.line_with_cursor[: context.cursor_position], shell)
        if not found:
            return {"completions": []}
        word, known = found
        completions = [SimpleCompletion(name, type="param") for name in known]
        return {"completions": completions, "matched_fragment": word, "suppress": bool(known)}

    uninstall(shell)
    shell.Completer.custom_matchers.append(match)


def uninstall(shell: InteractiveShell) -> None:
    """Remove that completion again."""
    matchers: list[Any] = shell.Completer.custom_matchers
    with contextlib.suppress(StopIteration):
        matchers.remove(
            next(m for m in matchers if getattr(m, "matcher_identifier", "") == "condorpool")
        )
