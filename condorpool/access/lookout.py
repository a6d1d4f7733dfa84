"""Whether any slot of an HTCondor pool can run a job, asked in a separate process.

See `capacity` for the reason.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from condorpool.access.accesspoint import AccessPoint
from condorpool.access.capacity import Probe
from condorpool.access.matching import Fit

#: Seconds between two questions about a job.
INTERVAL = 10.0


def fit_of(access_point: AccessPoint, job: str) -> Fit | None:
    """Return how a job fitted the pool's slots a moment ago; None if not known yet.  Never waits."""
    point = access_point
    return _probe(
        point.name, point.schedd_address, point.collector_address, point.version, job
    ).read()


@functools.lru_cache(maxsize=100)
def _probe(*arguments: str) -> Probe[Fit]:
    return Probe(__name__, *arguments, kind=_fit, interval=INTERVAL)


def _fit(too_much: Mapping[str, Any], unmet: Sequence[str], **numbers: int) -> Fit:
    pairs = {name: (asked, most) for name, (asked, most) in too_much.items()}
    return Fit(too_much=pairs, unmet=tuple(unmet), **numbers)


def main(arguments: Sequence[str]) -> None:
    """Match a job with the slots of its pool, and print its `Fit`."""
    name, schedd, collector, version, job = arguments
    fit = AccessPoint(name, schedd, collector, version).fit(job)
    sys.stdout.write(json.dumps(vars(fit) if fit else None))
