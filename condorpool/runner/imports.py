"""Imports the user's own modules, which came with the calls; see engine/modules.py."""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec  # importlib costs each job half a millisecond
from _frozen_importlib_external import PathFinder, SourceFileLoader, spec_from_file_location

from . import container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class SentLoader(SourceFileLoader):
    """Loads a module from the source that came with a call."""

    def __init__(self, name: str, file: str, source: bytes) -> None:
        super().__init__(name, file)
        self.source = source

    def get_data(self, path: str) -> bytes:
        """Return the source; a package's other files are read where the job can see them."""
        return self.source if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> Any:
        """Use no compiled files."""
        raise OSError(path)


class ReductionLoader(SourceFileLoader):
    """Loads ``multiprocessing.reduction``, which pickles for the processes that a call starts."""

    def exec_module(self, module: Any) -> None:
        """Load the module and extend its pickler."""
        super().exec_module(module)
        from .children import extend

        extend(module.ForkingPickler)


class Modules:
    """The importer of modules that came with calls; it comes before all other importers.

    Attributes
    ----------
    sent
        For each module: its file, whether it is a package, and its source (None if it
        is compiled, or a folder without ``__init__``).
    """

    def __init__(self) -> None:
        self.sent: dict[str, tuple[str, bool, bytes | None]] = {}

    def find_spec(self, name: str, path: Any = None, _target: Any = None) -> Any:
        """Find a module, as importers do."""
        if name == "multiprocessing.reduction":
            file = os.path.join(path[0], "reduction.py")
            return spec_from_file_location(name, file, loader=ReductionLoader(name, file))
        if name not in self.sent:
            return None
        file, is_package, source = self.sent[name]
        folder = os.path.dirname(file)
        if source is not None:
            places = [folder] if is_package else None
            loader = SentLoader(name, file, source)
            return spec_from_file_location(
                name, file, loader=loader, submodule_search_locations=places
            )
        if not is_package:
            return PathFinder.find_spec(name, [folder])
        return PathFinder.find_spec(name, path) or ModuleSpec(name, None, is_package=True)

    def install(self, modules: dict[str, tuple[str, bool, bytes | None]]) -> bool:
        """Import these from now on; return whether a loaded one differs.

        If one does, all loaded ones are forgotten, because they may refer to each other.
        """
        loaded = [
            name
            for name in self.sent
            if isinstance(getattr(sys.modules.get(name), "__loader__", None), SentLoader)
        ]
        changed = any(modules.get(name) != self.sent[name] for name in loaded)
        if changed:
            import linecache

            for name in loaded:
                del sys.modules[name]
            linecache.clearcache()
            if "cloudpickle" in sys.modules:
                # cloudpickle would return its remembered classes, with their old bases.
                known = sys.modules["cloudpickle"].cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID  # noqa: SLF001
                known.clear()
        self.sent = modules
        return changed

    def fill_linecache(self) -> None:
        """Make tracebacks show the lines that were sent, whatever the files contain now."""
        import linecache

        for name, (file, _, source) in self.sent.items():
            if source is not None and file not in linecache.cache:
                text = SentLoader(name, file, source).get_source(name) or ""
                linecache.cache[file] = (len(text), None, text.splitlines(True), file)

    def explain(self, error: BaseException) -> None:
        """Add to a ModuleNotFoundError's message where the module is missing and what to do."""
        if type(error) is not ModuleNotFoundError:
            return
        if error.msg != f"No module named {error.name!r}":
            return
        file = self.sent.get(str(error.name), ("",))[0]
        advice = (
            f"it is compiled ({file}) and only sources are sent, so name it in transfer_input_files"
            if file
            else "install it there, or give the jobs another python= or a container_image"
        )
        where = f"{os.uname().nodename} (Python {container.PYTHON} at {sys.executable})"
        error.msg += f" on {where}: {advice}"
        error.args = (error.msg,)


modules = Modules()
