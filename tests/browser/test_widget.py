"""The widget in a real JupyterLab."""

from __future__ import annotations

import json
import re

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import expect

expect.set_options(timeout=30_000)


def test_held_jobs_are_removed_while_the_cell_blocks(open_notebook, kernel, front_end):
    """A click on Remove held ends the cell that waits for the jobs, in every kernel."""
    call = "Pool(**HELD).map(abs, range(2), 1)"
    notebook = open_notebook(call, kernel=kernel, front_end=front_end)
    notebook.run(1)
    expect(notebook.output(1)).to_contain_text("2 jobs held")
    notebook.button("Remove held").click()
    notebook.button("Remove 2 jobs").click()
    expect(notebook.output(1)).to_contain_text("abs: 0 of 2 calls done, 2 removed")
    expect(notebook.output(1)).to_contain_text("JobRemovedError: job")


def test_clicks_arrive_through_a_subshell(open_notebook, front_end):
    """A subshell receives clicks where the thread that reads the channel has no hook."""
    call = """
        import ipykernel.kernelbase
        del ipykernel.kernelbase.Kernel.shell_channel_thread_main
        Pool(**HELD).map(abs, range(2), 1)
        """
    notebook = open_notebook(call, front_end=front_end)
    notebook.run(1)
    expect(notebook.output(1)).to_contain_text("2 jobs held")
    notebook.button("Remove held").click()
    notebook.button("Remove 2 jobs").click()
    expect(notebook.output(1)).to_contain_text("abs: 0 of 2 calls done, 2 removed")


def test_calls_that_cannot_run_are_removed(open_notebook, front_end):
    """The widget says why no slot can run them, in warning color, with a button beside it."""
    notebook = open_notebook("Pool(cpus=99, **SUBMIT).map(abs, range(2), 1)", front_end=front_end)
    notebook.run(1)
    output = notebook.output(1)
    warning = output.locator(".cp-never")
    expect(warning).to_contain_text(
        "These calls cannot run: each job has request_cpus = 99, but no"
    )
    held = notebook.page.evaluate(
        "getComputedStyle(document.querySelector('.condorpool')).getPropertyValue('--cp-held')"
    )
    assert held
    expect(warning.get_by_role("alert")).not_to_have_css("color", "rgb(0, 0, 0)")
    warning.get_by_role("button", name="Remove").click()
    output.get_by_role("button", name="Remove these calls").click()
    expect(output).to_contain_text("abs: 0 of 2 calls done, 2 removed")
    expect(output).to_contain_text("JobRemovedError")


def test_the_bar_moves_by_call(open_notebook):
    """Calls count before their chunk has ended; the call that has been running longest is named."""
    notebook = open_notebook(
        """
        def fit(x):
            time.sleep(3)
        Pool(2, **SUBMIT).map(fit, range(8), 4)
        """
    )
    notebook.run(1)
    output = notebook.output(1)
    bar = output.get_by_role("progressbar")
    expect(output).to_contain_text(re.compile(r"2 running \(the longest 0:0[1-9]: call [04]\)"))
    expect(bar).to_have_attribute("aria-valuenow", "2")
    expect(output.get_by_label("Calls").get_by_role("listitem")).to_have_text(
        [re.compile("2 done"), re.compile("2 running"), re.compile("4 waiting")]
    )
    expect(output).to_contain_text(re.compile(r"\d+/min · about 0:\d\d remaining"))
    expect(bar).to_have_attribute("aria-valuenow", "4")
    expect(output).to_contain_text("fit: 8 of 8 calls done, 0:1")


