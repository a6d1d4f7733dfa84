"""The command ``condorpool`` on submit directories without jobs: names, words, and endings."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace

import cloudpickle
import pytest

import condorpool
from condorpool.cleaner import registry
from condorpool.cleaner.owner import Owner
from condorpool.cleaner.registry import Entry
from condorpool.cli.main import main
from condorpool.engine import payload, submitdir
from condorpool.engine.records import BatchRecord, CrewRecord, ErrorRecord
from condorpool.engine.submitdir import SubmitDir
from condorpool.runner import container
from condorpool.runner.outcomes import frames_of
from condorpool.values.exceptions import JobFailedError, JobRemovedError


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """A registry for this test alone; return its folder of kept entries."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = registry.state() / registry.KEPT
    folder.mkdir()
    return folder


NOT_MADE = object()


@pytest.fixture
def keep(tmp_path, kept):
    """Return a function that makes kept calls with these results, each a chunk of its own."""
    numbers = iter(range(1, 1000))

    def make(directory, name, *results):
        number = next(numbers)
        for n, result in enumerate(results):
            payload.write_chunk(directory / submitdir.chunk_name(number, n), [n], n)
            path = directory / submitdir.outcome_name(number, n)
            if isinstance(result, condorpool.JobError):
                record = ErrorRecord.of(result, n + 1)
                directory.record(submitdir.error_name(number, n), record)
            elif result is not NOT_MADE:
                text = "Traceback" if isinstance(result, BaseException) else ""
                outcomes, frames = frames_of([(result, text)])
                about = {"calls": outcomes, "count": 1, "host": "h"}
                about |= {"started": 0.0, "seconds": 0.0}
                container.write(str(path), about, frames)
        batch = BatchRecord(crew=0, title=name, name=name, calls=len(results), time=time.time())
        directory.record(submitdir.facts_name(number), batch)
        directory.record(submitdir.jobs_name(0), CrewRecord())

    def keep(**calls):
        directory = SubmitDir.new(tmp_path / "jobs")
        directory.make()
        for name, results in calls.items():
            make(directory, name, *results)
        origin = {"personal": str(tmp_path / "nowhere")}
        entry = Entry(kept / f"{directory.run}.json", directory.path, origin, "keep").write()
        entry.say("kept: for a test")
        condorpool.engine.ownership.release(directory.path)
        return directory

    return keep


@pytest.fixture
def run(capsys):
    """Run the command line here; return the exit status, the output, and the errors."""

    def run(*words):
        capsys.readouterr()
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return run


def start(*words, **how):
    """Start the command line in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "condorpool", *words], **how)


class TestHelp:
    """What is shown without a command, or for a wrong one."""

    @pytest.mark.parametrize("words", [(), ("personal",)])
    def test_bare(self, run, words):
        """The help is shown, as `--help` does."""
        assert run(*words) == run(*words, "--help")
        assert run(*words)[0] == 0

    def test_version(self, run):
        """It is the package's."""
        assert run("--version") == (0, f"condorpool {condorpool.__version__}\n", "")

    @pytest.mark.parametrize(
        ("words", "words_said"),
        [
            (["lss"], "Did you mean 'ls'?"),
            (["personal", "stat"], "Did you mean 'start'?"),
            (["ls", "--jsno"], "there is no option --jsno. Did you mean '--json'?"),
            (["rm", "--yse", "x"], "there is no option --yse. Did you mean '--yes'?"),
            (["personal", "status", "--foldr=x"], "Did you mean '--folder'?"),
            (["personal", "start", "--cpus", "-1"], "takes a whole number of 1 or more, not '-1'"),
            (["--versoin"], "Did you mean '--version'?"),
            (["forget", "x"], "there is no command 'forget'. Did you mean 'rm'?"),
            (["list"], "Did you mean 'ls'?"),
            (["x\x1b[31m"], r"there is no command 'x\x1b[31m'."),
        ],
    )
    def test_a_command_that_does_not_exist(self, run, words, words_said):
        """One that is like it is suggested; the status is 2, as for all wrong command lines."""
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert words_said in err
        assert "\x1b" not in err


