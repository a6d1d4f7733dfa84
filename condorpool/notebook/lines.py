"""Parses the line after a magic's name: options first, then Python."""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import io
import re
import shlex
import tokenize
from typing import Any, NoReturn

#: The name of the function that is made from a cell's lines.
CELL = "cell"

_WORD = re.compile(r"""\s*((?:[^\s'"\\]|\\.|'[^']*'|"(?:\\.|[^"\\])*")+)(?=\s|$)""", re.DOTALL)


class LineError(ValueError):
    """The magic cannot use what follows its name."""


class Options(argparse.ArgumentParser):
    """The options of a magic, which come before anything else on its line."""

    def __init__(self, magic: str) -> None:
        super().__init__(
            prog=magic,
            usage=argparse.SUPPRESS,
            add_help=False,
            allow_abbrev=False,
            formatter_class=functools.partial(argparse.HelpFormatter, width=88),
        )
        self.color = False  # the help becomes a docstring
        self.takes_value: dict[str, bool] = {}

    def add(self, *flags: str, **how: Any) -> None:
        """Add an option, as `add_argument` does."""
        action = self.add_argument(*flags, **how)
        self.takes_value.update(dict.fromkeys(action.option_strings, action.nargs != 0))

    def error(self, message: str) -> NoReturn:
        """Raise a `LineError` that names the help of the magic."""
        raise LineError(f"{message}. `{self.prog}?` lists the options.")

    def split(self, line: str) -> tuple[argparse.Namespace, str]:
        """Return the options that a line begins with, and the rest of the line unchanged."""
        words: list[str] = []
        place = 0
        while flag := re.match(r"\s*(--?[A-Za-z][\w-]*)(=?)", line[place:]):
            if flag[1] not in self.takes_value:
                near = difflib.get_close_matches(flag[1], self.takes_value, n=1)
                hint = f": did you mean {near[0]}?" if near else ""
                self.error(f"there is no option {flag[1]}{hint}")
            words.append(flag[1])
            place += flag.end()
            if flag[2] or self.takes_value[flag[1]]:
                value = _WORD.match(line, place)
                if not value:
                    self.error(f"{flag[1]} needs a value")
                # In one word: argparse takes a value of its own that begins with "-" for an option.
                words[-1] += ("=" if flag[1].startswith("--") else "") + _unquoted(value[1])
                place = value.end()
        return self.parse_args(words), line[place:].strip()


def _unquoted(word: str) -> str:
    return "".join(shlex.split(word))


def _name(text: str) -> str:
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a variable")
    return text


def _names(text: str) -> list[str]:
    return [_name(part.strip()) for part in text.split(",") if part.strip()]


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"write 'key=value', not {text!r}")
    return key.strip(), value.strip()


def _for_jobs(options: Options) -> None:
    """Add the options about the jobs."""
    options.add("--memory", metavar="SIZE", help="memory that each job requests, such as 2GB")
    options.add(
        "--memory-max",
        metavar="SIZE",
        help="if a job runs out of memory, retry with more, up to this",
    )
    options.add("--cpus", type=int, metavar="N", help="CPUs that each job requests")
    options.add("--gpus", type=int, metavar="N", help="GPUs that each job requests")
    options.add("--name", help="name the calls; named results are kept on disk")
    options.add(
        "--submit",
        type=_setting,
        action="append",
        metavar="'KEY=VALUE'",
        help="a command of the submit description; may be repeated",
    )


