"""The parsing of the lines of magics."""

from __future__ import annotations

import ast

import pytest

from condorpool.notebook import lines
from condorpool.notebook.lines import LineError, Options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f data", ("f", "data")),
        ("f, data", ("f", "data")),
        ("lambda x: x + 1 range(10)", ("lambda x: x + 1", "range(10)")),
        ("lambda x: x - k [k]", ("lambda x: x - k", "[k]")),
        ("lambda x: (x, 1), data", ("lambda x: (x, 1)", "data")),
        ("f [x for x in range(3)]", ("f", "[x for x in range(3)]")),
        ("partial(f, 2) [ (1,2) ]", ("partial(f, 2)", "[ (1,2) ]")),
        ("f if a else b c", ("f if a else b", "c")),
        ("f data[1: 3]", ("f", "data[1: 3]")),
        ("obj.m (1, 2)", ("obj.m", "(1, 2)")),
        ("f 1, 2, 3", ("f", "1, 2, 3")),
        ("f data;", ("f", "data")),
        ("f data  # and why", ("f", "data")),
        ("f '# ;'  # why", ("f", "'# ;'")),
        ("f {'$x': '{y}'}", ("f", "{'$x': '{y}'}")),
    ],
)
def test_split_call(text, expected):
    """A line is split at a comma, or at the first space between two Python expressions."""
    assert lines.split_call(text) == expected


@pytest.mark.parametrize("text", ["", "f", "f(data)", "f [1, 2", "f, data, more", "f 'abc"])
def test_lines_that_cannot_be_split(text):
    """The error shows how to write the line."""
    with pytest.raises(LineError, match="as in `%condor_map f data`"):
        lines.split_call(text)


def test_options_end_where_python_begins():
    """The rest of the line is unchanged."""
    line = "-a --chunksize 3 --name='a b' --submit \"x=-1 2\" --submit=y=z  f  [-1,  '--star']"
    options, rest = lines.MAP.split(line)
    assert rest == "f  [-1,  '--star']"
    assert (options.is_async, options.star, options.chunksize) == (True, False, 3)
    assert lines.job_keywords(options) == {
        "submitkwargs": {"x": "-1 2", "y": "z"},
        "name": "a b",
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--chunk 3 f d", "no option --chunk: did you mean --chunksize?"),
        ("--chunksize", "--chunksize needs a value"),
        ("--chunksize many f d", "invalid int value: 'many'"),
        ("--quiet=1 f d", "--quiet"),
        ("--submit memory f d", "write 'key=value', not 'memory'"),
    ],
)
def test_bad_options(line, expected):
    """The error says what is wrong and where to look."""
    with pytest.raises(LineError, match=f"{expected}.*condor_map"):
        lines.MAP.split(line)


def test_names():
    """Names are separated by commas, and options that take them may be repeated."""
    for _ in range(2):  # parsing one line does not affect the next
        options, _ = lines.CELL_JOB.split("-i 'x, y' -i z --out=r")
        assert (options.given, options.wanted) == (["x", "y", "z"], ["r"])
    for parser, line in (lines.CELL_JOB, "-i x,1x"), (lines.MAP, "-o 1x f d"):
        with pytest.raises(LineError, match="'1x' is not the name of a variable"):
            parser.split(line)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("import math\ndef f(x):\n    return x + k", 11, id="def"),
        pytest.param("k2 = k\nlambda n: n + k2", 11, id="lambda"),
        pytest.param("x + k", 11, id="expression"),
        pytest.param("y = x + k\nif y > 5:\n    return 'big'\ny", "big", id="body"),
        pytest.param("x += 1", None, id="no value"),
    ],
)
def test_function_of_a_cell(body, expected):
    """A cell is a definition, or the body of a function of x."""
    module, name = lines.function_of(body)
    space = {"k": 10}
    exec(compile(module, "<cell>", "exec"), space)
    assert space[name](1) == expected


def test_bad_cells():
    """The error names the line of the cell."""
    with pytest.raises(LineError, match="line 2 of the cell"):
        lines.function_of("x = 1\ny = = 2\n")
    with pytest.raises(LineError, match="the cell is empty"):
        lines.function_of("# nothing\n")


def test_pool_arguments():
    """Arguments are read as Pool takes them, without comments."""
    call = lines.pool_arguments("4, submitkwargs={'a': 1}  # few")
    assert eval(call) == ((4,), {"submitkwargs": {"a": 1}})
    with pytest.raises(LineError, match="are not arguments of a Pool"):
        lines.pool_arguments("processes 4")


def test_help_names_every_option():
    """The help becomes a docstring, so it has no color codes."""
    text = lines.MAP.format_help()
    assert "--return-exceptions" in text
    assert "\x1b" not in text
    assert isinstance(lines.CELL_JOB, Options)
    assert ast.parse(lines.pool_arguments(""))
