"""The command ``condorpool demo``: the quickstart notebook on a personal HTCondor."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

from condorpool import personal
from condorpool.cli.console import say
from condorpool.values.exceptions import CondorPoolError

NOTEBOOK = "quickstart.ipynb"


def add(commands: Any) -> None:
    """Add the command to the command line."""
    text = "run the quickstart notebook on a personal HTCondor"
    parser = commands.add_parser("demo", help=text, description=text)
    parser.add_argument(
        "--output", metavar="DIR", default="demo-output", help="folder for the executed notebook"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Install HTCondor if needed, execute the notebook, and print its output."""
    try:
        import nbclient  # noqa: F401, PLC0415 - only the demo needs them
        import nbconvert  # noqa: F401, PLC0415
    except ImportError as error:
        raise CondorPoolError(
            f"the demo needs {error.name}: run pip install 'condorpool[demo]'"
        ) from error
    output = Path(arguments.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    personal.install(progress=say)
    with tempfile.TemporaryDirectory(prefix="condorpool-demo-") as folder:
        say("Starting a personal HTCondor")
        with personal.start(Path(folder, "personal")) as htcondor:
            say(f"HTCondor {htcondor.installation.version} is up")
            page = _execute(_notebook(), output, htcondor.folder)
    say(f"Finished in {time.monotonic() - started:.0f} s; HTCondor has been stopped.")
    say(f"The executed notebook: {page.as_uri()}")
    return 0


def _notebook() -> Path:
    """Return the quickstart, from the installed package or from a clone of the repository."""
    installed = Path(str(resources.files("condorpool").joinpath("cli", NOTEBOOK)))
    if installed.exists():
        return installed
    return Path(__file__).parents[2] / "notebooks" / NOTEBOOK


def _execute(source: Path, output: Path, htcondor: Path) -> Path:
    import nbformat  # noqa: PLC0415
    from nbclient import NotebookClient  # noqa: PLC0415
    from nbconvert import HTMLExporter  # noqa: PLC0415

    notebook = nbformat.read(source, as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    begun = 0.0

    def before(cell: Any, **_: Any) -> None:
        nonlocal begun
        begun = time.monotonic()
        if cell in codes:
            say(f"[{codes.index(cell) + 1}/{len(codes)}] {_title(cell)}", end="")

    def after(cell: Any, **_: Any) -> None:
        say(f"  {time.monotonic() - begun:.1f} s")
        for line in _shown(cell):
            say(f"      {line}")

    client = NotebookClient(
        notebook,
        timeout=300,
        extra_arguments=["--log-level=ERROR"],  # warnings would mix with the notebook's output
        resources={"metadata": {"path": str(output)}},
        on_cell_execute=before,
        on_cell_executed=after,
    )
    # The notebook's Pool() uses the personal HTCondor that was started for it, even
    # if another HTCondor is configured.
    client.execute(
        env={**os.environ, "CONDOR_CONFIG": os.devnull, "CONDORPOOL_PERSONAL": str(htcondor)}
    )
    nbformat.write(notebook, output / NOTEBOOK)
    page = output / Path(NOTEBOOK).with_suffix(".html").name
    page.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    return page


def _title(cell: Any) -> str:
    lines = [line for line in cell.source.splitlines() if line and not line.startswith("#")]
    return f"{lines[0] if lines else '':.70}"


def _shown(cell: Any) -> list[str]:
    """Return the lines of text that a cell shows."""
    texts = []
    for shown in cell.outputs:
        data = shown.get("data", {})
        if shown.output_type == "stream":
            texts.append(shown.text)
        elif "image/png" in data:
            texts.append("(a figure: see the HTML page)")
        elif "text/plain" in data:
            texts.append(data["text/plain"])
    return "\n".join(text.rstrip("\n") for text in texts).splitlines()[:20]