class TestNothing:
    """Each command says that there is nothing."""

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("ls", "no submit directories"),
            ("ps", "No work"),
            ("clean", "Nothing"),
            ("logs", "Nothing"),
        ],
    )
    def test_sentence(self, run, command, words):
        """It is a sentence, not silence."""
        status, out, err = run(command)
        assert (status, err) == (0, "")
        assert words in out

    @pytest.mark.parametrize("command", ["ls", "ps"])
    def test_json(self, run, command):
        """An empty list."""
        assert run(command, "--json") == (0, "[]\n", "")

    def test_deleted_by_hand(self, run, keep):
        """`ls` and `clean` agree that it is gone."""
        keep(scan=[1])
        assert "1 kept (see `condorpool ls`)" in run("clean")[1]
        directory = keep(fit=[1])
        directory.remove()
        assert directory.run not in run("ls")[1]
        assert "Submit directories: 1 kept" in run("clean")[1]
        assert len(run("ls")[1].splitlines()) == 2


class TestCounts:
    """Calls are counted in the six words; failed ones are not done."""

    RESULTS = (
        1,
        None,
        ValueError("x"),
        JobFailedError("1.0", "gone"),
        JobRemovedError("", "back"),
        NOT_MADE,
    )
    WORDS = "2 of 6 calls done, 2 failed, 1 removed, 1 waiting"

    @pytest.mark.parametrize("words", [["ls"], ["ps", "scan"], ["show", "scan"]])
    def test_words(self, run, keep, words):
        """They are the same in all commands."""
        keep(scan=self.RESULTS)
        assert self.WORDS in run(*words)[1]

    def test_one(self, run, keep):
        """There is no plural of one."""
        keep(scan=[1])
        assert "1 of 1 call done" in run("ls")[1]

    def test_json(self, run, keep):
        """The numbers add up to the total."""
        directory = keep(scan=self.RESULTS)
        (listed,) = json.loads(run("ls", "--json")[1])
        (calls,) = listed["calls"]
        assert calls["counts"] == {
            "total": 6, "done": 2, "failed": 2, "removed": 1, "running": 0, "held": 0, "waiting": 1,
        }  # fmt: skip
        assert (listed["submit_directory"], listed["state"]) == (directory.run, "kept")
        (shown,) = json.loads(run("show", "scan", "--json")[1])
        assert {"error": "ValueError: x", "calls": 1} in shown["errors"]
        (working,) = json.loads(run("ps", "scan", "--json")[1])
        assert working["jobs"] == {}

    def test_leftover(self, keep):
        """`done` never includes calls that failed."""
        keep(scan=self.RESULTS)
        (left,) = condorpool.attach()
        assert (left.done, left.failed, left.ended, left.calls) == (2, 2, 5, 6)
        assert self.WORDS in repr(condorpool.attach())
        assert self.WORDS in condorpool.attach()._repr_html_()
        assert [type(error) for error in left.errors().values()] == [
            ValueError, JobFailedError, JobRemovedError,
        ]  # fmt: skip


