"""Takes the README's pictures of the widget: `make pictures`."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

expect.set_options(timeout=60_000)

IMAGES = Path(__file__).parents[2] / "notebooks" / "images"

FIT = """
pool = Pool(**SUBMIT)
def fit_tracks(event):
    time.sleep(0.4 + event % 3 * 0.2)
    if event == 7:
        raise ValueError(f"no convergence for event {event}")
    return event
result = pool.map_async(fit_tracks, range(40), 1)
"""

HELD = """
def fit_tracks(event):
    return event
pool = Pool(**SUBMIT, processes=40, maxtasksperchild=1)
calibration = dict(should_transfer_files="YES", transfer_input_files="/data/calibration.db")
result = pool.map_async(fit_tracks, range(12), 1, submitkwargs=calibration)
"""

MEMORY = """
import numpy as np
def unfold(bins):
    response = np.ones((bins, bins))
    time.sleep(60)
    return response.trace()
result = Pool(**SUBMIT, processes=2).map_async(unfold, [4000, 4100], 1, memory="64MB")
"""

IDLE = 'other = pool.map_async(fit_tracks, range(100), 1, memory="900TB")'


@pytest.fixture(scope="module")
def context(browser):
    """Yield a browser context with two device pixels for each CSS pixel."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, device_scale_factor=2)
    context.set_default_timeout(60_000)
    yield context
    context.close()


def take(name, element):
    """Write a picture of an element of the page, in 64 colors."""
    element.page.mouse.move(0, 0)
    element.evaluate("element => element.scrollIntoView({ block: 'center' })")
    element.page.wait_for_timeout(500)  # for transitions to end
    margin, box = 2, element.bounding_box()
    clip = {"x": box["x"] - margin, "y": box["y"] - margin}
    clip |= {"width": box["width"] + 2 * margin, "height": box["height"] + 2 * margin}
    picture = Image.open(io.BytesIO(element.page.screenshot(clip=clip))).convert("RGB")
    IMAGES.mkdir(exist_ok=True)
    picture.quantize(64).save(IMAGES / f"{name}.png", optimize=True)


def set_theme(notebook, theme):
    """Change JupyterLab's colors."""
    change = "theme => jupyterapp.commands.execute('apputils:change-theme', { theme })"
    notebook.page.evaluate(change, f"JupyterLab {theme}")
    notebook.page.wait_for_timeout(2000)


def test_calls_run_and_end(open_notebook):
    """Pictures of running calls, one of which has failed; of their jobs; and of the report."""
    notebook = open_notebook(FIT)
    notebook.run(1)
    output = notebook.output(1)
    expect(output).to_contain_text(re.compile("1[0-9] done"))
    take("running", output.locator(".condorpool"))
    output.get_by_text("Jobs", exact=True).last.click()
    expect(output.get_by_role("row").nth(1)).to_contain_text("running")
    set_theme(notebook, "Dark")
    take("dark", output.locator(".condorpool"))
    set_theme(notebook, "Light")
    expect(output.get_by_text("39 of 40 calls done")).to_be_visible()
    take("done", output.locator(".jp-RenderedHTML"))


def test_jobs_are_held_and_idle(open_notebook):
    """Pictures of held jobs, and of calls that no slot can run."""
    notebook = open_notebook(HELD, IDLE)
    notebook.run(1)
    expect(notebook.output(1)).to_contain_text("12 jobs held")
    take("held", notebook.output(1).locator(".condorpool"))
    notebook.run(2)
    expect(notebook.output(2)).to_contain_text("These calls cannot run")
    take("idle", notebook.output(2).locator(".condorpool"))


def test_jobs_need_more_memory(open_notebook):
    """A picture of jobs held for memory, with the button that releases them with more."""
    notebook = open_notebook(MEMORY)
    notebook.run(1)
    expect(notebook.output(1)).to_contain_text("2 jobs held")
    take("memory", notebook.output(1).locator(".condorpool"))
