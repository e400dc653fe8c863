"""Find tracked files that name a place which exists on one machine only."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PRIVATE = re.compile(rb"/(?:home|Users|root|work)/[A-Za-z0-9_.-]+")


def main() -> int:
    """0 when there is none; else each one with its line."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = [name.decode() for name in listed.stdout.split(b"\0") if name]
    complaints = [text for name in names if (ROOT / name).is_file() for text in _complaints(name)]
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


def _complaints(name: str) -> list[str]:
    lines = (ROOT / name).read_bytes().splitlines()
    found = ((number, _PRIVATE.search(line)) for number, line in enumerate(lines, 1))
    return [f"{name}:{number}: {match.group(0).decode()}" for number, match in found if match]


if __name__ == "__main__":
    sys.exit(main())
