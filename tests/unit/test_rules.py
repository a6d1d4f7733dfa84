"""The rules of staffing and ending, without HTCondor."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from condorpool.engine import rules
from condorpool.engine.records import BatchRecord, CrewRecord, Submission
from condorpool.engine.rules import SURPLUS, Cleaning, CrewEnd, Then
from condorpool.engine.submitdir import Token
from condorpool.runner.names import EX_NO_CHIRP, EX_SOFTWARE
from condorpool.values.events import JobState

IDLE, RUNNING, HELD = JobState.IDLE, JobState.RUNNING, JobState.HELD


@pytest.mark.parametrize(
    ("limit", "chunks", "runners", "missing"),
    [
        pytest.param(4, 2, 0, 2, id="one for each chunk"),
        pytest.param(4, 9, 0, 4, id="not more than the limit"),
        pytest.param(4, 9, 3, 1, id="besides those that there are"),
        pytest.param(4, 1, 3, 0, id="enough"),
    ],
)
def test_runners_missing(limit, chunks, runners, missing):
    """There is a runner for each chunk, up to the limit."""
    assert rules.runners_missing(limit, chunks, runners) == missing


@pytest.mark.parametrize(
    ("since", "waiting", "has_chunks", "expected"),
    [
        pytest.param(math.inf, 1, False, 9.0, id="from now on"),
        pytest.param(5.0, 1, False, 5.0, id="as before"),
        pytest.param(5.0, 1, True, math.inf, id="there is a chunk"),
        pytest.param(5.0, 0, False, math.inf, id="none waits"),
    ],
)
def test_surplus_since(since, waiting, has_chunks, expected):
    """Runners that wait for a slot without a chunk to take are surplus."""
    found = rules.surplus_since(since, 9.0, waiting=waiting, has_chunks=has_chunks)
    assert found == expected


@pytest.mark.parametrize(
    ("job", "had_chunk", "spares_others", "then"),
    [
        pytest.param({"exit_code": EX_NO_CHIRP}, False, False, Then.FALL_BACK, id="no chirp"),
        pytest.param({"exit_code": 0}, False, False, Then.SUBMIT, id="ended well"),
        pytest.param({"exit_code": 1}, True, False, Then.SUBMIT, id="crashed in a call"),
        pytest.param({"exit_code": 1}, False, False, Then.GIVE_UP, id="crashed before one"),
        pytest.param({"exit": "by signal 9"}, False, False, Then.GIVE_UP, id="killed before one"),
        pytest.param({"exit_code": EX_SOFTWARE}, False, False, Then.REPLACE, id="our fault"),
        pytest.param({}, False, False, Then.REPLACE, id="without a reason"),
        pytest.param({"reason": "by user"}, False, False, Then.GIVE_UP, id="removed"),
        pytest.param({"reason": "by user"}, True, False, Then.GIVE_UP, id="removed in a call"),
        pytest.param({"reason": "by user"}, True, True, Then.SUBMIT, id="removed for its call"),
        pytest.param({"reason": SURPLUS}, False, False, Then.SUBMIT, id="surplus when it was not"),
    ],
)
def test_after_the_last_runner(job, had_chunk, spares_others, then):
    """Other jobs make the remaining chunks, unless they would end in the same way."""
    exited = {"exit": f"it exited with code {job['exit_code']}"} if "exit_code" in job else {}
    state = JobState.REMOVED if "reason" in job else JobState.COMPLETED
    usual = {"state": state, "reason": "", "exit": "", "exit_code": None}
    ended = SimpleNamespace(**{**usual, **exited, **job})
    found = rules.after_last_runner(ended, had_chunk=had_chunk, spares_others=spares_others)
    assert found is then


@pytest.mark.parametrize(
    ("batches", "killstats"),
    [
        pytest.param([], {"Held", "Suspended"}, id="none"),
        pytest.param([BatchRecord(killstats=())], set(), id="nothing is killed"),
        pytest.param([BatchRecord(killstats=(s,)) for s in ("Held", "Idle")], {"Held", "Idle"}, id="two"),
    ],
)  # fmt: skip
def test_killstats(batches, killstats):
    """Those of all batches; lingering jobs are removed when they are held or suspended."""
    assert rules.killstats(batches) == killstats


def token(first, job=""):
    """Return the token of a chunk of batch 1."""
    return Token(1, first, first + 1, first, job)


def crew_end(*remove, kills=False, submit=0, has_jobs=False):
    """Return what to do next for a crew."""
    return CrewEnd(frozenset(remove), kills, submit, has_jobs)


@pytest.mark.parametrize(
    ("jobs", "tokens", "expected"),
    [
        pytest.param({}, [], crew_end(), id="done"),
        pytest.param({"7.0": RUNNING}, [], crew_end(has_jobs=True), id="runs"),
        pytest.param({"7.0": IDLE}, [token(0)], crew_end(has_jobs=True), id="will run"),
        pytest.param({"7.0": IDLE}, [], crew_end("7.0"), id="has nothing to take"),
        pytest.param({"7.0": IDLE}, [token(0, "7.0")], crew_end(has_jobs=True), id="was evicted"),
        pytest.param({"7.0": HELD}, [token(0)], crew_end("7.0", kills=True), id="is held"),
        pytest.param(
            {"7.0": HELD, "7.1": RUNNING}, [token(0)],
            crew_end("7.0", kills=True, has_jobs=True), id="one is held",
        ),
        pytest.param({}, [token(0)], crew_end(submit=1), id="no job remains"),
        pytest.param({}, [token(n) for n in range(9)], crew_end(submit=2), id="up to the limit"),
        pytest.param({}, [token(0, "7.0")], crew_end(), id="its job took it along"),
    ],
)  # fmt: skip
def test_crew_end(jobs, tokens, expected):
    """Posted chunks are made; jobs that have nothing to do, or are held, are removed."""
    end = rules.crew_end(CrewRecord(limit=2), jobs, tokens, {"Held"}, may_submit=True)
    assert end == expected


def test_a_crew_may_get_no_more_jobs():
    """The posted chunks are not made then."""
    end = rules.crew_end(CrewRecord(limit=2), {}, [token(0)], {"Held"}, may_submit=False)
    assert end == crew_end()


def test_jobs_that_no_slot_can_run():
    """They are removed, and get no successors."""
    end = rules.crew_end(
        CrewRecord(), {"7.0": IDLE}, [token(0)], {"Held"}, may_submit=True, unmatched={"7.0"}
    )
    assert end == crew_end("7.0", kills=True)


def test_idle_jobs_of_a_plain_crew_have_a_chunk():
    """They are not removed."""
    plain = CrewRecord(is_resident=False)
    end = rules.crew_end(plain, {"7.0": IDLE}, [], {"Held"}, may_submit=True)
    assert end == crew_end(has_jobs=True)


def test_failed_chunks():
    """They are the chunks of crashed jobs without an outcome."""
    crews = {
        1: CrewRecord(clusters=(Submission(7, 3, None),)),
        2: CrewRecord(is_resident=False, clusters=(Submission(8, 2, (0, 5)),)),
    }
    batches = {1: BatchRecord(crew=1), 2: BatchRecord(crew=2)}
    tokens = {1: [token(0, "7.0"), token(1, "7.1"), token(2)], 2: []}
    crashed = {"7.0", "8.1"}
    unfinished = {(1, 0), (1, 1), (1, 2), (2, 0), (2, 5), (3, 0)}
    assert rules.failed_chunks(crews, batches, tokens, crashed, unfinished) == {(1, 0), (2, 5)}


@pytest.mark.parametrize(
    ("tokens", "ended", "calls"),
    [
        pytest.param([], (), 0, id="none"),
        pytest.param([token(0), token(1)], (), 2, id="posted"),
        pytest.param([token(0, "7.1"), token(1)], (), 2, id="taken"),
        pytest.param([token(0, "7.1"), token(1)], {(1, 0)}, 1, id="has an outcome"),
        pytest.param([token(0, "7.0"), token(1)], (), 1, id="crashed"),
        pytest.param([token(0, "9.0"), token(1)], (), 1, id="removed"),
        pytest.param([token(0, "9.1"), token(1)], (), 2, id="another of its cluster was removed"),
    ],
)
def test_unmade_calls(tokens, ended, calls):
    """They wait for a job, or were with one that neither failed nor was removed."""
    crews = {1: CrewRecord(clusters=(Submission(7, 3, None),))}
    known = {"crashed": {"7.0"}, "removed": {"9.0"}}
    assert (
        rules.unmade_calls(crews, {1: BatchRecord(crew=1)}, {1: tokens}, {}, ended, **known)
        == calls
    )


def test_unmade_calls_of_plain_jobs():
    """Their chunks have no tokens."""
    crews = {2: CrewRecord(is_resident=False, clusters=(Submission(8, 3, (0, 5, 8)),))}
    ends = {(1, 0): 5, (1, 5): 8, (1, 8): 10}
    unmade = rules.unmade_calls(
        crews, {1: BatchRecord(crew=2)}, {2: []}, ends, {(1, 0)}, crashed={"8.2"}, removed=()
    )
    assert unmade == 3


@pytest.mark.parametrize(
    ("batch", "named", "failed", "expected"),
    [
        pytest.param({}, (), (), Cleaning({1: frozenset()}, ""), id="all goes"),
        pytest.param(
            {}, (), {(1, 4), (2, 0)}, Cleaning({1: frozenset({4})}, "the files of failed jobs"),
            id="failed",
        ),
        pytest.param(
            {"cleanfailed": True}, (), {(1, 4)}, Cleaning({1: frozenset()}, ""),
            id="failed, not kept",
        ),
        pytest.param({"name": "scan"}, {1}, {(1, 4)}, Cleaning({}, "results named scan"), id="named"),
        pytest.param(
            {"name": "scan"}, (), (), Cleaning({1: frozenset()}, ""), id="named, not complete",
        ),
    ],
)  # fmt: skip
def test_cleaning(batch, named, failed, expected):
    """Results with a name, and the files of failed jobs, are kept."""
    assert rules.cleaning({1: BatchRecord(**batch)}, named, failed) == expected


def test_cleaning_beside_named_results():
    """Other batches are deleted, except the files of failed jobs."""
    batches = {
        1: BatchRecord(name="b"),
        2: BatchRecord(name="a"),
        3: BatchRecord(),
        4: BatchRecord(),
    }
    found = rules.cleaning(batches, {1, 2}, {(3, 0)})
    assert found == Cleaning({3: frozenset({0}), 4: frozenset()}, "results named a, b")
