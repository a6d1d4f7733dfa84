"""Processes that run a module of this package, which need not be installed."""

from __future__ import annotations

import sys
from pathlib import Path

_RUN = "import sys; sys.path[0] = sys.argv.pop(1); from {} import main; main(sys.argv[1:])"


def command(module: str, *arguments: object) -> list[str]:
    """Return the command that calls ``main`` of a module with a list of arguments."""
    root = Path(__file__).parents[2]
    return [sys.executable, "-c", _RUN.format(module), str(root), *map(str, arguments)]
