"""How many calls are in each state: the numbers add up whatever happens."""

from __future__ import annotations

import collections
import itertools
import random
import time

import pytest

from condorpool.engine import rules
from condorpool.engine.counts import CallCounts
from condorpool.engine.description import JobOptions
from condorpool.engine.gathered import GatheredCalls
from condorpool.engine.payload import Call
from condorpool.engine.session import Session
from condorpool.engine.streams import StreamedCalls
from condorpool.engine.submitdir import (
    SubmitDir,
    Token,
    made_name,
    outcome_name,
    posted_name,
    taken_name,
)
from condorpool.engine.survey import Survey
from condorpool.runner import container
from condorpool.runner.outcomes import frames_of
from condorpool.values.events import JobEvent, JobState
from condorpool.values.exceptions import JobFailedError, JobRemovedError, SubmitError


class Queue:
    """An access point that accepts everything and starts nothing."""

    memory = None
    queue = "here"
    has_ended = False
    name = "the access point"

    def __init__(self):
        self.numbers = itertools.count(1)
        self.is_full = False

    def submit(self, submit, items):
        """Return the number of a new cluster."""
        if self.is_full:
            raise SubmitError("no")
        return next(self.numbers)

    def is_over(self, point):
        """Return that it runs."""
        return False

    def restore(self):
        """Do nothing."""

    def keep_claim(self, seconds):
        """Return them."""
        return seconds

    def act(self, action, jobs, reason):
        """Return that nothing was done: events are made by the test."""
        return 0

    def query(self, constraint, attributes):
        """Return that no job is in the queue."""
        return []

    def nudge_cluster(self, number):
        """Do nothing."""


