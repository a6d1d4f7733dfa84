"""Matchmaking: compare a job with the slots of an HTCondor pool, and count those that match."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from condorpool.access.bindings import classad2
from condorpool.values.sizes import size_in

_RESOURCES = ("Cpus", "Memory", "Disk", "GPUs")

#: The requests of a job whose submit description makes none.
_DEFAULTS = {"Cpus": "1", "Memory": "128", "Disk": "1024"}

#: The units of sizes in ads.
_UNITS = {"Memory": "M", "Disk": "K"}


@dataclass(frozen=True)
class Fit:
    """How a job fits the slots of its HTCondor pool, as if all slots were empty.

    Parameters
    ----------
    slots
        Number of slots.
    too_much
        Resources that the job requests more of than any slot has: the request, and the
        most that a slot has.  Memory in MiB, disk in KiB.
    unmet
        The job's requirements that no slot meets.
    acceptable
        Number of slots that meet all of the job's requirements.
    willing
        Number of slots where the job meets the slot's requirements, too.
    free
        Number of slots that could take the job now.
    running, own
        Number of running jobs of the access point, and of those of the same user.
    """

    slots: int
    too_much: Mapping[str, tuple[float, float]]
    unmet: tuple[str, ...]
    acceptable: int
    willing: int
    free: int
    running: int = 0
    own: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether the pool has slots, and the job can run on none of them."""
        return self.slots > 0 and not self.willing


def fit(job: Any, slots: Sequence[Any], owners: Sequence[object] = ()) -> Fit:
    """Match the ad of a job with the ads of slots other than dynamic ones.

    Parameters
    ----------
    owners
        The owner of each running job of the access point.
    """
    free = [slot.symmetricMatch(job) and slot.get("State") == "Unclaimed" for slot in slots]
    for slot in slots:
        for name in _RESOURCES:
            # A partitionable slot gets back what its dynamic slots have.
            if (total := slot.get(f"TotalSlot{name}")) is not None:
                slot[name] = total
    acceptable = [slot.matches(job) for slot in slots]
    willing = [slot.symmetricMatch(job) for slot in slots]
    too_much = {}
    for name in _RESOURCES:
        wanted = job.eval(f"Request{name}") if f"Request{name}" in job else 0
        most = max((_number(slot.get(name)) for slot in slots), default=0)
        if _number(wanted) > most:
            too_much[name] = _number(wanted), most
    unmet = []
    for condition in conditions(str(job.lookup("Requirements"))):
        job["Requirements"] = classad2.ExprTree(condition)
        if not any(slot.matches(job) for slot in slots):
            unmet.append(condition)
    return Fit(
        slots=len(slots),
        too_much=too_much,
        unmet=tuple(unmet),
        acceptable=sum(acceptable),
        willing=sum(willing),
        free=sum(free),
        running=len(owners),
        own=owners.count(job.get("Owner")),
    )


def requests_of(description: Mapping[str, str]) -> dict[str, str]:
    """Return the commands of a submit description that say which slots the jobs need."""
    wanted = {"requirements", *(f"request_{name.lower()}" for name in _RESOURCES)}
    return {key.lower(): value for key, value in description.items() if key.lower() in wanted}


def first_look(
    description: Mapping[str, str], slots: Sequence[Mapping[str, Any]], *, is_unmet: bool = False
) -> Fit:
    """Match a job that is not submitted with what all slots have, their own requirements aside.

    Parameters
    ----------
    is_unmet
        Whether the description's requirements are false on every slot.
    """
    ad, too_much = ad_of({**description, "requirements": "true"}), {}
    for name in _RESOURCES:
        wanted = _number(ad.eval(f"Request{name}")) if f"Request{name}" in ad else 0.0
        most = max((_number(slot.get(f"TotalSlot{name}")) for slot in slots), default=0.0)
        # A slot without the attribute may have any amount of it, but no GPUs.
        is_known = name == "GPUs" or any(f"TotalSlot{name}" in slot for slot in slots)
        if is_known and wanted > most:
            too_much[name] = wanted, most
    unmet = (description["requirements"],) if is_unmet else ()
    fits = len(slots) * (not too_much and not unmet)
    return Fit(len(slots), too_much, unmet, fits, fits, 0)


def ad_of(description: Mapping[str, str]) -> Any:
    """Return the ad of a job that is not submitted, with the attributes that slots match.

    Raises ValueError if the description has what is no ClassAd expression.
    """
    try:
        return _ad_of(description)
    except classad2.ClassAdException as error:
        raise ValueError(str(error)) from error


def _ad_of(description: Mapping[str, str]) -> Any:
    ad = classad2.ClassAd()
    terms = [f"({description.get('requirements', 'true')})"]
    for name in _RESOURCES:
        wanted = description.get(f"request_{name.lower()}", _DEFAULTS.get(name))
        if wanted:
            if name in _UNITS and (size := size_in(_UNITS[name], wanted)) is not None:
                wanted = str(size)
            ad[f"Request{name}"] = classad2.ExprTree(wanted)
            terms.append(f"TARGET.{name} >= Request{name}")
    ad["Requirements"] = classad2.ExprTree(" && ".join(terms))
    return ad


def _number(value: object) -> float:
    """Return the number in an ad; 0 if it cannot be evaluated."""
    return float(value) if isinstance(value, (int, float)) else 0


def conditions(expression: str) -> Iterator[str]:
    """Yield the conditions that an expression joins by ``&&``, in parentheses or not."""
    tokens = re.findall(r'"(?:\\.|[^"\\])*"|&&|\|\||=\?=|.', expression.strip(), re.DOTALL)
    depths = list(itertools.accumulate((t in "([{") - (t in ")]}") for t in tokens))
    if tokens[0] == "(" and 0 not in depths[:-1]:
        yield from conditions("".join(tokens[1:-1]))
        return
    outer = {n: token for n, token in enumerate(tokens) if depths[n] == 0}
    joints = [n for n in outer if tokens[n] == "&&"]
    if not joints or {"||", "?"} & set(outer.values()):
        yield "".join(tokens)  # these bind more loosely than &&
        return
    for first, last in itertools.pairwise([-1, *joints, len(tokens)]):
        yield from conditions("".join(tokens[first + 1 : last]))
