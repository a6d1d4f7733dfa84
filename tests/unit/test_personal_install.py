"""How HTCondor's programs and Debian's mirror are found; the tests install nothing."""

import errno
import importlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from condorpool.personal import debian, guardian
from condorpool.values import folders
from condorpool.values.exceptions import InstallError

# As an attribute of the package this name is the function.
install = importlib.import_module("condorpool.personal.install")

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def deb822(**fields):
    """Return a stanza of a .sources file."""
    return "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in fields.items())


MAIN = deb822(
    Types="deb", URIs="http://mirror.test/debian", Suites="bookworm", Components="main",
    Signed_By=KEYRING,
)  # fmt: skip
SECURITY = deb822(
    Types="deb", URIs="http://mirror.test/debian-security", Suites="bookworm-security",
    Components="main", Signed_By=KEYRING,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("d.sources", f"{SECURITY}\n# ours\n{MAIN}", "http://mirror.test/debian", id="deb822"),
        pytest.param("d.sources", SECURITY, None, id="security is not the archive"),
        pytest.param("d.sources", f"Enabled: no\n{MAIN}", None, id="disabled"),
        pytest.param("d.sources", MAIN.replace("deb\n", "deb-src\n"), None, id="source code only"),
        pytest.param("d.sources", MAIN.replace(KEYRING, "/other.gpg"), None, id="another signer"),
        pytest.param(
            "d.sources",
            MAIN.replace("http://mirror.test/debian", "mirror+file:///etc/apt/mirrors/debian.list"),
            "mirror+file:///etc/apt/mirrors/debian.list",
            id="a list of mirrors",
        ),
        pytest.param(
            "d.sources",
            MAIN.replace(KEYRING, "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF"),
            "http://mirror.test/debian",
            id="a key in the file",
        ),
        pytest.param(
            "d.list",
            "# deb http://old.test/debian sid main\n"
            "deb cdrom:[Debian 12]/ bookworm main\n"
            f"deb [arch=amd64 signed-by={KEYRING}] http://mirror.test/debian/ bookworm main contrib\n",
            "http://mirror.test/debian",
            id="one line",
        ),
        pytest.param("d.list", "deb http://mirror.test/debian bookworm main", "http://mirror.test/debian", id="unsigned line"),
        pytest.param("d.list", "deb http://apps.test/linux/debian bookworm stable", None, id="a vendor's"),
        pytest.param("d.list", "deb http://archive.test/ubuntu jammy main", None, id="Ubuntu's"),
        pytest.param("d.list.save", f"deb [signed-by={KEYRING}] http://mirror.test/debian sid main", None, id="not read by apt"),
    ],
)  # fmt: skip
def test_mirror_is_the_one_that_apt_uses(tmp_path, name, text, expected):
    """The address of Debian's main archive is read from apt's sources."""
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / name).write_text(text)
    assert debian.mirror(tmp_path) == expected


def test_no_sources_mean_no_mirror(tmp_path):
    """A machine without apt's sources has no mirror."""
    assert debian.mirror(tmp_path) is None


@pytest.mark.parametrize(
    ("sbin", "libexec"),
    [
        pytest.param("usr/sbin", "usr/libexec/condor", id="Debian and RPM"),
        pytest.param("usr/sbin", "usr/lib/condor/libexec", id="older Debian"),
        pytest.param("condor/sbin", "condor/libexec", id="tarball"),
        pytest.param("env/bin", "env/libexec/condor", id="conda"),
    ],
)
def test_layouts_of_installations_are_known(tmp_path, monkeypatch, sbin, libexec):
    """The other folders are derived from condor_master's."""
    for name in (f"{sbin}/condor_master", f"{sbin}/../bin/condor_q", f"{libexec}/condor_chirp"):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\necho '$CondorVersion: 25.3.1 2025-10-30 $'\n")
        program.chmod(0o755)
    monkeypatch.setenv("CONDORPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / sbin}:/usr/bin:/bin")
    found = install.find()
    assert found is not None
    assert found.master == tmp_path / sbin / "condor_master"
    assert found.bin == (tmp_path / sbin / "../bin").resolve()
    assert found.libexec == tmp_path / libexec
    assert found.version == "25.3.1"
    assert found.source == "PATH"


def own_installation(prefix):
    """Write the record of an installation of ours."""
    prefix.mkdir(parents=True)
    record = {"prefix": str(prefix), "version": "25.14.1", "suite": "testing"}
    (prefix / "installation.json").write_text(json.dumps(record))


def test_an_earlier_installation_is_found_without_a_process(tmp_path, monkeypatch):
    """Its record is enough."""
    own_installation(tmp_path / "htcondor")
    monkeypatch.setenv("CONDORPOOL_CACHE", str(tmp_path))
    monkeypatch.setattr(install.subprocess, "run", None)
    found = install.install()
    assert found.version == "25.14.1"
    assert found.sbin == tmp_path / "htcondor/usr/sbin"