class World:
    """Calls of a session, and everything that may happen to them."""

    def __init__(self, path, seed):
        self.random = random.Random(seed)
        self.queue = Queue()
        directory = SubmitDir.new(path)
        directory.make(queue="here")
        self.session = Session(directory, self.queue)
        self.state = self.session.state
        self.options = JobOptions(processes=self.random.randint(1, 4))
        if self.random.random() < 0.3:  # a job for each chunk
            self.options = JobOptions(processes=2, maxtasksperchild=1)
        self.ends = {}  # how calls ended, by their numbers
        self.numbers = itertools.count()
        self.late = []  # what may be told once more
        self.events = []  # that the event log has

    def post(self):
        """Post calls."""
        size, chunksize = self.random.randint(1, 30), self.random.randint(1, 9)
        call = Call(abs, "map", name="n", digest="d")  # kept on disk, since it has a name
        self.calls = GatheredCalls.of(call, range(size), chunksize)
        self.check()
        batch = self.calls.prepare(self.session, self.options)
        self.check()
        self.calls.commit(self.session, batch)

    @property
    def crew(self):
        """The crew of the latest batch."""
        return self.calls.batch.crew

    @property
    def jobs(self):
        """All jobs that were submitted."""
        return [job for cluster in self.state.clusters.values() for job in cluster.jobs]

    def chunks(self):
        """Return what each job is making: a job and a token."""
        batch = self.calls.batch
        if not self.crew.is_resident:
            held = [(batch.holders[first], first) for first in batch.pending]
            return [(job, Token(batch.number, n, batch.pending[n], n, job.id)) for job, n in held]
        tokens = [t for t in self.session.directory.tokens(self.crew.number) if t.job]
        return [(self.state.job(token.job), token) for token in tokens]

    def rename(self, folder, token, new_folder, new):
        """Move a token."""
        path = self.session.directory.path
        (path / folder / str(token)).rename(path / new_folder / str(new))

    # -- what may happen ---------------------------------------------------------------
    def take(self):
        """A running job takes a chunk, if it has none."""
        busy = {job for job, _ in self.chunks()}
        free = [j for j in self.jobs if j.state is JobState.RUNNING and j not in busy]
        number = self.crew.number
        tokens = [t for t in self.session.directory.tokens(number) if not t.job]
        if free and tokens and self.crew.is_resident:
            token = self.random.choice(tokens)
            taken = token._replace(job=self.random.choice(free).id)
            self.rename(posted_name(number), token, taken_name(number), taken)

    def split(self):
        """A job leaves half of its chunk to others."""
        number = self.crew.number
        wide = [t for _, t in self.chunks() if t.end - t.first > 1 and self.crew.is_resident]
        if wide:
            token = self.random.choice(wide)
            middle = self.random.randrange(token.first + 1, token.end)
            rest = token._replace(first=middle, job="")
            (self.session.directory.path / posted_name(number) / str(rest)).touch()
            self.rename(taken_name(number), token, taken_name(number), token._replace(end=middle))

    def look(self):
        """The client looks which job has which chunk."""
        self.state.refresh_holders(self.crew)

    def report(self):
        """A job reports how many calls it has made, maybe of an earlier chunk, and maybe half."""
        if (chunks := self.chunks()) and self.crew.is_resident:
            job, token = self.random.choice(chunks)
            made = self.random.randint(0, token.end - token.first)
            failed = self.random.randint(0, made)
            text = f"{token.batch} {token.first} {made} {failed} {made / 2}\n"
            text = self.random.choice([text, text, text, text[:-2], "", "1 0 3 3 0.5\n", "\0\n"])
            folder = self.session.directory.path / made_name(self.crew.number)
            (folder / job.id).write_text(text)

    def read_reports(self):
        """The client reads the reports."""
        with self.session.changed:
            self.crew.looked_at = 0.0
        self.calls.refresh()

    def event(self):
        """The event log has an event of a job, maybe twice."""
        if not self.jobs:
            return
        kinds = (
            "SUBMIT EXECUTE EXECUTE EXECUTE JOB_EVICTED JOB_HELD JOB_RELEASED JOB_SUSPENDED "
            "JOB_UNSUSPENDED JOB_DISCONNECTED JOB_RECONNECTED IMAGE_SIZE SHADOW_EXCEPTION"
        )
        job, kind = self.random.choice(self.jobs), self.random.choice(kinds.split())
        facts = {"HoldReason": "why", "HoldReasonCode": 34}
        began = int(time.time()) - self.random.randint(-2, 2)
        for _ in range(self.random.randint(1, 2)):
            self.events.append(JobEvent(kind, job.cluster.number, job.proc, facts, began))
            with self.session.changed:
                job.cluster.apply(self.events[-1])

    def put_back(self):
        """The chunk of a job that was evicted is posted again."""
        taken = [(j, t) for j, t in self.chunks() if j.state is JobState.IDLE]
        if taken and self.crew.is_resident:
            self.state.put_back(*self.random.choice(taken))

    def finish(self):
        """A job has made its calls; some of them raised."""
        if not (chunks := self.chunks()):
            return
        job, token = self.random.choice(chunks)
        failed = [self.random.random() < 0.2 for _ in range(token.first, token.end)]
        outcomes, frames = frames_of(
            [(ValueError("x"), "trace") if bad else (1, "") for bad in failed]
        )
        about = {"calls": outcomes, "count": len(failed), "job": job.id, "host": "h", "pid": 1}
        about |= {"python": "3", "started": time.time(), "seconds": 0.1}
        path = self.session.directory / outcome_name(token.batch, token.first)
        container.write(str(path), about, frames)
        batch = self.state.batches[token.batch]
        with self.session.changed:
            batch.split(token.first)
            is_news = token.first in batch.pending
        self.state.settle(batch, token.first)
        if is_news:
            words = ["failed" if bad else "done" for bad in failed]
            self.ends.update(zip(range(token.first, token.end), words, strict=True))
        self.late.append((batch, token.first, JobFailedError(job.id, "late")))
        if self.crew.is_resident:
            self.session.directory.take_back(self.crew.number, token)

    def lose(self):
        """A job is lost with its chunk, or was removed."""
        if not (chunks := self.chunks()):
            return
        job, token = self.random.choice(chunks)
        self.look()
        batch = self.state.batches[token.batch]
        word, kind = self.random.choice([("failed", JobFailedError), ("removed", JobRemovedError)])
        with self.session.changed:
            end = batch.pending.get(token.first, 0)
        self.state.finish(batch, token.first, kind(job.id, "why"))
        self.ends.update(dict.fromkeys(range(token.first, end), word))
        self.late.append((batch, token.first, JobFailedError(job.id, "late")))
        if self.crew.is_resident:
            self.session.directory.take_back(self.crew.number, token)

    def end_htcondor(self):
        """HTCondor and its jobs have ended, and another one with another queue runs."""
        restarts = self.crew.restarts
        if restarts < rules.MAX_RESTARTS and self.random.random() < 0.3:
            self.queue.queue = f"queue {next(self.numbers)}"
            self.session.revival._look_at = 0.0
            self.session.revival.look()
            assert all(job.state is JobState.UNMATERIALIZED for job in self.jobs)
            assert {job.cluster.queue for job in self.jobs} <= {self.queue.queue}
            pending = [batch for batch in self.state.batches.values() if batch.pending]
            assert bool(self.jobs) == bool(pending)
            assert self.crew.restarts == restarts + (self.calls.batch in pending)

    def take_back(self):
        """The user takes back what no job makes."""
        if not self.crew.is_resident:
            return
        self.look()
        tokens = [t for t in self.session.directory.tokens(self.crew.number) if not t.job]
        waiting = [t for t in tokens if t.first in self.calls.batch.pending]
        assert self.calls.take_back() == sum(t.end - t.first for t in waiting)
        for token in tokens:
            self.ends.update(dict.fromkeys(range(token.first, token.end), "removed"))

    def tell_again(self):
        """What is known already is told once more."""
        if self.late:
            self.state.finish(*self.random.choice(self.late))

    def rerun(self):
        """The user has the failed calls made again; sometimes that cannot be posted."""
        self.session.deliveries.wait(10)
        if self.calls.is_ready and self.calls.errors:
            self.queue.is_full = self.random.random() < 0.3 and not self.crew.is_resident
            try:
                self.calls.rerun()
            except SubmitError:
                return
            finally:
                self.queue.is_full = False
            self.ends = {n: how for n, how in self.ends.items() if how == "done"}

    def check(self):
        """The numbers add up."""
        counts = self.calls.counts()
        assert min(counts) >= 0, counts
        assert counts.total == self.calls.size, counts
        assert counts.ended == counts.done + counts.failed + counts.removed
        return counts

    STEPS = (
        *(take, take, take, split, look, report, report, read_reports),
        *(event, event, event, event),
        *(put_back, finish, finish, lose, take_back, tell_again, rerun),
        end_htcondor,
    )

    def walk(self, steps):
        """Have things happen at random, and check the numbers after each."""
        for _ in range(steps):
            step = self.random.choice(self.STEPS)
            if step is World.take_back and self.random.random() < 0.8:
                continue
            step(self)
            self.check()
        self.session.deliveries.wait(10)
        calls, ends = self.calls, collections.Counter(self.ends.values())
        assert (calls.failed, calls.removed) == (ends["failed"], ends["removed"])
        assert calls.ended == sum(ends.values())
        counts = self.check()
        assert counts.done >= ends["done"]  # some may have been made and have no outcome yet


