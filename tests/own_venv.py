"""Programs of others that are tested unmodified, each in a virtual environment of its own in the checkout.

An environment is made once, from a lock file with hashes, and anew when the lock file or the interpreter changes.
"""

import fcntl
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_UNREACHABLE = re.compile(
    r"connection broken|ConnectTimeout|NewConnectionError|NameResolutionError|timed out|Network is unreachable"
)


class NotInstalled(Exception):
    """The installation failed; the text is pip's output."""

    @property
    def unreachable(self) -> bool:
        """True if the package index did not answer; False if it refused a package or a hash was wrong."""
        return _UNREACHABLE.search(str(self)) is not None


def installed(home: Path, requirements: Path) -> Path:
    """The environment's folder of programs; it is installed if necessary. Raises NotInstalled."""
    programs, ready = home / "bin", home / "ready"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may share a checkout
        if not (ready.exists() and ready.read_text() == digest and (programs / "python").exists()):
            ready.unlink(missing_ok=True)
            _run([sys.executable, "-m", "venv", str(home)])
            quiet = ["--quiet", "--disable-pip-version-check", "--require-hashes"]
            _run([str(programs / "python"), "-m", "pip", "install", *quiet, "-r", str(requirements)])
            ready.write_text(digest)
    return programs


def _run(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalled(f"{' '.join(words[2:4])} failed:\n{done.stderr}")
