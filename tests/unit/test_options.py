"""The keywords of pools and verbs: one place names them, and tools know them from there."""

from __future__ import annotations

import inspect
import re
import types
import typing

import pytest
from IPython.core.completer import IPCompleter, provisionalcompleter
from IPython.core.magic import MagicsManager

import condorpool
from condorpool import Executor, Pool
from condorpool.interface.options import given, keywords, resources
from condorpool.interface.options.keywords import (
    CallKeywords,
    JobKeywords,
    PoolKeywords,
    ResultKeywords,
)
from condorpool.interface.options.settings import Settings

TAKES = [
    (Pool.__init__, PoolKeywords),
    (Executor.__init__, PoolKeywords),
    (Pool.apply, ResultKeywords),
    (Pool.apply_async, ResultKeywords),
    (Pool.map, ResultKeywords),
    (Pool.map_async, ResultKeywords),
    (Pool.starmap, ResultKeywords),
    (Pool.starmap_async, ResultKeywords),
    (Pool.imap, CallKeywords),
    (Pool.imap_unordered, CallKeywords),
    (Pool.submit_description, JobKeywords),
]


@pytest.mark.parametrize(("function", "kind"), TAKES, ids=lambda x: getattr(x, "__qualname__", ""))
def test_a_function_says_what_it_takes(function, kind):
    """Type checkers know it by Unpack; `inspect.signature` and `get_type_hints` name each keyword."""
    assert f": Unpack[{kind.__name__}]\n" in inspect.getsource(function).replace(",", "")
    parameters = inspect.signature(function).parameters
    assert set(kind.__annotations__) <= set(parameters)
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def public_functions():
    """Yield condorpool's functions of all public classes, and those behind their properties."""
    for name in condorpool.__all__:
        owner = getattr(condorpool, name)
        if inspect.isfunction(owner):
            yield owner
        for key in dir(owner) if inspect.isclass(owner) else ():
            found = inspect.getattr_static(owner, key)
            function = getattr(found, "fget", None) or getattr(found, "__func__", found)
            is_public = not key.startswith("_") or key == "__init__"
            is_ours = str(getattr(function, "__module__", "")).startswith("condorpool")
            if is_public and is_ours and inspect.isfunction(function):
                yield function


@pytest.mark.parametrize(
    "function", dict.fromkeys(public_functions()), ids=lambda f: f"{f.__module__}.{f.__qualname__}"
)
def test_types_can_be_asked_for(function):
    """`get_type_hints` returns those of all parameters of all public functions."""
    hints = typing.get_type_hints(function)
    assert set(inspect.signature(function).parameters) - {"self", "cls"} <= set(hints)


@pytest.mark.parametrize("use_jedi", [False, True])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pool.map(abs, [1], mem", {"memory=", "memory_max="}),
        ("pool.imap(abs, [1], echo", {"echo="}),
        ("pool.apply_async(abs, (1,), retu", {"return_exceptions="}),
        ("pool.submit_description(abs, requ", {"requirements="}),
        ("Pool(lin", {"linger="}),
        ("Pool(4, subm", {"submitkwargs=", "submitdir="}),
        ("Executor(4, mem", {"memory=", "memory_max="}),
    ],
)
def test_the_tab_key(line, expected, use_jedi):
    """IPython completes keywords, with Jedi and without."""
    names = {"pool": object.__new__(Pool), "Pool": Pool, "Executor": Executor}
    # Matchers ask the shell for its magics; one that raises is skipped, with its completions.
    shell = types.SimpleNamespace(magics_manager=MagicsManager())
    completer = IPCompleter(shell, namespace=names, use_jedi=use_jedi)
    with provisionalcompleter():
        found = {completion.text for completion in completer.completions(line, len(line))}
    start = re.search(r"\w*$", line)[0]
    assert expected <= {text if text.startswith(start) else start + text for text in found}


def test_the_signature_says_the_defaults():
    """``Pool?`` shows them."""
    parameters = inspect.signature(Pool).parameters
    assert parameters["linger"].default == 10.0
    assert parameters["memory"].default is None
    assert parameters["memory"].annotation == "str | float | None"


