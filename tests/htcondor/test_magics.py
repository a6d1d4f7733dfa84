"""The magics, in a real IPython on a real HTCondor."""

from __future__ import annotations

import _thread
import functools
import os
import sys
import threading
import time

import pytest
import waiting
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import condorpool
from condorpool.notebook import magics
from condorpool.notebook.status import Status

wait_for = functools.partial(waiting.until, seconds=30)


@pytest.fixture
def shell(make_pool, tmp_path, monkeypatch):
    """Yield an IPython shell with the magics, whose pool uses the tests' HTCondor."""
    config = Config()
    config.HistoryManager.enabled = False
    config.Completer.use_jedi = False
    main = sys.modules["__main__"]
    shell = InteractiveShell.instance(config=config, ipython_dir=str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    shell.run_line_magic("load_ext", "condorpool")
    shell.push({"make_pool": make_pool, "time": time})
    run(shell, "%condor_pool make_pool(processes=2)")
    yield shell
    shell.run_line_magic("unload_ext", "condorpool")
    magics._pool.__init__()
    InteractiveShell.clear_instance()
    sys.modules["__main__"] = main


def run(shell, cell):
    """Run a cell and return its value, or raise what it raised."""
    done = shell.run_cell(cell)
    done.raise_error()
    return done.result


class TestMap:
    """%condor_map and %%condor_map."""

    def test_it_returns_the_list(self, shell):
        """The list is returned or assigned, for each way to write a function."""
        run(shell, "def double(x):\n    return 2 * x\ndata = [1, 2, 3]")
        assert run(shell, "%condor_map double data") == [2, 4, 6]
        assert run(shell, "r = %condor_map lambda x: x + 1 [n for n in data]  # why\nr") == [
            2,
            3,
            4,
        ]
        assert run(shell, "%condor_map -o named double, range(2);") is None
        assert shell.user_ns["named"] == [0, 2]
        assert run(shell, "%condor_map --star pow [(2, 3), (3, 2)]") == [8, 9]
        assert run(shell, "%condor_map dict [{'$x': '{y}'}]") == [{"$x": "{y}"}]

    def test_asynchronously(self, shell):
        """--async returns the result, which _condor holds too."""
        result = run(shell, "%condor_map -a --chunksize 1 abs [-1, 2]")
        assert isinstance(result, condorpool.MapResult)
        assert result.get() == [1, 2]
        assert shell.user_ns["_condor"] is result

    def test_order_and_exceptions(self, shell):
        """Values come in order or as calls end, and exceptions may take the places of values."""
        assert sorted(run(shell, "%condor_map --unordered abs [-1, 2]")) == [1, 2]
        assert sorted(run(shell, "%condor_map --unordered --star pow [(2, 3), (3, 2)]")) == [8, 9]
        found = run(shell, "%condor_map --return-exceptions lambda x: 1 / x [0, 2]")
        assert (type(found[0]), found[1]) == (ZeroDivisionError, 0.5)

    def test_a_name(self, shell, capsys):
        """The same calls under the same name are reused, and attach() knows no other name."""
        assert run(shell, "%condor_map --name scan abs [-1, 2]") == [1, 2]
        assert run(shell, "%condor_map --name scan abs [-1, 2]") == [1, 2]
        assert "'scan': reusing 2 of 2" in capsys.readouterr().err
        run(shell, "%condor_clean")
        run(shell, "%condor_status")
        assert "scan: 2 of 2 calls done, kept. `%condor_attach scan`" in capsys.readouterr().out
        assert run(shell, "%condor_attach scan").get() == [1, 2]
        run(shell, "_condor.forget()\n%condor_clean\n%condor_status")
        assert "kept" not in capsys.readouterr().out
        assert repr(run(shell, "%condor_attach")) == "nothing was left behind"
        with pytest.raises(UsageError, match="no calls named 'other'"):
            shell.run_line_magic("condor_attach", "other")

    def test_names_are_forgotten_and_overwritten(self, shell, capsys):
        """A name with the results of another function can be deleted, or its results replaced."""
        run(shell, "%condor_map --name scan abs [-1, 2]")
        done = shell.run_cell("%condor_map --name scan float [-1, 2]")
        assert "UsageError: --name 'scan' has the results of other calls" in capsys.readouterr().err
        assert done.error_in_exec is not None
        assert run(shell, "%condor_map --name scan --overwrite float [-1, 2]") == [-1.0, 2.0]
        run(shell, "%condor_forget scan")
        assert capsys.readouterr().out.endswith("deleted 2 results of scan\n")
        for line, words in (
            ("scan", "no results are kept under the name scan."),
            ("", "write the name"),
        ):
            with pytest.raises(UsageError, match=words):
                shell.run_line_magic("condor_forget", line)
        assert run(shell, "%condor_map --name 'scan' abs [-1]") == [1]
        run(shell, "_condor.forget()")

    def test_an_interrupt(self, shell):
        """The jobs continue, and one line says how to wait again."""
        threading.Timer(1.5, _thread.interrupt_main).start()
        done = shell.run_cell("%condor_map --name slow time.sleep [3]")
        assert isinstance(done.error_in_exec, KeyboardInterrupt)
        (note,) = done.error_in_exec.__notes__
        assert note.startswith("interrupted; the jobs continue. _condor.get() waits again")
        assert shell.user_ns["_condor"].get(timeout=30) == [None]
        shell.user_ns["_condor"].forget()

    def test_the_last_call(self, shell):
        """_condor is the result of the last call: of a magic or a method, failed or not."""
        with pytest.raises(ZeroDivisionError):
            run(shell, "%condor_map lambda x: 1 / x [1, 0]")
        assert shell.user_ns["_condor"].values() == [1.0, None]
        run(shell, "with make_pool() as pool:\n    pool.map(abs, [-1, 2])")
        assert shell.user_ns["_condor"].values() == [1, 2]
        run(shell, "r = make_pool().apply_async(abs, (-3,))")
        assert shell.user_ns["_condor"] is shell.user_ns["r"]
        run(shell, "_condor = 7\n'no call'")
        assert shell.user_ns["_condor"] == 7

    def test_in_a_function(self, shell):
        """A magic in a function sees the variables of that function."""
        run(
            shell,
            "def f(k):\n    return get_ipython().run_line_magic('condor_map', 'lambda x: x + k [k]')",
        )
        assert run(shell, "f(2)") == [4]

    def test_the_cell_is_the_function(self, shell):
        """A def in the cell stays in the notebook; a body of x defines nothing there."""
        assert run(shell, "%%condor_map range(3)\nimport math\ny = math.factorial(x)\ny + 1") == [
            2,
            2,
            3,
        ]
        assert "cell" not in shell.user_ns
        assert run(shell, "%%condor_map -o r range(2)\ndef half(x):\n    return x / 2") is None
        assert shell.user_ns["r"] == [0, 0.5]
        assert shell.user_ns["half"](1) == 0.5

    def test_a_call_that_raises(self, shell):
        """The exception is raised here, and the remote traceback shows the cell."""
        with pytest.raises(ZeroDivisionError) as raised:
            run(shell, "%%condor_map [0]\n1 / x")
        assert "1 / x" in str(raised.value.__cause__)

    def test_options_for_jobs(self, shell, queued):
        """The options reach HTCondor."""
        line = "%condor_map -a --name big --memory 64MB --cpus 2 --submit My.Color='\"red\"'"
        run(shell, f"{line} time.sleep [20]")
        wanted = ["RequestMemory", "RequestCpus", "JobBatchName", "Color"]
        ad = queued(wanted)
        assert [ad[name] for name in wanted] == [64, 2, "big", "red"]
        run(shell, "%condor_rm big")
        assert shell.user_ns["_condor"].ready()

    def test_dry_run(self, shell, access_point, capsys):
        """--dry-run prints the submit description and submits nothing."""
        run(shell, "%condor_map --dry-run --submit request_memory=900GB abs range(1000)")
        shown = capsys.readouterr().out
        assert "abs: 1,000 calls.  Nothing was submitted." in shown
        assert "slots: 0 of 1 match" in shown
        assert "    request_memory = 900GB" in shown
        run(shell, "%condor_map --dry-run abs [1]")
        assert "slots: 1 of 1 match" in capsys.readouterr().out
        assert not access_point.query("true", ["ClusterId"])

    def test_dry_run_writes_nothing(self, shell, tmp_path, state):
        """--dry-run creates no folder and registers nothing."""
        before = sorted([*tmp_path.rglob("*"), *state.rglob("*")])
        run(shell, "%condor_map --dry-run --memory 64MB abs range(1000)")
        assert sorted([*tmp_path.rglob("*"), *state.rglob("*")]) == before

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("%condor_map", "write a function and its data"),
            ("%condor_map abs", "is not a function and its data"),
            ("%condor_map abs nodata", "there is no variable nodata."),
            ("%condor_map abs tmie", "there is no variable tmie. Did you mean 'time'?"),
            ("%condor_map abs 1", "the data is of type int, not a list"),
            ("%condor_map 1 [1]", "what should be the function is of type int, not a function"),
            ("%condor_map [1] abs", "the function comes first, then the data"),
            ("%condor_map abs [1] --memory 2GB", "Options such as --memory come before"),
            ("%condor_map --chunk 1 abs [1]", "Did you mean --chunksize? `%condor_map?`"),
            ("%condor_map --chunksize 0 abs [1]", "chunksize"),
            ("%condor_map --memory much abs [1]", "--memory 'much' is not a size"),
            ("%condor_map --submit prioritty=1 abs [1]", "did you mean 'priority'?"),
            ("%%condor_map\nx", "write the data after %%condor_map"),
            ("%%condor_map abs range(3)\nx", "after %%condor_map write only the data"),
            ("%%condor_map [1]\ny = = 1", "line 1 of the cell"),
            ("%condor_pool processes 4", "did you mean processes=4?"),
            ("%condor_pool color=4", "color"),
            ("%condor_pool process=4", "did you mean processes?"),
            ("%condor_pool memroy=4", "did you mean memory?"),
            ("%condor_pool on_exit=keep", "text needs quotes, as in on_exit='keep'"),
            ("%condor_status all", "%condor_status takes nothing after its name: 'all'"),
            ("%condor_clean scan", "%condor_clean takes nothing after its name: 'scan'"),
            ("%%condor abs\n1", "takes only options"),
            ("%%condor -i nothing\n1", "there is no variable nothing."),
            ("%condor_rm", "write what after the magic's name: a job's id"),
            ("%condor_rm 999999.0", "this notebook has no job 999999.0; it has none"),
            (
                "%condor_rm helt",
                "no calls and no variable named helt. Did you mean 'held'?",
            ),
            ("%condor_rm time", "time is of type module, neither a job nor a result"),
        ],
    )
    def test_bad_input(self, shell, capsys, line, expected):
        """One line says what is wrong; there is no traceback."""
        done = shell.run_cell(line)
        assert type(done.error_in_exec).__name__ == "UsageError"
        shown = capsys.readouterr()
        assert expected in shown.err
        assert "Traceback" not in shown.err + shown.out


