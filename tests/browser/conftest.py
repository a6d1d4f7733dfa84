"""A Jupyter server for the session, a Chromium, and notebooks driven in them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request

import provision
import pytest
from playwright import sync_api

#: No news, no autosave, and all cells in the page, even those scrolled out of sight.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}

#: Seconds that a test waits for anything.
TIMEOUT = 40.0

#: Kernels that receive clicks in other ways: name → requirement.  They are installed in
#: folders of their own; the kernel of this environment is "python3".
KERNELS = {
    f"ipykernel-{version}": f"ipykernel=={version}"
    for version in ("6.29.5", "6.31.0", "7.0.1", "7.1.0", "7.2.0", "7.3.0")
}

#: The path at which each front end opens a notebook.
FRONT_ENDS = {"lab": "lab/tree", "notebook": "notebooks"}

SETUP = """
import pathlib, sys, time
from condorpool import Pool
def wait(*_):
    while not pathlib.Path({marker!r}).exists():
        time.sleep(0.05)
SUBMIT = dict(submitdir={folder!r}, linger=0)  # the next test needs their slots
HELD = dict(SUBMIT, processes=2, maxtasksperchild=1, submitkwargs=dict(
    should_transfer_files="YES", transfer_input_files="/no/such/file"))
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory, htcondor):
    """Yield the address, folder and token of a Jupyter server with its own folders."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    (folder / "work").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port, token = probe.getsockname()[1], secrets.token_hex(16)
    environment = {
        **os.environ,
        **{f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")},
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "CONDOR_CONFIG": os.devnull,
        "CONDORPOOL_PERSONAL": str(htcondor.folder),
        "CONDORPOOL_GRACE": "1",  # the jobs of a test end soon after its kernel
    }
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder / "work",
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "JupyterNotebookApp.expose_app_in_browser": True,
    }
    # The server and its kernels end with these tests, even if those are killed.
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "jupyterlab", "--no-browser"]
    command += ["--allow-root", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + TIMEOUT
        while True:
            assert process.poll() is None, (folder / "server.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5)
                break
            assert time.monotonic() < end, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield address, folder / "work", token
    finally:
        process.terminate()
        process.wait(20)


def _add_kernel(folder, requirement):
    """Begin to install a kernel; return the process that does."""
    folder.mkdir(parents=True)
    spec = {
        "display_name": requirement,
        "language": "python",
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "env": {"PYTHONPATH": os.pathsep.join([str(folder / "lib"), *sys.path[1:]])},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    return subprocess.Popen([*pip, folder / "lib", requirement, "nest-asyncio"])


@pytest.fixture(scope="session")
def installations(server):
    """Install all kernels while the first test runs; return the processes by the kernels' names."""
    _, work, _ = server
    folder = work.with_name("DATA") / "kernels"
    running = {name: _add_kernel(folder / name, needs) for name, needs in KERNELS.items()}
    yield running
    for process in running.values():
        process.wait()