def test_an_async_map_is_shown_and_leaves_a_report(open_notebook):
    """An asynchronous map is shown without a wait, and its report needs no kernel."""
    notebook = open_notebook(
        """
        def fit(x):
            wait()
            if x == 3:
                raise ValueError(f"<b>no convergence</b> for {x}")
            return x
        pool = Pool(**SUBMIT)
        result = pool.map_async(fit, range(8), 1)
        """,
        "print(result.ready())",
    )
    notebook.run(1)
    output = notebook.output(1)
    expect(output.get_by_role("progressbar")).to_have_attribute("aria-valuemax", "8")
    notebook.run(2)
    expect(notebook.output(2)).to_have_text("False")
    output.get_by_text("Jobs", exact=True).last.click()
    expect(output.get_by_role("row").nth(1)).to_contain_text("running")
    notebook.end_wait()
    expect(output).to_contain_text("fit: 7 of 8 calls done, 1 failed")
    expect(output).to_contain_text("ValueError: <b>no convergence</b> for 3")
    expect(output.get_by_role("button")).to_have_count(0)
    saved = notebook.save()
    [shown] = [out for out in saved["cells"][1]["outputs"] if "text/html" in out.get("data", {})]
    assert set(shown["data"]) == {"text/html", "text/plain"}
    page, _ = HTMLExporter().from_filename(notebook.path)
    assert "7 of 8 calls done, 1 failed" in page
    assert "&lt;b&gt;no convergence" in page
    notebook.page.evaluate(f"() => {notebook.panel}.sessionContext.shutdown()")
    notebook.page.reload()
    notebook.ready()
    expect(notebook.output(1)).to_contain_text("fit: 7 of 8 calls done, 1 failed")


def test_text_from_jobs_is_escaped(open_notebook):
    """HTML in names, reasons, exceptions and output is shown as text."""
    image = "<img src=x onerror=window.harmed=1>"
    notebook = open_notebook(
        f"""
        def fit(x):
            if x == 0:
                raise ValueError("{image}")
            print("{image} output", file=sys.stderr, flush=True)
            time.sleep(60)
        fit.__name__ = "{image}"
        HELD["submitkwargs"]["transfer_input_files"] = "/no/{image}"
        held = Pool(**HELD).map_async(fit, [0])
        """,
        "result = Pool(**SUBMIT, processes=1).map_async(fit, range(2), 1)",
        "result",
    )
    notebook.run(1)
    expect(notebook.output(1)).to_contain_text(f"{image}0 of 1 call done")
    expect(notebook.output(1)).to_contain_text(f"/no/{image}")
    notebook.run(2)
    output = notebook.output(2)
    expect(output).to_contain_text(f"ValueError: {image}")
    output.get_by_text("Jobs", exact=True).last.click()
    output.get_by_role("button", name="Log of job").click()
    expect(output.locator(".cp-log")).to_contain_text(f"{image} output")
    output.get_by_role("button", name="Remove all", exact=True).click()
    output.get_by_role("button", name="Remove what remains of 2 calls").click()
    expect(output).to_contain_text(f"{image}: 0 of 2 calls done")
    notebook.run(3)
    expect(notebook.output(3)).to_contain_text(image)
    assert notebook.page.locator(".jp-OutputArea img[src='x']").count() == 0
    assert notebook.page.evaluate("() => window.harmed") is None


def test_failed_calls_are_rerun(open_notebook, tmp_path):
    """Rerun failed reruns the failed calls before the cell ends."""
    notebook = open_notebook(
        f"""
        def fit(x):
            if x:
                wait()
            mark = pathlib.Path({str(tmp_path)!r}, "mark")
            if x == 0 and not mark.exists():
                mark.touch()
                raise ValueError("once")
            return x
        print(Pool(**SUBMIT).map(fit, [0, 1], 1))
        """
    )
    notebook.run(1)
    notebook.button("Rerun failed").click()
    expect(notebook.output(1)).to_contain_text(
        "The failed calls will be rerun when the others have ended"
    )
    notebook.end_wait()
    expect(notebook.output(1)).to_contain_text("[0, 1]")
    expect(notebook.output(1)).to_contain_text("fit: 2 of 2 calls done, 0:0")


