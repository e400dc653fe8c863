"""Validation of public SSH keys: one line in OpenSSH format, checked by a full parser.

Errors never quote an invalid key, because it may be a private key.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

MAX_KEY = 16 * 1024
FORM = "must be one line in OpenSSH format: ssh-ed25519 AAAA... comment"
_MIN_RSA_BITS = 2048
_KINDS = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A key that an SSH server accepts."""

    line: str
    comment: str
    fingerprint: str
    """`SHA256:...`, as ssh-keygen prints it."""


class InvalidPublicKey(Exception):
    """The text isn't a valid public key. The message says why and quotes nothing of the text."""


def public_key(text: str) -> PublicKey:
    """The public key in a line of text; raises InvalidPublicKey."""
    line = text.strip()
    kind, _, rest = line.partition(" ")
    blob, _, comment = rest.partition(" ")
    if len(line.encode(errors="surrogatepass")) > MAX_KEY:
        raise InvalidPublicKey(f"must have at most {MAX_KEY} bytes")
    if "PRIVATE KEY" in text:
        raise InvalidPublicKey("is a private key; send the public key, which is in the file that ends in .pub")
    if not line.isprintable() or kind not in _KINDS:
        raise InvalidPublicKey(FORM)
    try:
        raw = base64.b64decode(blob, validate=True)
        key = load_ssh_public_key(f"{kind} {blob}".encode())
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        raise InvalidPublicKey(FORM) from None
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise InvalidPublicKey(f"must have at least {_MIN_RSA_BITS} bits, not {key.key_size}")
    digest = base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    return PublicKey(line=line, comment=comment.strip(), fingerprint=f"SHA256:{digest}")
