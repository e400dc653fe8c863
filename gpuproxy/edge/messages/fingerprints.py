"""Digests of what a request asks for. A repeated request_id must ask for the same, and the refusal names what differs.

Requests may contain secrets, so every digest is made with a key that is stored outside the database.
"""

import hashlib
import hmac
from copy import deepcopy

from gpuproxy.model.demands import KEYED
from gpuproxy.v1 import gpuproxy_pb2 as pb

Renting = pb.ReserveGPUsRequest | pb.CreateGPUInstanceRequest
_NOT_ASKED = ("request_id", "wait", "dry_run")
"""The id, and how the answer is awaited, are no part of what is asked for."""
_MARK = 8


def fingerprint(request: Renting, key: bytes) -> str:
    """Of the whole demand."""
    return KEYED + hmac.digest(key, _bytes(_asked(request)), "sha256").hex()


def old_fingerprint(request: Renting) -> str:
    """The same as it was stored before there was a key; never stored any more."""
    return hashlib.sha256(_bytes(_asked(request))).hexdigest()


def field_marks(request: Renting, key: bytes) -> tuple[tuple[str, str], ...]:
    """Of each field that is set: its name and a short digest of its value. Two calls differ where their marks do."""
    asked = _asked(request)
    made = []
    for field, _ in asked.ListFields():
        alone = deepcopy(asked)
        for other, _ in asked.ListFields():
            if other.name != field.name:
                alone.ClearField(other.name)  # type: ignore[arg-type]
        made.append((field.name, hmac.digest(key, _bytes(alone), "sha256").hex()[:_MARK]))
    return (("call", asked.DESCRIPTOR.name.removesuffix("Request")), *made)


def _asked(request: Renting) -> Renting:
    asked = deepcopy(request)
    for name in _NOT_ASKED:
        if name in asked.DESCRIPTOR.fields_by_name:
            asked.ClearField(name)  # type: ignore[arg-type]
    return asked


def _bytes(asked: Renting) -> bytes:
    return asked.DESCRIPTOR.name.encode() + b"\0" + asked.SerializeToString(deterministic=True)
