"""A call changes its process or leaves something behind: the next call finds everything as it was."""

# ruff: noqa: D103 - the names of these calls say what they do to their process

from __future__ import annotations

import builtins
import faulthandler
import gc
import io
import json
import locale
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import cloudpickle
import pytest

import condorpool

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def look(_=None):
    """Return what a call finds."""
    umask = os.umask(0)
    os.umask(umask)
    facts = {
        "folder": os.getcwd(),
        "umask": umask,
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "handlers": [signal.getsignal(number) for number in range(1, 32)],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "timers": [signal.getitimer(timer) for timer in range(3)],
        "recursion": sys.getrecursionlimit(),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "collects": (gc.isenabled(), gc.get_threshold()),
        "limits": [resource.getrlimit(limit) for limit in range(9)],
        "CPUs": os.sched_getaffinity(0),
        "locale": locale.setlocale(locale.LC_ALL),
        "zone": time.localtime(0).tm_hour,
        "time-out": socket.getdefaulttimeout(),
        "filters": [(f[0], f[2]) for f in warnings.filters],
        "builtins": [print, open, len, isinstance, BaseException],
        "functions": [time.time is not None, os.getcwd.__name__, pickle.dumps(1)],
        "modules": {"json", "os", "threading"} - {n for n, m in sys.modules.items() if m},
        "limit": getattr(sys, "tracebacklimit", None),
    }  # fmt: skip
    print("out")
    print("err", file=sys.stderr)
    assert sys.stdin.read() == ""
    return facts


def change_folder():
    os.chdir("/")
    os.umask(0o777)


def delete_folder():
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    Path(folder).rmdir()


def change_environment():
    os.environ.pop("PATH")
    os.environ["HOME"], os.environ["TZ"], os.environ["NEW"] = "/nowhere", "UTC-5", "1"
    time.tzset()


def replace_environment():
    os.environ.clear()
    os.environ = {"PATH": ""}  # noqa: B003 - users do this


def clear_path():
    sys.path.clear()
    sys.argv.append("--more")


def replace_path():
    sys.path, sys.argv, sys.meta_path[:] = ["/nowhere"], None, []
    sys.path_hooks.clear()


def forget_modules():
    sys.modules.clear()


def block_modules():
    sys.modules.update(json=None, traceback=None, linecache=None, socket=None, cloudpickle=None)


def replace_streams():
    sys.stdout, sys.stderr, sys.stdin = io.StringIO(), None, io.StringIO("input")


def wrap_streams():
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, "ascii")
    sys.stderr.detach()


def close_streams():
    sys.stdout.close()
    sys.stderr.close()
    sys.stdin.close()
    for number in range(3):
        os.close(number)


def redirect_descriptors():
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 2)


def close_all_above():
    os.closerange(3, 100)


def take_all_above():
    os.closerange(3, 100)
    sys.kept = [os.open(os.devnull, os.O_RDWR) for _ in range(20)]


def set_alarm():
    signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)


def set_deadly_alarm():
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def set_profiling_timer():
    signal.signal(signal.SIGPROF, lambda *_: sys.exit(1))
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)


def set_watchdog():
    faulthandler.dump_traceback_later(0.2, exit=True, file=2)


def take_one_cpu():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def set_handlers():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})


def trace_all():
    sys.settrace(lambda *_: 1 / 0)


def profile_all():
    sys.setprofile(lambda *_: None)


def change_interpreter():
    sys.setrecursionlimit(60)
    sys.tracebacklimit = 0
    gc.disable()
    gc.set_threshold(0)
    sys.excepthook = None


def change_libraries():
    locale.setlocale(locale.LC_ALL, "C")
    socket.setdefaulttimeout(0.001)
    warnings.simplefilter("error")


def replace_builtins():
    builtins.print = builtins.len = builtins.isinstance = lambda *_: 1 / 0
    del builtins.open, builtins.BaseException


def replace_functions():
    time.sleep = time.time = time.monotonic = os.getcwd = os.replace = os.open = None
    sys.modules["_pickle"].dumps = sys.modules["_pickle"].loads = None


def lower_limits():
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (1, resource.getrlimit(limit)[1]))


SPOILS = pytest.mark.parametrize(
    "spoil",
    [
        change_folder, delete_folder, change_environment, replace_environment, clear_path,
        replace_path, forget_modules, block_modules, replace_streams, wrap_streams,
        close_streams, redirect_descriptors, close_all_above, take_all_above, set_alarm,
        set_deadly_alarm, set_watchdog, take_one_cpu, set_profiling_timer, set_handlers, trace_all, profile_all,
        change_interpreter, change_libraries, replace_builtins, replace_functions, lower_limits,
    ],
)  # fmt: skip


