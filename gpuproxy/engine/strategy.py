"""Which strategy a call uses: its own, else the project's, else the one set for all, else the configured one."""

from gpuproxy.ports import Tx
from gpuproxy.store import meta


def strategy_for(tx: Tx, project: str, default: str, asked: str = "") -> str:
    """The strategy's wire name."""
    return asked or meta.project_strategy(tx, project) or meta.read(tx, meta.GLOBAL_STRATEGY) or default