class TestStatus:
    """%condor_status."""

    def test_nothing(self, shell, capsys, monkeypatch, tmp_path):
        """A notebook without calls is told so."""
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # what other tests have left
        run(shell, "%condor_status")
        assert capsys.readouterr().out == "This notebook has no calls.\n"

    def test_the_table(self, shell, capsys):
        """Each result has a row with its calls by state, and the name of its variable."""
        run(
            shell, "waits = %condor_map -a --name scan --chunksize 1 time.sleep [0, 20, 20, 20, 20]"
        )
        run(shell, "fails = %condor_map -a lambda x: 1 / x [0, 1]")
        result = shell.user_ns["waits"]
        wait_for(lambda: tuple(result.counts()) == (1, 0, 0, 2, 0, 2))
        capsys.readouterr()
        run(shell, "%condor_status")
        head, scan, fit, *notes = capsys.readouterr().out.splitlines()
        words = "name calls done running waiting time variable"  # no others have calls
        assert head.split() == words.split()
        *numbers, elapsed, variable = scan.split()
        assert numbers == ["scan", "5", "1", "2", "2"]
        assert ":" in elapsed
        assert variable == "waits"
        assert fit.split()[-1] == "fails"
        assert notes[0].startswith("In the queue: 2 jobs running")
        assert any("`waits.show('auto')`" in note for note in notes)
        run(shell, "%condor_rm all")

    def test_html(self, shell):
        """A notebook gets a table of HTML, in which names are text."""
        run(shell, "r = %condor_map -a --name '<b>' time.sleep [20]")
        html = Status(shell.user_ns)._repr_html_()
        assert "&lt;b&gt;" in html
        assert "<b>" not in html
        assert html.count("<tr>") == 2
        run(shell, "%condor_rm all\nr.forget()")


