"""The scripts of others that the dashboard ships are the files of their npm packages, byte by byte.

`make browser` compares them with npm itself; here nothing is fetched.
"""

import base64
import hashlib
import runpy
from pathlib import Path
from typing import Any

from gpuproxy.edge.web.rendering import STATIC

ROOT = Path(__file__).resolve().parents[2]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "web_assets.py"))
LOCK = ROOT / "scripts" / "web_assets.lock"
OURS = {"dashboard.css", "dashboard.js", "icon.svg"}


def locked() -> dict[str, tuple[str, str]]:
    """The hash and the package of each file, by path."""
    lines = (line.split("  ") for line in LOCK.read_text().splitlines())
    return {path: (digest, package) for digest, path, package in lines}


def test_each_shipped_file_has_the_hash_of_its_npm_package() -> None:
    found = {path.relative_to(ROOT).as_posix(): path for path in STATIC.iterdir() if path.name not in OURS}
    assert set(found) == set(locked())
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == locked()[name][0], name


def test_the_lock_names_the_pinned_packages_and_all_their_files() -> None:
    wanted = {
        target.relative_to(ROOT).as_posix(): package.name
        for package in SCRIPT["SHIPPED"]
        for target in package.files.values()
    }
    assert {path: package for path, (_, package) in locked().items()} == wanted


def test_packages_are_pinned_by_version_and_sha512() -> None:
    for package in (*SCRIPT["SHIPPED"], *SCRIPT["FOR_TESTS"]):
        name, _, version = package.name.rpartition("@")
        assert name
        assert version.count(".") == 2
        assert len(base64.b64decode(package.integrity.removeprefix("sha512-"), validate=True)) == 64


def test_scripts_of_others_have_their_licences_beside_them() -> None:
    assert "Zero-Clause BSD" in (STATIC / "LICENSE.htmx").read_text()
    assert "MIT" in (STATIC / "LICENSE.uPlot").read_text()