class TestResults:
    """Each call's value, or why it has none."""

    def test_not_made_is_not_none(self, run, keep):
        """The status is 1 when values are missing."""
        keep(scan=TestCounts.RESULTS, good=[0, None])
        status, out, err = run("results", "scan")
        assert status == 1
        assert out.splitlines()[:3] == ["1", "None", "(failed: ValueError: x)"]
        assert [line.split(":")[0] for line in out.splitlines()[3:]] == [
            "(failed", "(removed", "(not made yet)",
        ]  # fmt: skip
        assert "4 calls without a value" in err
        assert run("results", "good") == (0, "0\nNone\n", "")

    def test_json(self, run, keep):
        """The states say it."""
        keep(scan=TestCounts.RESULTS)
        status, out, _ = run("results", "scan", "--json")
        assert status == 1
        states = [result["state"] for result in json.loads(out)["results"]]
        assert states == ["done", "done", "failed", "failed", "removed", "not made yet"]

    def test_file(self, run, keep, tmp_path):
        """It has exceptions in the places of missing values, and plain ones need no condorpool."""
        keep(scan=[1, None, ValueError("x"), NOT_MADE])
        file = tmp_path / "out"
        assert run("results", "scan", "-o", str(file))[0] == 1
        one, none, error, missing = cloudpickle.loads(file.read_bytes())
        assert (one, none, str(error)) == (1, None, "x")
        assert isinstance(missing, LookupError)
        assert "call 3 has not been made yet" in str(missing)
        assert b"condorpool" not in file.read_bytes()

    def test_file_that_cannot_be_written(self, run, keep, tmp_path):
        """The error is a sentence."""
        keep(scan=[1])
        status, _, err = run("results", "scan", "-o", str(tmp_path / "no" / "out"))
        assert status == 1
        assert err.startswith(f"condorpool: {tmp_path}/no/out: No such file")

    def test_several(self, run, keep):
        """Those of the latest are printed, and the user is told."""
        first, second = keep(scan=[1]), keep(scan=[2])
        status, out, err = run("results", "scan")
        assert (status, out) == (0, "2\n")
        assert f"2 maps: these are the results of the latest, 'scan' in {second.run}." in err
        assert run("results", first.run) == (0, "1\n", "")


def named(directory):
    """Record that the user gave the calls in a directory their names."""
    for number, batch in directory.batches().items():
        directory.record(submitdir.facts_name(number), replace(batch, digest="d"))
    return directory


class TestNames:
    """Whole names, or the beginning of only one: a wrong one deletes nothing."""

    @pytest.mark.parametrize("command", ["rm", "show", "results", "logs", "ls", "ps"])
    @pytest.mark.parametrize("name", ["", ".", "..", "/", "./", "x", "an", "s", "*"])
    def test_wrong_names(self, run, keep, command, name, monkeypatch):
        """Also in the submit directory itself."""
        directory = keep(scan=[1], spam=[2])
        monkeypatch.chdir(directory.path)
        before = sorted(directory.path.iterdir())
        for wrong in (name, directory.run[-4:] if name == "x" else name):
            status, out, err = run(command, wrong)
            assert (status, out) == (1, "")
            assert err.startswith("condorpool: ")
        assert sorted(directory.path.iterdir()) == before

    def test_did_you_mean(self, run, keep):
        """A name that is like it is suggested."""
        keep(scan=[1])
        assert "Did you mean 'scan'?" in run("show", "scna")[2]

    @pytest.mark.parametrize("how", ["name", "beginning", "folder", "path"])
    def test_rm(self, run, keep, how):
        """When it says that they are removed, they are."""
        directory, other = keep(scan=[1]), keep(fit=[1])
        name = {
            "name": "scan", "beginning": "sc", "folder": directory.run,
            "path": f"{directory.path}/",
        }[how]  # fmt: skip
        status, out, err = run("rm", name)
        assert (status, err) == (0, "")
        assert "scan: 1 of 1 call done" in out
        assert out.endswith(f"{directory.path}: removed\n")
        assert not directory.path.exists()
        assert other.path.exists()
        assert "cleaned up" in run("logs", directory.run)[1]
        assert other.run not in run("logs", directory.run)[1]

    def test_rm_of_one_of_several(self, run, keep):
        """Calls of the same name elsewhere, and other calls of the same directory, stay."""
        one, two = keep(scan=[1]), keep(scan=[1], fit=[1])
        before = sorted([*one.path.iterdir(), *two.path.iterdir()])
        status, out, err = run("rm", "scan")
        assert (status, out) == (1, "")
        assert one.run in err
        assert two.run in err
        assert sorted([*one.path.iterdir(), *two.path.iterdir()]) == before

    def test_in_use(self, run, keep):
        """The error says how the process that uses results can delete them."""
        directory = named(keep(scan=[1]))
        (entry,) = registry.everything()
        folder = registry.state() / str(Owner.this())
        entry.move(folder)
        status, out, err = run("rm", "scan")
        assert (status, out) == (1, "")
        assert f"{directory.run} is in use by process {os.getpid()}" in err
        assert "or run condorpool.forget('scan') there. Nothing was deleted." in err

    def test_functions_find_the_same(self, keep, capsys):
        """attach() and forget() ask what is meant, too; a beginning deletes nothing."""
        directory = named(keep(scan=[1], spam=[2]))
        for name, words in {
            "s": "several names begin with 's': scan, spam",
            "scna": r"Did you mean 'scan'\? attach\(\) can resume: scan, spam",
            directory.run[-6:]: "no calls named",
            "": "no calls named",
        }.items():
            with pytest.raises(condorpool.CondorPoolError, match=words):
                condorpool.attach(name)
        assert condorpool.forget("sca") == condorpool.forget("nothing") == 0
        said = capsys.readouterr().err
        assert said == (
            "condorpool: no results are kept under the name 'sca'. Did you mean 'scan'?\n"
        )
        for wrong in ("", 3, None):
            with pytest.raises((TypeError, ValueError), match="name"):
                condorpool.forget(wrong)
        assert {left.name for left in condorpool.attach()} == {"scan", "spam"}

    def test_all_or_nothing(self, run, keep):
        """One wrong name, and nothing is deleted."""
        directory = keep(scan=[1])
        assert run("rm", "scan", "wrong")[0] == 1
        assert directory.path.exists()


