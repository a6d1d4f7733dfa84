"""Unpacks Debian's HTCondor packages into a folder, without root and without dpkg's database.

apt downloads the packages with its own state folder and checks the archive's
signature.  `unpack` extracts the few files that HTCondor needs, and `relocate`
makes its programs use the C library from the packages, so that they also run on
older releases of Debian.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from condorpool.values.exceptions import InstallError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = Path("/etc/apt")
INSTALLED = Path("/var/lib/dpkg/status")

# 25.x maps every submitter to its own account and fits the Python bindings best.
# Debian's stable release has 23.9, whose schedd refuses root's jobs.
SUITES = ("testing", "unstable", "stable")
PACKAGES = ("condor", "patchelf")

# Bytes: package lists, packages, the unpacked files, and a margin.
SPACE_NEEDED = 300 * 2**20

ELSEWHERE = (
    "Install HTCondor yourself, one of:\n"
    "  conda install -c conda-forge htcondor\n"
    "  the official tarball from https://htcondor.org/htcondor/download: unpack it, and put its "
    "sbin and bin folders on the PATH\n"
    "condorpool then finds it."
)

_PROGRAMS = re.compile(r"usr/(s?bin/condor_|libexec/condor/|lib/condor/)[^/]+")
_LIBRARIES = re.compile(r"usr/lib(64)?/([^/]+-linux-[^/]+/)?[^/]+\.so(\.[^/]*)?")
_COPYRIGHTS = re.compile(r"usr/share/doc/[^/]+/copyright")
_PATCHELF = "usr/bin/patchelf"

# HTCondor opens these with dlopen(), so no program lists them as needed.
_OPENED_LATER = (
    "libSciTokens.so.*",
    "libcom_err.so.*",
    "libgssapi_krb5.so.*",
    "libk5crypto.so.*",
    "libkrb5.so.*",
    "libkrb5support.so.*",
    "libmunge.so.*",
    "libssl.so.*",
    "libsystemd.so.*",
    "libvomsapi.so.*",
    # The C library opens this one when a thread ends.
    "libgcc_s.so.*",
)

Progress = Callable[[str], object]


# Where this machine gets Debian's packages


def mirror(sources: Path = SOURCES) -> str | None:
    """Return the address of Debian's main archive that this machine's apt uses."""
    return next(_archives(_read_sources(sources)), None)


@dataclass(frozen=True)
class Source:
    """One line or stanza of apt's sources."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def parse_one_line(text: str) -> Iterator[Source]:
    """Yield the sources of a ``.list`` file: ``deb [options] uri suite components``."""
    line_form = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>\S.*)")
    for line in text.splitlines():
        found = line_form.fullmatch(line.partition("#")[0].strip())
        if not found:
            continue
        uri, *words = found["rest"].split()
        options = dict(
            option.split("=", 1) for option in (found["options"] or "").split() if "=" in option
        )
        yield Source((uri,), tuple(words[:1]), tuple(words[1:]), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the enabled binary sources of a ``.sources`` file."""
    for stanza in re.split(r"\n\s*\n", _without_comments(text)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + " " + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in {"no", "false", "0", "off"}
        if enabled and "deb" in fields.get("types", "").split():
            yield Source(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def _read_sources(sources: Path) -> Iterator[Source]:
    folder = sources / "sources.list.d"
    for path in [sources / "sources.list", *sorted(folder.glob("*"))]:
        parse = {".list": parse_one_line, ".sources": parse_deb822}.get(path.suffix)
        if parse is None:
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from parse(text)


def _archives(sources: Iterable[Source]) -> Iterator[str]:
    """Yield the addresses that serve Debian's main archive, not its security updates."""
    for source in sources:
        signer = source.signed_by
        if "main" not in source.components or any("security" in s for s in source.suites):
            continue
        if signer.startswith("/") and "debian-archive" not in signer:
            continue
        for uri in source.uris:
            parts = urllib.parse.urlsplit(uri)
            names_debian = "debian" in Path(parts.path).stem
            if parts.scheme == "cdrom" or "security" in uri:
                continue
            if signer.startswith("/") or names_debian:
                yield uri.rstrip("/")


# Downloading


def check_machine() -> None:
    """Raise unless this machine can verify and unpack Debian's packages."""
    missing = [name for name in ("apt-get", "dpkg", "dpkg-deb") if not shutil.which(name)]
    if missing:
        raise InstallError(
            "condorpool can install HTCondor only on Debian and its derivatives, and this machine "
            f"has no {', '.join(missing)}. {ELSEWHERE}"
        )
    if not KEYRING.exists():
        raise InstallError(
            f"{KEYRING} is missing, and without it the signature of Debian's packages cannot be "
            f"checked. Install it with `apt install debian-archive-keyring`. Or: {ELSEWHERE}"
        )


@dataclass(frozen=True)
class Apt:
    """apt with its own state folder: it does not change the machine's packages.

    Parameters
    ----------
    lock
        Descriptor of the lock of this installation.
    packages
        What is downloaded, with all dependencies.
    """

    folder: Path
    lock: int
    packages: Sequence[str] = PACKAGES

    def prepare(self, uri: str, suite: str) -> None:
        """Use one suite of an archive, as if no package were installed."""
        self._prepare(
            installed="",
            sources=f"""\
Dir::Etc::sourcelist "{self.folder}/sources.list";
Dir::Etc::sourceparts "{self.folder}/parts";
Dir::Etc::preferences "{self.folder}/none";
Dir::Etc::preferencesparts "{self.folder}/parts";
""",
        )
        (self.folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")

    def prepare_as_here(self) -> None:
        """Use this machine's sources and its list of installed packages."""
        self._prepare(installed=INSTALLED.read_text(encoding="utf-8"), sources="")

    def _prepare(self, installed: str, sources: str) -> None:
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text(installed, encoding="utf-8")
        (self.folder / "apt.conf").write_text(self._configuration() + sources)

    def _configuration(self) -> str:
        at = self.folder
        architecture = _output(["dpkg", "--print-architecture"])
        return f"""\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Install::Pre-Invoke;
#clear APT::Install::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "{at}";
Dir::State::lists "{at}/lists";
Dir::State::status "{at}/status";
Dir::State::extended_states "{at}/extended_states";
Dir::Cache "{at}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{at}";
"""

    def update(self) -> None:
        """Fetch the lists of packages and check their signatures."""
        self._run(["update"])

    def wanted(self) -> dict[str, int]:
        """Return the files that would be downloaded, and their sizes in bytes."""
        listing = self._run(["-qq", "--print-uris", "install", *self.packages])
        lines = re.findall(r"^'[^']*' (\S+) (\d+)", listing, re.MULTILINE)
        return {name: int(size) for name, size in lines}

    def download(self, progress: Progress, total: int) -> list[Path]:
        """Download the packages and return their files."""
        archives = self.folder / "cache/archives"
        shown = 0

        def show() -> None:
            nonlocal shown
            done = sum(_size(path) for path in archives.rglob("*.deb*"))
            if done >= shown + 10 * 2**20:
                shown = done
                progress(f"  {_megabytes(done)} of {_megabytes(total)}")

        self._run(["-y", "-d", "install", *self.packages], meanwhile=show)
        return sorted(archives.glob("*.deb"))

    def _run(self, arguments: Sequence[str], meanwhile: Callable[[], None] | None = None) -> str:
        # -c, because the file that APT_CONFIG names is read before the
        # machine's own configuration and could not clear its hooks.
        command = ["apt-get", "-c", str(self.folder / "apt.conf"), *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        log = self.folder / "apt.log"
        with (
            log.open("w+", encoding="utf-8", errors="replace") as output,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # If we are killed, apt keeps the installation's lock, so that the
                # next installation does not delete the folder that apt still uses.
                pass_fds=[self.lock],
            ) as apt,
        ):
            try:
                while apt.poll() is None:
                    time.sleep(0.05)
                    if meanwhile:
                        meanwhile()
            except BaseException:
                apt.terminate()
                raise
        text = log.read_text(encoding="utf-8", errors="replace")
        if apt.returncode != 0 or re.search(r"^[EW]: Failed to fetch", text, re.MULTILINE):
            last = [line for line in text.splitlines() if line.strip()][-8:]
            raise InstallError("\n".join(["apt-get says:", *last]))
        return text


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # apt has just renamed it


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB"


def download(folder: Path, uri: str, lock: int, progress: Progress) -> tuple[list[Path], str]:
    """Download HTCondor from the first suite that has it; return the files and the suite."""
    failures = []
    for suite in SUITES:
        apt = Apt(folder / suite, lock)
        try:
            apt.prepare(uri, suite)
            progress(f"Reading the package list of Debian {suite} from {uri}")
            apt.update()
            sizes = apt.wanted()
            total = sum(sizes.values())
            progress(
                f"Downloading HTCondor {_condor_version(sizes)} and what it needs: "
                f"{len(sizes)} packages, {_megabytes(total)}"
            )
            return apt.download(progress, total), suite
        except InstallError as error:
            failures.append(f"Debian {suite}: {error}")
            shutil.rmtree(apt.folder, ignore_errors=True)
    raise InstallError(
        f"HTCondor's packages could not be downloaded from {uri}.\n"
        + "\n".join(failures)
        + "\nCheck the network and the disk, or give another Debian mirror with `--mirror URL`. "
        + f"Or: {ELSEWHERE}"
    )


def _condor_version(names: Iterable[str]) -> str:
    found = [re.match(r"condor_(\d+[\d.]*)", name) for name in names]
    return next((match[1] for match in found if match), "")


# Unpacking


def unpack(packages: Iterable[Path], prefix: Path) -> None:
    """Extract from the packages the files that HTCondor's programs may need."""
    for package in packages:
        # Packages for all architectures hold no program or library.
        if package.stem.endswith("_all"):
            continue
        with (
            subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", str(package)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as contents,
        ):
            # Early releases of Python 3.10 and 3.11 have no filters; the packages are signed.
            contents.extraction_filter = getattr(
                tarfile, "tar_filter", lambda member, _folder: member
            )
            for member in contents:
                if _is_wanted(member):
                    contents.extract(member, prefix)


def _is_wanted(member: tarfile.TarInfo) -> bool:
    name = member.name.removeprefix("./")
    return not member.isdir() and (
        name == _PATCHELF
        or any(form.fullmatch(name) for form in (_PROGRAMS, _LIBRARIES, _COPYRIGHTS))
    )


# Relocation


def relocate(prefix: Path, final: Path) -> None:
    """Make the programs in ``prefix`` run from ``final`` with the libraries beside them.

    A program's interpreter must be an absolute path, so the folder cannot be moved
    again.
    """
    loader = _loader(prefix)
    libraries = [prefix / "usr/lib", loader.parent]
    path = ":".join(map(str, libraries))
    programs = [
        file
        for folder in ("usr/bin", "usr/sbin", "usr/libexec/condor")
        for file in _elf_files(prefix / folder)
        if _names_loader(file) and file != prefix / _PATCHELF
    ]
    patchelf = [str(loader), "--library-path", path, str(prefix / _PATCHELF)]
    _sweep(prefix, needed=_needs(loader, libraries, programs))
    _checked([*patchelf, "--set-interpreter", str(final / loader.relative_to(prefix))], programs)
    for folder, files in _by_folder([*programs, *_elf_files(prefix / "usr/lib")]).items():
        # DT_RPATH ("forced") also applies to the libraries of our libraries and
        # to dlopen(); DT_RUNPATH does not.
        rpath = ":".join(f"$ORIGIN/{os.path.relpath(place, folder)}" for place in libraries)
        _checked([*patchelf, "--force-rpath", "--set-rpath", rpath], files)
    (prefix / _PATCHELF).unlink()


def run_staged(prefix: Path, program: str, *arguments: str) -> str:
    """Run a relocated program from its current folder and return what it prints."""
    return _output([str(_loader(prefix)), str(prefix / program), *arguments])


def _loader(prefix: Path) -> Path:
    found = sorted(prefix.glob("usr/lib/*-linux-*/ld-linux*.so.*"))
    if not found:
        raise InstallError(f"Debian's C library package has no loader. {ELSEWHERE}")
    return found[0]


def _elf_files(folder: Path) -> list[Path]:
    def is_elf(path: Path) -> bool:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"

    return sorted(path for path in folder.glob("*") if is_elf(path))


def _names_loader(path: Path) -> bool:
    """Return whether a file names the loader near its start; plugins and static programs do not."""
    with path.open("rb") as file:
        return b"/ld-linux" in file.read(4096)


def _by_folder(files: Iterable[Path]) -> Mapping[Path, list[Path]]:
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    return folders


def _needs(loader: Path, libraries: Sequence[Path], programs: Sequence[Path]) -> set[Path]:
    """Return the libraries that the programs load; raise if one is not in the prefix."""
    opened_later = [file for form in _OPENED_LATER for file in loader.parent.glob(form)]
    command = [str(loader), "--inhibit-cache", "--library-path", ":".join(map(str, libraries))]
    needed = {loader, *opened_later}
    for file in [*programs, *opened_later]:
        for line in _output([*command, "--list", str(file)]).splitlines():
            name, arrow, where = line.strip().partition(" => ")
            if not arrow:
                continue
            found = Path(where.split(" (")[0])
            if found.parent not in libraries:
                raise InstallError(
                    f"Debian's packages lack {name}, which {file.name} needs. {ELSEWHERE}"
                )
            needed.add(found)
    return needed | {path.resolve() for path in needed}


def _sweep(prefix: Path, needed: set[Path]) -> None:
    """Delete the libraries that no program loads, and links whose target is gone."""
    kept = {path.parent / path.name for path in needed}
    for path in (*prefix.glob("usr/lib/*.so*"), *prefix.glob("usr/lib/*-linux-*/*.so*")):
        if path not in kept:
            path.unlink()
    shutil.rmtree(prefix / "usr/lib64", ignore_errors=True)


def _checked(command: Sequence[str], files: Sequence[Path]) -> None:
    _output([*command, *map(str, files)])


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise InstallError(f"{Path(command[0]).name} failed with status {done.returncode}: {said}")
    return done.stdout.strip()
