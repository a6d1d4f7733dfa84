"""Events, states and exceptions are plain values."""

from __future__ import annotations

import builtins
import copy
import functools
import inspect
import multiprocessing
import multiprocessing.pool
import pickle
import sys

import pytest

import condorpool
from condorpool import JobState
from condorpool.values import exceptions
from condorpool.values.events import STATUS_CODES, state_after


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(["SUBMIT"], JobState.IDLE, id="submitted"),
        pytest.param(["SUBMIT", "EXECUTE"], JobState.RUNNING, id="running"),
        pytest.param(["SUBMIT", "EXECUTE", "JOB_EVICTED"], JobState.IDLE, id="evicted"),
        pytest.param(["SUBMIT", "EXECUTE", "SHADOW_EXCEPTION"], JobState.IDLE, id="shadow-died"),
        pytest.param(["SUBMIT", "JOB_HELD"], JobState.HELD, id="held"),
        pytest.param(["SUBMIT", "JOB_HELD", "JOB_EVICTED"], JobState.HELD, id="evicted-by-hold"),
        pytest.param(["SUBMIT", "JOB_HELD", "JOB_RELEASED"], JobState.IDLE, id="released"),
        pytest.param(["SUBMIT", "EXECUTE", "JOB_SUSPENDED"], JobState.SUSPENDED, id="suspended"),
        pytest.param(["SUBMIT", "EXECUTE", "IMAGE_SIZE"], JobState.RUNNING, id="no-news"),
        pytest.param(["EXECUTE", "JOB_TERMINATED", "EXECUTE"], JobState.COMPLETED, id="twice"),
        pytest.param(["JOB_ABORTED", "JOB_TERMINATED"], JobState.REMOVED, id="removed"),
    ],
)
def test_state_follows_the_event_log(events, expected):
    """A job's state is decided by its events alone."""
    assert functools.reduce(state_after, events, JobState.UNMATERIALIZED) is expected


def test_the_original_words_for_states():
    """Code written for the original CondorPool compares them, and HTCondor's numbers for them."""
    assert STATUS_CODES == {
        1: "Idle", 2: "Running", 3: "Removing", 4: "Completed", 5: "Held",
        6: "Transferring Output", 7: "Suspended",
    }  # fmt: skip
    assert [state.original_word for state in JobState] == [
        "Idle", "Idle", "Running", "Suspended", "Held", "Completed", "Removing"
    ]  # fmt: skip


ERRORS = [e for _, e in inspect.getmembers(exceptions, inspect.isclass) if e.__module__ == exceptions.__name__]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_public_and_ours(error):
    """Users can catch one error by its name, and all of them by one class."""
    assert getattr(condorpool, error.__name__) is error
    assert issubclass(error, condorpool.CondorPoolError)


def test_errors_are_also_standard_errors():
    """Code that was written for multiprocessing catches them."""
    assert issubclass(condorpool.PoolClosedError, ValueError)
    assert issubclass(condorpool.PayloadError, pickle.PicklingError)
    assert issubclass(condorpool.TimeoutError, (multiprocessing.TimeoutError, TimeoutError))
    assert issubclass(condorpool.TimeoutError, multiprocessing.TimeoutError)

    assert issubclass(condorpool.ResultPicklingError, multiprocessing.pool.MaybeEncodingError)
    assert issubclass(condorpool.RemoteTraceback, multiprocessing.pool.RemoteTraceback)
    # From get(timeout) it would mean that the call continues.
    assert not issubclass(condorpool.TaskTimeoutError, (TimeoutError, multiprocessing.TimeoutError))


def test_a_job_error_pickles():
    """It keeps its attributes."""
    error = condorpool.JobHeldError("12.3", "no disk", 34, 1, count=5, host="slot1@e", stderr="oh")
    other = pickle.loads(pickle.dumps(error))
    assert str(other) == str(error)
    assert (other.job_id, other.code, other.host) == ("12.3", 34, "slot1@e")
    assert "4 more jobs" in str(other)