def test_the_widget_says_that_clicks_wait(open_notebook):
    """In a kernel without any way for clicks, the widget says that they wait for the cell."""
    notebook = open_notebook(
        """
        from condorpool.display.clicks import Clicks
        Clicks._intercept = lambda self: None
        Pool(**SUBMIT).map(wait, [0])
        """
    )
    notebook.run(1)
    notebook.button("Hold all").click()
    expect(notebook.output(1)).to_contain_text(
        "The kernel is busy: it will process this click when the cell ends."
    )
    notebook.end_wait()
    expect(notebook.output(1)).to_contain_text("wait: 1 of 1 call done")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("restartKernel()", "The kernel was restarted: this display is no longer updated."),
        (
            "session.kernel.shutdown()",
            "No contact with the kernel: this display may be out of date.",
        ),
    ],
)
def test_a_reloaded_page_and_a_dead_kernel(open_notebook, front_end, end, said):
    """A reload restores the widget; when the kernel ends it says so and disables its buttons."""
    notebook = open_notebook(
        """
        from condorpool.display import widget
        widget.HEARTBEAT = 0.3
        widget.JobWidget.heartbeat.default_value = 0.3
        result = Pool(**SUBMIT).map_async(wait, [0])
        """,
        front_end=front_end,
    )
    notebook.run(1)
    expect(notebook.button("Hold all")).to_be_enabled()
    notebook.save()
    notebook.page.reload()
    expect(notebook.button("Hold all")).to_be_enabled()
    expect(notebook.output(1)).to_contain_text("1 running")
    notebook.page.evaluate(f"() => {notebook.panel}.sessionContext.{end}")
    expect(notebook.button("Hold all")).to_be_disabled()
    expect(notebook.output(1).get_by_text(said)).to_be_visible()
    expect(notebook.output(1)).to_contain_text("%condor_attach wait resumes the calls.")


def test_a_reloaded_page_shows_the_end(open_notebook, front_end):
    """A reload during a blocking cell shows the last HTML, and the report when the cell ends."""
    notebook = open_notebook("Pool(**SUBMIT).map(wait, [0])", front_end=front_end)
    notebook.run(1)
    output = notebook.output(1)
    expect(notebook.button("Hold all")).to_be_enabled()
    notebook.save()
    notebook.page.reload()
    notebook.page.wait_for_selector(".jp-NotebookPanel:visible .jp-Cell")
    expect(output.get_by_text("%condor_attach wait resumes the calls")).to_be_visible()
    expect(output.get_by_text("Loading widget...")).to_be_hidden()
    notebook.end_wait()
    expect(output.get_by_text("1 of 1 call done")).to_be_visible()
    expect(output.get_by_text("%condor_attach")).to_have_count(0)
    expect(notebook.button("Hold all")).to_have_count(0)
    saved = notebook.save()["cells"][1]["outputs"]
    assert "1 of 1 call done" in str(saved)
    assert "widget-view" not in str(saved)


