"""The magics: ``%load_ext condorpool``."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import cloudpickle
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from IPython.display import display

from condorpool.display.notices import tell
from condorpool.engine.payload import RemoteTraceback, name_of
from condorpool.interface.attach import attach
from condorpool.interface.job import QueuedJob
from condorpool.interface.openpools import open_pools
from condorpool.interface.pool import Pool
from condorpool.interface.results import Result
from condorpool.notebook import cell as remote
from condorpool.notebook import completion, lines, selection
from condorpool.notebook.lines import LineError, Options
from condorpool.values.exceptions import CondorPoolError

F = TypeVar("F", bound=Callable[..., Any])

#: The variable that has the result of the last calls: an interrupted cell has lost it else.
LAST = "_condor"

#: Jobs that are told of one by one.
MOST = 5

#: The pool of all magics of this process.
_pool = selection.NotebookPool()


def _documented(options: Options) -> Callable[[F], F]:
    """Have ``%magic?`` list the options."""

    def add(method: F) -> F:
        method.__doc__ = f"{inspect.getdoc(method)}\n\n{options.format_help()}"
        return method

    return add


@contextlib.contextmanager
def _usage(*errors: type[Exception]) -> Iterator[None]:
    """Tell what is wrong with the line, without a traceback."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (LineError, *errors)):
            raise UsageError(str(error)) from None
        raise


