"""What jobs can reach of the user's: files at the access point, and secrets of the environment."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from condorpool import HTCondorError

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SENT = {"should_transfer_files": "YES"}


def chirp(*operations):
    """Return what HTCondor's channel answers, or the error: what any call can ask for."""
    from _condorpool_program.chirp import Chirp

    channel, answers = Chirp(), []
    for command, *words in operations:
        try:
            if command == "getfile":
                answers.append(bytes(channel.get(command, *words)).decode())
            else:
                answers.append(channel.ask(command, *words))
        except OSError as error:
            answers.append(error)
    return answers


def sent_files(_=None):
    """Return what is in the files that came with the job."""
    found = {}
    for path in Path().rglob("*"):
        with contextlib.suppress(UnicodeDecodeError, IsADirectoryError):
            found[str(path)] = path.read_text()
    return found


@pytest.fixture
def data(tmp_path):
    """Return the user's files."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/secret").write_text("hunter2")
    (tmp_path / "data/table").write_text("1 2 3")
    return tmp_path / "data"


def attacks(data):
    """Return operations on files outside of the submit directory."""
    secret, new = str(data / "secret"), str(data / "new")
    return [
        ("getfile", secret),
        ("getfile", f"../{data.name}/secret"),
        ("getfile", "/etc/passwd"),
        ("open", secret, "w", "0600"),
        ("rename", secret, "stolen"),
        ("rename", "launch.sh", new),
        ("unlink", secret),
        ("truncate", secret, "0"),
        ("mkdir", new, "0700"),
        ("rmall", str(data)),
        ("symlink", secret, "harmless"),
        ("getfile", "harmless"),
    ]


@pytest.mark.parametrize("commands", [{}, SENT], ids=["shared", "sent"])
def test_other_files_of_the_user_are_out_of_reach(make_pool, data, commands):
    """A call can neither read nor write them through HTCondor; its own channel still works."""
    with make_pool(submitkwargs=commands) as pool:
        *refused, link, through = pool.apply(chirp, attacks(data))
        assert all(isinstance(each, PermissionError) for each in [*refused, through])
        assert link == 0
        assert sorted(os.listdir(data)) == ["secret", "table"]
        assert (data / "secret").read_text() == "hunter2"
        (own,) = pool.apply(chirp, [("getfile", "manifest.json")])
        assert own.startswith("{")
        assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))


def test_plain_jobs_read_and_write_no_files(make_pool, data):
    """Not even in the submit directory."""
    with make_pool(maxtasksperchild=1) as pool:
        files = [("getfile", "manifest.json"), ("getfile", str(data / "secret"))]
        answers = pool.apply(chirp, [*files, ("open", "manifest.json", "w", "0600")])
    assert [type(each) for each in answers] == [OSError] * 3


def test_files_that_the_user_names_are_in_reach(make_pool, data):
    """One folder, or all."""
    wanted = ("getfile", str(data / "secret")), ("getfile", "/etc/hostname")
    pool = make_pool(linger=0)
    more = pool.apply(chirp, wanted, limit_directory_access=data)
    assert more[0] == "hunter2"
    assert isinstance(more[1], PermissionError)
    assert pool.apply(chirp, wanted, limit_directory_access=False)[0] == "hunter2"
    assert isinstance(pool.apply(chirp, wanted)[0], PermissionError)


@pytest.mark.parametrize("tasks", [None, 1], ids=["runner", "plain"])
def test_files_that_are_sent_arrive(make_pool, data, tmp_path, tasks):
    """Links, folders, and odd names do not matter, nor where the submit directory is."""
    (data / "my file; 'x'").write_text("odd")
    (tmp_path / "link").symlink_to(data / "table")
    (tmp_path / "folder/in").mkdir(parents=True)
    (tmp_path / "folder/in/link").symlink_to(data / "secret")
    base = tmp_path / "a, b, $(c) d"
    base.mkdir()
    paths = [data / "my file; 'x'", "../../link", tmp_path / "folder"]
    commands = {**SENT, "transfer_input_files": ", ".join(map(str, paths))}
    with make_pool(submitdir=base, maxtasksperchild=tasks, submitkwargs=commands) as pool:
        assert pool.map(abs, [-1, -2], chunksize=1) == [1, 2]
        found = pool.apply(sent_files)
    assert {"my file; 'x'", "link", "folder/in/link"} <= {*found}
    assert found["my file; 'x'"], found["link"] == ("odd", "1 2 3")
    assert found["folder/in/link"] == "hunter2"
    assert not list(base.iterdir())


def environment(name=None):
    """Return the environment of a call, or one variable."""
    return os.environ[name] if name else dict(os.environ)


@pytest.mark.parametrize("tasks", [None, 1], ids=["runner", "plain"])
def test_secrets_stay_at_home(make_pool, monkeypatch, tmp_path, tasks):
    """Unless the user names them; a call that misses one says so."""
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "hunter3")
    monkeypatch.setenv("CP_MINE", "mine")
    with make_pool(maxtasksperchild=tasks) as pool:
        got = pool.apply(environment)
        assert got["CP_MINE"] == "mine"
        assert not {"hunter2", "hunter3"} & {*got.values()}
        with pytest.raises(KeyError, match="HF_TOKEN") as raised:
            pool.apply(environment, ("HF_TOKEN",))
        assert "Pool(secrets=['HF_TOKEN'])" in "".join(raised.value.__notes__)
        assert pool.apply(environment, ("HF_TOKEN",), secrets=["HF_*"]) == "hunter2"
        assert "hunter2" not in str(pool.submit_description(environment, secrets=["HF_*"]))


@pytest.mark.parametrize(
    "commands", [{"getenv": "True"}, {"getenv": "CP_*, HF_TOKEN"}, {"environment": "CP_MINE=mine"}]
)
def test_no_secret_is_in_the_job_ad(make_pool, access_point, monkeypatch, tmp_path, commands):
    """All users of the access point can read it; what is named goes by the private file."""
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter3")
    monkeypatch.setenv("CP_MINE", "mine")
    with make_pool(submitkwargs=commands, secrets=["AWS_*"]) as pool:
        got = pool.apply(environment)
        ads = access_point.query("true", ["Environment", "Env"])
        records = "".join(p.read_text() for p in tmp_path.glob(".condorpool-*/*.jobs"))
    assert got["CP_MINE"] == "mine"
    assert got["AWS_SECRET_ACCESS_KEY"] == "hunter3"
    assert got.get("HF_TOKEN") == ("hunter2" if "HF_TOKEN" in str(commands) else None)
    assert ads
    assert "hunter" not in str(ads)
    assert "CP_MINE" in str(ads)
    assert records
    assert "hunter" not in records


def test_git_ignores_submit_directories(pool, tmp_path):
    """A commit of everything does not take them."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    pool.apply(abs, (-1,))
    shown = subprocess.run(
        ["git", "-C", tmp_path, "status", "--porcelain"], check=True, capture_output=True
    )
    assert shown.stdout == b""
    pool.close()
    assert os.listdir(tmp_path) == [".git"]


def leave_descriptors(number):
    """Use all file descriptors of this process but some."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    used = []
    with contextlib.suppress(OSError):
        while True:
            used.append(os.open(os.devnull, os.O_RDONLY))
    for descriptor in used[:number]:
        os.close(descriptor)


@pytest.mark.parametrize("free", [0, 1, 2, 4, 8, 16])
def test_no_file_descriptors(access_point, free):
    """HTCondor's library would end the process; instead an error says what is missing."""
    for operation in (lambda: access_point.query("true", ["ClusterId"]), access_point.slots):
        child = os.fork()
        if not child:
            leave_descriptors(free)
            try:
                operation()
            except HTCondorError as error:
                os._exit(0 if "ulimit -n" in str(error) else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