@SPOILS
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_a_call_does_not_harm_the_next(make_pool, spoil, fails):
    """Neither in its chunk nor later in the same process, which continues."""

    def make(call):
        call = call()
        return call, os.getpid()

    def harm():
        spoil()
        if fails:
            raise OSError("on purpose")

    pool = make_pool(processes=1)
    before, process = pool.apply(make, (look,))
    result = pool.map_async(make, [harm, look, harm], chunksize=3)
    result.wait(60)
    assert [type(error) for error in result.exceptions().values()] == [OSError] * 2 * fails
    assert result._calls.values[1] == (before, process)
    if spoil in (set_alarm, set_deadly_alarm, set_watchdog):
        time.sleep(0.3)
    after = pool.apply_async(make, (look,))
    assert after.get(timeout=60) == (before, process)
    assert (after.stdout(), after.stderr()) == ("out\n", "err\n")


@pytest.mark.parametrize("spoil", [close_streams, take_all_above, lower_limits, forget_modules])
def test_a_call_in_a_plain_job_does_not_harm_the_next(make_pool, spoil):
    """Also where each chunk has a job of its own; the outcome is written."""
    pool = make_pool(processes=1, maxtasksperchild=1)
    result = pool.map_async(lambda call: call(), [look, spoil, look], chunksize=3)
    before, _, after = result.get(timeout=60)
    assert before == after
    assert (result.stdout(), result.stderr()) == ("out\n" * 2, "err\n" * 2)


def test_short_calls_in_a_long_chunk_are_restored_after(make_pool):
    """Not after each one, but soon; all results are right."""

    def make(x):
        if x % 2_000 == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.environ["NEW"] = "1"
        return "NEW" in os.environ

    found = make_pool(processes=1).map(make, range(20_000), chunksize=20_000)
    assert found[:8] == [True] + [False] * 7
    assert sum(found) < 20_000 / 2


def test_what_the_initializer_sets_stays(make_pool, tmp_path):
    """Each call finds it, also after a call that changed it."""

    def prepare():
        (tmp_path / "work").mkdir()
        os.chdir(tmp_path / "work")
        os.environ["PREPARED"] = "yes"
        sys.path.append("/prepared")
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        sys.stdout = io.TextIOWrapper(io.FileIO(tmp_path / "out", "w"), write_through=True)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def find():
        print("here")
        found = (
            Path.cwd().name, os.environ["PREPARED"], "/prepared" in sys.path,
            signal.getsignal(signal.SIGUSR1), resource.getrlimit(resource.RLIMIT_CORE), os.getpid(),
        )  # fmt: skip
        os.chdir("/")
        os.environ.clear()
        sys.path.clear()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        sys.stdout = None
        return found

    pool = make_pool(processes=1, initializer=prepare)
    first, *others = [pool.apply(find), *pool.map(lambda _: find(), range(2), chunksize=2)]
    assert first[:5] == ("work", "yes", True, signal.SIG_IGN, (0, 0))
    assert others == [first] * 2
    assert (tmp_path / "out").read_text() == "here\n" * 3


