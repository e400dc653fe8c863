"""The label that each paid machine gets when it is created: `gpx-<deploy6>-<slot8>-<attempt2>-<mac6>`.

It names the deployment and the attempt. Its keyed signature proves that this deployment wrote it; machines without a
valid signature are never changed. It has at most 29 characters of `[a-z0-9-]`, which every known marketplace accepts.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

_LABEL = re.compile(r"gpx-([a-z2-7]{6})-([a-z2-7]{8})-([0-9a-z]{2})-([a-z2-7]{6})")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_ATTEMPTS = len(_DIGITS) ** 2 - 1


@dataclass(frozen=True, slots=True)
class Signer:
    """Creates and recognises the labels of one deployment."""

    deployment: str
    """Six characters of base32, chosen when the database is created."""
    key: bytes = field(repr=False)

    def label(self, slot: str, attempt: int) -> str:
        """The label of a reservation's n-th attempt. `slot` is eight characters of base32; attempts begin at 1.

        Raises ValueError if `is_ours` would not recognise the label.
        """
        if not 0 < attempt <= MAX_ATTEMPTS:
            raise ValueError(f"attempt must be 1 to {MAX_ATTEMPTS}, not {attempt}")
        number = _DIGITS[attempt // len(_DIGITS)] + _DIGITS[attempt % len(_DIGITS)]
        stem = f"gpx-{self.deployment}-{slot}-{number}"
        label = f"{stem}-{self._mac(stem)}"
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{label} is not a valid label")
        return label

    def is_ours(self, label: str | None) -> bool:
        """True for a label of this deployment with a valid signature."""
        match = _LABEL.fullmatch(label or "")
        if match is None or match.group(1) != self.deployment:
            return False
        stem, _, mac = match.group(0).rpartition("-")
        return hmac.compare_digest(mac, self._mac(stem))

    def _mac(self, stem: str) -> str:
        digest = hmac.new(self.key, stem.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode().lower()[:6]
