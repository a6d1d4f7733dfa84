"""Another user of the machine renames live submit directories, and puts his own in their place."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from planted import Planted
from waiting import until

import condorpool
from condorpool import personal
from condorpool.cleaner import registry
from condorpool.runner import container

#: Not that of the jobs of root's personal HTCondor.
OTHER = 12345

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="left out: only root can be two users")


@pytest.fixture
def group():
    """Return a folder to which all users may write; check that nothing planted was unpickled."""
    with tempfile.TemporaryDirectory() as around:
        Path(around).chmod(0o755)
        folder, evil = Path(around, "group"), Path(around, "evil")
        folder.mkdir()
        folder.chmod(0o777)
        about = {"calls": None, "count": 1, "host": "h", "job": "1.0", "end": 1}
        about |= {"environment": {}, "directory": str(folder), "modules": {}}
        (Path(around) / "marks").mkdir()
        (Path(around) / "marks").chmod(0o777)
        mark = Path(around, "marks", "unpickled")
        container.write(str(evil), about, [pickle.dumps(Planted(str(mark)))])
        evil.chmod(0o644)
        yield folder
        assert not mark.exists()


def attack(directory, *, tokens):
    """Put a folder of the other user's in the place of a submit directory; return where that is."""
    names = [f"{n}.call" for n in range(9)] + [f"{n}.crew" for n in range(9)]
    names += [
        f"{b}-{f}.{kind}" for b in range(9) for f in range(3) for kind in ("chunk", "outcome")
    ]
    posted = [f"{b}-{f}-{f + 1}-{f}" for b in range(9) for f in range(3)] if tokens else []
    script = f"""
        set -e
        mv {directory} {directory}.moved
        mkdir {directory}; cd {directory}
        for name in {" ".join(names)}; do cp ../../evil $name; done
        for n in 0 1 2 3 4 5 6 7 8; do mkdir $n.posted $n.taken $n.made; chmod 777 $n.*; done
        for token in {" ".join(posted)}; do for n in 0 1 2 3 4 5 6 7 8; do : > $n.posted/$token; done; done
        echo his > his; chmod -R a+rwX .
    """
    subprocess.run(["/bin/sh", "-c", script], check=True, user=OTHER, group=OTHER, extra_groups=[])
    return directory.with_name(f"{directory.name}.moved")


def delete(folder):
    """Delete a folder; a job that ends may write a last file into it."""
    until(lambda: not (shutil.rmtree(folder, ignore_errors=True) or folder.exists()))


@pytest.mark.parametrize("way", ["IF_NEEDED", "YES"], ids=["shared-file-system", "file-transfer"])
def test_a_live_directory_is_replaced(make_pool, group, way, capfd):
    """What was made is there, the rest fails with the reason, and nothing of his is deleted."""
    pool = make_pool(
        submitdir=group, processes=1, submitkwargs={"should_transfer_files": way}, linger=5
    )
    result = pool.map_async(time.sleep, [0, 2, 2], chunksize=1)
    assert f"{group} can be written to by other users" in capfd.readouterr().err
    until(lambda: result.calls_ended)
    (directory,) = group.glob(".condorpool-*")
    # By file transfer a job asks HTCondor, which knows the path only.
    attack(directory, tokens=way == "IF_NEEDED")
    with pytest.raises(condorpool.JobFailedError, match=r"was moved to .*\.moved"):
        result.get(timeout=60)
    assert result.values(missing="none")[0] is None
    with pytest.raises(condorpool.SubmitError, match=r"Make a new Pool"):
        pool.apply(abs, (1,))
    pool.terminate()
    pool.join()
    assert (directory / "his").read_text() == "his\n"
    assert not capfd.readouterr().err.count("Traceback")
    delete(directory)
    (entry,) = (entry for entry in registry.everything() if entry.path == directory)
    assert entry.note == f"kept: the files of failed jobs; it was moved to {directory}.moved"
    entry.discard()  # other tests must not see it


