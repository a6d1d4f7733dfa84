"""A Jupyter server and a Chromium for the session, and notebooks driven in them."""

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

#: No news, no autosave, and all cells in the page, also those scrolled out of sight.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}

#: Seconds for anything that a test waits for.
PATIENCE = 40.0

#: Kernels of other versions, for the ways in which their clicks come: name → requirement.
#: They are installed beside this environment, whose own kernel is "python3".
KERNELS = {
    f"ipykernel-{version}": f"ipykernel=={version}"
    for version in ("6.29.5", "6.31.0", "7.0.1", "7.1.0", "7.2.0", "7.3.0")
}

#: Where a front end opens a notebook.
FRONT_ENDS = {"lab": "lab/tree", "notebook": "notebooks"}

SETUP = """
import pathlib, sys, time
from condorpool import Pool
def wait(*_):
    while not pathlib.Path({told!r}).exists():
        time.sleep(0.05)
SUBMIT = dict(submitdir={folder!r})
HELD = dict(SUBMIT, processes=2, maxtasksperchild=1, submitkwargs=dict(
    should_transfer_files="YES", transfer_input_files="/no/such/file"))
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory, htcondor):
    """A Jupyter server with its own folders; gives its address, folder and token."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    for name, requirement in KERNELS.items():
        _add_kernel(folder / "DATA" / "kernels" / name, requirement)
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
    # It ends with these tests, also if they are killed, and its kernels with it.
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
        end = time.monotonic() + PATIENCE
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
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, folder / "lib", requirement, "nest-asyncio"], check=True)
    spec = {
        "display_name": requirement,
        "language": "python",
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "env": {"PYTHONPATH": os.pathsep.join([str(folder / "lib"), *sys.path[1:]])},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: the system's own, no download.

    Not for longer: while it runs, this thread has a running event loop.
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
    """What the pages of a module have in common."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    context.on("dialog", lambda dialog: dialog.accept())
    yield context
    context.close()


@pytest.fixture
def page(context):
    """An empty page."""
    with contextlib.closing(context.new_page()) as page:
        yield page


@pytest.fixture(params=["python3", *KERNELS])
def kernel(request):
    """Each kernel in turn."""
    return request.param


@pytest.fixture(params=FRONT_ENDS)
def front_end(request):
    """JupyterLab, and Notebook 7."""
    return request.param


class Notebook:
    """A notebook in JupyterLab or Notebook 7."""

    panel = "window.jupyterapp.shell.currentWidget"

    def __init__(self, page, path, told):
        self.page = page
        self.path = path
        self._told = told

    def ready(self, setup=False):
        """Wait until the kernel is idle, and has run the setup cell if that is asked for.

        One of forty notebooks with ipykernel 7.0.1 did not get its first answers, without
        condorpool too, until the page was loaded anew; whose fault it is was not found.
        """
        status = f"{self.panel}?.sessionContext?.session?.kernel?.status"
        prompt = "document.querySelector('.jp-NotebookPanel .jp-InputPrompt').textContent"
        for patience in (PATIENCE / 2, PATIENCE):
            self.page.wait_for_selector(".jp-NotebookPanel:visible .jp-Cell")
            self.page.evaluate("() => window.jupyterapp.restored")
            try:
                self.page.wait_for_function(f"() => {status} === 'idle'", timeout=patience * 1000)
                if setup:
                    self.run(0)
                    ran = f"() => /\\d/.test({prompt})"
                    self.page.wait_for_function(ran, timeout=patience * 1000)
            except sync_api.TimeoutError:
                self.page.reload()
            else:
                return
        raise AssertionError("the notebook's kernel does not answer")

    def go_on(self):
        """End the calls of ``wait``: what is to be seen before has been seen."""
        self._told.touch()

    def run(self, index):
        """Start a cell; does not wait for it."""
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
        """Save, and return what is in the file."""
        self.page.evaluate(f"() => {self.panel}.context.save()")
        return json.loads(self.path.read_text())


@pytest.fixture
def open_notebook(server, page, tmp_path, request):
    """Open a notebook with these code cells, after one that sets up."""
    address, folder, token = server
    told = tmp_path / "told"

    def open_(*cells, kernel="python3", front_end="lab"):
        setup = SETUP.format(folder=str(tmp_path), told=str(told))
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
        notebook = Notebook(page, path, told)
        notebook.ready(setup=True)
        return notebook

    yield open_
    told.touch()  # their slots are the next test's
    if getattr(request.node, "failed", False):
        page.screenshot(path=tmp_path / "failed.png")
    page.evaluate(f"() => {Notebook.panel}.sessionContext.shutdown()")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Let fixtures know that their test has failed."""
    report = (yield).get_result()
    item.failed = getattr(item, "failed", False) or report.failed
