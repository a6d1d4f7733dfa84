"""What a connection to another machine survives: an ssh that hangs, floods, lies, or dies."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from condorpool.access import agent, remote, wire
from condorpool.access.accesspoint import AccessPoint
from condorpool.access.bindings import classad2
from condorpool.access.remote import Agent
from condorpool.values.exceptions import HTCondorError, HTCondorNotFoundError, SubmitError

READY = r"printf '\ncondorpool-agent-2\n'"
LOCATED = json.dumps(
    {
        "number": 1,
        "value": {
            "name": "s",
            "schedd_address": "<1>",
            "collector_address": "",
            "version": "",
            "started": 0,
            "origin": {"schedd": "s"},
            "queue": "s",
        },
    }
)


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Return a function that makes a script the ssh of this process; it notes its process id."""
    monkeypatch.setattr(remote, "CONNECT_PATIENCE", 0.5)
    monkeypatch.setattr(remote, "INTERRUPT_PATIENCE", 0.2)
    monkeypatch.setattr(wire, "PATIENCE", 0.5)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    pids = tmp_path / "pids"
    pids.touch()

    def make(script: str) -> Agent:
        (tmp_path / "bin").mkdir(exist_ok=True)
        file = tmp_path / "bin" / "ssh"
        file.write_text(f"#!/bin/sh\necho $$ >> {pids}\n{script}\n")
        file.chmod(0o755)
        return Agent("far", None, None)

    yield make
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param("exec sleep 60", "no answer came within", id="hangs"),
        pytest.param("printf 'Password: '; exec sleep 60", "'Password:'", id="prompt"),
        pytest.param("trap '' TERM; while :; do sleep 0.1; done", "no answer", id="stubborn"),
        pytest.param("exec yes", "more than 1 MiB, and no answer", id="endless lines"),
        pytest.param("exec cat /dev/zero", "more than 1 MiB", id="endless line"),
        pytest.param("yes >&2 & wait", "more than 1 MiB", id="endless errors"),
        pytest.param("exit 255", "ssh ended", id="ends"),
        pytest.param("echo 'no route' >&2; exit 255", "ssh ended: no route", id="says why"),
        pytest.param("exec cat", "no answer came within", id="echoes"),
        pytest.param("echo condorpool-agent-1; exec sleep 60", "agent-1", id="another version"),
        pytest.param(r"printf '\033]0;x\007\200\377'; exit 1", "far: ssh ended", id="escapes"),
    ],
)
def test_what_is_no_agent(ssh, monkeypatch, script, said):
    """The error names the machine, says what came, and what to do; nothing keeps running."""
    monkeypatch.setattr(remote, "MAX_BANNER", 1 << 20)
    with pytest.raises(HTCondorNotFoundError, match="cannot submit through far: ") as caught:
        ssh(script).locate()
    assert said in str(caught.value)
    assert "`ssh far` must work without a password" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param("Last login: Mon", "is no answer: it is not JSON", id="words"),
        pytest.param('{"number": 2', "is no answer: it is not JSON", id="half"),
        pytest.param("3", "3 is not an object", id="number"),
        pytest.param("{}", "missing", id="empty"),
        pytest.param('{"number": "2"}', "'number': '2' is not", id="wrong type"),
        pytest.param('{"number": 7, "value": []}', "it answered another question", id="another"),
        pytest.param('{"number": 2, "value": {}}', "{} is not a list", id="wrong value"),
        pytest.param('{"number": 2, "value": [3]}', "3 is not an object", id="wrong item"),
        pytest.param('{"number": 2, "error": "x"}', "'error': 'x' is not", id="wrong error"),
        pytest.param("[" * 200_000, "it is nested too deeply", id="deep"),
        pytest.param('{"number": ' + "9" * 9000 + "}", "is no answer", id="huge number"),
        pytest.param('{"number": 2, "value": [{"a": {"$classad": "]"}}]}', "ClassAd", id="ad"),
        pytest.param("\\200\\004cposix\\nsystem\\n", "is no answer", id="pickle"),
        pytest.param("\\033[31mred\\033[0m", "is no answer", id="escapes"),
    ],
)
def test_what_is_no_answer(ssh, answer, said):
    """It is an error of ours, and the connection is closed; the next question makes a new one."""
    line = "printf '" + answer.replace("%", "%%") + "\\n'"
    if len(answer) > 10_000:
        line = f"head -c {len(answer)} /dev/zero | tr '\\000' '['; echo"
    far = ssh(f"{READY}; read q; echo {shlex.quote(LOCATED)}; read q; {line}; exec sleep 60")
    with pytest.raises(HTCondorError, match="the connection to far was lost: ") as caught:
        far.ask("query", "true", ["ClusterId"])
    assert said in str(caught.value)
    assert "Check the queue there with condor_q" in str(caught.value)
    assert str(caught.value).isprintable()
    assert far._connection is None or not far._connection.is_open


