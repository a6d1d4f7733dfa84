"""HTCondor's bindings, imported without their side effect."""

from __future__ import annotations

import os
import warnings

# Where no HTCondor is configured, importing htcondor2 sets CONDOR_CONFIG to
# /dev/null in this process, and so in every program that it starts later: a
# condor_q typed in a notebook cell would then find no pool.  Take that back.
_before = os.environ.get("CONDOR_CONFIG")

with warnings.catch_warnings():
    # Bindings before 25.11 warn of this change, which is undone below.
    warnings.filterwarnings("ignore", ".*CONDOR_CONFIG", UserWarning)
    import classad2
    import htcondor2

# 24.0's submit() prints the whole submit description.
vars(htcondor2._schedd)["print"] = lambda *_: None  # noqa: SLF001

if _before is None:
    os.environ.pop("CONDOR_CONFIG", None)

#: File descriptors that an operation of HTCondor's library may need at once.
_DESCRIPTORS = 20


def check_descriptors() -> None:
    """Raise OSError if file descriptors are short: HTCondor's library would end the process."""
    opened: list[int] = []
    try:
        while len(opened) < _DESCRIPTORS:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in opened:
            os.close(descriptor)


__all__ = ["check_descriptors", "classad2", "htcondor2"]
