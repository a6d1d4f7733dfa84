"""What people write after a magic's name: options first, then Python."""

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

#: The name of the function that the lines of a cell are made into.
CELL = "cell"

_WORD = re.compile(r"""\s*((?:[^\s'"\\]|\\.|'[^']*'|"(?:\\.|[^"\\])*")+)(?=\s|$)""", re.DOTALL)


class LineError(ValueError):
    """What stands after the magic's name is not what it takes."""


class Options(argparse.ArgumentParser):
    """The options of a magic, which come before anything else on its line.

    Parameters
    ----------
    magic
        Its name.
    """

    def __init__(self, magic: str) -> None:
        super().__init__(
            prog=magic,
            usage=argparse.SUPPRESS,
            add_help=False,
            allow_abbrev=False,
            formatter_class=functools.partial(argparse.HelpFormatter, width=88),
        )
        self.color = False  # its help becomes a docstring
        self.takes_value: dict[str, bool] = {}

    def add(self, *flags: str, **how: Any) -> None:
        """Add an option, as `add_argument` does."""
        action = self.add_argument(*flags, **how)
        self.takes_value.update(dict.fromkeys(action.option_strings, action.nargs != 0))

    def error(self, message: str) -> NoReturn:
        """Raise what the magic tells its user."""
        raise LineError(f"{message}. `{self.prog}?` lists the options.")

    def split(self, line: str) -> tuple[argparse.Namespace, str]:
        """Return the options that a line begins with, and the rest of it as it stands."""
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
                # Together, or argparse takes a value that begins with a dash for an option.
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
    """Add what one says about the jobs."""
    options.add("--memory", metavar="SIZE", help="memory that a job asks for, as 2GB")
    options.add(
        "--memory-max",
        metavar="SIZE",
        help="try again with more, up to this, when it is not enough",
    )
    options.add("--cpus", type=int, metavar="N", help="CPUs that a job asks for")
    options.add("--gpus", type=int, metavar="N", help="GPUs that a job asks for")
    options.add("--name", help="what the calls are called: their results are kept")
    options.add(
        "--submit",
        type=_setting,
        action="append",
        metavar="'KEY=VALUE'",
        help="a command of the submit description; may be given again",
    )


def job_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was said about the jobs, as keywords of a pool's verbs."""
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
        help="do not wait: give the result object",
    )
    options.add(
        "-o",
        "--out",
        type=_name,
        metavar="NAME",
        help="give this name to the list instead of showing it",
    )
    options.add("--chunksize", type=int, metavar="N", help="calls that a job takes at a time")
    options.add("--processes", type=int, metavar="N", help="the most jobs at once")
    _for_jobs(options)
    options.add("--star", action="store_true", help="each item is the arguments: f(*item)")
    options.add("--unordered", action="store_true", help="values in the order in which they come")
    options.add(
        "--return-exceptions", action="store_true", help="exceptions stand where their values would"
    )
    options.add("--quiet", action="store_true", help="no display of how it goes on")
    options.add(
        "--dry-run", action="store_true", help="submit nothing, show what HTCondor would get"
    )
    return options  # fmt: skip


def _cell_options() -> Options:
    options = Options("%%condor")
    many: Any = {"type": _names, "action": "extend", "metavar": "NAMES", "default": []}
    options.add(
        "-i",
        "--in",
        dest="given",
        help="variables that the cell gets, with commas between them",
        **many,
    )
    options.add("-o", "--out", dest="wanted", help="variables that come back", **many)
    _for_jobs(options)
    options.add("--quiet", action="store_true", help="no display of how it goes on")
    return options  # fmt: skip


MAP = _map_options()
CELL_JOB = _cell_options()

#: The options of each magic that has some.
OF_MAGIC = {"condor_map": MAP, "condor": CELL_JOB}


def without_comment(text: str) -> str:
    """Return a line of Python without the comment or semicolon at its end.

    IPython gives a magic all that stands on its line.
    """
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                lines = text.splitlines()
                text = "\n".join([*lines[: token.start[0] - 1], token.line[: token.start[1]]])
                break
    except (tokenize.TokenError, SyntaxError):
        pass  # whoever parses it says more
    return text.rstrip().rstrip(";").rstrip()


def split_call(text: str) -> tuple[str, str]:
    """Split ``f data`` into its two expressions.

    They end at the first space at which both sides are Python, or at the comma
    of ``f, data``: a method that is followed by a tuple, ``obj.m (1, 2)``, is
    not taken for a call.  No data begins with an operator, though it might.
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
        f"{text!r} is not a function and its data, as in `%condor_map f data`"
        if text
        else "give a function and its data, as in `%condor_map f data`"
    )


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def function_of(body: str) -> tuple[ast.Module, str]:
    """Make Python that defines a function from the body of a cell; return that and its name.

    A body that ends with a ``def`` or a ``lambda`` is taken as it stands.  Any
    other is what happens to an item ``x``, and its last expression is the value.
    """
    try:
        module = ast.parse(body)
    except SyntaxError as error:
        raise LineError(f"line {error.lineno} of the cell: {error.msg}") from error
    if not module.body:
        raise LineError("the cell is empty: write the function, or what it does with x")
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
    """Return Python that gives a tuple and a dict of a `Pool`'s arguments.

    >>> pool_arguments("4, linger=30")
    '(lambda *a, **k: (a, k))(4, linger=30)'
    """
    text = without_comment(text)
    call = f"(lambda *a, **k: (a, k))({text})"
    if _parsed(call) is None:
        raise LineError(f"{text!r} are not arguments of a Pool, as in `processes=4, linger=30`")
    return call
