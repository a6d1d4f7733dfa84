"""The tests that may depend on versions: `make matrix` runs them in each combination.

A cell is a Python from 3.10 to 3.14 with the newest packages, or with the lowest ones that
pyproject.toml allows.  Pythons are found on the PATH and among pyenv's; none is downloaded.
`make matrix CELLS="3.13-lowest /opt/python3.14/bin/python"` runs only these cells.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

RESOLUTIONS = ("newest", "lowest")

#: Packages whose versions the table shows.
SHOWN = ("htcondor", "cloudpickle", "ipython")

#: What the tests need besides the package and its demo; always the newest versions.
TOOLS = ("pytest", "pytest-xdist", "pytest-timeout", "psutil", "pandas", "joblib")

#: Tests that depend on the interpreter, the bindings, cloudpickle or IPython; not those of
#: daemons, browsers and other processes that fail.
TESTS = (
    "unit", "contract", "htcondor/test_calls.py", "htcondor/test_magics.py", "htcondor/test_modules.py",
    "htcondor/test_original.py", "htcondor/test_resources.py", "htcondor/test_results.py",
    "htcondor/test_surroundings.py", "htcondor/test_users_code.py", "notebooks/test_display.py",
)  # fmt: skip

ASK = f"""
import importlib.metadata, json, platform
print(json.dumps([platform.python_version(), *map(importlib.metadata.version, {SHOWN})]))
"""


def find(name: str) -> str | None:
    """Return the interpreter of a version, or at a path; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [shutil.which(name if "/" in name else f"python{name}")]
    places += sorted(map(str, pyenv.glob(f"versions/{name}.*/bin/python")), reverse=True)
    for place in filter(None, places):
        # pyenv also has shims on the PATH for versions that are not active; those fail.
        if (
            subprocess.run([place, "-c", "import ssl"], capture_output=True, check=False).returncode
            == 0
        ):
            return place
    return None


def run(cell: str, python: str, resolution: str, folder: Path) -> tuple[list[str], bool]:
    """Run the tests of one cell; return its row, and whether all have passed."""
    started = time.monotonic()
    venv, log = folder / "venv", folder / "log"
    uv = [str(Path(sys.executable).with_name("uv"))]
    pip = [*uv, "pip", "install", "--quiet", "--python", str(venv)]
    packages = ["--editable", f"{PROJECT}[demo]", *TOOLS]
    steps = [[*uv, "venv", "--quiet", "--no-python-downloads", "--python", python, str(venv)]]
    if resolution == "lowest":
        lowest = folder / "lowest.txt"
        # Versions without a wheel for this Python are older than it and do not count.
        choice = ["--resolution", "lowest-direct", "--only-binary", ":all:", "--python", str(venv)]
        steps += [[*uv, "pip", "compile", "--quiet", *choice, "--extra", "demo",
                   str(PROJECT / "pyproject.toml"), "--output-file", str(lowest)]]  # fmt: skip
        packages += ["--constraint", str(lowest)]
    steps += [[*pip, *packages]]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr, flush=True)
            return [cell, *["-"] * (1 + len(SHOWN)), "cannot be installed", "-"], False
    inside = str(venv / "bin/python")
    versions = json.loads(
        subprocess.run([inside, "-c", ASK], capture_output=True, check=True).stdout
    )
    command = [inside, "-m", "pytest", "-n", "2", "--dist", "loadscope", "-p", "no:cacheprovider"]
    if resolution == "lowest":  # old packages warn about newer ones
        for warning in ("DeprecationWarning", "PendingDeprecationWarning", "SyntaxWarning"):
            command += ["-W", f"default::{warning}"]
    command += [f"--basetemp={folder / 'tmp'}", *(str(PROJECT / "tests" / name) for name in TESTS)]
    with log.open("w") as output:
        done = subprocess.run(
            command,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    text = log.read_text(errors="replace")
    if done.returncode != 0:
        print(text, flush=True)
    counts = re.findall(
        r"(\d+ (?:passed|failed|skipped|errors?))", text.rstrip().rpartition("\n")[2]
    )
    minutes = f"{(time.monotonic() - started) / 60:.1f} min"
    return [cell, *versions, ", ".join(counts) or "did not run", minutes], done.returncode == 0


def cells(chosen: list[str]) -> list[tuple[str, str]]:
    """Return the Pythons and resolutions that the user chose, or all."""
    found = []
    for name in chosen or PYTHONS:
        python, dash, resolution = name.rpartition("-")
        if dash and resolution in RESOLUTIONS:
            found.append((python, resolution))
        else:
            found += [(name, each) for each in RESOLUTIONS]
    return found


def main(chosen: list[str]) -> int:
    """Run the cells, and print a table."""
    rows = [["cell", "Python", *SHOWN, "tests", "took"]]
    failed = False
    for name, resolution in cells(chosen):
        python, cell = find(name), f"{name}-{resolution}"
        if python is None:
            rows.append([cell, *["-"] * (1 + len(SHOWN)), "no such Python here", "-"])
            failed = failed or bool(chosen)  # a cell that the user named must run
            continue
        print(f"{cell}: {python}", flush=True)
        with tempfile.TemporaryDirectory(prefix="condorpool-matrix-") as folder:
            row, passed = run(cell, python, resolution, Path(folder))
        rows.append(row)
        failed = failed or not passed
        print(*row, flush=True)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print(
            "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        )
    return int(failed or all(row[-1] == "-" for row in rows[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
