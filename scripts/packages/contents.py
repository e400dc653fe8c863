"""What the wheel and the sdist must have, and how they are built: the same commit always builds the same bytes."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Collection
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT_NEEDS = frozenset({"googleapis-common-protos", "grpcio", "protobuf"})
"""All that a bare install asks for."""
EXTRAS = frozenset({"cli", "dev", "otel", "postgres", "server", "ssh-check", "uvloop"})
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_META = re.compile(r"gpuproxy-[^/]+\.dist-info/")
_OF_META = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
_PROTO = {"proto/google/": "gpuproxy/proto/google/", "proto/gpuproxy/": "gpuproxy/proto/gpuproxy/"}
_PROTO["proto/published/gpuproxy/"] = "gpuproxy/proto/published/gpuproxy/"


def build(kind: str, source: Path, folder: Path, *, epoch: str) -> Path:
    """The built file: "wheel" or "sdist". `epoch` is the time of each file in it, in seconds since 1970."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("hatchling")), "build", "-t", kind, "-d", str(folder)]
    env = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the {kind} can't be built:\n{done.stdout}{done.stderr}")
    return max(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"), key=lambda path: path.stat().st_mtime_ns)


def wheel_of(sdist: Path, scratch: Path, *, epoch: str) -> Path:
    """The wheel that is built from an sdist alone, as pip does where there is no wheel."""
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    return build("wheel", next(scratch.glob("gpuproxy-*")), scratch / "dist", epoch=epoch)


def epoch() -> str:
    """The time of the last commit, so that the same commit always builds the same bytes."""
    return _git("log", "-1", "--format=%ct").strip()


def uncommitted() -> str:
    """Files that are not as they were committed, and new ones; "" if the build is that of the commit."""
    return _git("status", "--short")


def expected() -> frozenset[str]:
    """Every file that the wheel must have, without the dist-info folder: the package's and the .proto files."""
    files = _git("ls-files", "--cached", "--others", "--exclude-standard", "gpuproxy", "proto").splitlines()
    files = [path for path in files if (ROOT / path).exists()]
    found = {path for path in files if path.startswith("gpuproxy/")}
    for begin, place in _PROTO.items():
        found |= {place + path.removeprefix(begin) for path in files if path.startswith(begin)}
    return frozenset(found)


def names_in(wheel: Path) -> frozenset[str]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


def wrong_files(names: Collection[str], wanted: Collection[str]) -> list[str]:
    """What a wheel with these files lacks, and what it has too much."""
    meta = {_META.sub("", name) for name in names if _META.match(name)}
    package = {name for name in names if not _META.match(name)}
    lacking = sorted(set(wanted) - package) + [f"dist-info/{name}" for name in _OF_META if name not in meta]
    return [f"{name} is missing" for name in lacking] + [
        f"{name} does not belong there" for name in sorted(package - set(wanted))
    ]


def metadata_of(wheel: Path) -> str:
    """The METADATA file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()


def wrong_metadata(text: str) -> list[str]:
    """What is not as it must be in a METADATA file: the needs of the client alone, the extras, the licence."""
    meta = Parser().parsestr(text)
    needs = [line for line in meta.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {match.group(0) for line in needs if (match := _NAME.match(line))}
    extras = set(meta.get_all("Provides-Extra", []))
    return [
        *(f"a bare install also needs {name}" for name in sorted(names - CLIENT_NEEDS)),
        *(f"a bare install does not need {name}" for name in sorted(CLIENT_NEEDS - names)),
        *(f"the extra {name} is not as expected" for name in sorted(extras ^ EXTRAS)),
        *([] if meta["License-Expression"] == "Apache-2.0" else ["the licence is not Apache-2.0"]),
    ]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout
