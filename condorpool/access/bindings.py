"""HTCondor's bindings, imported without their side effect."""

from __future__ import annotations

import os

# Where no HTCondor is configured, importing htcondor2 sets CONDOR_CONFIG to
# /dev/null in this process, and so in every program that it starts later: a
# condor_q typed in a notebook cell would then find no pool.  Take that back.
_before = os.environ.get("CONDOR_CONFIG")

import classad2  # noqa: E402
import htcondor2  # noqa: E402

if _before is None:
    os.environ.pop("CONDOR_CONFIG", None)

__all__ = ["classad2", "htcondor2"]
