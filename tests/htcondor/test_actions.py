"""What the widget's buttons do to jobs."""

from __future__ import annotations

import time

import pytest

from condorpool.display import orders
from condorpool.display.progress import Meter


@pytest.fixture
def held(make_pool):
    """Return a result whose two jobs are held."""
    pool = make_pool(maxtasksperchild=1, submitkwargs={"request_memory": "100"})
    result = pool.map_async(time.sleep, [60, 60], 1)
    while len(result.jobs) < 2 or "queued" in Meter(result._calls).read().jobs:
        time.sleep(0.01)
    result.hold()
    while Meter(result._calls).read().jobs.get("held") != 2:
        time.sleep(0.01)
    return result


def test_what_was_gone_already_is_told(held, access_point):
    """The answer counts jobs that another program has removed meanwhile."""
    access_point.act("remove", [held.jobs[0].id])
    while Meter(held._calls).read().jobs["held"] > 1:
        time.sleep(0.01)
    order = {"do": "remove", "held": True, "count": 2}
    assert orders.perform(held._calls, order) == {"said": "removed 1 job; 1 had already ended"}
    held.wait(20)
    assert held.ready()


def test_a_group_is_released_with_more_memory(held, access_point):
    """Jobs of a group are released with twice the memory that they requested."""
    [group] = Meter(held._calls).read().held
    order = {"do": "release_with_memory", "group": group.key, "count": 2}
    assert orders.perform(held._calls, order) == {"said": "released 2 jobs, with 200 MiB each"}
    ads = access_point.query("true", ["RequestMemory", "JobStatus"])
    assert [ad["RequestMemory"] for ad in ads] == [200, 200]
    assert all(ad["JobStatus"] != 5 for ad in ads)


def test_selected_jobs_are_acted_on_alone(held):
    """An action with ids leaves other jobs alone, and may be asked for twice."""
    first, second = held.jobs
    order = {"do": "release", "ids": [first.id]}
    assert orders.perform(held._calls, order) == {"said": "released 1 job"}
    assert not first.hold_reason
    assert second.hold_reason


def test_everything_is_removed(held):
    """Removing all jobs ends all calls."""
    order = {"do": "remove", "all": True}
    assert orders.perform(held._calls, order) == {"said": "removed 2 calls"}
    held.wait(20)
    assert held.ready()
    assert orders.perform(held._calls, order) == {"said": "removed 0 calls"}


def test_page_and_log(held):
    """Pages of jobs and their logs come on demand, within bounds."""
    page = orders.perform(held._calls, {"do": "page", "state": "all", "offset": 1, "count": 10**9})
    [row] = page["page"]["rows"]
    assert (page["page"]["total"], row["state"], row["calls"]) == (2, "held", "1")
    log = orders.perform(held._calls, {"do": "log", "job": row["id"]})["log"]
    assert "Job was held" in log["text"]
    gone = orders.perform(held._calls, {"do": "log", "job": "0.0"})
    assert "job 0.0 is no longer in the queue" in gone["said"]


def test_the_log_of_a_failed_call(make_pool):
    """The log of the job that made a call is found after the job has left the queue."""
    pool = make_pool(maxtasksperchild=1)

    def fit(x):
        print("fitting", x)
        return 1 / x

    result = pool.map_async(fit, [1, 0], 1)
    result.wait(40)
    [group] = Meter(result._calls).read().failures
    assert (group.kind, group.call) == ("ZeroDivisionError", 1)
    order = {"do": "log", "call": group.call}
    while "terminated" not in (log := orders.perform(result._calls, order)["log"])["text"]:
        time.sleep(0.1)  # the job leaves the queue a moment after the outcome
    assert log["title"].endswith(", which made call 1")
    assert "fitting 1" not in log["text"]
    assert "fitting 0" in log["text"]
    missing = orders.perform(result._calls, {"do": "log", "call": 7})
    assert missing == {"said": "no job made call 7"}


def test_an_unknown_order_does_nothing(held):
    """An action of a front end of another version is answered, and does nothing."""
    assert "no action 'format'" in orders.perform(held._calls, {"do": "format"})["said"]


@pytest.mark.parametrize("action", ["remove", "hold", "vacate"])
def test_what_is_posted_after_an_action_is_not_harmed_by_it(make_pool, action):
    """Calls that a job takes before the action reaches it are made by other jobs."""
    pool = make_pool(processes=2)
    pool.map(abs, range(4))
    for number in range(6):
        before = pool.map_async(time.sleep, [0.1] * 20, chunksize=1)
        time.sleep(0.02 * number)
        getattr(before, action)()
        after = pool.map_async(time.sleep, [0.05] * 6, chunksize=1)
        assert after.get(timeout=60) == [None] * 6
        before.remove()


def test_an_imap_is_not_held_before_it_has_jobs(make_pool):
    """Its calls are posted while the jobs of other calls are held."""
    pool = make_pool(processes=2)
    for _ in range(5):
        held = pool.map_async(time.sleep, [30, 30], chunksize=1)
        while len(held.jobs) < 2:
            time.sleep(0.01)
        held.hold()
        while held.status() != "Held":
            time.sleep(0.01)
        assert list(pool.imap(abs, range(5))) == list(range(5))
        held.remove()
