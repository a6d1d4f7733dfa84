"""Jobs that are submitted through another machine, over a real ssh."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import provision
import pytest

import condorpool
from condorpool import personal
from condorpool.access.bindings import classad2
from condorpool.interface import original

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def free_port():
    """Return a port that no process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def sshd(htcondor, tmp_path_factory):
    """Run an sshd as the test's user; its logins use the personal HTCondor."""
    server = provision.program("sshd")  # a full path: sshd runs itself again
    folder, port = tmp_path_factory.mktemp("ssh"), free_port()
    for name in ("host", "user"):
        command = [
            provision.program("ssh-keygen"),
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            folder / name,
        ]
        subprocess.run(command, check=True)
    there = personal.environment(htcondor.folder)["CONDOR_CONFIG"]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nSetEnv CONDOR_CONFIG={there}\n"
        + provision.sshd_settings()
    )
    (folder / "ssh_config").write_text(
        f"Host other\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/user\n"
        f" IdentitiesOnly yes\n StrictHostKeyChecking no\n UserKnownHostsFile {folder}/known\n"
        " LogLevel ERROR\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's unprivileged process is confined there
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([server, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    while "listening" not in (folder / "log").read_text():
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.02)
    yield folder
    server.terminate()
    server.wait()


#: What a login there does before the command that it is given: it moves into a folder with modules
#: of the same names as ours, prints megabytes, and ends in the middle of a line.
LOGIN = """mkdir -p {home}; cd {home}; for name in json htcondor2 condorpool sitecustomize; do
echo 'open("{home}/marker", "w")' > $name.py; done; export PYTHONPATH={home} MARK={home};
yes 'Welcome!' | head -c 3000000; yes beware | head -c 300000 >&2; """


@pytest.fixture
def other(sshd, tmp_path, monkeypatch):
    """Return the name of the other machine, as ssh knows it."""
    (tmp_path / "bin").mkdir()
    login = LOGIN.format(home=tmp_path / "home").replace("\n", " ")
    (tmp_path / "login").write_text(login)
    # The command is the last word.
    (tmp_path / "bin" / "ssh").write_text(
        f'#!/bin/bash\nexec {provision.program("ssh")} -F {sshd}/ssh_config "${{@:1:$#-1}}" '
        f'"$(cat {tmp_path}/login)${{@: -1}}"\n'
    )
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    yield "other"
    assert not (tmp_path / "home" / "marker").exists()


@pytest.fixture
def programs(tmp_path):
    """Return a function that returns the process ids of the agents on the other machine."""

    def find():
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes()
                mark = f"MARK={tmp_path}/home".encode()
                if b"access.agent" in command and mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    return find


def test_a_pool_on_another_machine(make_pool, other, gone):
    """Jobs are submitted, queried, held, and removed through ssh, and errors come back."""
    with make_pool(personal=None, remote=other) as pool:
        assert pool.remote == other
        assert pool.map(abs, [-1, 2, -3]) == [1, 2, 3]
        result = pool.apply_async(time.sleep, (600,))
        result.wait_to_start(30)
        assert [ad["JobStatus"] for ad in result.query()] == [2]
        assert result.hold() == 1
        with pytest.raises(condorpool.JobHeldError):
            result.get(timeout=30)
        assert "held" in result.analyze()
        result.remove()
        with pytest.raises(condorpool.JobRemovedError):
            result.get(timeout=30)
        with pytest.raises(condorpool.SubmitError, match="request_cpus"):
            pool.apply(abs, (1,), submitkwargs={"request_cpus": "nonsense("})
    assert gone()


def test_jobs_that_can_never_run(make_pool, other, capsys):
    """The line before they are submitted compares them with the slots of the other machine's pool."""
    pool = make_pool(personal=None, remote=other, processes=2)
    never = [
        pool.map_async(abs, range(3), cpus=99),
        pool.map_async(abs, range(3), requirements='TARGET.Arch == "ALPHA"'),
    ]
    said = capsys.readouterr().err.splitlines()
    assert ["request_cpus = 99, but no slot has more than 2" in said[0], len(said)] == [True, 2]
    assert 'meets its requirement TARGET.Arch == "ALPHA"' in said[1]
    assert [result.remove() for result in never] == [3, 3]


def test_a_lost_connection(make_pool, other, programs):
    """The next question opens a new one, whichever end was lost."""
    pool = make_pool(personal=None, remote=other)
    point = pool._workload.access_point
    lost = point.agent._connection._ssh
    lost.kill()
    lost.wait()
    assert point.query("false", ["ClusterId"]) == []
    (program,) = programs()
    os.kill(program, signal.SIGKILL)
    point.agent._connection._ssh.wait()
    assert pool.apply(abs, (-3,)) == 3


def test_a_program_that_ends_while_it_is_asked(make_pool, other, programs):
    """The question is not repeated: it may have been done."""
    pool = make_pool(personal=None, remote=other)
    point = pool._workload.access_point
    (program,) = programs()
    os.kill(program, signal.SIGSTOP)
    timer = threading.Timer(0.3, os.kill, (program, signal.SIGKILL))
    timer.start()
    with pytest.raises(condorpool.HTCondorError, match="connection to other was lost: ssh ended"):
        point.query("true", ["ClusterId"])
    timer.join()
    assert point.query("false", ["ClusterId"]) == []


def test_threads_that_ask_at_the_same_time(make_pool, other):
    """Each gets its own answer; expressions are expressions."""
    pool = make_pool(personal=None, remote=other)
    result = pool.apply_async(time.sleep, (600,))
    point = pool._workload.access_point
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(point.query, "true", [name]) for name in ("Cmd", "LeaveJobInQueue")]
        asked += [threads.submit(point.slots) for _ in range(2)]
        ads, expressions, *slots = (each.result() for each in asked)
    assert {ad["Cmd"] for ad in ads} == {"/bin/sh"}
    assert not any("Cmd" in ad for ad in expressions)
    assert slots[0] == slots[1] != []
    (ad,) = result.query("Requirements")
    assert isinstance(ad["Requirements"], classad2.ExprTree)
    result.remove()


def test_the_program_ends_with_its_client(other, programs):
    """Also if the client is killed."""
    code = (
        "import sys; from condorpool.access.remote import Agent; Agent('other', None, None).locate();"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout.readline() == b"\n"
        assert len(programs()) == 1
        client.kill()
    end = time.monotonic() + 30
    while programs():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_machine_that_cannot_be_reached(make_pool, other):
    """The error has what ssh says, and what is needed."""
    with pytest.raises(
        condorpool.HTCondorNotFoundError, match=r"cannot submit through 127\.0\.0\.1"
    ):
        make_pool(personal=None, remote="127.0.0.1")


def test_a_remote_job(other, tmp_path):
    """The original CondorPool's class works without a pool."""
    job = condorpool.RemoteJob(other, pow, (2, 5), submitdir=tmp_path)
    job.submit()
    assert job.get() == 32
    original._pools.pop(other).close()
