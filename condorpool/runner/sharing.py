"""The objects that calls share; each job reads each of them once."""

from __future__ import annotations

from .container import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_objects: dict[str, Any] = {}


def _read(name: str) -> Any:
    raise FileNotFoundError(name)  # outside a job there are none


def read_from(read: Any) -> None:
    """Set the function that reads the container of a name."""
    global _read  # noqa: PLW0603 - set once, before the first call
    _read = read


def shared(name: str) -> Any:
    """Return an object that the pool has shared."""
    if name not in _objects:
        try:
            frames = _read(name)[1]
        except FileNotFoundError:
            raise LookupError(
                f"the shared object {name} does not belong to this pool: share it with the pool "
                "that makes the call"
            ) from None
        _objects[name] = loads(frames)  # runs the user's code, whose errors are the user's
    return _objects[name]


def forget() -> None:
    """Read all shared objects again when they are next used."""
    _objects.clear()