def test_html_stands_in_for_the_widget(open_notebook, front_end, server):
    """A notebook saved before the end shows the progress as HTML, in front ends and converted."""
    notebook = open_notebook(
        """
        from condorpool.display import widget
        widget.FALLBACK_INTERVAL = 0.5
        def fit(x):
            return x and wait()
        result = Pool(**SUBMIT).map_async(fit, range(6), 1)
        """,
        front_end=front_end,
    )
    notebook.run(1)
    output = notebook.output(1)
    expect(output.get_by_text("fit: 1 of 6 calls done")).to_have_count(1)
    expect(output.get_by_text("fit: 1 of 6 calls done")).to_be_hidden()
    expect(notebook.button("Hold all")).to_be_visible()
    notebook.save()
    notebook.page.evaluate(f"() => {notebook.panel}.sessionContext.shutdown()")
    notebook.page.reload()
    notebook.ready()
    expect(output.get_by_text("fit: 1 of 6 calls done")).to_be_visible()
    expect(output.get_by_text("%condor_attach fit resumes the calls")).to_be_visible()
    expect(output.get_by_text("Error displaying widget")).to_have_count(1)
    expect(output.get_by_text("Error displaying widget")).to_be_hidden()
    converted, _ = HTMLExporter().from_filename(notebook.path)
    notebook.path.with_suffix(".html").write_text(converted)
    copy = json.loads(notebook.path.read_text())
    copy["cells"][1]["outputs"][0]["metadata"] = {"changed": True}  # so it is not trusted
    other = notebook.path.with_name(f"other-{notebook.path.name}")
    other.write_text(json.dumps(copy))
    for url in (
        notebook.path.with_suffix(".html").as_uri(),
        notebook.page.url.partition("?")[0].replace(notebook.path.name, f"{other.name}?reset"),
    ):
        notebook.page.goto(url)
        expect(notebook.page.get_by_text("fit: 1 of 6 calls done")).to_be_visible()
        expect(notebook.page.get_by_text(re.compile(r"Not live: .* at \d{4}-"))).to_be_visible()
        # JupyterLab removes aria-hidden from HTML that it does not trust.
        done = notebook.page.locator("div:has(> strong) + div > span[style*=background]").first
        assert done.bounding_box()["width"] > 20
        expect(
            notebook.page.get_by_text("Error displaying widget").or_(
                notebook.page.get_by_text("Loading widget")
            )
        ).to_be_hidden()


def test_a_hold_that_comes_back(open_notebook):
    """Jobs that are held again after a release are named as that."""
    notebook = open_notebook("result = Pool(**HELD).map_async(abs, range(2), 1)")
    notebook.run(1)
    output = notebook.output(1)
    expect(output.get_by_text("2 jobs held", exact=True)).to_be_visible()
    notebook.button("Release held").click()
    expect(output.get_by_text("held again after release, 2nd time")).to_be_visible()
    expect(output.get_by_role("status")).to_contain_text("jobs were held again")


def test_no_double_click_removes_jobs(open_notebook):
    """The confirmation takes no double click and no repeated key, and Keep has the focus."""
    notebook = open_notebook("result = Pool(**HELD).map_async(abs, range(2), 1)")
    notebook.run(1)
    output, page = notebook.output(1), notebook.page
    expect(output.get_by_text("2 jobs held", exact=True)).to_be_visible()
    for name, question in (
        ("Remove held", "Remove 2 jobs"),
        ("Remove all", "Remove what remains of 2 calls"),
    ):
        box = notebook.button(name).bounding_box()
        notebook.button(name).dblclick()
        expect(notebook.button("Keep")).to_be_focused()
        yes = notebook.button(question).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        inside = yes["x"] < x < yes["x"] + yes["width"] and yes["y"] < y < yes["y"] + yes["height"]
        assert not inside
        page.keyboard.press("Escape")
        expect(notebook.button(name)).to_be_focused()
        page.keyboard.down("Enter")
        page.keyboard.down("Enter")  # repeated, as by a key that is held
        page.keyboard.up("Enter")
        expect(notebook.button("Keep")).to_be_focused()
        page.wait_for_timeout(1000)
        page.keyboard.press("Enter")
        expect(notebook.button(name)).to_be_focused()
    expect(output.get_by_text("2 jobs held", exact=True)).to_be_visible()
    expect(output.locator(".cp-answer")).to_be_empty()


