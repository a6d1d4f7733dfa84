"""The state of the process, restored after each call so that none harms the next.

A job makes many calls in one process, and a call may change what the others rely
on: the working directory, the environment, the standard streams, signal handlers,
``sys.path``, even ``print``.  Each call finds these as the initializer, and the imports
of the user's modules, have set them.  Modules that a call loads stay loaded, with their
contents, as in multiprocessing's workers.

If something cannot be restored, the job ends after writing its outcome (`Surroundings.spoiled`).
"""

from __future__ import annotations

import _locale  # locale, pickle, signal, socket and warnings are built on these;
import _pickle  # signal itself, with its enums, costs each job 3 ms
import _signal
import _socket
import _warnings
import builtins
import gc
import os
import resource
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SIGNALS = sorted(set(range(1, 32)) - {_signal.SIGKILL, _signal.SIGSTOP})
_TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
_LIMITS = [
    getattr(resource, "RLIMIT_" + name)
    for name in ("AS", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
]


class Setting:
    """A property of the process that can be read and written."""

    def __init__(self, name: str, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        self.name, self.read, self.write = name, read, write

    def mark(self) -> None:
        """Remember the current value."""
        self.value = self.read()

    def restore(self) -> None:
        """Set the remembered value again."""
        if self.read() != self.value:
            self.write(self.value)


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # it was deleted


def _each(write: Callable[..., Any], keys: list[int]) -> Callable[[list[Any]], None]:
    """Return a function that writes a list of values, one for each key."""

    def write_all(values: list[Any]) -> None:
        for key, value in zip(keys, values):
            write(key, value)

    return write_all


def _handle(number: int, handler: Any) -> None:
    if handler is not None:  # None stands for a handler in C, which Python cannot set
        _signal.signal(number, handler)


def _filters() -> Any:
    return getattr(sys.modules.get("warnings"), "filters", _warnings.filters)


def _of_sys(name: str) -> Setting:
    return Setting(f"sys.set{name}", getattr(sys, "get" + name), getattr(sys, "set" + name))


def _settings() -> list[Setting]:
    return [
        Setting(
            "signal handlers",
            lambda: [_signal.getsignal(number) for number in _SIGNALS],
            _each(_handle, _SIGNALS),
        ),
        Setting(
            "blocked signals",
            lambda: _signal.pthread_sigmask(_signal.SIG_BLOCK, ()),
            lambda mask: _signal.pthread_sigmask(_signal.SIG_SETMASK, mask),
        ),
        Setting("working directory", _folder, os.chdir),
        Setting("socket timeout", _socket.getdefaulttimeout, _socket.setdefaulttimeout),
        Setting("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        *map(_of_sys, ("trace", "profile", "recursionlimit")),
    ]


def _costly_settings() -> list[Setting]:
    settings = [
        Setting(
            "resource limits",
            lambda: [resource.getrlimit(limit) for limit in _LIMITS],
            _each(resource.setrlimit, _LIMITS),
        ),
        Setting(
            "priority",
            lambda: os.getpriority(os.PRIO_PROCESS, 0),
            lambda priority: os.setpriority(os.PRIO_PROCESS, 0, priority),
        ),
        Setting(
            "allowed CPUs",
            lambda: os.sched_getaffinity(0),
            lambda numbers: os.sched_setaffinity(0, numbers),
        ),
        Setting("user", os.getresuid, lambda ids: os.setresuid(*ids)),
        Setting("group", os.getresgid, lambda ids: os.setresgid(*ids)),
        Setting(
            "locale",
            lambda: _locale.setlocale(_locale.LC_ALL),
            lambda name: _locale.setlocale(_locale.LC_ALL, name),
        ),
        Setting("garbage collection", gc.get_threshold, lambda counts: gc.set_threshold(*counts)),
        _of_sys("switchinterval"),
    ]
    if hasattr(sys, "get_int_max_str_digits"):  # from Python 3.11 on
        settings.append(_of_sys("_int_max_str_digits"))
    return settings


class Surroundings:
    """All that is restored between calls.

    Parameters
    ----------
    reopen
        Reopens the standard streams.

    Attributes
    ----------
    spoiled
        What could not be restored, in words.
    """

    def __init__(self, reopen: Callable[[], None]) -> None:
        self.spoiled = ""
        self.reopen = reopen
        self.settings, self.costly = _settings(), _costly_settings()
        self.environ = os.environ
        self.loaded = -1

    def mark(self) -> None:
        """Remember everything as it is now, unless no module was loaded since the last time."""
        if self.loaded == len(sys.modules):
            return
        # The builtins first: everything else needs them.
        relied_on = builtins, sys, os, time, _pickle
        self.names = [(vars(module), dict(vars(module))) for module in relied_on]
        for setting in self.settings + self.costly:
            setting.mark()
        self.umask = os.umask(0o077)
        os.umask(self.umask)
        self.timers = [(timer, *_signal.getitimer(timer)) for timer in _TIMERS]
        self.argv, self.path, self.filters = sys.argv[:], sys.path[:], _filters()[:]
        lists: tuple[Any, Any] = (sys.meta_path, sys.path_hooks)
        self.finders = [(live, live[:]) for live in lists]
        self.variables = self._variables().copy()
        self.modules = dict(sys.modules)
        self.loaded = len(sys.modules)

    def restore(self, thoroughly: bool = True) -> None:
        """Restore everything, or, if not ``thoroughly``, only what is quick to read.

        A call's alarm or trace function may raise here, until it is restored.
        """
        # Timers first: a call's alarm could interrupt everything that follows.
        for timer, remaining, interval in self.timers:
            now = _signal.getitimer(timer)
            if now[1] != interval or (now[0] and not remaining):
                _signal.setitimer(timer, interval, interval)
        if thoroughly and "faulthandler" in sys.modules:
            sys.modules["faulthandler"].cancel_dump_traceback_later()
        # Until these are restored, any builtin and any name in sys may be the call's own.
        live, saved = self.names[1]
        streams = live.get("stdout"), live.get("stderr")
        for names, before in self.names if thoroughly else self.names[:2]:
            names.update(before)
        if "tracebacklimit" not in saved:
            live.pop("tracebacklimit", None)
        for setting in self.settings + self.costly if thoroughly else self.settings:
            try:
                setting.restore()
            except (OSError, ValueError) as error:
                self.spoiled = f"{setting.name}: {error}"
        os.umask(self.umask)
        self._restore_variables()
        is_fewer = len(sys.modules) < self.loaded
        if (thoroughly or is_fewer) and not self.modules.items() <= sys.modules.items():
            sys.modules.update(self.modules)
        self._restore_imports()
        for stream, name in zip(streams, ("stdout", "stderr")):
            if stream is not saved[name]:
                try:
                    stream.flush()  # type: ignore[union-attr]
                except BaseException:  # a stream of the call's own may raise anything
                    pass
        # A stream of the call's that wraps ours closes it now, before ours is reopened.
        del stream, streams
        self.reopen()
        for name in ("stdin", "stdout", "stderr"):
            saved[name] = live[name]

    def _variables(self) -> dict[bytes, bytes]:
        data: dict[bytes, bytes]
        data = self.environ._data  # type: ignore[attr-defined]  # noqa: SLF001 - decoding all takes 20 us
        return data

    def _restore_variables(self) -> None:
        now, before = self._variables(), self.variables
        if now == before:
            return
        changed = [name for name in {*now, *before} if now.get(name) != before.get(name)]
        for name in changed:
            if name in before:
                self.environ[os.fsdecode(name)] = os.fsdecode(before[name])
            else:
                self.environ.pop(os.fsdecode(name), None)
        if b"TZ" in changed:
            time.tzset()

    def _restore_imports(self) -> None:
        if sys.argv != self.argv:
            sys.argv[:] = self.argv
        # Keep the finders that modules loaded by a call have installed.
        for live, saved in self.finders:
            live[:0] = [finder for finder in saved if finder not in live]
        if sys.path != self.path:
            # Keep the folders that a call added and that its modules come from.
            added = [str(folder) for folder in sys.path if folder not in self.path]
            known = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
            files = [str(names.get("__file__")) for names in known]
            self.path += [
                folder
                for folder in added
                if any(file.startswith(os.path.abspath(folder) + "/") for file in files)
            ]
            sys.path[:] = self.path
        filters = _filters()
        if filters != self.filters:
            # Keep filters that name a message or a module: modules add those.
            filters[:] = [
                *(f for f in filters if f not in self.filters and (f[1] or f[3])),
                *self.filters,
            ]
