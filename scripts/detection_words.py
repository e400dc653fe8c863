"""The words of the table of detection in docs/warm-pool.md and docs/warm-pool.pt-BR.md. The table itself is code."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpuproxy.warmpool.limits import PoolLimits
from gpuproxy.warmpool.signals import Api, Signal

_MINUTES = f"{PoolLimits().unreachable_seconds / 60:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words of one language."""

    head: str
    apis: Mapping[Api, str]
    signals: Mapping[Signal, str]


DETECTION: Mapping[str, Words] = {
    "en": Words(
        head="| the marketplace says | the machine answers | it does not answer | it could not be probed |",
        apis={
            Api.RUNNING: "it runs",
            Api.BOOTING: "it boots",
            Api.ENDED: "the container has ended",
            Api.STOPPED: "it is stopped",
            Api.OFFLINE: "the host is offline",
            Api.MISSING: "there is no such machine",
            Api.NO_OPINION: "nothing: no answer, an error, an old listing",
        },
        signals={
            Signal.HEALTHY: "healthy",
            Signal.LOST: "**failover**",
            Signal.RUNS_SILENT: f"degraded after {_MINUTES} minutes (`unreachable`), no failover",
            Signal.HOST_OFFLINE: "degraded (`host_offline`), no failover",
            Signal.STOPPED: "degraded (`stopped_outside`), no failover",
            Signal.NONE: "does not count",
        },
    ),
    "pt-BR": Words(
        head="| o marketplace diz | a máquina responde | ela não responde | ela não pôde ser sondada |",
        apis={
            Api.RUNNING: "roda",
            Api.BOOTING: "está iniciando",
            Api.ENDED: "o contêiner terminou",
            Api.STOPPED: "parada",
            Api.OFFLINE: "o host está offline",
            Api.MISSING: "a máquina não existe",
            Api.NO_OPINION: "nada: sem resposta, um erro, uma lista velha",
        },
        signals={
            Signal.HEALTHY: "saudável",
            Signal.LOST: "**failover**",
            Signal.RUNS_SILENT: f"degradado depois de {_MINUTES} minutos (`unreachable`), sem failover",
            Signal.HOST_OFFLINE: "degradado (`host_offline`), sem failover",
            Signal.STOPPED: "degradado (`stopped_outside`), sem failover",
            Signal.NONE: "não conta",
        },
    ),
}