@pytest.mark.parametrize("seed", range(60))
def test_numbers_add_up_whatever_happens(tmp_path, seed):
    """Every call is in one state, and in the right one when its outcome has arrived."""
    world = World(tmp_path, seed)
    world.post()
    world.walk(80)


@pytest.mark.parametrize("seed", range(60))
def test_another_process_counts_the_same(tmp_path, seed, monkeypatch):
    """It reads the files of the submit directory alone, and changes none."""
    world = World(tmp_path, seed)
    world.post()
    world.walk(80)
    world.look()
    world.read_reports()
    monkeypatch.setattr(Survey, "_events", lambda _: world.events)
    directory = SubmitDir.found(world.session.directory.path)
    before = {path: path.stat().st_ctime_ns for path in directory.path.rglob("*")}
    (chain,) = directory.chains().values()
    survey = Survey(directory)
    assert survey.counts(chain) == world.calls.counts()
    assert {path: path.stat().st_ctime_ns for path in directory.path.rglob("*")} == before
    gone = Survey(directory, has_queue=False).counts(chain)
    assert (gone.running, gone.held) == (0, 0)
    assert gone.total == world.calls.size


def test_one_call_for_each_running_job(tmp_path):
    """The other calls of a chunk wait; what a held job has is held."""
    world = World(tmp_path, 1)
    world.options = JobOptions(processes=2)
    world.calls = GatheredCalls.of(Call(abs, "map"), range(10), 4)
    assert world.calls.counts() == CallCounts(waiting=10)
    world.calls.commit(world.session, world.calls.prepare(world.session, world.options))
    assert world.calls.counts() == CallCounts(waiting=10)
    one, two = world.jobs

    def tell(job, kind):
        with world.session.changed:
            job.cluster.apply(JobEvent(kind, job.cluster.number, job.proc))

    tell(one, "EXECUTE")
    assert world.calls.counts() == CallCounts(running=1, waiting=9)
    world.take()
    world.look()
    tell(two, "EXECUTE")
    assert world.calls.counts() == CallCounts(running=2, waiting=8)
    tell(one, "JOB_HELD")
    held = world.calls.batch.pending
    first = next(iter(world.calls.batch.holders))
    size = held[first] - first
    assert world.calls.counts() == CallCounts(running=1, held=size, waiting=9 - size)
    tell(two, "JOB_HELD")
    assert world.calls.counts() == CallCounts(held=10)  # only held jobs could make them