def test_modules_that_a_call_loads_stay(make_pool, tmp_path):
    """So does the folder that they come from, which they may need again, but after the others."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "loaded_by_a_call.py").write_text("import json\nstate = []\n")
    (tmp_path / "lib" / "loaded_later.py").write_text("")
    (tmp_path / "lib" / "json.py").write_text("raise ImportError('the wrong one')")

    def load():
        sys.path.insert(1, str(tmp_path / "lib"))
        sys.modules.pop("json", None)
        sys.path.append("/nowhere")
        import loaded_by_a_call

        loaded_by_a_call.state.append(1)

    def use():
        import json  # noqa: F401

        import loaded_by_a_call
        import loaded_later  # noqa: F401

        return loaded_by_a_call.state, "/nowhere" in sys.path

    (tmp_path / "lib" / "json.py").unlink()
    pool = make_pool(processes=1)
    pool.apply(load)
    assert pool.apply(use) == ([1], False)


@pytest.mark.parametrize(
    "way", ["IF_NEEDED", "YES"], ids=["shared-file-system", "file-transfer"]
)  # fmt: skip
@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(("RLIMIT_NOFILE", 5), id="open-files"),
        pytest.param(("RLIMIT_FSIZE", 200), id="size-of-files"),
        pytest.param(("RLIMIT_AS", 5), id="memory"),
    ],
)
def test_a_limit_that_cannot_be_restored_ends_the_job(make_pool, limit, way):
    """The outcome is written, and another job makes the next call."""

    def lower():
        resource.setrlimit(getattr(resource, limit[0]), (limit[1], limit[1]))
        return os.getpid()

    pool = make_pool(processes=1, submitkwargs={"should_transfer_files": way})
    result = pool.apply_async(lower)
    process = result.get(timeout=60)
    assert pool.apply_async(os.getpid).get(timeout=60) != process
    while not result.job.state.is_final:
        time.sleep(0.02)
    assert "resource limits" in result.job.stderr()


def test_a_lowered_priority_ends_the_job(make_pool):
    """It cannot be raised again, and must not slow down the next call."""
    pool = make_pool(processes=1)
    process = pool.apply_async(lambda: (os.nice(5), os.getpid())[1]).get(timeout=60)
    found = pool.apply_async(lambda: (os.nice(0), os.getpid())).get(timeout=60)
    assert found[0] == 0
    assert found[1] != process


def test_closing_all_descriptors_ends_the_job(make_pool):
    """Standard output and the connection to HTCondor are gone; the outcome is still written."""

    def close():
        os.closerange(0, 100)
        return os.getpid()

    pool = make_pool(processes=1)
    process = pool.apply_async(close).get(timeout=60)
    assert pool.apply_async(os.getpid).get(timeout=60) != process


class Hostile(Exception):
    """Raises from every method."""

    def __getattribute__(self, name):
        raise SystemExit(name)

    def __str__(self):
        raise SystemExit("str")

    __repr__ = __reduce_ex__ = __str__


class Pretends(ModuleNotFoundError):
    """Raises from its traceback and its message."""

    @property
    def __traceback__(self):
        raise SystemExit("traceback")

    msg = name = __traceback__


def hostile_exception():
    raise Hostile


def nameless_value():
    class Meta(type):
        def __getattribute__(cls, name):
            if name in ("__module__", "__qualname__", "__name__"):
                raise KeyboardInterrupt
            return super().__getattribute__(name)

        def __hash__(cls):
            raise SystemExit("hash")

    class Nameless(metaclass=Meta):
        def __reduce_ex__(self, protocol):
            raise KeyboardInterrupt

    return Nameless()


def pretended_exception():
    raise Pretends


def broken_cause():
    error = ValueError("the last one")
    error.__cause__ = Hostile()
    raise error


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (hostile_exception, condorpool.ResultPicklingError, "Hostile"),
        (nameless_value, condorpool.ResultPicklingError, "Nameless"),
        (pretended_exception, BaseException, "Pretends"),
        (broken_cause, ValueError, "the last one"),
    ],
)
def test_exceptions_and_values_that_raise_from_their_methods(make_pool, call, error, says):
    """The call fails with the facts that can be read; the others of its chunk are made."""
    pool = make_pool(processes=1)
    result = pool.map_async(lambda call: call(), [os.getpid, call, os.getpid], chunksize=3)
    result.wait(60)
    (caught,) = result.exceptions().values()
    assert isinstance(caught, error)
    assert says in str(caught) + str(caught.__cause__)
    assert f"in {call.__name__}" in str(caught) + str(caught.__cause__) or call is nameless_value
    assert result._calls.values[0] == result._calls.values[2] == pool.apply(os.getpid)


def test_a_runner_that_fails_ends(make_pool, access_point):
    """Neither a thread that a call started nor an exit handler delays it."""

    def leave_thread():
        import atexit

        threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()
        atexit.register(time.sleep, 3600)

    def break_runner():
        calls = sys.modules["_condorpool_program.calls"]
        calls.Worker.tidy = None
        return json.__name__

    pool = make_pool(processes=1)
    pool.apply(leave_thread)
    with pytest.raises(condorpool.JobFailedError, match="code 70"):
        pool.apply_async(break_runner).get(timeout=30)
    assert pool.apply_async(abs, (-1,)).get(timeout=60) == 1


def test_a_call_deletes_the_working_directory(make_pool, tmp_path):
    """Its job makes no more calls."""
    (tmp_path / "place").mkdir()

    def lose():
        shutil.rmtree(tmp_path / "place")
        return os.getpid()

    pool = make_pool(
        processes=1,
        initializer=lambda: (
            (tmp_path / "place").mkdir(exist_ok=True),
            os.chdir(tmp_path / "place"),
        ),
    )
    process = pool.apply(lose)
    assert pool.apply_async(os.getpid).get(timeout=60) != process