def test_an_installation_that_was_moved_is_not_used(tmp_path, monkeypatch):
    """Its programs name their loader by an absolute path."""
    own_installation(tmp_path / "before/htcondor")
    shutil.move(tmp_path / "before", tmp_path / "after")
    monkeypatch.setenv("CONDORPOOL_CACHE", str(tmp_path / "after"))
    found = install.find()
    assert found is None or found.source != install.OURS


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    """Return an empty cache folder on a machine without HTCondor."""
    monkeypatch.setenv("CONDORPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(install, "find", lambda: None)
    return tmp_path / "cache"


def test_without_apt_the_error_says_what_to_do(nothing_installed, monkeypatch):
    """Where Debian's packages cannot be used, it names two other ways."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InstallError, match="no apt-get") as caught:
        install.install(progress=None)
    assert "conda install -c conda-forge htcondor" in str(caught.value)
    assert "tarball" in str(caught.value)


def test_without_a_mirror_the_error_names_the_option(nothing_installed, monkeypatch):
    """If the sources name no Debian mirror, the user can."""
    monkeypatch.setattr(debian, "check_machine", lambda: None)
    monkeypatch.setattr(debian, "mirror", lambda: None)
    with pytest.raises(InstallError, match="--mirror URL"):
        install.install(progress=None)


def test_a_full_disk_is_reported_before_the_download(nothing_installed, monkeypatch):
    """Half a download would be useless."""
    monkeypatch.setattr(debian, "check_machine", lambda: None)
    monkeypatch.setattr(debian, "SPACE_NEEDED", 2**60)
    with pytest.raises(InstallError, match="no room"):
        install.install(progress=None, mirror="http://mirror.test/debian")
    assert [path.name for path in nothing_installed.iterdir()] == ["htcondor.lock"]


@pytest.mark.parametrize(
    ("number", "advised"), [("ENOSPC", True), ("EDQUOT", True), ("EROFS", False)]
)
def test_space_is_freed_only_on_a_full_disk(tmp_path, number, advised):
    """Other errors are not cured by it."""
    with pytest.raises(InstallError, match="CONDORPOOL_CACHE") as caught, \
            install._understandable(tmp_path):  # fmt: skip
        raise OSError(getattr(errno, number), "words")
    assert ("Free space" in str(caught.value)) is advised


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt's own words are tested on Debian")
def test_a_failing_download_quotes_apt_and_leaves_nothing(nothing_installed, tmp_path):
    """The error has apt's own message, and no file remains."""
    with pytest.raises(InstallError, match="apt-get says") as caught:
        install.install(progress=None, mirror=f"file://{tmp_path}/no-such-mirror")
    assert "no-such-mirror" in str(caught.value)
    assert [path.name for path in nothing_installed.iterdir()] == ["htcondor.lock"]


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt's own words are tested on Debian")
def test_apt_counts_installed_packages_only_if_asked(tmp_path):
    """HTCondor comes with all dependencies, a program for this machine with the missing ones."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    here = debian.Apt(tmp_path / "here", lock, ["dpkg"])
    here.prepare_as_here()
    assert here.wanted() == {}
    alone = debian.Apt(tmp_path / "alone", lock, ["dpkg"])
    alone.prepare(f"file://{tmp_path}/no-such-mirror", "stable")
    with pytest.raises(InstallError, match="dpkg"):
        alone.wanted()
    os.close(lock)


class TestOthers:
    """Programs that other users could have put there are not run."""

    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        """Make a cache in which HTCondor seems to be installed."""
        cache = tmp_path / "around" / "cache"
        programs = cache / "htcondor" / "usr" / "sbin"
        programs.mkdir(parents=True)
        (programs / "condor_master").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (programs / "condor_master").chmod(0o755)
        record = {"prefix": str(cache / "htcondor"), "version": "25.14.1"}
        (cache / "htcondor" / "installation.json").write_text(json.dumps(record))
        monkeypatch.setenv("CONDORPOOL_CACHE", str(cache))
        yield cache
        assert not (tmp_path / "ran").exists()

    def test_a_cache_of_ones_own(self, cache):
        """It comes first."""
        assert install.find().version == "25.14.1"

    @pytest.mark.parametrize("weak", [".", "..", "htcondor"])
    def test_a_cache_that_others_may_write_to(self, cache, weak):
        """Nor is anything installed below it."""
        (cache / weak).chmod(0o777)
        with pytest.raises(InstallError, match=r"can be written to .* CONDORPOOL_CACHE"):
            install.find()
        if weak != "htcondor":  # which an installation replaces
            with pytest.raises(InstallError, match="can be written to"):
                install.install(force=True)

    @pytest.mark.skipif(os.geteuid() != 0, reason="left out: only root can be two users")
    @pytest.mark.parametrize("his", [".", "..", "htcondor"])
    def test_a_cache_of_another_user(self, cache, his):
        """In a folder with the sticky bit, another user may be the first."""
        cache.chmod(0o1777)
        os.chown(cache / his, 65534, -1)
        with pytest.raises(InstallError, match="belongs to user"):
            install.find()

    def test_a_home_that_is_not_known(self, tmp_path, monkeypatch):
        """The cache is with the temporary files then."""
        monkeypatch.setattr(folders.platformdirs, "user_cache_path", lambda _: Path("~/.cache"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.delenv("CONDORPOOL_CACHE", raising=False)
        assert install.place() == tmp_path / guardian.shared_name() / "cache" / "htcondor"
