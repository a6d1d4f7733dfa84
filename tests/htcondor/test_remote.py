"""Jobs that are submitted through another machine, over a real ssh."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import provision
import pytest

import condorpool
from condorpool import personal
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


@pytest.fixture
def other(sshd, tmp_path, monkeypatch):
    """Return the name of the other machine, as ssh knows it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(
        f'#!/bin/sh\nexec {provision.program("ssh")} -F {sshd}/ssh_config "$@"\n'
    )
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return "other"


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


def test_a_lost_connection(make_pool, other):
    """The next call opens a new one."""
    pool = make_pool(personal=None, remote=other, maxtasksperchild=1)
    assert pool.apply(abs, (-1,)) == 1
    agent = pool._workload.access_point.agent
    agent._ssh.kill()
    agent._ssh.wait()
    assert pool.apply(abs, (-2,)) == 2


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