@pytest.fixture(scope="module")
def browser():
    """Yield a headless Chromium, the system's own.

    Only for one module: while it runs, this thread has a running event loop.
    """
    from playwright.sync_api import sync_playwright

    path = provision.program("chromium")
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in provision.variables().items():
                patch.setenv(name, value)  # for Playwright's own process
            playwright = stack.enter_context(sync_playwright())
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def context(browser):
    """Yield the browser context that the pages of a module share."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(TIMEOUT * 1000)
    context.on("dialog", lambda dialog: dialog.accept())
    yield context
    context.close()


@pytest.fixture
def page(context):
    """Yield an empty page."""
    with contextlib.closing(context.new_page()) as page:
        yield page


@pytest.fixture(params=["python3", *KERNELS])
def kernel(request, installations):
    """Return each kernel in turn."""
    if request.param in installations:
        assert installations[request.param].wait() == 0
    return request.param


@pytest.fixture(params=FRONT_ENDS)
def front_end(request):
    """Return JupyterLab, then Notebook 7."""
    return request.param


class Notebook:
    """A notebook in JupyterLab or Notebook 7."""

    panel = "window.jupyterapp.shell.currentWidget"

    def __init__(self, page, path, marker):
        self.page = page
        self.path = path
        self._marker = marker

    def ready(self, setup=False):
        """Wait until the kernel is idle, and with ``setup`` until it has run the setup cell.

        One of forty notebooks with ipykernel 7.0.1 received no answers until the page was
        reloaded, also without condorpool.  The cause is unknown.
        """
        status = f"{self.panel}?.sessionContext?.session?.kernel?.status"
        prompt = "document.querySelector('.jp-NotebookPanel .jp-InputPrompt').textContent"
        for timeout in (TIMEOUT / 2, TIMEOUT):
            self.page.wait_for_selector(".jp-NotebookPanel:visible .jp-Cell")
            self.page.evaluate("() => window.jupyterapp.restored")
            try:
                self.page.wait_for_function(f"() => {status} === 'idle'", timeout=timeout * 1000)
                if setup:
                    self.run(0)
                    ran = f"() => /\\d/.test({prompt})"
                    self.page.wait_for_function(ran, timeout=timeout * 1000)
            except sync_api.TimeoutError:
                self.page.reload()
            else:
                return
        raise AssertionError("the notebook's kernel does not answer")

    def end_wait(self):
        """Let the calls of ``wait`` return."""
        self._marker.touch()

    def run(self, index):
        """Start a cell without waiting for it."""
        self.page.evaluate(f"i => {{ {self.panel}.content.activeCellIndex = i }}", index)
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")

    def output(self, index):
        """Return the output area of a cell."""
        cells = self.page.locator(".jp-NotebookPanel:visible .jp-Cell")
        return cells.nth(index).locator(".jp-Cell-outputArea")

    def button(self, name):
        """Return a button in the outputs, by its accessible name."""
        outputs = self.page.locator(".jp-NotebookPanel:visible .jp-OutputArea")
        return outputs.get_by_role("button", name=name, exact=True)

    def save(self):
        """Save the notebook and return the content of its file."""
        self.page.evaluate(f"() => {self.panel}.context.save()")
        return json.loads(self.path.read_text())


@pytest.fixture
def open_notebook(server, page, tmp_path, request):
    """Return a function that opens a notebook with a setup cell and these code cells."""
    address, folder, token = server
    marker = tmp_path / "marker"

    def open_(*cells, kernel="python3", front_end="lab"):
        setup = SETUP.format(folder=str(tmp_path), marker=str(marker))
        sources = [setup, *map(textwrap.dedent, cells)]
        path = folder / f"{tmp_path.name}.ipynb"
        path.write_text(
            json.dumps(
                {
                    "nbformat": 4,
                    "nbformat_minor": 5,
                    "metadata": {
                        "kernelspec": {"name": kernel, "display_name": "", "language": "python"}
                    },
                    "cells": [
                        {
                            "cell_type": "code",
                            "id": f"cell{index}",
                            "metadata": {},
                            "execution_count": None,
                            "outputs": [],
                            "source": source,
                        }
                        for index, source in enumerate(sources)
                    ],
                }
            )
        )
        page.goto(f"{address}/{FRONT_ENDS[front_end]}/{path.name}?reset&token={token}")
        notebook = Notebook(page, path, marker)
        notebook.ready(setup=True)
        return notebook

    yield open_
    marker.touch()  # the next test needs their slots
    if getattr(request.node, "failed", False):
        page.screenshot(path=tmp_path / "failed.png")
    page.evaluate(f"() => {Notebook.panel}.sessionContext.shutdown()")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Record for fixtures whether their test has failed."""
    report = (yield).get_result()
    item.failed = getattr(item, "failed", False) or report.failed
