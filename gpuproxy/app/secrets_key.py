"""The key that encrypts the secrets of warm pools. It is in a file, so that copies of the database lack it."""

import base64
import binascii
from pathlib import Path

import structlog

from gpuproxy.adapters import private_files
from gpuproxy.ports import Random

log = structlog.get_logger(__name__)

_BYTES = 32
"""Of a Fernet key, before it is encoded."""


def secrets_key(file: Path, random: Random, *, in_use: bool) -> bytes | None:
    """The Fernet key in `file` (mode 0600). Without the file, a new one is made and kept in it.

    None if there is no usable key. That stops no start: only pools that need their secrets are degraded then. If the
    database has secrets already (`in_use`), no new key is made, because it could not decrypt them.
    """
    private_files.restrict(file)
    try:
        text = file.read_text(encoding="ascii").strip() if file.exists() else ""
        if not text and not in_use:
            text = base64.urlsafe_b64encode(random.secret(_BYTES)).decode()
            private_files.write(file, text + "\n")
    except (OSError, UnicodeError) as error:
        log.warning("secrets_key_unusable", file=str(file), error=type(error).__name__)
        return None
    if not _is_key(text):
        problem = "missing or empty" if not text else "not a Fernet key"
        log.warning("secrets_key_unusable", file=str(file), error=problem, hint="put the file back")
        return None
    return text.encode()


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, altchars=b"-_", validate=True)) == _BYTES
    except (binascii.Error, ValueError):
        return False