CELL = """%%condor -i k,data -o best,f
from IPython.display import HTML, display
import matplotlib.pyplot as plt, sys
print("k is", k)
plt.plot(data)
plt.show()
display(HTML("<b>bold</b>"))
print("careful", file=sys.stderr)
!echo from a shell
def f(x):
    return x + k
best = max(data)
best
"""


class TestCell:
    """%%condor."""

    def test_what_it_shows_and_returns(self, shell, capsys):
        """Text, displays and pictures appear in order; variables are copied in and out."""
        shown = []
        shell.display_pub.publish = lambda data, metadata=None, **_: shown.append(
            data if isinstance(data, dict) else data["data"]
        )
        run(shell, "k, data = 3, [1, 2]")
        run(shell, CELL)
        captured = capsys.readouterr()
        assert captured.out == "k is 3\nfrom a shell\n"
        assert captured.err == "careful\n"
        assert [sorted(data)[0] for data in shown] == ["image/png", "text/html", "text/plain"]
        assert shown[2] == {"text/plain": "2"}
        assert (shell.user_ns["best"], shell.user_ns["f"](1)) == (2, 4)

    def test_figures_of_the_next_cell(self, shell):
        """Figures of a later cell in the same job are shown too."""
        shown = []
        shell.display_pub.publish = lambda data, metadata=None, **_: shown.append(data)
        for _ in range(2):
            run(shell, "%%condor\nimport matplotlib.pyplot as plt\nplt.plot([1]);")
        assert ["image/png" in data for data in shown] == [True, True]

    def test_a_cell_that_raises(self, shell, capsys):
        """Its printed text is shown, and the exception is raised here."""
        with pytest.raises(ZeroDivisionError) as raised:
            run(shell, "%%condor\nprint('before')\n1 / 0")
        assert "1 / 0" in str(raised.value.__cause__)
        assert capsys.readouterr().out.startswith("before\n")

    def test_a_variable_that_is_not_set(self, shell):
        """The call fails if the cell does not set a variable that -o names."""
        with pytest.raises(NameError, match="the cell set no variable 'y'"):
            run(shell, "%%condor -o y\nx = 1")

    def test_without_ipython(self, shell, capsys):
        """Without IPython there, printed text and the last expression are shown."""
        run(shell, "_ = %condor_pool make_pool(processes=1)")
        run(shell, "%%condor\nimport sys; sys.modules['IPython'] = None")
        run(shell, "%%condor -i time\nprint(time.__name__)\n1 + 1")
        assert capsys.readouterr().out == "time\n2\n"


