"""Judge requirements.lock: it holds all that pyproject.toml asks for, with hashes, and names no package index."""

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
_NAME = re.compile(r"^[A-Za-z0-9._-]+")


def main() -> int:
    """0 when the lock is complete."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    complaints = [*_missing(project, lock), *_unhashed(lock)]
    if re.search(r"^--(index-url|extra-index-url|find-links)|https?://", lock, re.MULTILINE):
        complaints.append("requirements.lock names a package index: it must work with anybody's")
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


def _missing(project: Mapping[str, Any], lock: str) -> list[str]:
    pinned = {_canonical(match.group(1)) for match in _PINNED.finditer(lock)}
    extras: dict[str, list[str]] = project["project"].get("optional-dependencies", {})
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(need for needs in extras.values() for need in needs),
    ]
    names = [match.group(0) for need in wanted if (match := _NAME.match(need))]
    names = [name for name in names if name != project["project"]["name"]]  # an extra may include another one
    return [f"requirements.lock lacks {name}" for name in names if _canonical(name) not in pinned]


def _unhashed(lock: str) -> list[str]:
    blocks = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    return [f"{block.split()[0]} has no hash" for block in blocks if _PINNED.match(block) and "--hash=" not in block]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
