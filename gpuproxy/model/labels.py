"""The label of each paid machine: `gpx-<deploy6>-<slot8>-<attempt2>-<mac6>`, and with it perhaps the machine's end.

It names the deployment and the attempt. Its keyed signature proves that this deployment wrote it; machines without a
valid signature are never changed. It has at most 29 characters of `[a-z0-9-]`, which every known marketplace accepts.

A machine that can end itself has `<label>.e<end>.<d|s>.<mac8>`: the end in seconds since 1970 to base 36, and whether
it destroys or stops. The second signature covers all of it, and only the server checks it. Both forms are ours. If a
marketplace cuts the end off in the middle, the label is still ours by its own signature, and its end is unknown.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

Verb = Literal["d", "s"]
"""What the machine does after its end: destroy or stop itself."""
_LABEL = re.compile(r"gpx-([a-z2-7]{6})-([a-z2-7]{8})-([0-9a-z]{2})-([a-z2-7]{6})")
_END = re.compile(r"\.e([0-9a-z]{1,7})\.([ds])\.([a-z2-7]{8})")
_CUT_END = re.compile(r"\.(e[0-9a-z]{0,7}(\.([ds](\.[a-z2-7]{0,7})?)?)?)?")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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

    def with_end(self, label: str, end: datetime, verb: Verb) -> str:
        """The label with an end, which is rounded up to a second. `label` has none. Raises ValueError before 1970."""
        stem = f"{label}.e{_base36(-((_EPOCH - end) // timedelta(seconds=1)))}.{verb}"
        return f"{stem}.{self._mac(stem, 8)}"

    def without_end(self, label: str | None) -> str | None:
        """The label as `label` made it, from either form; None if a signature is not this deployment's.

        An end that is cut is left out, although its signature can't be checked.
        """
        match = _LABEL.match(label or "")
        if label is None or match is None or match.group(1) != self.deployment:
            return None
        stem, _, mac = match.group(0).rpartition("-")
        if not hmac.compare_digest(mac, self._mac(stem)):
            return None
        if label == match.group(0) or _CUT_END.fullmatch(label, match.end()):
            return match.group(0)
        end = _END.fullmatch(label, match.end())
        if end is None or not hmac.compare_digest(end.group(3), self._mac(label[:-9], 8)):
            return None
        return match.group(0)

    def is_ours(self, label: str | None) -> bool:
        """True for a label of this deployment, in either form, with valid signatures."""
        return self.without_end(label) is not None

    def _mac(self, stem: str, length: int = 6) -> str:
        return _mac(self.key, stem)[:length]


@lru_cache(maxsize=4096)
def _mac(key: bytes, stem: str) -> str:
    """Each listing shows the labels of the one before it."""
    return base64.b32encode(hmac.new(key, stem.encode(), hashlib.sha256).digest()).decode().lower()


def _base36(number: int) -> str:
    if number < 0:
        raise ValueError("a label has no end before 1970")
    digits = ""
    while number or not digits:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
