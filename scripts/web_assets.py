"""Fetch the dashboard's scripts from npm packages: `make assets` for those in the repository, `--tests` for axe-core.

The packages are pinned by version and by hash. The files are committed and shipped with their licences, so neither
setup nor a browser asks a foreign host. Their hashes are in `web_assets.lock`, which a test compares with the files;
`--check` compares both with the packages, and changes nothing.
"""

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "gpuproxy" / "edge" / "web" / "static"
TESTS = ROOT / ".browser"
LOCK = ROOT / "scripts" / "web_assets.lock"
"""The shipped files, one a line: SHA-256, path, package."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package, the SHA-512 of its archive as npm writes it, and where its files go."""

    name: str
    integrity: str
    files: Mapping[str, Path]


SHIPPED = (
    Package(
        name="htmx.org@2.0.11",
        integrity="sha512-Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==",
        files={"dist/htmx.min.js": STATIC / "htmx.min.js", "LICENSE": STATIC / "LICENSE.htmx"},
    ),
    Package(
        name="uplot@1.6.32",
        integrity="sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        files={
            "dist/uPlot.iife.min.js": STATIC / "uPlot.iife.min.js",
            "dist/uPlot.min.css": STATIC / "uPlot.min.css",
            "LICENSE": STATIC / "LICENSE.uPlot",
        },
    ),
)
FOR_TESTS = (
    Package(
        name="axe-core@4.14.1",
        integrity="sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        files={"axe.min.js": TESTS / "axe.min.js"},
    ),
)


def main() -> int:
    """0 when every file is in its place."""
    if "--check" in sys.argv:
        return _check()
    for_tests = "--tests" in sys.argv
    lines = []
    for package in FOR_TESTS if for_tests else SHIPPED:
        for target, content in fetched(package).items():
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            lines.append(line(package, target, content))
            print(f"{target.relative_to(ROOT)} from {package.name}")
    if not for_tests:
        LOCK.write_text("".join(sorted(lines)), encoding="utf-8")
    return 0


def line(package: Package, target: Path, content: bytes) -> str:
    """The line of a file in the lock."""
    return f"{hashlib.sha256(content).hexdigest()}  {target.relative_to(ROOT).as_posix()}  {package.name}\n"


def fetched(package: Package) -> dict[Path, bytes]:
    """The files of a package, by where they belong. Exits if the package has another hash than the pinned one."""
    archive = _packed(package)
    return {target: _member(archive, f"package/{name}") for name, target in package.files.items()}


def _check() -> int:
    lines, wrong = [], []
    for package in SHIPPED:
        for target, content in fetched(package).items():
            lines.append(line(package, target, content))
            if target.read_bytes() != content:
                wrong.append(f"{target.relative_to(ROOT)} is not the file of {package.name}")
    if LOCK.read_text(encoding="utf-8") != "".join(sorted(lines)):
        wrong.append(f"{LOCK.relative_to(ROOT)} is not what `make assets` writes")
    print("\n".join(wrong) or f"{len(lines)} shipped files are those of their npm packages")
    return 1 if wrong else 0


def _packed(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["npm", "pack", "--silent", package.name], cwd=folder, capture_output=True, text=True, check=True
        )
        archive = (Path(folder) / done.stdout.strip().splitlines()[-1]).read_bytes()
    found = f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}"
    if found != package.integrity:
        raise SystemExit(f"{package.name} has the hash {found}, not {package.integrity}")
    return archive


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        member = opened.extractfile(name)
        if member is None:
            raise SystemExit(f"{name} is not a file")
        return member.read()


if __name__ == "__main__":
    sys.exit(main())