@pytest.mark.parametrize(
    ("then", "said"),
    [
        pytest.param("exec sleep 60", "no answer came within", id="hangs"),
        pytest.param("echo bye >&2; exit 1", "ssh ended: bye", id="ends"),
        pytest.param("printf '{'; exit 1", "ssh ended", id="ends in a line"),
        pytest.param("kill -9 $$", "ssh ended", id="killed"),
        pytest.param("exec cat /dev/zero", "more than 1 MiB", id="endless"),
        pytest.param("yes >&2 & wait", "more than 1 MiB", id="endless errors"),
        pytest.param("exec 1>&-; exec sleep 60", "ssh ended", id="closes"),
    ],
)
def test_a_connection_that_breaks(ssh, monkeypatch, then, said):
    """Whoever asked is told soon, also when neither side has ended."""
    monkeypatch.setattr(wire, "MAX_LINE", 1 << 20)
    far = ssh(f"{READY}; read q; echo {shlex.quote(LOCATED)}; read q; {then}")
    assert far.locate().name == "s"
    with pytest.raises(HTCondorError, match="the connection to far was lost: ") as caught:
        far.ask("query", "true", ["ClusterId"])
    assert said in str(caught.value)


def test_what_cannot_be_sent(ssh, monkeypatch):
    """It is bounded; the connection stays."""
    far = ssh(f"{READY}; read q; echo {shlex.quote(LOCATED)}; exec cat > /dev/null")
    far.locate()
    monkeypatch.setattr(wire, "MAX_LINE", 1 << 20)
    with pytest.raises(HTCondorError, match="cannot send 1 MiB to far"):
        far.ask("query", "x" * (1 << 20), [])
    assert far._connection.is_open
    far.close()


def test_a_large_question_and_errors_at_once(ssh, monkeypatch):
    """Neither side waits for the other with a full pipe."""
    monkeypatch.setattr(wire, "PATIENCE", 60.0)
    far = ssh(
        f"{READY}; read q; echo {shlex.quote(LOCATED)}; head -c 300000 /dev/zero >&2; read q;"
        """ head -c 300000 /dev/zero >&2; echo '{"number": 2, "value": []}'; exec sleep 60"""
    )
    assert far.ask("query", "x" * 300_000, []) == []
    far.close()


def test_control_c_while_an_answer_is_awaited(ssh, monkeypatch):
    """The connection is closed soon, and the next question makes a new one."""
    monkeypatch.setattr(wire, "PATIENCE", 60.0)
    far = ssh(f"{READY}; read q; echo {shlex.quote(LOCATED)}; exec sleep 60")
    far.locate()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        far.ask("query", "true", [])
    timer.join()
    assert not far._connection.is_open
    assert far.locate().name == "s"
    far.close()


def test_control_c_while_another_thread_asks(ssh, monkeypatch):
    """The other thread's question is not disturbed."""
    monkeypatch.setattr(wire, "PATIENCE", 60.0)
    far = ssh(
        f"{READY}; read q; echo {shlex.quote(LOCATED)}; read q; sleep 1;"
        """ echo '{"number": 2, "value": []}'; exec sleep 60"""
    )
    far.locate()
    answers = []
    other = threading.Thread(target=lambda: answers.append(far.ask("query", "true", [])))
    other.start()
    while not far._lock.locked():
        time.sleep(0.01)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        far.ask("query", "true", [])
    timer.join()
    other.join()
    assert answers == [[]]
    far.close()


def test_a_forked_child_leaves_the_connection_alone(ssh):
    """It is the parent's; the child makes its own."""
    far = ssh(f"{READY}; read q; echo {shlex.quote(LOCATED)}; exec sleep 60")
    far.locate()
    child = os.fork()
    if not child:
        os._exit(far._connection is not None)
    assert os.waitpid(child, 0)[1] == 0
    assert far._connection.is_open
    far.close()