def report(world, text, wait=0.0):
    """Have the only job of a world take a chunk and report; return what is known of it."""
    (job,) = world.jobs
    (world.session.directory.path / made_name(world.crew.number) / job.id).write_text(text)
    time.sleep(wait)
    world.read_reports()
    return world.calls.counts()


@pytest.fixture
def busy(tmp_path):
    """A job that has taken a chunk of four calls; four more wait."""
    world = World(tmp_path, 1)
    world.options = JobOptions(processes=1)
    world.calls = GatheredCalls.of(Call(abs, "map"), range(8), 4)
    world.calls.commit(world.session, world.calls.prepare(world.session, world.options))
    (job,) = world.jobs
    with world.session.changed:
        job.cluster.apply(JobEvent("EXECUTE", job.cluster.number, job.proc, {}, 1))
    world.take()
    return world


@pytest.mark.parametrize(
    ("kind", "facts", "expected"),
    [
        ("JOB_TERMINATED", {"TerminatedBySignal": 9}, CallCounts(failed=4, waiting=4)),
        ("JOB_ABORTED", {"Reason": "by user"}, CallCounts(removed=4, waiting=4)),
        ("JOB_ABORTED", {"Reason": f"{rules.SURPLUS} (by user)"}, CallCounts(waiting=8)),
        ("JOB_EVICTED", {}, CallCounts(waiting=8)),
        ("JOB_HELD", {}, CallCounts(held=8)),
    ],
)
def test_a_job_that_ended_after_its_owner(busy, monkeypatch, kind, facts, expected):
    """No process has recorded that its calls are lost: the event log says it."""
    ((job, _),) = busy.chunks()
    places = (job.cluster.number, job.proc)
    events = [JobEvent("EXECUTE", *places), JobEvent(kind, *places, facts)]
    monkeypatch.setattr(Survey, "_events", lambda _: events)
    directory = busy.session.directory
    (chain,) = directory.chains().values()
    survey = Survey(directory)
    assert survey.counts(chain) == expected
    reasons = [str(error) for _, _, error in survey.ended(chain)]
    assert len(reasons) == (expected.ended > 0)


def test_a_job_that_the_cleaner_submitted(busy, monkeypatch):
    """It is in no record of a crew; the name of a chunk that it took says which crew it is of."""
    (path,) = (busy.session.directory.path / taken_name(busy.crew.number)).iterdir()
    path.rename(path.with_name(str(Token.named(path.name)._replace(job="99.1"))))
    events = [JobEvent("SUBMIT", 99, proc) for proc in (0, 1)] + [JobEvent("EXECUTE", 99, 1)]
    monkeypatch.setattr(Survey, "_events", lambda _: events)
    (chain,) = busy.session.directory.chains().values()
    assert Survey(busy.session.directory).counts(chain) == CallCounts(running=1, waiting=7)


def test_calls_that_a_job_reports_are_done(busy):
    """They count before their chunk has ended, and so do those that failed."""
    ((_, token),) = busy.chunks()
    start = f"{token.batch} {token.first}"
    assert report(busy, "") == CallCounts(running=1, waiting=7)
    assert busy.calls.pace().longest.number == token.first
    assert busy.calls.pace().seconds is None
    assert report(busy, f"{start} 3 1 1.5\n", wait=0.2) == CallCounts(2, 1, 0, 1, 0, 4)
    pace = busy.calls.pace()
    assert (pace.longest.number, pace.longest.left) == (token.first + 3, 1)
    assert pace.time - pace.longest.began >= 0.2
    assert (pace.seconds, pace.is_exact(pace.longest), pace.chunks) == (0.5, True, 1)
    assert report(busy, f"{start} 9 1 4.5\n") == CallCounts(
        3, 1, 0, 0, 0, 4
    )  # no more than there are


@pytest.mark.parametrize(
    "text", ["", "1", "1 0 3 0 1.5", "99 0 3 0 1.5\n", "1 77 3 0 1.5\n", "a b c d e\n"]
)
def test_reports_of_other_chunks_and_broken_ones_are_ignored(busy, text):
    """Nothing depends on them."""
    assert report(busy, text) == CallCounts(running=1, waiting=7)