def test_what_jobs_need_is_among_the_keywords():
    """Each resource keyword has a check, and each default a keyword."""
    assert set(resources.KEYWORDS) | {"submitkwargs", "jobkwargs"} == set(
        JobKeywords.__annotations__
    )
    known = {name for _, kind in TAKES for name in kind.__annotations__}
    assert set(keywords.DEFAULTS) <= known


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (ResultKeywords, "memroy", "'memroy': did you mean memory?"),
        (ResultKeywords, "return_exception", "did you mean return_exceptions?"),
        (
            CallKeywords,
            "return_exceptions",
            "'return_exceptions': only map(), starmap() and apply()",
        ),
        (CallKeywords, "color", "'color': the keywords are memory, "),
        (PoolKeywords, "on_ext", "did you mean on_exit?"),
        (PoolKeywords, "process", "did you mean processes?"),
        (PoolKeywords, "max_workers", "did you mean processes?"),
        (PoolKeywords, "request_memory", "did you mean memory?"),
        (PoolKeywords, "Requirments", "did you mean requirements?"),
        (PoolKeywords, "rank", "submit commands are passed as submitkwargs={'rank': ...}"),
        (PoolKeywords, "chunksize", "pass chunksize to map(), apply_async() and so on."),
        (PoolKeywords, "name", "pass name to map(), apply_async() and so on."),
        (ResultKeywords, "chunksiz", "did you mean chunksize?"),
        (ResultKeywords, "linger", "pass linger to Pool() itself."),
        (ResultKeywords, "n_jobs", "pass processes to Pool() itself."),
        (ResultKeywords, "process", "pass processes to Pool() itself."),
        (ResultKeywords, "buffer_size", "only imap() and imap_unordered() take buffersize."),
        (ResultKeywords, "kwargs", "only apply() and apply_async() take kwds."),
        (ResultKeywords, "axis", "the keywords are memory, "),
        (PoolKeywords, "chunk_size", "pass chunksize to map(), apply_async() and so on."),
        (PoolKeywords, "MEMORY", "did you mean memory?"),
        (PoolKeywords, "RequestCpus", "did you mean cpus?"),
        (PoolKeywords, "max_memory", "did you mean memory_max?"),
        (PoolKeywords, "maxtasks", "did you mean maxtasksperchild?"),
        (PoolKeywords, "image_size", "submit commands are passed as submitkwargs"),
        (ResultKeywords, "color", "the keywords are memory, "),
    ],
)
def test_a_keyword_that_there_is_not(kind, name, words):
    """The error names the keyword that is probably meant, else all."""
    with pytest.raises(TypeError, match=re.escape(words)):
        given.complete(kind, {name: 1})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("processes", "did you mean max_workers?"),
        ("max_workrs", "did you mean max_workers?"),
        ("maxtasksperchild", "did you mean max_tasks_per_child?"),
        ("memroy", "did you mean memory?"),
        ("chunksize", "pass chunksize to map()"),
    ],
)
def test_an_executor_has_other_words(name, words):
    """The error names the argument as an executor calls it."""
    with pytest.raises(TypeError, match=re.escape(words)):
        condorpool.Executor(**{name: 1})


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"on_exit": "waits"}, "Did you mean 'wait'?"),
        ({"on_hold": "Raise"}, "Did you mean 'raise'?"),
        ({"progress": "wigdet"}, "Did you mean 'widget'?"),
        ({"progress": True}, "must be one of 'auto', 'widget', 'text', None."),
        ({"killstats": ["held"]}, "Did you mean 'Held'?"),
        ({"jobkwargs": {"clean_failed": True}}, "Did you mean 'cleanfailed'?"),
    ],
)
def test_a_value_that_there_is_not(keywords, words):
    """The error names the one that is probably meant."""
    with pytest.raises(ValueError, match=re.escape(words)):
        Settings(None, None, (), None, keywords)