class TestJobs:
    """Magics that act on jobs."""

    @pytest.fixture
    def held(self, shell):
        """Return the result of two calls whose jobs are held."""
        shell.push({"files": {"should_transfer_files": "YES", "transfer_input_files": "/no/such"}})
        run(shell, "%condor_pool make_pool(maxtasksperchild=1, submitkwargs=files)")
        result = run(shell, "held = %condor_map -a --chunksize 1 abs [1, 2]\nheld")
        end = time.monotonic() + 30
        while [job.state.value for job in result.jobs] != ["Held", "Held"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        return result

    def test_held_jobs(self, shell, held, capsys):
        """Held jobs are explained, logged and removed, and each magic reports what it did."""
        first = held.jobs[0].id
        run(shell, f"%condor_why {first}")
        assert f"Job {first} is held: " in capsys.readouterr().out
        run(shell, "%condor_status")
        assert "/no/such" in capsys.readouterr().out
        run(shell, f"%condor_log {first}")
        assert "Job was held" in capsys.readouterr().out
        run(shell, "%condor_log held")  # the word, not the variable
        reason, events = capsys.readouterr().out.split(f"-- events of {first}\n")
        assert reason.startswith(f"Job {first}: Held\nJob {first} is held: ")
        assert "Job was held" in events
        run(shell, "%condor_hold all")
        assert capsys.readouterr().out == "held 0 jobs; 2 already held or ended\n"
        run(shell, f"%condor_rm {first}")
        assert capsys.readouterr().out == "removed 1 job\n"
        run(shell, "%condor_rm all")
        with pytest.raises(condorpool.JobRemovedError):
            held.get(timeout=20)

    def test_the_word_held(self, shell, held, capsys):
        """`held` means all held jobs, even if a variable has that name."""
        run(shell, "%condor_rm held  # both jobs")
        assert capsys.readouterr().out == "removed 2 jobs\n"
        held.wait(20)
        assert held.ready()
        run(shell, "%condor_why held")

    def test_all(self, shell, capsys):
        """Removing all jobs ends the running and the waiting calls."""
        run(shell, "r = %condor_map -a --chunksize 1 time.sleep [60, 60, 60, 60]")
        while len(shell.user_ns["r"].jobs) < 2:
            time.sleep(0.05)
        run(shell, "%condor_rm all")
        assert capsys.readouterr().out == "removed 2 jobs\n"
        with pytest.raises(condorpool.JobRemovedError):
            shell.user_ns["r"].get(timeout=20)

    def test_a_result_by_its_variable(self, shell, capsys):
        """Jobs of a result are held and released, and its calls removed, by its variable's name."""
        run(shell, "scan = %condor_map -a --chunksize 10 time.sleep [60] * 40")
        result = shell.user_ns["scan"]
        wait_for(lambda: len(result.jobs) == 2)
        run(shell, "%condor_hold scan")
        assert capsys.readouterr().out == "held 2 jobs\n"
        wait_for(lambda: result.counts().held >= 20)
        run(shell, "%condor_release scan")
        assert capsys.readouterr().out == "released 2 jobs\n"
        run(shell, "%condor_rm scan")
        assert capsys.readouterr().out == "removed 40 calls of sleep\n"
        wait_for(result.ready)
        assert result.counts().removed == 40
        run(shell, "%condor_rm scan")
        assert capsys.readouterr().out == "removed 0 calls of sleep\n"

    def test_the_log_of_a_result(self, shell, capsys):
        """Why calls failed comes first, then what they printed, then events."""
        run(shell, "def f(x):\n    print('item', x)\n    return 1 / x\nr = %condor_map -a f [0]")
        result = shell.user_ns["r"]
        result.wait(30)
        run(shell, "%condor_log r")
        out = capsys.readouterr().out
        assert out.startswith("Call 0 of f failed: ZeroDivisionError: division by zero\nJob ")
        assert out.index("item 0") < out.index("-- events of ")

    def test_an_idle_result(self, shell, capsys):
        """For waiting calls, %condor_why explains the jobs that may take them."""
        run(shell, "%condor_pool make_pool(submitkwargs={'request_memory': '900GB'})")
        run(shell, "idle = %condor_map -a abs [1]")
        end = time.monotonic() + 15
        while "is idle: it has request_memory = 900 GiB" not in capsys.readouterr().out:
            assert time.monotonic() < end
            run(shell, "%condor_why idle")
        run(shell, "%condor_rm all")


class TestPool:
    """The notebook's pool."""

    def test_set_and_show(self, shell):
        """The pool stays the one that was set until it is closed."""
        pool = run(shell, "%condor_pool")
        assert run(shell, "%condor_pool") is pool
        pool.close()
        with pytest.raises(Exception, match="exclude"):
            run(shell, "%condor_pool schedd='x', personal=True")

    def test_processes_for_one_map(self, shell, htcondor, tmp_path):
        """--processes uses a similar pool; setting another pool leaves no folder of the old one."""
        shell.push({"htcondor": htcondor, "pause": lambda x: (time.sleep(0.1), os.getpid())[1]})
        run(shell, "_ = %condor_pool personal=htcondor, linger=5")
        pids = run(shell, "%condor_map --processes 1 --chunksize 1 pause range(4)")
        assert len(set(pids)) == 1
        assert len(list(tmp_path.glob(".condorpool-*"))) == 1
        run(shell, "_ = %condor_pool personal=htcondor")
        assert not list(tmp_path.glob(".condorpool-*"))
        run(shell, "_ = %condor_pool make_pool()")
        with pytest.raises(UsageError, match="not your own"):
            run(shell, "%condor_map --processes 1 abs [1]")

    def test_clean(self, shell, gone):
        """%condor_clean leaves nothing behind, not even files of failed jobs."""
        with pytest.raises(condorpool.JobFailedError):
            run(shell, "import os\n%condor_map lambda x: os._exit(1) [1]")
        run(shell, "%condor_clean")
        assert gone()


class TestLoading:
    """Loading, reloading, unloading, help and completion."""

    def test_unload_takes_everything_away(self, shell):
        """Unloading removes magics and completion, and may be repeated."""
        shell.run_line_magic("reload_ext", "condorpool")
        assert "condor_map" in shell.magics_manager.magics["line"]
        shell.run_line_magic("unload_ext", "condorpool")
        lists = shell.magics_manager.magics
        assert not [name for names in lists.values() for name in names if "condor" in name]
        assert not shell.Completer.custom_matchers
        condorpool.unload_ipython_extension(shell)
        shell.run_line_magic("load_ext", "condorpool")

    def test_help(self, shell):
        """The help lists the options."""
        text = shell.inspector.info(shell.find_line_magic("condor_map"))["docstring"]
        assert "Examples" in text
        assert "--return-exceptions" in text

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("%condor_map --chu", "--chunksize"),
            ("r = %condor_map a_fun", "a_function"),
            ("%%condor_map -a a_fun", "a_function"),
            ("%condor_map time.sl", "time.sleep"),
            ("%%condor --o", "--out"),
            ("%condor_rm he", "held"),
            ("%condor_rm a_res", "a_result"),
            ("%condor_pool proc", "processes="),
            ("x = 1\n%condor_map -o y a_fun", "a_function"),
        ],
    )
    def test_completion(self, shell, line, expected):
        """The Tab key completes options, names, attributes, and words for jobs."""
        run(shell, "def a_function(x): return x\na_result = %condor_map -a abs [1]")
        with provisionalcompleter():
            found = [match.text for match in shell.Completer.completions(line, len(line))]
        assert expected in found
        with provisionalcompleter():
            assert list(shell.Completer.completions("%condor_map f x\nprint(a_fun", 27))