def test_a_directory_is_replaced_before_its_work_is_resumed(htcondor, group, tmp_path):
    """The cleaner and `attach` touch neither; once it is back, its work is done."""
    code = f"""if True:
        import time, condorpool
        pool = condorpool.Pool(personal={str(htcondor.folder)!r}, submitdir={str(group)!r})
        pool.map_async(abs, [-1, -2], name="scan").get(timeout=60)
        print("READY", flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "READY\n"
        (directory,) = group.glob(".condorpool-*")
        moved = attack(directory, tokens=False)
        before = set(directory.rglob("*"))
        owner.kill()
    until(lambda: any(e.path == directory and e.owner is None for e in registry.everything()))
    (entry,) = (e for e in registry.everything() if e.path == directory)
    assert "Move the submit directory back" in entry.note
    with pytest.raises(condorpool.CondorPoolError, match="no calls named 'scan'"):
        condorpool.attach("scan")
    assert before <= set(directory.rglob("*"))  # HTCondor writes its events there
    delete(directory)
    moved.rename(directory)
    with condorpool.Pool(personal=htcondor, submitdir=group) as pool:
        assert condorpool.attach("scan", pool=pool).get(timeout=60) == [1, 2]
    assert condorpool.forget("scan", everywhere=True) == 2
    # Its cleaner would take the folder above, once it is gone, for a disk that is not mounted.
    until(lambda: directory not in {entry.path for entry in registry.everything()})


def test_all_files_of_a_session_are_private_whatever_the_umask(htcondor, tmp_path):
    """Others can neither read them nor add any."""
    code = f"""if True:
        import os, sys, condorpool
        os.umask(0)
        pool = condorpool.Pool(personal={str(htcondor.folder)!r}, submitdir="jobs/mine")
        assert pool.map(abs, [-1, -2], name="scan") == [1, 2]
        for top in ("jobs", os.environ["XDG_STATE_HOME"]):
            for folder, _, files in os.walk(top):
                for path in [folder, *(os.path.join(folder, file) for file in files)]:
                    # HTCondor makes these, in a folder that is private.
                    if not os.path.basename(path).startswith("job-"):
                        print(oct(os.stat(path).st_mode & 0o777), path)
        pool.terminate(); pool.join()
        condorpool.forget("scan")
    """
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "XDG_STATE_HOME": str(state)},
        check=True, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    modes = {path: mode for mode, path in map(str.split, done.stdout.splitlines())}
    assert {modes.pop("jobs"), modes.pop("jobs/mine")} == {"0o755"}
    assert len(modes) > 10
    assert set(modes.values()) <= {"0o700", "0o600"}, modes


class TestNoHome:
    """A user without a home folder, in a process that makes its files open to all."""

    @pytest.fixture
    def run(self):
        """Return a function that runs code as a user, by default without HOME, with umask 0."""
        with tempfile.TemporaryDirectory() as around:
            Path(around).chmod(0o755)
            temporary, work = Path(around, "tmp"), Path(around, "work")
            temporary.mkdir()
            temporary.chmod(0o1777)
            work.mkdir()

            def start(user, code, **home):
                os.chown(work, user, user)
                # Python and HTCondor may be in root's home.
                reach = "-all,+dac_read_search"
                as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
                as_user += [f"--inh-caps={reach}", f"--ambient-caps={reach}"]
                as_user.append("--securebits=+no_setuid_fixup")  # HTCondor asks access()
                kept = {n: v for n, v in os.environ.items() if n not in ("HOME", "XDG_STATE_HOME")}
                kept |= {"TMPDIR": str(temporary), "CONDORPOOL_CACHE": str(personal.place().parent)}
                kept |= home
                code = f"import os; os.umask(0)\n{code}"
                done = subprocess.run(
                    [*as_user, sys.executable, "-B", "-c", code], cwd=work, env=kept, check=False,
                    capture_output=True, text=True, timeout=100,
                )  # fmt: skip
                assert not list(work.iterdir())  # no folder called "~"
                return done

            yield start
            until(lambda: not list(temporary.glob("condorpool-*/personal")))

    def test_a_user_without_a_name(self, run):
        """The one thing that is said is what to do."""
        done = run(1000650000, "import condorpool; condorpool.Pool(personal=True)")
        assert done.stderr.splitlines()[-1].endswith(
            "user 1000650000 has no name on this machine, and HTCondor knows users only by name. "
            "Add a line for this user to /etc/passwd."
        )
        code = "from condorpool.cli.main import main; main(['ls'])"
        assert run(1000650000, code).stdout.startswith("There are no submit directories")

    def test_a_user_with_a_name(self, run):
        """Calls are made, users are told where the registry is, and all is private."""
        code = """if True:
            import condorpool, tempfile
            with condorpool.Pool(personal=True) as pool:
                print(pool.map(abs, [-1, -2]))
                own = f"{tempfile.gettempdir()}/condorpool-{os.getuid()}"
                folders = ["", "/state", "/personal"]
                print([oct(os.stat(own + folder).st_mode & 0o777) for folder in folders])
        """
        done = run(65534, code, HOME="/")
        assert done.stdout.splitlines() == ["[1, 2]", str(["0o700"] * 3)], done.stderr
        assert "state notes what must be cleaned up, because " in done.stderr
