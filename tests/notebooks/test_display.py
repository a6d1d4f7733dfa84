"""Progress without a live front end: in executed notebooks, scripts and terminals."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap

import nbclient
import nbformat
import pytest

from condorpool import personal

SETUP = """
import time
from condorpool import Pool
pool = Pool()
"""
SLOW = "pool.map(time.sleep, [1.5, 1.5], 1)"
HELD = """
Pool(maxtasksperchild=1, submitkwargs=dict(
    should_transfer_files="YES", transfer_input_files="/no/such/file")).map(abs, [1], 1)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a process that uses one personal HTCondor."""
    personal.install()
    with personal.start(tmp_path_factory.mktemp("htcondor") / "personal", cpus=2) as htcondor:
        yield {
            **os.environ,
            "CONDOR_CONFIG": os.devnull,
            "CONDORPOOL_PERSONAL": str(htcondor.folder),
            "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
            "PYTHONPATH": os.pathsep.join(sys.path[1:]),
        }


def execute(environment, folder, *cells):
    """Execute a notebook; return its outputs."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (SETUP, *cells)]
    )
    client = nbclient.NotebookClient(
        notebook, timeout=60, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    return [cell.outputs for cell in notebook.cells[1:]]


def test_an_executed_notebook_has_the_report(environment, tmp_path):
    """Without a front end the widget is replaced by the report at the end."""
    [outputs] = execute(environment, tmp_path, SLOW)
    shown = [out.data for out in outputs if out.output_type == "display_data"]
    assert set(shown[0]) == {"text/plain", "text/html"}
    assert shown[1:] == [{"text/plain": ""}]  # where the widget was
    assert "2 of 2 calls done" in shown[0]["text/plain"]
    assert all(f'title="call {number}, ' in shown[0]["text/html"] for number in (0, 1))
    assert "slowest: call" in shown[0]["text/html"]


def test_a_short_call_leaves_nothing(environment, tmp_path):
    """Calls that end within a second are not shown."""
    first = "pool.map(abs, [1], progress=None)"
    _, outputs = execute(environment, tmp_path, first, "pool.map(abs, [1, 2])")
    assert [out.output_type for out in outputs] == ["execute_result"]


HELD_CALLS = """
pool = Pool(maxtasksperchild=1, submitkwargs=dict(
    should_transfer_files="YES", transfer_input_files="/no/such/file"))
results = [pool.apply_async(abs, (n,)) for n in range(2)]
while not all(result.counts().held for result in results):
    time.sleep(0.1)
time.sleep(4)
for result in results:
    result.remove()
"""


def test_a_held_call_is_noticed(environment, tmp_path):
    """Calls that no display shows are named in one line when they are held."""
    [outputs] = execute(environment, tmp_path, HELD_CALLS)
    [notice] = "".join(out.text for out in outputs if out.output_type == "stream").splitlines()
    assert re.match("condorpool: (1 call|2 calls) of abs held: job ", notice)
    assert "/no/such/file" in notice


def test_held_jobs_raise_without_a_front_end(environment, tmp_path):
    """A call does not wait for its jobs to be released where no user can click."""
    [outputs] = execute(environment, tmp_path, HELD)
    assert [out.ename for out in outputs if out.output_type == "error"] == ["JobHeldError"]


def test_the_widget_can_be_switched_off(environment, tmp_path):
    """CONDORPOOL_WIDGET=0 shows a line of text instead."""
    [outputs] = execute({**environment, "CONDORPOOL_WIDGET": "0"}, tmp_path, SLOW)
    texts = [out.text for out in outputs if out.output_type == "stream"]
    assert "2 of 2 calls done, 0:0" in "".join(texts)
    assert not [out for out in outputs if out.output_type == "display_data"]


def test_notices_do_not_look_like_errors(environment, tmp_path):
    """In a cell they go to standard output: standard error has a red background."""
    [outputs] = execute(environment, tmp_path, "for _ in range(2): pool.map(abs, [1], name='scan')")
    # On a busy machine the first call takes long enough to be shown.
    [notice] = [out for out in outputs if out.output_type == "stream"]
    assert notice.name == "stdout"
    assert notice.text.startswith("condorpool: 'scan': reusing")


def test_a_script_prints_nothing_by_itself(environment, tmp_path):
    """Where standard error is not a terminal, only progress="text" prints lines."""
    code = SETUP + SLOW.replace("1)", "1, progress={})") + "\npool.close()"

    def said(progress):
        command = [sys.executable, "-W", "error", "-c", code.format(progress)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    assert said('"auto"') == ""
    assert "condorpool: sleep |" in said('"text"')


def test_a_terminal_has_a_bar(environment, tmp_path):
    """On a terminal, one line is overwritten."""
    ours, its = pty.openpty()
    code = SETUP + SLOW + "\npool.close()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=its):
        os.close(its)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the process has closed its side
                break
    os.close(ours)
    assert "\r" in said.decode()
    assert "2 of 2 calls done, 0:0" in said.decode()


def test_results_that_are_iterated_over_are_shown(environment, tmp_path):
    """An iterator gets the report at the end, with the failed calls."""
    cell = """
    def fit(x):
        time.sleep(0.3)
        if x == 3:
            raise ValueError("no convergence")
        return x
    results = pool.imap(fit, range(8))
    for n in range(8):
        try:
            next(results)
        except ValueError:
            pass
    next(results, None)
    """
    [outputs] = execute(environment, tmp_path, textwrap.dedent(cell))
    shown, _ = [out.data["text/plain"] for out in outputs if out.output_type == "display_data"]
    assert shown.startswith("fit: 7 of 8 calls done, 1 failed")
    assert "ValueError: no convergence" in shown


KEPT = """
import gc, itertools
class Value:
    pass
def make(_):
    time.sleep(0.6)
    return Value()
values = pool.map(make, range(4), 1)
result = pool.map_async(make, range(4), 1, progress="widget")
result.get()
del values, result
pool.apply(abs, (1,))  # a pool keeps the result of its last call
for _ in range(50):  # until the thread that delivered them drops them too
    gc.collect()
    if not (kept := sum(type(each) is Value for each in gc.get_objects())):
        break
    time.sleep(0.1)
print(kept)
"""
DROPPED = """
def wait(number):
    time.sleep(0.3)
    return number
with Pool(2) as other:
    for number in other.imap(wait, (n for n in itertools.count()), progress="widget"):
        if number == 12:
            break
print("closed")
"""


def test_a_widget_keeps_no_result(environment, tmp_path):
    """The widget keeps neither the values of ended calls nor a dropped iterator alive."""
    kept, dropped = execute(environment, tmp_path, KEPT, DROPPED)
    assert [out.text for out in kept if out.output_type == "stream"] == ["0\n"]
    assert [out.text for out in dropped if out.output_type == "stream"] == ["closed\n"]
