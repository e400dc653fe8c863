"""An environment as pip makes it, but without the network: the wheel, and links to packages that are here already."""

import re
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from scripts.packages.environments import Environment, made

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OPTIONAL = re.compile(r"extra\s*==")


def assembled(home: Path, wheel: Path, *packages: str) -> Environment:
    """An environment with the wheel, and these packages with all that they need."""
    environment = made(home)
    place = next((home / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    for package in needed(packages):
        _link(package, place)
    script = home / "bin" / "gpuproxy"
    script.write_text(f"#!{environment.program('python')}\nfrom gpuproxy.__main__ import main\nmain()\n")
    script.chmod(0o755)
    return environment


def needed(packages: Iterable[str]) -> frozenset[str]:
    """These packages and, again and again, what they need, as far as it is installed here."""
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # needed elsewhere only
            continue
        found.add(name)
        waiting += [match.group(0) for line in lines if not _OPTIONAL.search(line) if (match := _NAME.match(line))]
    return frozenset(found)


def _link(package: str, place: Path) -> None:
    for file in metadata.files(package) or []:
        target = place / file
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(str(file.locate())).resolve())


def error_of_importing(environment: Environment, folder: Path, *modules: str) -> str:
    """The last line on stderr; "" if all of these modules can be imported."""
    done = environment.run("python", "-I", "-c", f"import {', '.join(modules)}", folder=folder)
    return done.stderr.strip().rpartition("\n")[2]