@pytest.mark.parametrize("name", ["json", "types", "htcondor2", "classad2", "condorpool", "enum"])
def test_the_agent_imports_nothing_of_its_surroundings(tmp_path, name):
    """Neither from the folder where a login begins, nor from PYTHONPATH, nor the user's site."""
    marker = tmp_path / "marker"
    for folder in ("home", "path", f"home/.local/lib/python{sys.version_info[0]}/site-packages"):
        (tmp_path / folder).mkdir(parents=True)
        for module in (name, "usercustomize", "sitecustomize"):
            (tmp_path / folder / f"{module}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    surroundings = {**os.environ, "HOME": f"{tmp_path}/home", "PYTHONPATH": f"{tmp_path}/path"}
    done = subprocess.run(
        ["sh", "-c", remote._command()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=tmp_path / "home",
        env=surroundings,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"\ncondorpool-agent-2\n", 0), done.stderr
    assert not marker.exists()


def asked(*questions: bytes):
    """Return the answers of an agent."""
    answers = io.BytesIO()
    agent.serve(io.BytesIO(b"".join(questions)), answers)
    ready, *lines = answers.getvalue().removeprefix(b"\n").splitlines(keepends=True)
    assert ready == wire.READY
    return [wire.message_of(line, wire.Answer) for line in lines]


@pytest.mark.parametrize(
    "name", ["query", "relocate", "__class__", "_ask", "", "reach", "nudge_idle", "name"]
)
def test_what_an_agent_is_not_asked(name):
    """Only the methods that use the bindings, and only of an access point that it has found."""
    (answer,) = asked(wire.line_of(wire.Question(1, name)))
    assert answer.error.kind == "PlainError"
    assert "is no question" in answer.error.text


@pytest.mark.parametrize("question", [b"", b'{"number": 1, "name": "locate"}', b"\x80\x04N."])
def test_half_a_question_is_not_asked(question):
    """The client has ended meanwhile."""
    assert asked(question) == []


def test_an_agent_can_be_asked_for_all_that_uses_the_bindings():
    """And no more."""
    relayed = {
        name
        for name, known in vars(remote.RemoteAccessPoint).items()
        if getattr(known, "__wrapped__", "") is vars(AccessPoint).get(name)
    }
    assert relayed == agent.METHODS


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**62),
        0.1,
        math.inf,
        'a "quoted"\n\u00e9\ud800 text',
        [],
        {"A": [1, {"b": None}]},
        classad2.Value.Undefined,
        classad2.Value.Error,
        classad2.ExprTree("JobStatus == 2 && x"),
        classad2.ClassAd({"a": 1, "b": classad2.ExprTree("a + 1")}),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    ],
    ids=repr,
)
def test_values_of_ads_arrive(value):
    """Also those that JSON does not have, at any depth."""
    line = wire.line_of(wire.Answer(1, [{"x": value, "y": [value]}]))
    (ad,) = wire.message_of(line, wire.Answer).value
    assert line.isascii()
    assert line.count(b"\n") == 1
    for found in (ad["x"], *ad["y"]):
        assert type(found) is type(value)
        assert str(found) == str(value)


def test_an_expression_that_would_end_the_parser_stays_a_text():
    """Its recursion has no limit."""
    text = "x||" * 200_000 + "y"
    line = json.dumps({"number": 1, "value": {"$classad": text}}).encode() + b"\n"
    assert wire.message_of(line, wire.Answer).value == text


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (SubmitError("no\x1b[31m"), SubmitError, "no\ufffd[31m"),
        (ValueError("bad"), ValueError, "bad"),
        (ZeroDivisionError("oh"), HTCondorError, "the agent has failed: ZeroDivisionError('oh')"),
        (SubmitError("x" * 10**6), SubmitError, "x" * 20_000),
    ],
)
def test_errors_arrive(error, kind, text):
    """Those that callers catch as themselves; the text is harmless and bounded."""
    answer = wire.message_of(
        wire.line_of(wire.Answer(1, error=wire.Failure.of(error))), wire.Answer
    )
    assert type(answer.error.error()) is kind
    assert str(answer.error.error()) == text


def test_the_client_and_the_agent_are_one_version():
    """The agent's modules are those of this client, wherever they are."""
    assert str(Path(wire.__file__).parents[1]) in remote._command()
