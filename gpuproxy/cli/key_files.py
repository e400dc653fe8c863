"""Reading public SSH keys. Only a valid public key is ever returned, so a private key is never sent.

No error quotes the text of a file, because it may be a private key.
"""

import sys
from pathlib import Path

import click

from gpuproxy.edge.messages.public_keys import MAX_KEY, InvalidPublicKey, public_key

_DEFAULTS = ("id_ed25519.pub", "id_rsa.pub")


def read_public_key(option: str, path: Path) -> str:
    """The public key in a file, or on stdin for `-`, as one line. `option` is named in errors. Raises UsageError."""
    try:
        if str(path) == "-":
            text = sys.stdin.buffer.read(MAX_KEY + 1).decode()
        else:
            with path.open("rb") as file:
                text = file.read(MAX_KEY + 1).decode()
    except OSError as error:
        raise click.UsageError(f"{option} {path}: {error.strerror}") from None
    except UnicodeError:
        raise click.UsageError(f"{option} {path}: not a public key, because it is not text") from None
    try:
        return public_key(text).line
    except InvalidPublicKey as error:
        if "PRIVATE KEY" in text or "PuTTY-User-Key-File" in text:
            raise click.UsageError(f"{option} {path}: {_private(path)}") from None
        raise click.UsageError(f"{option} {path}: not a public key: {error}") from None


def default_key() -> Path:
    """The user's own public key: ~/.ssh/id_ed25519.pub, else ~/.ssh/id_rsa.pub. Raises UsageError."""
    folder = Path.home() / ".ssh"
    for name in _DEFAULTS:
        if (folder / name).is_file():
            return folder / name
    raise click.UsageError(
        f"There is no {' and no '.join(_DEFAULTS)} in {folder}. Name a file, or make a key: ssh-keygen -t ed25519"
    )


def _private(path: Path) -> str:
    public = path.with_name(f"{path.name}.pub")
    use = f"Use {public}." if str(path) != "-" and public.is_file() else "The public key is in the file ending in .pub."
    return f"this is a private key. It was not sent. {use}"