def test_what_an_evicted_job_has_made_is_lost(busy):
    """It begins its chunk again, and its report does not count any more."""
    ((job, token),) = busy.chunks()
    assert report(busy, f"{token.batch} {token.first} 3 0 1.5\n").done == 3
    for kind, running in (("JOB_EVICTED", 0), ("EXECUTE", 1)):
        event = JobEvent(kind, job.cluster.number, job.proc, {}, int(time.time()) + 1)
        with busy.session.changed:
            job.cluster.apply(event)
        busy.read_reports()
        assert busy.calls.counts() == CallCounts(running=running, waiting=8 - running)


def test_a_chunk_is_split_after_a_report(busy):
    """What was made of it still counts, and the other half is a chunk of its own."""
    ((_, token),) = busy.chunks()
    assert report(busy, f"{token.batch} {token.first} 2 0 1.0\n").done == 2
    busy.split()
    busy.read_reports()
    assert busy.check().done in (1, 2)


def test_runners_make_the_calls_of_earlier_maps_first(tmp_path):
    """A running job is counted once, for the map whose calls it makes."""
    world = World(tmp_path, 1)
    maps = []
    for _ in range(2):
        calls = GatheredCalls.of(Call(abs, "map"), range(2), 1)
        calls.commit(world.session, calls.prepare(world.session, JobOptions(processes=3)))
        maps.append(calls)
    for job in world.jobs:
        with world.session.changed:
            job.cluster.apply(JobEvent("EXECUTE", job.cluster.number, job.proc))
    assert [calls.counts().running for calls in maps] == [2, 1]


def test_counts_of_an_iterator(tmp_path):
    """They are those of the items that it has taken."""
    world = World(tmp_path, 1)
    world.options = JobOptions(processes=2)
    world.calls = StreamedCalls(
        world.session, Call(abs, "map"), range(6), 2, world.options, 100, ordered=True
    )
    while world.calls.size < 6 or world.calls.batch.is_open:
        time.sleep(0.01)
        world.check()
    for job in world.jobs:
        with world.session.changed:
            job.cluster.apply(JobEvent("EXECUTE", job.cluster.number, job.proc))
    world.take()
    world.finish()
    world.take()
    world.lose()
    world.session.deliveries.wait(10)
    assert world.check().ended == len(world.ends) == 4
    assert not world.calls.ended_at
    world.take_back()
    world.session.deliveries.wait(10)
    assert world.check() == CallCounts(**collections.Counter(world.ends.values()))
    assert world.calls.ended_at >= world.calls.posted_at > 0


def test_removed_calls_have_not_failed(tmp_path):
    """They are counted apart, and are made again as failed ones are."""
    world = World(tmp_path, 1)
    world.options = JobOptions(processes=2)
    world.post()
    world.take_back()
    world.session.deliveries.wait(10)
    calls = world.calls
    assert (calls.removed, calls.failed, calls.is_ready) == (calls.size, 0, True)
    ended = calls.elapsed
    assert calls.ended_at
    time.sleep(0.05)
    assert calls.elapsed == ended  # it stopped
    posted = calls.posted_at
    calls.rerun()
    assert calls.counts() == CallCounts(waiting=calls.size)
    assert calls.posted_at > posted
    assert not calls.ended_at


def test_calls_that_were_taken_up_have_their_own_times(tmp_path):
    """They ended when their last job did, not when another process found that."""
    world = World(tmp_path, 2)
    world.options = JobOptions(processes=1)
    call = Call(abs, "map", name="n", digest="d")  # kept, since it has a name
    world.calls = GatheredCalls.of(call, range(1), 1)
    world.calls.commit(world.session, world.calls.prepare(world.session, world.options))
    (job,) = world.jobs
    with world.session.changed:
        job.cluster.apply(JobEvent("EXECUTE", job.cluster.number, job.proc))
    world.take()
    time.sleep(0.3)
    world.finish()
    world.session.deliveries.wait(10)
    time.sleep(0.3)
    directory = world.session.directory
    again = Session.taken_up(SubmitDir.found(directory.path), world.queue)
    ((_, chain),) = directory.chains().items()
    calls = GatheredCalls.taken_up(again, chain)
    again.deliveries.wait(10)
    assert calls.is_ready
    assert calls.posted_at == world.calls.posted_at
    assert abs(calls.elapsed - world.calls.elapsed) < 0.29


def test_words():
    """Zeros are not shown, except that nothing is done."""
    assert str(CallCounts(waiting=4)) == "0 done, 4 waiting"
    assert str(CallCounts(1234, 1, 2, 3, 4, 5)) == (
        "1,234 done, 1 failed, 2 removed, 3 running, 4 held, 5 waiting"
    )
