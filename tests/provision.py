"""The programs that the tests need besides Python; `make test` installs them first.

For root, apt installs them.  For other users Debian's packages are unpacked into the
cache folder, where the personal HTCondor is, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from condorpool.personal import debian
from condorpool.values.exceptions import InstallError

# As an attribute of the package this name is the function.
installing = importlib.import_module("condorpool.personal.install")

#: The programs that tests start, and the Debian package that has each.
PACKAGES = {
    "chromium": "chromium",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    # Playwright includes node, but not this library that it needs.
    "node": "libatomic1",
}

#: Where a package installs a program, if not in a folder of the PATH.
_PLACES = {"chromium": "usr/lib/chromium/chromium"}


def find(name: str) -> Path | None:
    """Return where one of the programs is, None if it is missing."""
    if name == "node":
        return _node()
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin", str(_folder() / "programs")]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if name == "chromium":
        found = found or shutil.which("google-chrome")
    return Path(found) if found else None


def _node() -> Path | None:
    """Return Playwright's node, if it runs here."""
    spec = importlib.util.find_spec("playwright")
    assert spec is not None
    node = Path(str(spec.origin)).parent / "driver/node"
    environment = {**os.environ, **variables()}
    done = subprocess.run([node, "--version"], env=environment, capture_output=True, check=False)
    return node if done.returncode == 0 else None


def program(name: str) -> Path:
    """Return where one of the programs is; fail the test that needs it if it is missing."""
    found = find(name)
    assert found, f"{name} is missing: `{sys.executable} {__file__}` installs what the tests need"
    return found


def provide() -> None:
    """Install the missing programs.

    Raises
    ------
    InstallError
        They cannot be installed.
    """
    installing.install()
    missing = [name for name in PACKAGES if not find(name)]
    if not missing:
        return
    print("Installing", ", ".join(missing), "for the tests", flush=True)
    if absent := [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]:
        raise InstallError(f"this machine has no {' and no '.join(absent)}")
    if os.geteuid() == 0:
        _install(sorted({PACKAGES[name] for name in missing}))
    else:
        cache = installing._cache()
        with installing._understandable(cache), installing._exclusive(cache, print) as lock:
            _unpack(sorted({*PACKAGES.values()}), lock)
    if missing := [name for name in PACKAGES if not find(name)]:
        raise InstallError(f"Debian's packages do not contain {', '.join(missing)}")


def _install(packages: list[str]) -> None:
    # At runlevel 1 the packages' scripts do not start sshd, which they would in a container.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            raise InstallError(f"apt-get says:\n{done.stdout}")


def _folder() -> Path:
    """Return the folder with the programs for this release of the operating system."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    system = f"{release.get('ID', 'linux')}-{release.get('VERSION_ID', '')}"
    return installing._cache() / "tests" / system


def _unpack(packages: list[str], lock: int) -> None:
    """Unpack packages and their dependencies that are not installed here."""
    final = _folder()
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="staging-", dir=final.parent) as staging:
        apt = debian.Apt(Path(staging, "apt"), lock, packages)
        apt.prepare_as_here()
        apt.update()
        files = apt.download(print, sum(apt.wanted().values()))
        prefix = Path(staging, "prefix")
        for file in files:
            debian._output(["dpkg-deb", "-x", str(file), str(prefix)])
        shutil.rmtree(final, ignore_errors=True)
        prefix.rename(final)
    for name in PACKAGES:
        _wrap(final, name)


def variables() -> dict[str, str]:
    """Return the environment variables with which programs use the libraries in the cache."""
    prefix = _folder()
    libraries = [
        file.parent
        for folder in ("lib", "usr/lib")
        for form in ("*.so*", "*/*.so*")
        for file in prefix.glob(f"{folder}/*-linux-*/{form}")
    ]
    if not libraries:
        return {}
    return {
        "LD_LIBRARY_PATH": ":".join(map(str, dict.fromkeys(libraries))),
        "FONTCONFIG_FILE": str(prefix / "fonts.conf"),
    }


def sshd_settings() -> str:
    """Return the lines of sshd's configuration that name its helpers in the cache (OpenSSH 9.8)."""
    if program("sshd").parent != _folder() / "programs":
        return ""
    helpers = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
    places = {key: _folder() / "usr/lib/openssh" / name for key, name in helpers.items()}
    return "".join(f"{key} {place}\n" for key, place in places.items() if place.exists())


def _wrap(prefix: Path, name: str) -> None:
    """Write a script that runs a program with the libraries and fonts of ``prefix``."""
    places = (_PLACES.get(name, ""), f"usr/bin/{name}", f"usr/sbin/{name}")
    found = next((prefix / place for place in places if place and (prefix / place).exists()), None)
    if found is None:
        return  # the machine's own is used
    settings = variables()
    environment = {**os.environ, **settings}
    needs = subprocess.run(
        ["ldd", found], env=environment, capture_output=True, text=True, check=True
    ).stdout
    if lacking := [line.split()[0] for line in needs.splitlines() if "not found" in line]:
        raise InstallError(f"{name} lacks {', '.join(lacking)}")
    (prefix / "fonts.conf").write_text(
        "<fontconfig>"
        f"<dir>{prefix}/usr/share/fonts</dir><dir>/usr/share/fonts</dir>"
        f"<cachedir>{prefix}/fontcache</cachedir>"
        "</fontconfig>\n"
    )
    script = prefix / "programs" / name
    script.parent.mkdir(exist_ok=True)
    exports = "".join(f"export {n}={shlex.quote(v)}\n" for n, v in settings.items())
    script.write_text(f'#!/bin/sh\n{exports}exec {shlex.quote(str(found))} "$@"\n')
    script.chmod(0o755)


def _in_one_line(error: InstallError) -> str:
    """Return the reason in one line: apt's last complaint, if apt failed."""
    lines = [line.strip() for line in str(error).splitlines()]
    complaints = [line for line in lines if line.startswith("E: ") or "Failed to fetch" in line]
    return complaints[-1] if complaints else lines[0]


if __name__ == "__main__":
    try:
        provide()
    except InstallError as error:
        needed = ", ".join(sorted({*PACKAGES.values()}))
        sys.exit(
            f"The tests need HTCondor and Debian's {needed}, which cannot be installed here: "
            f"{_in_one_line(error)}. Install them, then run the tests again."
        )