class TestOthersText:
    """Names and errors that contain commands to terminals, marks of direction and line breaks."""

    EVIL = "evil\x1b]0;owned\x07\u202egpj.\u2066\r\n\x9b2J\u2028\udc9bx"

    @pytest.mark.parametrize("command", ["ls", "ps", "show", "results", "logs", "rm"])
    def test_text(self, run, keep, command):
        """None of them is shown; what is in the folder can be shown and deleted all the same."""

        class Loud:
            def __repr__(self):
                return TestOthersText.EVIL

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        failed = JobFailedError("1.0", self.EVIL, host=self.EVIL, stderr=self.EVIL)
        directory = keep(**{self.EVIL: [Loud(), ValueError(self.EVIL), failed]})
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        (directory.path / "job-1.0.err").write_text(self.EVIL, errors="surrogatepass")
        registry.log(f"{directory.run}: {self.EVIL}")
        (entry,) = registry.everything()
        entry.say(self.EVIL)
        assert entry.note.isprintable()
        entry._note.write_bytes(self.EVIL.encode("utf-8", "surrogateescape"))
        names = {"rm": ["-y", "evil"], "ps": ["evil"], "show": ["evil"], "results": ["evil"]}
        _, out, err = run(command, *names.get(command, []))
        assert "evil" in out
        assert all(letter.isprintable() or letter in "\n\t" for letter in out + err)

    @pytest.mark.parametrize("command", ["ls", "show"])
    def test_json(self, run, keep, command):
        """JSON has the names as they are, in ASCII."""
        keep(**{self.EVIL: [1]})
        _, out, _ = run(command, "--json", "evil")
        (found,) = json.loads(out)
        assert (found["calls"][0] if command == "ls" else found)["name"] == self.EVIL
        assert out.isascii()

    def test_lists(self, keep):
        """The list of what can be resumed."""
        keep(**{self.EVIL: [1]})
        for shown in (repr(condorpool.attach()), condorpool.attach()._repr_html_()):
            assert "evil" in shown
            assert all(letter.isprintable() or letter in "\n\t" for letter in shown)


