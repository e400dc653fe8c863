"""How the machines of one choice differ: on how many hosts they are, in which countries, and of which models. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpuproxy.model.offers import HostKey, country_of

_LISTED = 4
"""Up to so many countries or models are named; more are only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What counts of one offer or machine."""

    host: HostKey
    num_gpus: int
    gpu_model: str
    vram_gb: int
    location: str


def spread(machines: Sequence[Placed]) -> str:
    """`4 GPUs on 4 hosts in 2 countries (DE, US), 2 models (RTX 3090, RTX 4090)`; "" if all are on one host."""
    hosts = {machine.host for machine in machines}
    if len(hosts) < 2:
        return ""
    text = f"{sum(machine.num_gpus for machine in machines)} GPUs on {len(hosts)} hosts"
    countries = {country_of(machine.location) for machine in machines}
    if known := countries - {""}:
        unknown = " and unknown places" if "" in countries else ""
        text += f" in {_counted(known, 'countries')}{unknown}"
    models = _models(machines)
    return f"{text}, {'all ' if len(models) == 1 else ''}{_counted(models, 'models')}"


def _counted(names: Iterable[str], noun: str) -> str:
    """The only name; else the number of names, and the names themselves if they are few."""
    ordered = sorted(names)
    if len(ordered) == 1:
        return ordered[0]
    listed = f" ({', '.join(ordered)})" if len(ordered) <= _LISTED else ""
    return f"{len(ordered)} {noun}{listed}"


def _models(machines: Iterable[Placed]) -> set[str]:
    """The models; with the memory, if one model has several sizes of it."""
    kinds = {(machine.gpu_model, machine.vram_gb) for machine in machines}
    sizes = Counter(model for model, _ in kinds)
    return {f"{model} {vram_gb} GB" if sizes[model] > 1 else model for model, vram_gb in kinds}
