"""Pickles functions and classes for the processes that a call starts.

Without this, neither multiprocessing nor concurrent.futures could send them functions and
classes that came with the call.  Those of a notebook belong to ``__main__``, where forked
processes find the ones that the call uses by name (`Worker.attribute_of_main`).  All others are
sent by value.  Once a call starts processes without forking, which have another ``__main__``,
everything is sent by value.  A job loads this module together with ``multiprocessing.reduction``.
"""

from __future__ import annotations

import pickle
import sys
from operator import attrgetter
from types import FunctionType

from .container import loads
from .imports import modules
from .pickling import by_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Once one of these is loaded there are processes that were not forked.
_NOT_FORKED = {"multiprocessing.popen_spawn_posix", "multiprocessing.popen_forkserver"}


def extend(pickler: Any) -> None:
    """Make multiprocessing's pickler send what child processes cannot find."""
    pickler.reducer_override = reduce


def reduce(_pickler: Any, value: Any) -> Any:
    """Pickle a function or class that another process would not find."""
    if not (type(value) is FunctionType or isinstance(value, type)):
        return NotImplemented
    module = value.__module__
    try:
        found = attrgetter(value.__qualname__)(sys.modules[module])
    except (AttributeError, KeyError):
        found = None
    is_forked = sys.modules.keys().isdisjoint(_NOT_FORKED)
    if found is not value or (module == "__main__" and not is_forked):
        return rebuilt, (by_value(value), modules.sent)
    if module in modules.sent and not is_forked:
        return rebuilt, ([pickle.dumps(value)], modules.sent)
    return NotImplemented


def rebuilt(frames: list[Any], sent: dict[str, Any]) -> Any:
    """Return what was sent; this process may have been started without our importer."""
    if modules not in sys.meta_path:
        from multiprocessing.reduction import ForkingPickler

        extend(ForkingPickler)
        sys.meta_path.insert(0, modules)
        modules.sent = sent
    return loads(frames)