MADE = {
    "PoolClosedError": (),
    "ResultTimeoutError": (3.5,),
    "ResultPicklingError": ("it cannot", "TypeError: no", "the value"),
    **{e.__name__: ("12.3", "why") for e in ERRORS if issubclass(e, exceptions.JobError)},
}


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("error", [*ERRORS, condorpool.RemoteTraceback])
def test_every_error_pickles_and_copies(error, way):
    """The copy has the same text, arguments and attributes."""
    made = error(*MADE.get(error.__name__, ("said",)))
    other = way(made)
    assert type(other) is error
    assert (str(other), other.args, vars(other)) == (str(made), made.args, vars(made))


class Needs(Exception):
    """Cannot be made without its keyword argument."""

    def __init__(self, number, *, color):
        super().__init__(number)
        self.color = color


class Slots(ValueError):
    """Keeps its attribute in a slot."""

    __slots__ = ("number",)

    def __init__(self):
        self.number = 3


class Mute(Exception):
    """Raises when it is shown or compared, or when an attribute is used."""

    def __str__(self):
        raise RuntimeError

    def __setattr__(self, name, value):
        raise RuntimeError

    def __getattribute__(self, name):
        raise RuntimeError

    __repr__ = __eq__ = __str__
    __hash__ = None


class New(Exception):
    """Has its own ``__new__``."""

    def __new__(cls, one, two):
        """Take two arguments."""
        return super().__new__(cls, one, two)


class Meta(type):
    """A metaclass."""


class WithMeta(Exception, metaclass=Meta):
    """Has a metaclass."""


STANDARD = [
    RuntimeError("x"), KeyError("x"), FileNotFoundError(2, "no", "file"), RecursionError("deep"),
    UnicodeEncodeError("ascii", "ä", 0, 1, "why"), SyntaxError("x", ("f", 1, 2, "t")), MemoryError(),
    AttributeError("x", name="n"), ImportError("x", name="n"), NotImplementedError(), pickle.UnpicklingError("x"),
    pickle.PicklingError("x"), Needs(1, color="red"), Slots(), Mute, New(1, 2), WithMeta("x"),
]  # fmt: skip
if sys.version_info >= (3, 11):
    STANDARD.append(builtins.ExceptionGroup("two", [ValueError(1), TypeError(2)]))


@pytest.mark.parametrize("kind", [condorpool.PayloadError, condorpool.ResultPicklingError])
@pytest.mark.parametrize(
    "error", STANDARD, ids=lambda e: e.__name__ if isinstance(e, type) else type(e).__name__
)
def test_an_error_in_place_of_another(error, kind):
    """It is an instance of both classes, with the other's attributes and our text."""
    error = error() if isinstance(error, type) else error  # pytest cannot show an instance of Mute
    other = type(error)
    made = exceptions.in_place_of(kind, error, "our text")
    ways = (lambda e: e, copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)))
    for way in ways:
        found = way(made)
        assert isinstance(found, kind)
        assert isinstance(found, other)
        assert (str(found), type(found).__name__) == ("our text", kind.__name__)
        assert type(found).__module__ == kind.__module__
        assert "our text" in repr(found)
        assert found == found  # noqa: PLR0124
        if not issubclass(other, Mute):
            for name in ("errno", "filename", "reason", "name", "color", "number", "lineno"):
                assert getattr(found, name, None) == getattr(error, name, None)
    with pytest.raises(other):
        raise made


def test_in_place_of_a_local_class():
    """A process that cannot import the class gets our error alone."""

    class Local(Exception):
        pass

    made = exceptions.in_place_of(condorpool.PayloadError, Local(), "our text")
    assert isinstance(copy.copy(made), Local)
    loaded = pickle.loads(pickle.dumps(made))
    assert type(loaded) is condorpool.PayloadError
    assert str(loaded) == "our text"


class Final(Exception):
    """Cannot be subclassed."""

    def __init_subclass__(cls):
        raise TypeError


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (condorpool.PayloadError, StopIteration(1)),  # would end a loop
        (condorpool.PayloadError, condorpool.SubmitError("x")),
        (condorpool.ResultPicklingError, TimeoutError()),  # would mean: call get(timeout) again
        (condorpool.PayloadError, Final()),
    ],
)
def test_some_errors_are_ours_alone(kind, error):
    """The other class would mislead code that catches it, or it cannot be subclassed."""
    made = exceptions.in_place_of(kind, error, "our text")
    assert type(made) is kind
    assert str(made) == "our text"