@magics_class
class CondorMagics(Magics):
    """The magics of one shell; all share the notebook's pool."""

    shell: Any

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    @_documented(lines.MAP)
    def condor_map(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Any:
        """Call f on every item of data in HTCondor jobs, and give the list.

        %condor_map [options] f data
        %%condor_map [options] data
        def f(x): ...

        f and data are any expressions, with a space or a comma between them.  The
        cell ends with the function; or it is what happens to an item x, and its
        last expression is the value.  The calls are made in the notebook's pool
        (%condor_pool).  Their result object is in the variable _condor, also
        after the cell was interrupted: `_condor.get()` goes on waiting.

        Examples: %condor_map math.sqrt range(10)
                  r = %condor_map --memory 2GB lambda x: x**2 [1, 2, 3]
        """
        with _usage():
            options, rest = lines.MAP.split(line)
            space = self._space(local_ns)
            if cell is None:
                first, second = lines.split_call(rest)
                func = self._evaluate(first, space)
            else:
                second = lines.without_comment(rest)
                func = self._function(cell)
            data = self._evaluate(second, space)
        with _usage(TypeError):
            iter(data)
            if not callable(func):
                raise TypeError(f"the function is not callable, but {type(func).__name__}")
        # What an iterable raises by itself is no fault of the line.
        items = list(data)
        with _usage(TypeError, ValueError):
            pool = _pool.get(options.processes)
            keywords = lines.job_keywords(options)
            if options.dry_run:
                return self._show_plan(pool, func, items, options.chunksize, keywords)
            for option in ("return_exceptions", "name"):
                if options.unordered and getattr(options, option):
                    dashed = option.replace("_", "-")
                    raise LineError(f"--{dashed} needs the order: leave --unordered out")
            if options.return_exceptions:
                keywords["return_exceptions"] = True
            result: Any
            if not options.unordered:
                verb = pool.starmap_async if options.star else pool.map_async
                keywords["progress"] = None if options.quiet else "auto"
                result = verb(func, items, options.chunksize, **keywords)
            else:
                each = (lambda item: func(*item)) if options.star else func
                result = pool.imap_unordered(each, items, options.chunksize or 1, **keywords)
        self.shell.user_ns[LAST] = result
        value = result if options.is_async else self._wait(result)
        if options.out is None:
            return value
        self.shell.user_ns[options.out] = value
        return None

    def _function(self, body: str) -> Any:
        """Run a cell that defines a function, and return that."""
        module, name = lines.function_of(self.shell.transform_cell(body))
        space: dict[str, Any] = self.shell.user_ns
        kept = {name: space[name]} if name == lines.CELL and name in space else {}
        exec(compile(module, self._file(body), "exec"), space)  # noqa: S102 - a cell is run
        func = space[name]
        if name == lines.CELL:
            del space[name]
        space.update(kept)
        return func

    def _file(self, source: str) -> str:
        """Return a name of a file by which tracebacks, the remote ones too, find the source."""
        return str(self.shell.compile.cache(source))

    def _evaluate(self, text: str, space: dict[str, Any]) -> Any:
        try:
            return eval(compile(text, self._file(text), "eval"), space)  # noqa: S307 - as in a cell
        except (NameError, SyntaxError) as error:
            raise LineError(f"{text}: {error}") from None

    def _space(self, local_ns: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what expressions see: of a function that has the magic, its variables too."""
        space: dict[str, Any] = self.shell.user_ns
        return space if local_ns is None or local_ns is space else {**space, **local_ns}

    def _wait(self, result: Any) -> Any:
        try:
            return result.get() if hasattr(result, "get") else list(result)
        except KeyboardInterrupt:
            tell(
                f"the jobs go on. `{LAST}` has the result: wait for it again, or "
                f"`%condor_rm {LAST}`."
            )
            raise

    def _show_plan(
        self, pool: Pool, func: Any, items: list[Any], chunksize: int | None, keywords: Any
    ) -> None:
        description = pool.submit_description(func, max(1, len(items)), chunksize, **keywords)
        sizes = [len(cloudpickle.dumps(part)) for part in (func, items)]
        slots = selection.fit(pool, description)
        print(f"{name_of(func)}: {len(items):,} calls.  Nothing was submitted.")
        print(f"payload: {sizes[0]:,} bytes of function, {sizes[1]:,} bytes of data")
        print(f"slots: {slots.willing:,} of {slots.slots:,} match, {slots.free:,} of them now")
        for key, value in description.items():
            print(f"    {key} = {value}")

    @no_var_expand
    @cell_magic
    @_documented(lines.CELL_JOB)
    def condor(self, line: str, cell: str) -> None:
        """Run the cell as one HTCondor job, and show what it printed and displayed.

        %%condor [options]

        It starts without variables, but for those that -i names, and those that -o
        names come back.  Figures and rich displays are shown where the execution
        point has IPython; else what was printed is.  An exception is raised here.

        Example: %%condor -i events -o best --memory 8GB
        """
        with _usage():
            options, rest = lines.CELL_JOB.split(line)
            if rest:
                raise LineError(f"{rest!r}: %%condor takes only options, as -i x,y -o z")
            values = {name: self._evaluate(name, self.shell.user_ns) for name in options.given}
        with _usage(TypeError, ValueError):
            keywords = {"echo": True, **lines.job_keywords(options)}
            keywords["progress"] = None if options.quiet else "auto"
            call = (cell, self._file(cell), values, options.wanted)
            result = _pool.get().apply_async(remote.cell, call, **keywords)
        self.shell.user_ns[LAST] = result
        ran = self._wait(result)
        self._show(ran.shown)
        self.shell.user_ns.update(ran.values)
        if ran.error is not None:
            raise ran.error from RemoteTraceback(ran.traceback)

    def _show(self, shown: remote.Shown) -> None:
        for kind, what, *metadata in shown:
            if kind == "display":
                display(what, metadata=metadata[0], raw=True)
            else:
                print(what, end="", file=sys.stdout if kind == "stdout" else sys.stderr)

    @no_var_expand
    @line_magic
    def condor_pool(self, line: str) -> Pool:
        """Give the notebook's pool, or set it: arguments of condorpool.Pool, or a pool.

        It is made when it is first needed, and used by all magics.

        Examples: %condor_pool
                  %condor_pool processes=4, memory="2GB"
                  %condor_pool my_pool
        """
        with _usage(TypeError, ValueError):
            args, kwargs = self._evaluate(lines.pool_arguments(line), self.shell.user_ns)
            return _pool.set(*args, **kwargs) if args or kwargs else _pool.get()

    @line_magic
    def condor_status(self, line: str) -> None:  # noqa: ARG002 - it takes nothing
        """Show the pools of this notebook, live what they have to do, and what others have left."""
        for pool in open_pools():
            print(pool)
        for result in selection.known_results():
            print(f"  {result!r}")
            if isinstance(result, Result) and not result.ready():
                result.show("auto")
        for job in selection.held_jobs()[:MOST]:
            print(f"  {job.analyze()}")
        left = selection.left_behind()
        width = max((len(entry.run) for entry in left), default=0)
        for entry in left[:MOST]:
            print(f"{entry.run:{width}}  {entry.note}")
        if len(left) > MOST:
            print(f"and {len(left) - MOST} more: `condorpool ls` has them all")

    @no_var_expand
    @line_magic
    def condor_hold(self, line: str) -> None:
        """Put jobs on hold: by id (12.3, or 12), by the name of a result or job, or all."""
        self._act("hold", line)

    @no_var_expand
    @line_magic
    def condor_release(self, line: str) -> None:
        """Let held jobs run again: by id (12.3, or 12), by the name of a result or job, or all."""
        self._act("release", line)

    @no_var_expand
    @line_magic
    def condor_rm(self, line: str) -> None:
        """Remove jobs: by id (12.3, or 12), by the name of a result or job, `held` ones, or all.

        With a result, calls that no job has yet are taken back too.
        """
        self._act("remove", line)

    def _act(self, action: str, line: str) -> None:
        print(selection.apply(action, self._find(line)))

    def _find(self, line: str) -> list[Any]:
        with _usage():
            text = lines.without_comment(line)
            return selection.find(text, lambda word: self._evaluate(word, self.shell.user_ns))

    @no_var_expand
    @line_magic
    def condor_log(self, line: str) -> None:
        """Print what HTCondor logged of a job, and what its calls printed.

        Example: %condor_log 12.3
        """
        for job in self._some(line):
            print(job.log(), end="")
            for name, text in (("standard output", job.stdout()), ("standard error", job.stderr())):
                if text:
                    print(f"-- {name} of {job.id}\n{text}")

    @no_var_expand
    @line_magic
    def condor_why(self, line: str) -> None:
        """Say why a job is idle or held, and what to do about it.

        Examples: %condor_why 12.3
                  %condor_why held
        """
        for job in self._some(line):
            print(job.analyze())

    def _some(self, line: str) -> Iterator[QueuedJob]:
        """Give the jobs that a line names, and say what is left out."""
        found = self._find(line)
        jobs = selection.jobs_of(found)
        yield from jobs[:MOST]
        if len(jobs) > MOST:
            print(f"and {len(jobs) - MOST:,} more jobs")
        if not jobs:
            print("No job has these calls: they wait, or have ended.", *found)

    @line_magic
    def condor_attach(self, line: str) -> Any:
        """Go on with calls that another kernel has left; without a name show what there is.

        ``%condor_attach scan`` gives their result object, shown live.  Names are those
        that ``--name`` gave, of functions, or of submit directories.
        """
        with _usage(CondorPoolError):
            found = attach(line.strip() or None)
        if isinstance(found, Result):
            self.shell.user_ns[LAST] = found
            _pool.keep(found)
            found.show("auto")
        return found

    @line_magic
    def condor_clean(self, line: str) -> None:  # noqa: ARG002 - it takes nothing
        """Close the notebook's pool and leave nothing behind.

        Waits for the jobs that run, removes held ones, and deletes all files, those
        of failed jobs too, but not results that have a name.  The next magic makes a
        new pool.
        """
        _pool.clean()


def load(shell: InteractiveShell) -> None:
    """Give a shell the magics and their completion."""
    unload(shell)
    shell.register_magics(CondorMagics(shell))
    completion.install(shell)


def unload(shell: InteractiveShell) -> None:
    """Take them away again; jobs and pools go on."""
    completion.uninstall(shell)
    for magics in shell.magics_manager.magics.values():
        for name in CondorMagics.magics["line"].keys() | CondorMagics.magics["cell"].keys():
            magics.pop(name, None)
    shell.magics_manager.registry.pop("CondorMagics", None)
