"""Runs a cell of the notebook on the execution point, in a job.

Condorpool is not installed there, so these functions are pickled by value.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: What a cell showed, in order: ("stdout", text), ("stderr", text), or
#: ("display", data by MIME type, metadata).
Shown = list[tuple[Any, ...]]


@dataclass(frozen=True)
class CellOutcome:
    """What a cell showed, and the values or the exception that it ended with."""

    shown: Shown
    values: Mapping[str, Any]
    error: BaseException | None
    traceback: str


class _Stream(io.TextIOBase):
    """Records what is printed."""

    def __init__(self, name: str, shown: Shown) -> None:
        self.stream, self.shown = name, shown

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.shown and self.shown[-1][0] == self.stream:
            text = self.shown.pop()[1] + text
        self.shown.append((self.stream, text))
        return len(text)


def cell(source: str, name: str, values: Mapping[str, Any], wanted: Sequence[str]) -> CellOutcome:
    """Run a cell and return what it showed and the values of the ``wanted`` variables.

    Parameters
    ----------
    source
        The cell's text, as it was typed.
    name
        The file name that tracebacks show.
    values
        Variables that the cell starts with.
    """
    shown: Shown = []
    namespace: dict[str, Any] = {"__name__": "__main__", **values}
    error, text, found = None, "", {}
    streams = _Stream("stdout", shown), _Stream("stderr", shown)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            if _has_ipython():
                _run_in_ipython(source, namespace, shown)
            else:
                _run_plainly(source, name, namespace)
            for variable in wanted:
                if variable not in namespace:
                    raise NameError(f"-o: the cell set no variable {variable!r}")  # noqa: TRY301
                found[variable] = namespace[variable]
        except BaseException as raised:  # noqa: BLE001 - SystemExit too ends the cell
            trace = raised.__traceback__
            while trace and trace.tb_frame.f_globals is not namespace:
                trace = trace.tb_next  # condorpool's and IPython's own frames
            error = raised.with_traceback(trace)
            text = "".join(traceback.format_exception(error))
    return CellOutcome(shown, found, error, text)


def _has_ipython() -> bool:
    try:
        import IPython  # noqa: F401, PLC0415 - it may not be installed
    except ImportError:
        return False
    return True


def _run_plainly(source: str, name: str, namespace: dict[str, Any]) -> None:
    import ast  # noqa: PLC0415
    import linecache  # noqa: PLC0415

    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    module = ast.parse(source, name)
    last = [module.body.pop()] if module.body and isinstance(module.body[-1], ast.Expr) else []
    exec(compile(module, name, "exec"), namespace)  # noqa: S102 - the user's cell
    # Interactive Python shows the value of an expression.
    exec(compile(ast.Interactive(last), name, "single"), namespace)  # noqa: S102


def _run_in_ipython(source: str, namespace: dict[str, Any], shown: Shown) -> None:
    """Run the cell as a notebook does, with magics and rich displays."""
    from IPython.core.displayhook import DisplayHook  # noqa: PLC0415
    from IPython.core.displaypub import DisplayPublisher  # noqa: PLC0415

    class Publisher(DisplayPublisher):
        def publish(self, data: Any, metadata: Any = None, *_: Any, **__: Any) -> None:
            shown.append(("display", data, metadata or {}))

    class Hook(DisplayHook):
        def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
            shown.append(("display", format_dict, md_dict or {}))

        def quiet(self) -> bool:
            return bool(self.semicolon_at_end_of_expression(source))

        def write_output_prompt(self) -> None:
            pass

        def finish_displayhook(self) -> None:
            pass

    with _shell(namespace, Publisher, Hook) as shell:
        shell.run_cell(source).raise_error()


@contextlib.contextmanager
def _shell(namespace: dict[str, Any], publisher: Any, hook: Any) -> Iterator[Any]:
    """Yield an IPython shell for one cell, and restore the process afterwards."""
    from IPython.core.interactiveshell import InteractiveShell  # noqa: PLC0415
    from traitlets.config import Config  # noqa: PLC0415

    class Shell(InteractiveShell):
        display_pub_class = publisher
        displayhook_class = hook

        def showtraceback(self, *_: Any, **__: Any) -> None:
            pass  # it is raised in the user's notebook

        showsyntaxerror = showindentationerror = showtraceback

        def enable_gui(self, gui: Any = None) -> None:
            pass  # a job has no screen

        def init_sys_modules(self) -> None:
            pass  # keep the runner's __main__

    config = Config()
    config.HistoryManager.enabled = False
    backend = os.environ.pop("MPLBACKEND", None)
    with tempfile.TemporaryDirectory() as folder:
        Shell.clear_instance()
        shell = Shell.instance(config=config, ipython_dir=folder, user_ns=namespace)
        try:
            # Figures become displays, as in a notebook.  pyplot is slow: it is not imported here.
            os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
            if "matplotlib.pyplot" in sys.modules:
                from IPython.core.pylabtools import select_figure_formats  # noqa: PLC0415

                shell.run_line_magic("matplotlib", "inline")
                select_figure_formats(shell, {"png"})
            yield shell
        finally:
            Shell.clear_instance()
            del os.environ["MPLBACKEND"]
            if backend:
                os.environ["MPLBACKEND"] = backend
            if "matplotlib.pyplot" in sys.modules:
                # For the job's next calls, whose figures are not shown.
                sys.modules["matplotlib.pyplot"].switch_backend(backend or "agg")