def test_the_table_of_jobs(open_notebook):
    """A held job's row has its calls and its reason; failed calls have the log of their job."""
    notebook = open_notebook(
        """
        def fit(x):
            print("fitting", x, flush=True)
            raise ValueError("no convergence")
        failed = Pool(**SUBMIT, maxtasksperchild=1).map_async(lambda x: fit(x) if x else wait(), range(2), 1)
        """,
        "held = Pool(**{**HELD, 'maxtasksperchild': None}).map_async(abs, range(6), 3)",
        front_end="notebook",
    )
    notebook.page.set_viewport_size({"width": 420, "height": 900})
    notebook.run(1)
    output = notebook.output(1)
    output.get_by_role("button", name="Log of call 1").click()
    expect(output.locator(".cp-log")).to_contain_text("fitting 1")
    expect(output.locator(".cp-log")).to_contain_text("Job executing")
    expect(output.locator(".cp-log")).not_to_contain_text("condorpool-outcome")
    expect(output.get_by_text(", which made call 1")).to_be_visible()
    notebook.run(2)
    output = notebook.output(2)
    expect(output.get_by_text("2 jobs held", exact=True)).to_be_visible()
    output.get_by_text("Jobs", exact=True).last.click()
    expect(output.get_by_role("row").nth(4)).to_contain_text("/no/such/file")
    output.get_by_role("button", name="Log of job").last.click()
    expect(output.locator(".cp-log")).to_contain_text("/no/such/file")
    scroll = output.locator(".cp-scroll")
    assert scroll.evaluate("e => e.scrollHeight <= e.clientHeight + 20")


def test_frames_with_a_hundred_thousand_jobs(open_notebook, capsys):
    """The page draws 100,000 calls as quickly as 100."""
    notebook = open_notebook(
        """
        from condorpool.display.widget import JobWidget
        import threading
        def state(n, calls):
            part = calls // 100
            return dict(
                name="fit", hosts=900,
                counts=dict(done=n * part // 2, failed=n * part // 50, removed=0, running=30 * part,
                            held=20 * part, waiting=calls - 50 * part - n * part // 2 - n * part // 50,
                            total=calls),
                limit=1000, jobs=dict(idle=40 * part - n, running=30 * part + n, held=20 * part),
                held=[dict(key=str(k), times=1, reason="Transfer input files failure " * 5, code=13, subcode=2,
                           count=n + k, cure="Put it there", needs_memory=k == 0) for k in range(20)],
                failures=[dict(kind="ValueError", message="m" * 300 + str(k), count=n, call=k) for k in range(20)],
                rate=20. + n, eta=500. - n, note="", ended=False, elapsed=100. + n)
        w = JobWidget(state=state(0, 100))
        def go(calls):
            for n in range(1, 41):
                w.state = state(n, calls)
                time.sleep(0.1)
        w
        """,
        "threading.Thread(target=go, args=(100,)).start()",
        "threading.Thread(target=go, args=(100_000,)).start()",
    )
    notebook.run(1)
    expect(notebook.output(1)).to_contain_text("0 of 100 calls done")
    notebook.page.evaluate(
        """() => {
            const request = window.requestAnimationFrame.bind(window);
            window.requestAnimationFrame = (draw) => request((now) => {
                const begun = performance.now();
                draw(now);
                document.body.offsetHeight;  // layout is part of the work
                window.work_.push(performance.now() - begun);
            });
            let last = performance.now();
            const frame = (now) => { window.frames_.push(now - last); last = now; request(frame); };
            window.begin_ = () => { window.frames_ = []; window.work_ = []; };
            window.begin_();
            request(frame);
        }"""
    )
    medians = []
    for cell, end in ((2, "20 of 100 calls done"), (3, "20,000 of 100,000 calls done")):
        notebook.page.evaluate("window.begin_()")
        notebook.run(cell)
        expect(notebook.output(1)).to_contain_text(end)
        with capsys.disabled():
            for what in ("frames_", "work_"):
                times = sorted(notebook.page.evaluate(f"window.{what}"))
                medians.append(times[len(times) // 2])
                slowest = [round(ms, 1) for ms in times[-3:]]
                print(f" {end}: {len(times)} {what} median {medians[-1]:.1f} ms, slowest {slowest}")
    few, many = medians[1::2]
    assert many < 3 * few
    assert notebook.page.locator(".condorpool *").count() < 500
