"""Why a job does not run, on a real HTCondor."""

from __future__ import annotations

import sys
import time

import cloudpickle

from condorpool import personal
from condorpool.display.progress import Meter

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def job_of(pool, **submitkwargs):
    """Return the job of a call, in a pool with a job for each call."""
    return pool.apply_async(time.sleep, (60,), submitkwargs=submitkwargs).job


def analysis(job, expected):
    """Wait until the analysis has this text: slots and jobs reach the collector a moment later."""
    end = time.monotonic() + 15
    while expected not in (text := job.analyze()) and time.monotonic() < end:
        time.sleep(0.2)
    assert expected in text
    return text


def test_no_slot_has_that_much(make_pool):
    """The analysis names the request, and says what to do."""
    job = job_of(make_pool(maxtasksperchild=1), request_memory="900GB")
    text = analysis(job, f"Job {job.id} is idle: it has request_memory = 900 GiB")
    assert text.endswith("submit the calls again with less.")


def test_requirements_that_nothing_meets(make_pool):
    """The analysis names the condition."""
    job = job_of(make_pool(maxtasksperchild=1), requirements='Memory > 1 && Arch == "ALPHA"')
    analysis(job, 'none of 1 slot meets its requirement Arch == "ALPHA"')


def test_the_pool_is_full(make_pool):
    """The analysis says whose jobs have the slots."""
    pool = make_pool(maxtasksperchild=1)
    jobs = [job_of(pool) for _ in range(3)]
    analysis(jobs[2], "the pool is full: 1 of 1 slot could run it")
    analysis(jobs[2], "2 jobs of this access point are running, 2 of them yours")
    analysis(jobs[0], f"Job {jobs[0].id} is running on slot1_")


def test_held(make_pool):
    """The analysis has HTCondor's reason, and the remedy."""
    job = job_of(
        make_pool(maxtasksperchild=1),
        transfer_input_files="/no/such/file",
        should_transfer_files="YES",
    )
    text = analysis(job, f"Job {job.id} is held: ")
    assert "/no/such/file" in text
    assert text.endswith("correct the list of files and remove() the job.")
    job.remove()
    analysis(job, f"Job {job.id} is removed: ")


def test_held_by_its_user(make_pool):
    """The analysis says so; there is nothing to fix."""
    job = job_of(make_pool(maxtasksperchild=1), request_memory="900GB")
    job.hold()
    assert "A user put the job on hold" in analysis(job, "is held")


def test_cpus_are_shown(make_pool):
    """While jobs wait, the note has the pool's CPUs and how many are free."""
    pool = make_pool(processes=3, maxtasksperchild=1)
    meter = Meter(pool.map_async(time.sleep, [60] * 3, chunksize=1)._calls)
    wait_for_note(meter, "1 job is waiting for slots: all 2 CPUs of the pool are in use.")


def test_the_next_negotiation_is_shown(make_pool, tmp_path):
    """The note has it where negotiations are rare."""
    settings = {"NEGOTIATOR_INTERVAL": "8", "NEGOTIATOR_MIN_INTERVAL": "8"}
    settings |= {"NEGOTIATOR_CYCLE_DELAY": "8", "NEGOTIATOR_UPDATE_AFTER_CYCLE": "True"}
    with personal.start(tmp_path / "slow", cpus=1, settings=settings) as htcondor:
        pool = make_pool(processes=2, maxtasksperchild=1, personal=htcondor)
        meter = Meter(pool.map_async(time.sleep, [60] * 2, chunksize=1)._calls)
        text = "1 job is waiting for slots: all 1 CPUs of the pool are in use; "
        wait_for_note(meter, f"{text}the next negotiation is in about 10 s.")
        pool.terminate()
        pool.join()


def wait_for_note(meter, note):
    """Wait until the meter shows this note."""
    end = time.monotonic() + 70
    while (seen := meter.read().note) != note and time.monotonic() < end:
        time.sleep(0.2)
    assert seen == note
