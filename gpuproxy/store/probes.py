"""The last probe of each account, and the last known value of everything that probes have measured there.

Both are one JSON text for each account in `meta`. Only the process that runs the probe writes it.
"""

from dataclasses import dataclass

import msgspec

from gpuproxy.model.offers import AccountKey
from gpuproxy.model.probes import Measurement, Probe
from gpuproxy.ports import Tx
from gpuproxy.store import meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What is stored of one account."""

    last: Probe
    facts: tuple[Measurement, ...] = ()
    """The last measured value of each name, of this probe or of an earlier one."""


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Probed)


def find(tx: Tx, account: AccountKey) -> Probed | None:
    """What is stored of an account; None if it was never probed."""
    text = meta.read(tx, _key(account))
    return None if text is None else _DECODER.decode(text)


def container_key(tx: Tx, account: AccountKey) -> bool | None:
    """Whether a container of this account may read its own instance; None: that was never measured."""
    probed = find(tx, account)
    words = [each.value for each in probed.facts if each.name == "container_key"] if probed is not None else []
    return words[0] == "yes" if words else None


def facts(tx: Tx, account: AccountKey) -> tuple[Measurement, ...]:
    """The last measured value of each name."""
    probed = find(tx, account)
    return () if probed is None else probed.facts


def save(tx: Tx, probed: Probed) -> None:
    """Store the last probe of an account, and what is known."""
    meta.write(tx, _key(probed.last.account), _ENCODER.encode(probed).decode())


def update(tx: Tx, probed: Probed) -> None:
    """Store how a probe goes on, unless another process took it over and a later probe has begun since."""
    found = find(tx, probed.last.account)
    if found is not None and found.last.reservation_id == probed.last.reservation_id:
        save(tx, probed)


def _key(account: AccountKey) -> str:
    return f"probe:{account[0]}:{account[1]}"