def job_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options about the jobs as keywords of the methods of `Pool`."""
    names = ("memory", "memory_max", "cpus", "gpus", "name")
    given = {name: getattr(options, name) for name in names}
    submit = dict(options.submit or ())
    if submit:
        given["submitkwargs"] = submit
    return {name: value for name, value in given.items() if value is not None}


def _map_options() -> Options:
    options = Options("%condor_map")
    options.add(
        "-a",
        "--async",
        dest="is_async",
        action="store_true",
        help="return the result object at once, without waiting",
    )
    options.add(
        "-o",
        "--out",
        type=_name,
        metavar="NAME",
        help="assign the list to this variable instead of showing it",
    )
    options.add("--chunksize", type=int, metavar="N", help="calls that a job takes at a time")
    options.add("--processes", type=int, metavar="N", help="at most this many jobs at once")
    _for_jobs(options)
    options.add("--star", action="store_true", help="call f(*item): each item holds all arguments")
    options.add("--unordered", action="store_true", help="values in the order in which calls end")
    options.add(
        "--return-exceptions", action="store_true", help="list exceptions instead of raising them"
    )
    options.add("--quiet", action="store_true", help="do not show progress")
    options.add(
        "--dry-run", action="store_true", help="show the submit description without submitting"
    )
    return options  # fmt: skip


def _cell_options() -> Options:
    options = Options("%%condor")
    many: Any = {"type": _names, "action": "extend", "metavar": "NAMES", "default": []}
    options.add(
        "-i",
        "--in",
        dest="given",
        help="variables that the cell starts with, separated by commas",
        **many,
    )
    options.add("-o", "--out", dest="wanted", help="variables to copy back to the notebook", **many)
    _for_jobs(options)
    options.add("--quiet", action="store_true", help="do not show progress")
    return options  # fmt: skip


MAP = _map_options()
CELL_JOB = _cell_options()

#: The options of each magic that has any.
OF_MAGIC = {"condor_map": MAP, "condor": CELL_JOB}


def without_comment(text: str) -> str:
    """Return a line of Python without the comment or semicolon at its end.

    IPython passes a magic its whole line.
    """
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                lines = text.splitlines()
                text = "\n".join([*lines[: token.start[0] - 1], token.line[: token.start[1]]])
                break
    except (tokenize.TokenError, SyntaxError):
        pass  # evaluating the line raises a clearer error
    return text.rstrip().rstrip(";").rstrip()


def split_call(text: str) -> tuple[str, str]:
    """Split ``f data`` into its two expressions.

    They are split at the comma of ``f, data``, else at the first space with a Python
    expression on each side: ``obj.m (1, 2)`` is the function ``obj.m`` and a tuple, not a
    call.  Data that begins with an operator is not recognized.
    """
    text = without_comment(text)
    whole = _parsed(text)
    if isinstance(whole, ast.Tuple) and len(whole.elts) == 2 and not text.startswith("("):
        first, second = (ast.get_source_segment(text, part) for part in whole.elts)
        return str(first), str(second)
    for space in re.finditer(r"\s+", text):
        left, right = text[: space.start()], text[space.end() :]
        is_data = _parsed(right) is not None and right[0] not in "+-*"
        if is_data and _parsed(left) and not left.endswith(","):
            return left, right
    raise LineError(
        f"{text!r} is not a function and its data: write both, as in `%condor_map f data`"
        if text
        else "the line is empty: write a function and its data, as in `%condor_map f data`"
    )


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def function_of(body: str) -> tuple[ast.Module, str]:
    """Return Python code that defines a function, made from a cell, and the function's name.

    A cell that ends with a ``def`` or a ``lambda`` defines the function itself.  Any
    other cell is the body of a function of ``x``, which returns its last expression.
    """
    try:
        module = ast.parse(body)
    except SyntaxError as error:
        raise LineError(f"line {error.lineno} of the cell: {error.msg}") from error
    if not module.body:
        raise LineError("the cell is empty: write a function, or an expression of x")
    last = module.body[-1]
    if isinstance(last, ast.FunctionDef):
        return module, last.name
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Lambda):
        target = ast.Name(CELL, ast.Store())
        module.body[-1] = ast.Assign([target], last.value)
    else:
        if isinstance(last, ast.Expr):
            module.body[-1] = ast.copy_location(ast.Return(last.value), last)
        body_of_cell = module.body
        module = ast.parse(f"def {CELL}(x): pass")
        function: Any = module.body[0]
        function.body = body_of_cell
    return ast.fix_missing_locations(module), CELL


def pool_arguments(text: str) -> str:
    """Return Python code for the tuple and the dict of a `Pool`'s arguments.

    >>> pool_arguments("4, linger=30")
    '(lambda *a, **k: (a, k))(4, linger=30)'
    """
    text = without_comment(text)
    call = f"(lambda *a, **k: (a, k))({text})"
    if _parsed(call) is None:
        raise LineError(f"{text!r} are not arguments of a Pool, such as `processes=4, linger=30`")
    return call
