"""How a job pickles what it returns: by name if that works, else by value with cloudpickle."""

from __future__ import annotations

import sys
from _io import BytesIO

from .container import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pickled(value: Any) -> list[Any]:
    """Pickle a value by name if that works, else by value; return its frames."""
    try:
        return dumps(value)
    except Exception:  # a __reduce__ may raise anything
        return by_value(value)


def by_value(value: Any) -> list[Any]:
    """Pickle a value with everything in it that no module defines; return its frames."""
    import functools
    from collections import ChainMap

    import cloudpickle

    reducers = {
        type(by_value.__code__): reduce_code,
        functools.cached_property: reduce_cached_property,
        functools.partialmethod: reduce_partialmethod,
        functools._lru_cache_wrapper: reduce_cached,  # noqa: SLF001 - it has no other name
    }
    table = ChainMap(reducers, cloudpickle.Pickler.dispatch_table)

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = table

    buffers: list[Any] = []
    file = BytesIO()
    ByValue(file, 5, buffers.append).dump(value)
    return [file.getvalue()] + [buffer.raw() for buffer in buffers]


def code_in(file: str, make: Any, arguments: tuple[Any, ...]) -> Any:
    """Make a code object with this file name."""
    return make(*arguments).replace(co_filename=file)


def reduce_code(code: Any) -> tuple[Any, ...]:
    """Pickle code as cloudpickle does, but with its file name, by which tracebacks find its lines.

    cloudpickle replaces it by ``<dynamic-code>`` since 3.1.3.
    """
    import cloudpickle

    make, arguments = cloudpickle.Pickler.dispatch_table[type(code)](code)
    return code_in, (code.co_filename, make, arguments)


def reduce_cached_property(value: Any) -> Any:
    """Pickle a cached property without the lock that it has before Python 3.12."""
    state = {name: held for name, held in vars(value).items() if name != "lock"}
    return type(value), (value.func,), state


def reduce_partialmethod(value: Any) -> Any:
    """Pickle a partial method with its arguments, which its class requires since Python 3.14."""
    import copyreg

    made = (type(value), (value.func, *value.args), value.keywords)
    return copyreg.__newobj_ex__, made, vars(value)  # type: ignore[attr-defined]


def reduce_cached(value: Any) -> Any:
    """Pickle a function with a cache by name if a module defines it, else by value."""
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is value and value.__module__ != "__main__":
        return str(value.__qualname__)
    return parts_of_cached(value)


def parts_of_cached(value: Any) -> tuple[Any, ...]:
    """Return how a function with a cache is rebuilt, as ``__reduce__`` does."""
    import functools

    given = value.cache_parameters()
    made = (value.__wrapped__, given["maxsize"], given["typed"], functools._CacheInfo)  # noqa: SLF001
    return type(value), made, vars(value)
