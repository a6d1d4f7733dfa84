"""The protocol of chunks and runners (runner/PROTOCOL.md), through every interleaving.

A small model of the rules, explored exhaustively: from every state each actor takes
each step that it may take.  The file operations are those of the protocol, and the
tests check what the page promises.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

# The calls of "c" are the second half of "a", until a runner posts them for others.
CHUNKS = ("a", "b", "c")
A, C = 0, 2


class World(NamedTuple):
    """Everything that outlives a process, and what each process is about to do."""

    where: tuple[str, ...]  # each token: none, written, posted, taken by 0/1, finished; or half
    outcomes: frozenset[str]
    announced: frozenset[str]  # in the event log, each once or twice
    read: tuple[str, ...]  # what the client has delivered, in order
    runners: tuple[str, ...]  # idle, has a, splits a, wrote a, evicted
    client: str  # posting, waits, dead
    deaths: int  # evictions that may still happen


START = World(
    ("written", "written", "none"), frozenset(), frozenset(), (), ("idle", "idle"), "posting", 1
)


def replace_at(values, index, value):
    """Return a tuple with one item changed."""
    return (*values[:index], value, *values[index + 1 :])


def steps(world):
    """Yield every world that one step leads to."""
    yield from client_steps(world)
    for who in range(len(world.runners)):
        yield from runner_steps(world, who)
        yield from fates(world, who)


def client_steps(world):
    """Post written chunks; deliver outcomes that an event or the reconcile shows."""
    if world.client == "posting":
        for chunk, here in enumerate(world.where):
            if here == "written":
                yield world._replace(where=replace_at(world.where, chunk, "posted"))
        if "written" not in world.where:
            yield world._replace(client="waits")
    if world.client == "waits":
        for name in sorted((world.announced | world.outcomes) - set(world.read)):
            yield world._replace(read=(*world.read, name))


def runner_steps(world, who):
    """Take a chunk, or find it again after an eviction; split it; write its outcome; announce it."""
    runner = world.runners[who]
    for chunk, name in enumerate(CHUNKS):
        here, _, half = world.where[chunk].partition("/")
        if runner == "idle" and here in ("posted", f"taken {who}"):  # the first rename wins
            yield world._replace(
                where=replace_at(world.where, chunk, f"taken {who}" + (half and "/half")),
                runners=replace_at(world.runners, who, f"has {name}" + (half and "/half")),
            )
        if runner.partition("/")[0] == f"has {name}":
            whole = chunk == A and not runner.endswith("/half")
            yield world._replace(
                outcomes=world.outcomes | {name} | ({"c"} if whole else set()),
                runners=replace_at(world.runners, who, f"wrote {name}"),
            )
        if runner == f"wrote {name}":
            mine = here == f"taken {who}"
            yield world._replace(
                announced=world.announced | {name},
                where=replace_at(world.where, chunk, "finished") if mine else world.where,
                runners=replace_at(world.runners, who, "idle"),
            )
    if runner == "has a" and world.where[C] == "none":
        yield world._replace(
            where=replace_at(world.where, C, "posted"),
            runners=replace_at(world.runners, who, "splits a"),
        )
    if runner == "splits a":
        mine = world.where[A] == f"taken {who}"
        yield world._replace(
            where=replace_at(world.where, A, f"taken {who}/half") if mine else world.where,
            runners=replace_at(world.runners, who, "has a/half"),
        )


def fates(world, who):
    """Evict a runner; post its chunk again meanwhile; run it again."""
    if world.runners[who] != "evicted":
        if world.deaths:
            runners = replace_at(world.runners, who, "evicted")
            yield world._replace(runners=runners, deaths=world.deaths - 1)
        return
    yield world._replace(runners=replace_at(world.runners, who, "idle"))
    for chunk, name in enumerate(CHUNKS):
        here, slash, half = world.where[chunk].partition("/")
        taken = here == f"taken {who}" and name not in world.outcomes
        if world.client == "waits" and taken:
            posted = f"posted{slash}{half}"
            yield world._replace(where=replace_at(world.where, chunk, posted))


def explore(start):
    """Return every world that can be reached, and the worlds without a next step."""
    seen, todo, ends = {start}, [start], []
    while todo:
        world = todo.pop()
        following = list(steps(world))
        if not following:
            ends.append(world)
        for after in following:
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return seen, ends


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_no_call_is_lost_and_none_counts_twice(deaths):
    """In every final world each chunk was delivered once."""
    seen, ends = explore(START._replace(deaths=deaths))
    assert len(seen) > 50
    assert ends
    for world in ends:
        assert sorted(world.read) == sorted(CHUNKS)
    for world in seen:
        assert len(set(world.read)) == len(world.read)
        assert set(world.read) <= world.outcomes


def test_runners_finish_what_a_dead_client_has_posted():
    """The runners continue without the client."""
    posted = START._replace(where=("posted", "posted", "none"), client="dead", deaths=1)
    _, ends = explore(posted)
    assert ends
    assert all(world.outcomes == set(CHUNKS) for world in ends)


def test_no_two_runners_have_the_same_chunk():
    """Without an eviction at most one runner has a chunk."""
    seen, _ = explore(START._replace(deaths=0))
    for world in seen:
        busy = [runner.split()[1][0] for runner in world.runners if " " in runner]
        assert len(set(busy)) == len(busy)
