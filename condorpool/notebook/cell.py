"""A cell that runs as a job: what happens on the execution point.

Condorpool is not installed there, so these functions travel by value.
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
class Ran:
    """What a cell came to."""

    shown: Shown
    values: Mapping[str, Any]
    error: BaseException | None
    traceback: str


class _Stream(io.TextIOBase):
    """Notes what is printed."""

    def __init__(self, name: str, shown: Shown) -> None:
        self.stream, self.shown = name, shown

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.shown and self.shown[-1][0] == self.stream:
            text = self.shown.pop()[1] + text
        self.shown.append((self.stream, text))
        return len(text)


def cell(source: str, name: str, values: Mapping[str, Any], wanted: Sequence[str]) -> Ran:
    """Run a cell and return what it showed and the values of the variables that are wanted.

    Parameters
    ----------
    source
        Its lines, as they were typed.
    name
        The file that tracebacks say they are in.
    values
        Variables that it finds.
    """
    shown: Shown = []
    space: dict[str, Any] = {"__name__": "__main__", **values}
    error, text, found = None, "", {}
    streams = _Stream("stdout", shown), _Stream("stderr", shown)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            if _has_ipython():
                _run_in_ipython(source, space, shown)
            else:
                _run_plainly(source, name, space)
            for variable in wanted:
                if variable not in space:
                    raise NameError(f"the cell leaves no variable {variable!r}")  # noqa: TRY301
                found[variable] = space[variable]
        except BaseException as raised:  # noqa: BLE001 - SystemExit too is the cell's end
            trace = raised.__traceback__
            while trace and trace.tb_frame.f_globals is not space:
                trace = trace.tb_next  # what is ours is of no interest
            error = raised.with_traceback(trace)
            text = "".join(traceback.format_exception(error))
    return Ran(shown, found, error, text)


def _has_ipython() -> bool:
    try:
        import IPython  # noqa: F401, PLC0415 - it may not be there
    except ImportError:
        return False
    return True


def _run_plainly(source: str, name: str, space: dict[str, Any]) -> None:
    import ast  # noqa: PLC0415
    import linecache  # noqa: PLC0415

    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    module = ast.parse(source, name)
    last = [module.body.pop()] if module.body and isinstance(module.body[-1], ast.Expr) else []
    exec(compile(module, name, "exec"), space)  # noqa: S102 - this is what was asked for
    # Interactive Python shows the value of an expression.
    exec(compile(ast.Interactive(last), name, "single"), space)  # noqa: S102


def _run_in_ipython(source: str, space: dict[str, Any], shown: Shown) -> None:
    """Run the cell as a notebook does: with magics, and rich displays."""
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

    with _shell(space, Publisher, Hook) as shell:
        shell.run_cell(source).raise_error()


@contextlib.contextmanager
def _shell(space: dict[str, Any], publisher: Any, hook: Any) -> Iterator[Any]:
    """Give an IPython for one cell that leaves nothing behind."""
    from IPython.core.interactiveshell import InteractiveShell  # noqa: PLC0415
    from traitlets.config import Config  # noqa: PLC0415

    class Shell(InteractiveShell):
        display_pub_class = publisher
        displayhook_class = hook

        def showtraceback(self, *_: Any, **__: Any) -> None:
            pass  # it is raised where the user is

        showsyntaxerror = showindentationerror = showtraceback

        def enable_gui(self, gui: Any = None) -> None:
            pass  # nobody looks

        def init_sys_modules(self) -> None:
            pass  # the runner's __main__ stays

    config = Config()
    config.HistoryManager.enabled = False
    backend = os.environ.pop("MPLBACKEND", None)
    with tempfile.TemporaryDirectory() as folder:
        Shell.clear_instance()
        shell = Shell.instance(config=config, ipython_dir=folder, user_ns=space)
        try:
            # Figures become displays, as in a notebook; pyplot is slow to import in vain.
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
                # What the job's next calls find: nobody looks at their figures.
                sys.modules["matplotlib.pyplot"].switch_backend(backend or "agg")