class TestTerminal:
    """What differs on a terminal."""

    @staticmethod
    def on_terminal(*words, answer="", columns=80, **environment):
        """Run the command line on a terminal; return its status and what it shows."""
        main_end, other_end = pty.openpty()
        variables = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **environment}
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), other_end)
        with start(*words, **ends, env=variables) as process:
            os.close(other_end)
            os.write(main_end, answer.encode())
            shown = b""
            try:
                while data := os.read(main_end, 4096):
                    shown += data
            except OSError:  # the process has ended
                pass
        os.close(main_end)
        return process.returncode, shown.decode().replace("\r\n", "\n")

    @pytest.mark.parametrize("answer", ["n\n", "\n", "maybe\n", "\x04"])
    def test_rm_asks(self, keep, answer):
        """It says what it would delete; only "y" and "yes" delete it."""
        directory = keep(scan=[1])
        status, shown = self.on_terminal("rm", "scan", answer=answer)
        assert status == 1
        assert "scan: 1 of 1 call done" in shown
        assert "Nothing was deleted." in shown
        assert directory.path.exists()

    @pytest.mark.parametrize(("words", "answer"), [(["scan"], "y\n"), (["--yes", "scan"], "")])
    def test_rm_deletes(self, keep, words, answer):
        """With the answer, or with --yes."""
        directory = keep(scan=[1])
        status, shown = self.on_terminal("rm", *words, answer=answer)
        assert status == 0, shown
        assert not directory.path.exists()

    @pytest.mark.parametrize("columns", [40, 60, 80, 132])
    def test_tables_fit(self, keep, columns):
        """No line is wider."""
        keep(**{"a rather long name of calls " * 3: [1], "scan": [2]})
        shown = self.on_terminal("ls", columns=columns)[1]
        lines = re.sub(r"\x1b\[\d+m", "", shown).splitlines()
        assert len(lines) == 3
        assert max(map(len, lines)) <= columns

    def test_colors(self, keep):
        """On terminals only, and not if the user wants none."""
        keep(scan=[ValueError("x")])
        assert "\x1b[31m" in self.on_terminal("ls")[1]
        assert "\x1b" not in self.on_terminal("ls", NO_COLOR="1")[1]
        assert "\x1b" not in self.on_terminal("ls", TERM="dumb")[1]
        with start("ls", stdout=subprocess.PIPE, text=True) as process:
            assert "\x1b" not in process.stdout.read()


CODES = "\x1b]0;title\x07\x1b[31m\x9b2J\u202e"


@pytest.mark.parametrize(
    "words",
    ["ls", "ps", "show", "results", "logs", "rm", "ls --json", "show --json", "results --json"],
)
def test_control_characters_do_not_reach_the_terminal(run, keep, words):
    """Neither those of names, nor of reasons, errors, and job output."""

    class Value:
        def __repr__(self):
            return CODES

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    directory = keep(**{f"scan{CODES}": [ValueError(CODES), Value(), JobFailedError("1.0", CODES)]})
    (directory.path / "job-1.0.err").write_text(f"\x1b[31m{CODES}")
    for entry in registry.everything():
        entry.say(f"kept: {CODES}")
    status, out, err = run(*words.split(), "scan")
    assert status in {0, 1}
    assert out
    assert {c for c in out + err if not c.isprintable()} <= {"\n", "\t"}


@pytest.mark.parametrize("words", [["--help"], ["ls"], ["ls", "--json"], ["results", "scan"], []])
def test_a_reader_that_goes_gets_no_traceback(keep, words):
    """As with `| head`; argparse itself prints the help, and returns 0."""
    keep(scan=["x" * 1000] * 300)
    with start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == (141 if words and words != ["--help"] else 0)


@pytest.mark.parametrize("words", ["ls", "results scan", "lss"])
def test_closed_streams_are_no_error(keep, words):
    """As with `>&-`: nothing is shown, and the status is the usual one."""
    keep(scan=[1])
    command = f"{sys.executable} -m condorpool {words} >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2 * (words == "lss"), b"", b"")


def test_a_directory_without_calls(run, keep):
    """It is shown, with and without JSON."""
    directory = keep()
    assert "it has no calls that can be counted" in run("show", directory.run)[1]
    (shown,) = json.loads(run("show", directory.run, "--json")[1])
    assert (shown["submit_directory"], shown["calls"]) == (directory.run, [])


def test_names_in_an_encoding_that_has_not_all_letters(keep):
    """They are shown in ASCII."""
    keep(größe=[1])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with start("ls", stdout=subprocess.PIPE, env=environment) as process:
        assert b"gr\\xf6\\xdfe" in process.stdout.read()
    assert process.returncode == 0


def test_a_value_that_cannot_be_shown(run, keep):
    """The others are."""

    class Value:
        def __repr__(self):
            raise SystemExit(3)

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    keep(scan=[Value(), 2])
    assert run("results", "scan")[:2] == (0, "<Value, which cannot be shown: SystemExit>\n2\n")
