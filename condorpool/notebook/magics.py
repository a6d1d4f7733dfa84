"""The magics: ``%load_ext condorpool``."""

from __future__ import annotations

import builtins
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

from condorpool.display import eventwords
from condorpool.display.notices import say
from condorpool.display.printed import clean
from condorpool.engine.outcomes import RemoteTraceback
from condorpool.engine.payload import name_of, number_of_cell
from condorpool.interface.attach import attach
from condorpool.interface.handle import spell
from condorpool.interface.job import QueuedJob
from condorpool.interface.names import find, forget, kept_names
from condorpool.interface.openpools import latest
from condorpool.interface.pool import Pool
from condorpool.interface.results import Result
from condorpool.interface.tracebacks import for_users, raise_from_call
from condorpool.notebook import cell as remote
from condorpool.notebook import completion, lines, selection, status
from condorpool.notebook.lines import LineError, Options
from condorpool.values.exceptions import (
    CondorPoolError,
    HTCondorNotFoundError,
    InstallError,
    PersonalError,
    words_of,
)
from condorpool.values.matching import did_you_mean
from condorpool.values.text import left_by_terminal, one_line, plural, printable

F = TypeVar("F", bound=Callable[..., Any])

#: The variable with the result of the last call, also if it failed or was interrupted.
LAST = "_condor"

#: Jobs that a magic prints, at most, and the last characters of the output of each.
MOST, MOST_SHOWN = 5, 20_000

#: Errors whose message says all that a user can do.
_NO_HTCONDOR = (HTCondorNotFoundError, InstallError, PersonalError)

#: The pool that all magics of this process use.
_pool = selection.NotebookPool()


def _documented(options: Options) -> Callable[[F], F]:
    """Add the options to the docstring, which ``%magic?`` shows."""

    def add(method: F) -> F:
        method.__doc__ = f"{inspect.getdoc(method)}\n\n{options.format_help()}"
        return method

    return add


