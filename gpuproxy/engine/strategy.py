"""Which strategy a call uses: its own, else the project's, else the deployment's."""

from gpuproxy.balancer import DEFAULT_STRATEGY
from gpuproxy.ports import Tx
from gpuproxy.store import meta


def strategy_for(tx: Tx, project: str, asked: str = "") -> str:
    """The strategy's wire name."""
    return asked or meta.project_strategy(tx, project) or meta.read(tx, meta.GLOBAL_STRATEGY) or DEFAULT_STRATEGY
