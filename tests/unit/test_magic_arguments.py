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
        ("--chunk 3 f d", "There is no option --chunk. Did you mean --chunksize?"),
        ("--process 4 f d", "There is no option --process. Did you mean --processes?"),
        ("-memory 2GB f d", "There is no option -memory. Did you mean --memory?"),
        ("--Memory 2GB f d", "There is no option --Memory. Did you mean --memory?"),
        ("--on_hold wait f d", "There is no option --on_hold. Did you mean --on-hold?"),
        ("--retry 3 f d", "There is no option --retry."),
        ("--chunksize", "--chunksize needs a value."),
        ("--chunksize many f d", "--chunksize takes a whole number, not 'many'."),
        ("--chunksize 2.5 f d", "--chunksize takes a whole number, not '2.5'."),
        ("--task-timeout 1h f d", "--task-timeout takes a number of seconds, not '1h'."),
        (
            "--on-hold waits f d",
            "--on-hold takes raise or wait or remove, not 'waits'. Did you mean 'wait'?",
        ),
        ("--quiet=1 f d", "--quiet takes no value."),
        ("--submit memory f d", "--submit takes 'KEY=VALUE', not 'memory'."),
        ("-o 1x f d", "--out takes names of variables, and '1x' is none."),
    ],
)
def test_bad_options(line, expected):
    """The error says what is wrong and where to look."""
    with pytest.raises(LineError) as raised:
        lines.MAP.split(line)
    assert str(raised.value).startswith(expected)
    assert str(raised.value)[len(expected) :] == " `%condor_map?` lists the options."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory='lots' is not a size: write '2GB'", "--memory 'lots' is not a size: write '2GB'"),
        ("task_timeout=0.0: seconds", "--task-timeout 0.0: seconds"),
        ("name='s' has other calls. Add overwrite=True to", "--name 's' has other calls. Add --overwrite to"),
        ("overwrite=True replaces: add name=, or omit it", "--overwrite replaces: add --name, or omit it"),
        ("memory= and submitkwargs['a'] mean the same", "--memory and submitkwargs['a'] mean the same"),
        ("chunksize=0: it must be at least 1", "--chunksize 0: it must be at least 1"),
        ("filename=3", "filename=3"),
    ],
)  # fmt: skip
def test_errors_name_options(text, expected):
    """Where those of pools name keywords."""
    assert lines.MAP.in_options(text) == expected


def test_keywords_are_no_options():
    """The error names the option that is meant."""
    with pytest.raises(LineError, match=r"Did you mean --memory 2GB\?"):
        lines.split_call("memory=2GB f range(3)")
    with pytest.raises(LineError, match=r"Did you mean --task-timeout 3\?"):
        lines.data_of("task_timeout=3 range(3)")


def test_help_is_an_option_that_people_try():
    """The answer names the way to the help."""
    for option in ("-h", "--help"):
        with pytest.raises(LineError, match=r"^`%condor_map\?` shows the help\.$"):
            lines.MAP.split(option)


def test_names():
    """Names are separated by commas, and options that take them may be repeated."""
    for _ in range(2):  # parsing one line does not affect the next
        options, _ = lines.CELL_JOB.split("-i 'x, y' -i z --out=r")
        assert (options.given, options.wanted) == (["x", "y", "z"], ["r"])
    for parser, line in (lines.CELL_JOB, "-i x,1x"), (lines.MAP, "-o 1x f d"):
        with pytest.raises(LineError, match="takes names of variables, and '1x' is none"):
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


def test_options_for_jobs():
    """Each option is passed under the keyword of that name."""
    line = (
        "--disk 1GB --task-timeout 60 --on-hold wait --requirements 'Arch == \"X86_64\"' --echo f d"
    )
    options, _ = lines.MAP.split(line)
    assert options.echo
    assert lines.job_keywords(options) == {
        "disk": "1GB",
        "task_timeout": 60.0,
        "on_hold": "wait",
        "requirements": 'Arch == "X86_64"',
    }


