"""Imports point down only, and only one folder imports HTCondor's bindings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import condorpool

PACKAGE = Path(condorpool.__file__).parent

#: Each layer may import itself and the layers in its list.
BELOW = {
    "values": [],
    "runner": [],
    "access": ["values"],
    "personal": ["access", "values"],
    "engine": ["access", "runner", "values"],
    "cleaner": ["engine", "personal", "access", "runner", "values"],
    "display": ["engine", "access", "values"],
    "interface": ["display", "cleaner", "engine", "personal", "access", "values"],
    "cli": ["interface", "cleaner", "engine", "personal", "access", "values"],
    "notebook": ["interface", "display", "cleaner", "engine", "personal", "access", "values"],
}

MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE)


def imported(file):
    """Yield the names of all modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file):
    """A layer imports itself and lower ones."""
    layer = file.relative_to(PACKAGE).parts[0]
    ours = [name for name in imported(file) if name.startswith("condorpool.")]
    layers = {name.split(".")[1] for name in ours}
    assert layers <= {layer, *BELOW[layer]}


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_one_folder_imports_the_bindings(file):
    """HTCondor's bindings are imported in access/ only."""
    foreign = {name.split(".")[0] for name in imported(file)} & {"htcondor2", "classad2"}
    assert not foreign or file.parent.name == "access"


def test_importing_has_no_side_effects(tmp_path):
    """Importing condorpool writes, starts, and changes nothing, and loads no notebook library."""
    code = (
        "import os, sys, threading; before = dict(os.environ)\n"
        "import condorpool\n"
        "assert dict(os.environ) == before\n"
        "assert threading.active_count() == 1\n"
        "assert not {'IPython', 'anywidget', 'ipywidgets', 'nbclient'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())
