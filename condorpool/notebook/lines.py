"""Parses the line after a magic's name: options first, then Python."""

from __future__ import annotations

import argparse
import ast
import functools
import io
import itertools
import re
import shlex
import tokenize
from collections.abc import Collection
from typing import Any, NoReturn

from condorpool.values.matching import did_you_mean, nearest

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
            exit_on_error=False,
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
        raise LineError(f"{message} `{self.prog}?` lists the options.")

    def split(self, line: str) -> tuple[argparse.Namespace, str]:
        """Return the options that a line begins with, and the rest of the line unchanged."""
        words: list[str] = []
        place = 0
        while flag := re.match(r"\s*(--?[A-Za-z][\w-]*)(=?)", line[place:]):
            name = flag[1]
            if name in ("-h", "--help"):
                raise LineError(f"`{self.prog}?` shows the help.")
            if name not in self.takes_value:
                self.error(f"There is no option {name}.{self._near(name)}")
            words.append(name)
            place += flag.end()
            if flag[2] and not self.takes_value[name]:
                self.error(f"{name} takes no value.")
            if self.takes_value[name]:
                value = _WORD.match(line, place)
                if not value:
                    self.error(f"{name} needs a value.")
                # In one word: argparse takes a value of its own that begins with "-" for an option.
                words[-1] += ("=" if name.startswith("--") else "") + _unquoted(value[1])
                place = value.end()
        try:
            options = self.parse_args(words)
        except argparse.ArgumentError as error:
            self.error(f"{str(error.argument_name).rpartition('/')[2]} {error.message}")
        return options, line[place:].strip()

    def _near(self, name: str) -> str:
        """Return a question that names the option most like this one; empty if none is like it."""
        near = nearest(name, self.takes_value)
        return f" Did you mean {near}?" if near else ""

    def misplaced(self, text: str) -> str:
        """Return a hint if what should be Python has an option, or a keyword of `Pool`, else nothing."""
        found = re.findall(r"(?:^|\s)(--[A-Za-z][\w-]*)", text)
        known = [flag for flag in found if flag in self.takes_value]
        if known:
            return f" Options such as {known[0]} come before anything else."
        if keyword := re.match(r"([A-Za-z_]\w*)=(?!=)(\S*)", text):
            flag = nearest(keyword[1], self.takes_value)
            return f" Did you mean {flag} {keyword[2]}?" if flag else ""
        return ""

    def in_options(self, error: str) -> str:
        """Return the text of an error with options in the place of keywords, as in ``memory='2X'``."""
        names = [flag[2:].replace("-", "_") for flag in self.takes_value if flag[:2] == "--"]

        def spelled(found: re.Match[str]) -> str:
            return f"--{found[1].replace('_', '-')}{' ' * (found[2] == '')}"

        return re.sub(rf"\b({'|'.join(names)})=(True\b|(?=[^\s,;.]))?", spelled, error)


def _unquoted(word: str) -> str:
    return "".join(shlex.split(word))


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a whole number, not {text!r}.") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number of seconds, not {text!r}.") from None


def _name(text: str) -> str:
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"takes names of variables, and {text!r} is none.")
    return text


def _names(text: str) -> list[str]:
    return [_name(part.strip()) for part in text.split(",") if part.strip()]


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"takes 'KEY=VALUE', not {text!r}.")
    return key.strip(), value.strip()


def _choice(*known: str) -> Any:
    def choose(text: str) -> str:
        if text not in known:
            hint = did_you_mean(text, known)
            raise argparse.ArgumentTypeError(f"takes {' or '.join(known)}, not {text!r}.{hint}")
        return text

    return choose


def _for_jobs(options: Options) -> None:
    """Add the options about the jobs."""
    add = options.add
    add("--memory", metavar="SIZE", help="memory that each job requests, such as 2GB")
    add(
        "--memory-max",
        metavar="SIZE",
        help="if a job runs out of memory, retry with more, up to this",
    )
    add("--disk", metavar="SIZE", help="disk space that each job requests, such as 10GB")
    add("--cpus", type=_number, metavar="N", help="CPUs that each job requests")
    add("--gpus", type=_number, metavar="N", help="GPUs that each job requests")
    add(
        "--task-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="interrupt a call that takes longer",
    )
    add("--container-image", metavar="IMAGE", help="the image that jobs run in")
    add("--requirements", metavar="'EXPRESSION'", help="what machines must satisfy")
    add("--python", metavar="PATH", help="the interpreter on the execution point")
    add(
        "--on-hold",
        type=_choice("raise", "wait", "remove"),
        metavar="raise|wait|remove",
        help="what to do when only held jobs remain",
    )
    add("--name", help="name the calls; named results are kept on disk")
    add(
        "--overwrite",
        action="store_true",
        help="replace the results of other calls that are kept under the name",
    )
    add(
        "--submit",
        type=_setting,
        action="append",
        metavar="'KEY=VALUE'",
        help="a command of the submit description; may be repeated",
    )
    add("--quiet", action="store_true", help="do not show progress")


#: The options about the jobs that are keywords of the methods of `Pool`.
_KEYWORDS = (
    "memory",
    "memory_max",
    "disk",
    "cpus",
    "gpus",
    "task_timeout",
    "container_image",
    "requirements",
    "python",
    "on_hold",
    "name",
)


