"""What a call starts with multiprocessing, or concurrent.futures, can be sent what the call was.

Functions and classes of a notebook are known in `__main__`, where forked processes find those
that the call uses by their names (`Worker.find`).  All others are sent by value, and so is
everything once there are processes that were not forked, which have another `__main__`.
A job loads this together with ``multiprocessing.reduction``.
"""

from __future__ import annotations

import pickle
import sys
from operator import attrgetter
from types import FunctionType

import _condorpool_program as program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Once one of these is loaded there are processes that were not forked.
_NOT_FORKED = {"multiprocessing.popen_spawn_posix", "multiprocessing.popen_forkserver"}


def adopt(pickler: Any) -> None:
    """Have multiprocessing's pickler send what children do not find."""
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
        return rebuilt, (program.by_value(value), program.modules.here)
    if module in program.modules.here and not is_forked:
        return rebuilt, ([pickle.dumps(value)], program.modules.here)
    return NotImplemented


def rebuilt(frames: list[Any], modules: dict[str, Any]) -> Any:
    """Return what was sent; the process may be one that knows nothing yet."""
    if program.modules not in sys.meta_path:
        from multiprocessing.reduction import ForkingPickler

        adopt(ForkingPickler)
        sys.meta_path.insert(0, program.modules)
        program.modules.here = modules
    return program.loads(frames)


# The name under which other processes import it.
rebuilt.__module__ = "_condorpool_children"