@contextlib.contextmanager
def _usage(*errors: type[Exception], options: Options | None = None) -> Iterator[None]:
    """Report errors in the line, and that there is no HTCondor, without a traceback.

    Those of arguments name the ``options`` that these come from.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (LineError, *_NO_HTCONDOR, *errors)):
            raise
        text = str(error)
        if options and not isinstance(error, (LineError, CondorPoolError)):
            text = options.in_options(text)
        raise UsageError(printable(text)) from None


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
        """Call f on every item of data in HTCondor jobs, and return the list.

        %condor_map [options] f data
        %%condor_map [options] data
        def f(x): ...

        f and data are any expressions, separated by a space or a comma.  A cell
        ends with a def or a lambda; or it is the body of a function of x, which
        returns its last expression.  The calls are made in the notebook's pool
        (%condor_pool).  The variable _condor holds their result object, also after
        an interrupt: `_condor.get()` resumes waiting.

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
                second = lines.data_of(rest)
                func = self._function(cell)
            data = self._evaluate(second, space)
            lines.check_call(func, data)
        # Outside _usage: what the iterable itself raises is no usage error.
        items = list(data)
        with _usage(TypeError, ValueError, options=lines.MAP):
            pool = _pool.get(options.processes)
            keywords = lines.job_keywords(options)
            if options.dry_run:
                for name in ("name", "on_hold"):
                    keywords.pop(name, None)  # these say nothing about jobs
                return self._show_plan(pool, func, items, options.chunksize, keywords)
            for option in ("return_exceptions", "name", "overwrite"):
                if options.unordered and getattr(options, option):
                    dashed = option.replace("_", "-")
                    raise LineError(f"--{dashed} needs ordered results: remove --unordered")
            given = ("return_exceptions", "overwrite")
            keywords |= {option: True for option in given if getattr(options, option)}
            keywords["echo"] = options.echo or None
            result: Any
            if not options.unordered:
                verb = pool.starmap_async if options.star else pool.map_async
                keywords["progress"] = None if options.quiet else "auto"
                result = verb(func, items, options.chunksize, **keywords)
            else:
                each = (lambda item: func(*item)) if options.star else func
                result = pool.imap_unordered(each, items, options.chunksize or 1, **keywords)
        self._keep(result)
        value = result if options.is_async else self._wait(result)
        if options.out is None:
            return value
        self.shell.user_ns[options.out] = value
        return None

    def _function(self, body: str) -> Any:
        """Run a cell that defines a function, and return the function."""
        module, name = lines.function_of(self.shell.transform_cell(body))
        space: dict[str, Any] = self.shell.user_ns
        saved = {name: space[name]} if name == lines.CELL and name in space else {}
        exec(compile(module, self._file(body), "exec"), space)  # noqa: S102 - the user's cell
        func = space[name]
        if name == lines.CELL:
            del space[name]
        space.update(saved)
        return func

    def _file(self, source: str) -> str:
        """Return a file name under which tracebacks, also remote ones, find the source."""
        return str(self.shell.compile.cache(source, number_of_cell()))

    def _evaluate(self, text: str, space: dict[str, Any], shown: str = "") -> Any:
        """Return the value of an expression, which errors show as ``shown``."""
        try:
            return eval(compile(text, self._file(text), "eval"), space)  # noqa: S307 - user's code
        except (NameError, SyntaxError) as error:
            trace = error.__traceback__
            if isinstance(error, NameError) and trace and trace.tb_next and trace.tb_next.tb_next:
                raise  # in a function that the expression calls: the traceback says where
            why = lines.why_not(shown or text, error, [*space, *dir(builtins)])
            raise LineError(why) from None

    def _space(self, local_ns: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the variables that expressions see, those of a calling function included."""
        space: dict[str, Any] = self.shell.user_ns
        return space if local_ns is None or local_ns is space else {**space, **local_ns}

    def _keep(self, result: Any) -> None:
        """Let users find a result as `_condor`; what is said about its calls names that."""
        self.shell.user_ns[LAST] = result
        spell(result, LAST)

    def _wait(self, result: Any) -> Any:
        with for_users:
            return result.get() if isinstance(result, Result) else list(result)

    def _show_plan(
        self, pool: Pool, func: Any, items: list[Any], chunksize: int | None, keywords: Any
    ) -> None:
        description = pool.submit_description(func, max(1, len(items)), chunksize, **keywords)
        sizes = [len(cloudpickle.dumps(part)) for part in (func, items)]
        slots = selection.fit(pool, description)
        say(f"{name_of(func)}: {len(items):,} calls.  Nothing was submitted.")
        say(f"payload: function {sizes[0]:,} bytes, data {sizes[1]:,} bytes")
        say(f"slots: {slots.willing:,} of {slots.slots:,} match, {slots.free:,} of them now")
        for key, value in description.items():
            say(f"    {key} = {value}")

    @no_var_expand
    @cell_magic
    @_documented(lines.CELL_JOB)
    def condor(self, line: str, cell: str) -> None:
        """Run the cell as one HTCondor job, and show what it printed and displayed.

        %%condor [options]

        The cell starts with only the variables that -i names; those that -o names are
        copied back.  Figures and rich displays need IPython on the execution point;
        without it, only printed text is shown.  An exception is raised here.

        Example: %%condor -i events -o best --memory 8GB
        """
        with _usage():
            options, rest = lines.CELL_JOB.split(line)
            if rest:
                raise LineError(f"{rest!r}: %%condor takes only options, such as -i x,y -o z")
            values = {name: self._evaluate(name, self.shell.user_ns) for name in options.given}
        with _usage(TypeError, ValueError, options=lines.CELL_JOB):
            keywords = {"echo": True, **lines.job_keywords(options)}
            keywords["progress"] = None if options.quiet else "auto"
            keywords["overwrite"] = options.overwrite
            call = (cell, self._file(cell), values, options.wanted)
            result = _pool.get().apply_async(remote.cell, call, **keywords)
        self._keep(result)
        ran = self._wait(result)
        self._show(ran.shown)
        self.shell.user_ns.update(ran.values)
        if ran.error is not None:
            ran.error.__cause__ = RemoteTraceback(ran.traceback)
            with for_users:
                raise_from_call(ran.error, self._file(cell))

    def _show(self, shown: remote.Shown) -> None:
        for kind, what, *metadata in shown:
            if kind == "display":
                display(what, metadata=metadata[0], raw=True)
            else:
                stream = sys.stdout if kind == "stdout" else sys.stderr
                stream.write(left_by_terminal(what))

    @no_var_expand
    @line_magic
    def condor_pool(self, line: str) -> Pool:
        """Return the notebook's pool, or set it: arguments of condorpool.Pool, or a pool.

        All magics use this pool.  If none is set, it is created when first needed.

        Examples: %condor_pool
                  %condor_pool processes=4 memory=2GB
                  %condor_pool my_pool
        """
        with _usage(TypeError, ValueError):
            call = lines.pool_arguments(line)
            args, kwargs = self._evaluate(call, self.shell.user_ns, lines.without_comment(line))
            return _pool.set(*args, **kwargs) if args or kwargs else _pool.get()

    @line_magic
    def condor_status(self, line: str) -> None:
        """Show this notebook's calls by state, why jobs are held, and what was left behind."""
        with _usage():
            lines.check_empty("%condor_status", line)
        display(status.Status(self.shell.user_ns))

    @no_var_expand
    @line_magic
    def condor_hold(self, line: str) -> None:
        """Hold jobs: by id (12.3, or 12 for a cluster), by the name of a result or job, or all."""
        self._apply("hold", line)

    @no_var_expand
    @line_magic
    def condor_release(self, line: str) -> None:
        """Release jobs: by id (12.3, or 12), by the name of a result or job, `held`, or all."""
        self._apply("release", line)

    @no_var_expand
    @line_magic
    def condor_rm(self, line: str) -> None:
        """Remove jobs: by id (12.3, or 12), by the name of a result or job, `held`, or all.

        Given a result, also take back its calls that no job has started.
        """
        self._apply("remove", line)

    def _apply(self, action: str, line: str) -> None:
        say(selection.apply(action, self._find(line)))

    def _find(self, line: str) -> list[Any]:
        with _usage():
            return selection.find(lines.without_comment(line), self._value)

    def _value(self, word: str) -> Any:
        """Return the value of an expression that is the only name of a job or result."""
        try:
            return self._evaluate(word, self.shell.user_ns)
        except LineError as error:
            if not word.isidentifier():
                raise
            held = [n for n, v in self.shell.user_ns.items() if selection.is_job_or_result(v)]
            hint = did_you_mean(word, [*selection.names(), *held])
            raise LineError(f"there are no calls and no variable named {word}.{hint}") from error

    @no_var_expand
    @line_magic
    def condor_log(self, line: str) -> None:
        """Print why calls failed or a job is held, what was printed, and the job's events.

        HTCondor's own text of the events is that of the job's log().

        Examples: %condor_log 12.3
                  %condor_log held
                  %condor_log my_result
        """
        found = self._find(line)
        for result in (each for each in found if isinstance(each, Result)):
            errors = list(result.exceptions().items())
            for number, error in errors[:MOST]:
                why = one_line(f"{type(error).__name__}: {words_of(error)}", 500)
                say(f"Call {number} of {one_line(result.name)} failed: {why}")
            if len(errors) > MOST:
                say(f"and {plural(len(errors) - MOST, 'more failed call')}")
        for job in self._first_jobs(found):
            say(f"Job {job.id}: {job.status()}")
            if job.hold_reason:
                say(job.analyze())
            for which, name in ((1, "error output"), (0, "output")):
                text = job._session.text(job.id, which)  # noqa: SLF001 - of a class of ours
                if text and (said := clean(text.shown(MOST_SHOWN))):
                    say(f"-- {name} of {job.id}\n{said}")
            if events := list(eventwords.in_words(job.log() or "")):
                say("\n".join([f"-- events of {job.id}", *events]))

    @no_var_expand
    @line_magic
    def condor_why(self, line: str) -> None:
        """Print why a job is idle or held, and what to do about it.

        Examples: %condor_why 12.3
                  %condor_why held
        """
        for job in self._first_jobs(self._find(line)):
            say(job.analyze())

    def _first_jobs(self, found: list[Any]) -> Iterator[QueuedJob]:
        """Yield the first jobs of what was found, and print how many more there are."""
        jobs = selection.jobs_of(found)
        yield from jobs[:MOST]
        if len(jobs) > MOST:
            say(f"and {len(jobs) - MOST:,} more jobs")
        if not jobs:
            shown = " ".join(map(repr, found))
            say(f"No job has these calls: they are waiting, or have ended. {shown}")

    @line_magic
    def condor_attach(self, line: str) -> Any:
        """Resume calls that another kernel has left behind; without a name, list them.

        ``%condor_attach scan`` returns their result object and shows it live.  The name
        is that of --name, of the function, or of the submit directory.
        """
        with _usage(CondorPoolError):
            found = attach(lines.name_on(line) or None)
        if isinstance(found, Result):
            self.shell.user_ns[LAST] = found
            _pool.add_resumed(found)
            found.show("auto")
        return found

    @line_magic
    def condor_forget(self, line: str) -> None:
        """Delete the results that this notebook keeps under a name.

        Jobs that still make such calls are removed.

        Example: %condor_forget scan
        """
        with _usage(CondorPoolError):
            name = lines.name_on(line)
            if not name:
                raise LineError("write the name of calls, as in `%condor_forget scan`")
            if not find(name):
                hint = did_you_mean(name, kept_names())
                raise LineError(f"no results are kept under the name {one_line(name)}.{hint}")
            deleted = forget(name)
        say(f"deleted {plural(deleted, 'result')} of {one_line(name)}")

    @line_magic
    def condor_clean(self, line: str) -> None:
        """Close the notebook's pool and delete its files.

        Waits for running jobs, removes held ones, and deletes the files of failed
        jobs too.  Only named results are kept.  The next magic makes a new pool.
        """
        with _usage():
            lines.check_empty("%condor_clean", line)
        _pool.clean()


class _LastResult:
    """Sets the variable `LAST` after each cell to the result of the last call of any pool."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._noted = latest()

    def __call__(self, *_: object) -> None:
        found = latest()
        # Not an iterator: the variable would keep it in use.
        if isinstance(found, Result) and found is not self._noted:
            self._noted = self._shell.user_ns[LAST] = found


def load(shell: InteractiveShell) -> None:
    """Add the magics and their completion to a shell."""
    unload(shell)
    shell.events.register("post_run_cell", _LastResult(shell))
    shell.register_magics(CondorMagics(shell))
    completion.install(shell)
    if text := status.greeting():
        say(text)


def unload(shell: InteractiveShell) -> None:
    """Remove the magics and their completion; jobs and pools continue."""
    completion.uninstall(shell)
    for callback in list(shell.events.callbacks["post_run_cell"]):
        if isinstance(callback, _LastResult):
            shell.events.unregister("post_run_cell", callback)
    for magics in shell.magics_manager.magics.values():
        for name in CondorMagics.magics["line"].keys() | CondorMagics.magics["cell"].keys():
            magics.pop(name, None)
    shell.magics_manager.registry.pop("CondorMagics", None)