def job_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options about the jobs as keywords of the methods of `Pool`."""
    given = {name: getattr(options, name) for name in _KEYWORDS}
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
    options.add("--chunksize", type=_number, metavar="N", help="calls that a job takes at a time")
    options.add("--processes", type=_number, metavar="N", help="at most this many jobs at once")
    _for_jobs(options)
    options.add("--star", action="store_true", help="call f(*item): each item holds all arguments")
    options.add("--unordered", action="store_true", help="values in the order in which calls end")
    options.add(
        "--return-exceptions", action="store_true", help="list exceptions instead of raising them"
    )
    options.add("--echo", action="store_true", help="print here what the calls print")
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
    if not text:
        raise LineError("write a function and its data, as in `%condor_map f data`")
    raise LineError(
        f"{text!r} is not a function and its data: write both, as in `%condor_map f data`."
        + MAP.misplaced(text)
    )


def data_of(text: str) -> str:
    """Return the expression for the data on the line of a ``%%condor_map``."""
    text = without_comment(text)
    if not text:
        raise LineError(
            "write the data after %%condor_map, as in `%%condor_map range(10)`: "
            "the cell is the function"
        )
    if _parsed(text) is None:
        raise LineError(
            f"{text!r} is not one expression: after %%condor_map write only the data, as in "
            "`%%condor_map range(10)`; the cell is the function." + MAP.misplaced(text)
        )
    return text


def check_call(func: Any, data: Any) -> None:
    """Raise a `LineError` unless the function can be called on the items of the data."""
    kinds = type(func).__name__, type(data).__name__
    if not callable(func):
        swapped = callable(data) and hasattr(func, "__iter__")
        hint = "; the function comes first, then the data" if swapped else ", not a function"
        raise LineError(f"what should be the function is of type {kinds[0]}{hint}")
    try:
        iter(data)
    except TypeError:
        raise LineError(
            f"the data is of type {kinds[1]}, not a list or another iterable of the items"
        ) from None


def check_empty(magic: str, text: str) -> None:
    """Raise a `LineError` if a magic that takes nothing got something."""
    if without_comment(text):
        raise LineError(f"{magic} takes nothing after its name: {without_comment(text)!r}")


def name_on(text: str) -> str:
    """Return the name of calls that a line has, with or without quotes."""
    text = without_comment(text)
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return value if isinstance(value, str) else text


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


#: What may follow in a pool's arguments: a string, a bracket, a keyword, or any other character.
_PIECE = re.compile(
    r"""(?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<open>[\[({])|(?P<close>[\])}])"""
    r"""|(?P<keyword>(?:^|(?<=[\s,;]))[A-Za-z_]\w*\s*=(?!=))|.""",
    re.DOTALL,
)

#: A value that is taken as text though it has no quotes: a word or path, or a size with a blank.
_BARE = re.compile(r"[\d.]+ [A-Za-z]+|[^\s'\"()\[\]{}]+")


def pool_arguments(text: str) -> str:
    """Return Python code for the tuple and the dict of a `Pool`'s arguments.

    Keywords need no commas between them, and sizes, paths and the like no quotes.

    >>> pool_arguments("4, linger=30")
    '(lambda *a, **k: (a, k))(4, linger=30)'
    >>> pool_arguments("processes=4 memory=2GB")
    "(lambda *a, **k: (a, k))(processes=4, memory='2GB')"
    """
    text = without_comment(text)
    for form in (text, ", ".join(_arguments(text))):
        call = f"(lambda *a, **k: (a, k))({form})"
        if _parsed(call) is not None:
            return call
    hint = ""
    if dashed := re.match(r"--?([A-Za-z][\w-]*)[ =]*([^\s,=-]*)", text):
        name = dashed[1].replace("-", "_")
        hint = f": write {name}={dashed[2] or '...'}, without dashes"
    elif pair := re.match(r"([A-Za-z]\w*)[:\s]\s*(\S+)$", text):
        hint = f": did you mean {pair[1]}={pair[2]}?"
    raise LineError(
        f"{text!r} are not arguments of a Pool, such as `processes=4, memory=2GB`{hint}"
    )


def _arguments(text: str) -> list[str]:
    """Return a pool's arguments as Python code, those before the first keyword as they are."""
    depth, begins = 0, []
    for piece in _PIECE.finditer(text):
        depth += bool(piece["open"]) - bool(piece["close"])
        if piece["keyword"] and not depth:
            begins.append(piece.start())
    parts = [text[begin:end] for begin, end in itertools.pairwise([0, *begins, len(text)])]
    first, *keywords = (part.strip(" \t\n,;") for part in parts)
    found = [first] if first else []
    for each in keywords:
        name, _, value = each.partition("=")
        is_text = _parsed(value.strip()) is None and _BARE.fullmatch(value.strip())
        found.append(f"{name.strip()}={value.strip()!r}" if is_text else each)
    return found


def why_not(text: str, error: Exception, names: Collection[str]) -> str:
    """Return why an expression could not be evaluated, where the variables have these names."""
    missing = getattr(error, "name", None)
    if not isinstance(error, NameError) or missing is None:
        return f"cannot evaluate {text!r}: {getattr(error, 'msg', None) or error}"
    is_constant = missing.title() in {"True", "False", "None"}
    if not is_constant and (
        quoted := re.search(rf"(\w+)\s*=\s*({re.escape(missing)}\b[\w.-]*)", text)
    ):
        hint = f": text needs quotes, as in {quoted[1]}='{quoted[2]}'"
    else:
        public = [name for name in names if not name.startswith("_")]
        hint = f".{did_you_mean(missing, public)}"
    return f"there is no variable {missing}{hint}"