@pytest.mark.parametrize("split", [lines.split_call, lines.data_of])
def test_options_after_the_data(split):
    """The error says that options come first."""
    with pytest.raises(LineError, match="Options such as --memory come before anything else"):
        split("f data --memory 2GB")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "write the data after %%condor_map, as in `%%condor_map range(10)`"),
        ("  # later", "write the data after %%condor_map"),
        ("f data", "'f data' is not one expression: after %%condor_map write only the data"),
    ],
)
def test_data_of_a_cell(text, expected):
    """The line of a cell has only the data."""
    with pytest.raises(LineError) as raised:
        lines.data_of(text)
    assert str(raised.value).startswith(expected)
    assert lines.data_of("range(3);  # few") == "range(3)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4, submitkwargs={'a': 1}  # few", ((4,), {"submitkwargs": {"a": 1}})),
        ("memory=2GB", ((), {"memory": "2GB"})),
        ("memory=2 GB, processes=4", ((), {"memory": "2 GB", "processes": 4})),
        (
            "processes=4 memory=1.5GiB disk=10G",
            ((), {"processes": 4, "memory": "1.5GiB", "disk": "10G"}),
        ),
        ("memory='2GB' on_exit='keep'", ((), {"memory": "2GB", "on_exit": "keep"})),
        ("4 memory = 2GB", ((4,), {"memory": "2GB"})),
        ("submitkwargs={'rank': 'a == 1'}", ((), {"submitkwargs": {"rank": "a == 1"}})),
        (
            "requirements='a b=c, d=2GB' memory=2gb",
            ((), {"requirements": "a b=c, d=2GB", "memory": "2gb"}),
        ),
        (
            'initargs=("a=1 b=2", 3) cpus=2',
            ((), {"initargs": ("a=1 b=2", 3), "cpus": 2}),
        ),
        ("processes=4; disk=.5GB", ((), {"processes": 4, "disk": ".5GB"})),
        (
            "submitdir=/work/me container_image=docker://python:3.11",
            ((), {"submitdir": "/work/me", "container_image": "docker://python:3.11"}),
        ),
        ("task_timeout=10m on_hold=raise", ((), {"task_timeout": "10m", "on_hold": "raise"})),
        ("", ((), {})),
    ],
)
def test_pool_arguments(text, expected):
    """Arguments are read as Pool takes them; sizes need no quotes, and keywords no commas."""
    assert eval(lines.pool_arguments(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processes 4", "did you mean processes=4?"),
        ("memory: 2GB", "did you mean memory=2GB?"),
        ("memory=2GB 4", "such as `processes=4, memory=2GB`"),
        ("--memory 2GB", "write memory=2GB, without dashes"),
        ("--on-exit=keep", "write on_exit=keep, without dashes"),
        ("4, (", "such as `processes=4, memory=2GB`"),
    ],
)
def test_bad_pool_arguments(text, expected):
    """The error says how to write them."""
    with pytest.raises(LineError, match="are not arguments of a Pool") as raised:
        lines.pool_arguments(text)
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dta", "there is no variable dta. Did you mean 'data'?"),
        ("zebra", "there is no variable zebra."),
        ("f(on_exit=keep)", "there is no variable keep: text needs quotes, as in on_exit='keep'"),
        (
            "f(remote=lxplus.cern.ch)",
            "there is no variable lxplus: text needs quotes, as in remote='lxplus.cern.ch'",
        ),
        ("f(personal=true)", "there is no variable true. Did you mean 'True'?"),
        ("[1, 2", "cannot evaluate '[1, 2': '[' was never closed"),
    ],
)
def test_why_an_expression_cannot_be_evaluated(text, expected):
    """The error names the variable that is missing, and one that may be meant."""
    with pytest.raises((NameError, SyntaxError)) as raised:
        eval(text, {"data": 1, "f": None})
    assert lines.why_not(text, raised.value, ["data", "f", "True"]) == expected


def test_help_names_every_option():
    """The help becomes a docstring, so it has no color codes."""
    text = lines.MAP.format_help()
    assert "--return-exceptions" in text
    assert "\x1b" not in text
    assert isinstance(lines.CELL_JOB, Options)
    assert ast.parse(lines.pool_arguments(""))
