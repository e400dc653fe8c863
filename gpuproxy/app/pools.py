"""The wiring of warm pools."""

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.model.pools import PoolSpec
from gpuproxy.ports import Probe, Random
from gpuproxy.reconcile.watches import Watches
from gpuproxy.rental.rounds import RentalContext
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.warmpool.acting import Acting
from gpuproxy.warmpool.free_gpus import FreeGpus
from gpuproxy.warmpool.grounds import Grounds
from gpuproxy.warmpool.hosts import Hosts
from gpuproxy.warmpool.limits import PoolLimits
from gpuproxy.warmpool.renting import Renting
from gpuproxy.warmpool.requests import WarmPools
from gpuproxy.warmpool.secrets import Sealer
from gpuproxy.warmpool.supervisor import Supervisor


def build_pools(
    context: RentalContext,
    catalog: Catalog,
    random: Random,
    *,
    probe: Probe,
    lateness: Lateness,
    volume_watches: Watches,
    secrets_key: bytes | None,
    limits: PoolLimits,
    default_spec: PoolSpec | None = None,
) -> tuple[WarmPools, Supervisor]:
    """The calls about warm pools, and their supervisor."""
    db, clock, accounts = context.db, context.clock, context.accounts
    hosts, sealer = Hosts(catalog, accounts, db), Sealer(secrets_key)
    renting = Renting(
        db=db, clock=clock, accounts=accounts, attempts=context.attempts, chooser=context.chooser,
        signer=context.signer, limits=limits, check_key=context.check_key, prepaid_hours=context.limits.prepaid_hours,
        hold_ahead=context.limits.hold_ahead,
    )  # fmt: skip
    acting = Acting(
        db=db, clock=clock, accounts=accounts, watches=context.watches, volume_watches=volume_watches,
        renting=renting, hosts=hosts, sealer=sealer, hold_ahead=context.limits.hold_ahead,
    )  # fmt: skip
    supervisor = Supervisor(
        acting, FreeGpus(db, clock), db=db, clock=clock, probe=probe, accounts=accounts, watches=context.watches,
        limits=limits, lateness=lateness,
    )  # fmt: skip
    pools = WarmPools(
        db=db, clock=clock, random=random, accounts=accounts, hosts=hosts, grounds=Grounds(hosts, accounts, db),
        sealer=sealer, supervisor=supervisor, default_spec=default_spec, hold_ahead=context.limits.hold_ahead,
    )  # fmt: skip
    return pools, supervisor
