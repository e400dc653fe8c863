"""Wiring of the dashboard: what it reads in addition to the calls of the contract."""

from collections.abc import Awaitable, Callable, Sequence

from gpuproxy.adapters.system import Threads
from gpuproxy.edge.rpc.dispatch import Dispatcher
from gpuproxy.edge.rpc.service import Service
from gpuproxy.edge.web import dashboard
from gpuproxy.edge.web.calls import AccountPasses, Reads, WebhookLog
from gpuproxy.edge.web.dashboard import Dashboard
from gpuproxy.health.checkup import Health
from gpuproxy.identity.kept_sessions import KeptSessions
from gpuproxy.ports import Clock, Database, Random, Tx
from gpuproxy.reconcile.watches import Watches
from gpuproxy.reservations.requests import Reservations
from gpuproxy.store import outbox
from gpuproxy.store.users import UserRow

_MOST_DELIVERIES = 200


def build_dashboard(
    dispatcher: Dispatcher,
    service: Service,
    *,
    reservations: Reservations,
    health: Health,
    watches: Watches,
    db: Database,
    users: Callable[[], Awaitable[Sequence[UserRow]]],
    clock: Clock,
    random: Random,
    providers: Sequence[str],
    kept: KeptSessions | None,
) -> Dashboard:
    """The dashboard over the interfaces' dispatcher and service. `kept`: the sessions that all servers know."""

    def passes() -> Sequence[AccountPasses]:
        return [
            AccountPasses(
                provider=watch.provider.name,
                account=watch.provider.account,
                here=watch.claim.claim is not None,
                last=watch.passes.last,
                with_steps=watch.passes.with_steps,
            )
            for watch in watches
        ]

    reads = Reads(
        timeline=reservations.timeline,
        project=reservations.project_of,
        left_out=service.left_out,
        findings=health.findings,
        passes=passes,
        webhooks=lambda: db.read(_webhooks),
        users=users,
    )
    return dashboard.build_dashboard(
        dispatcher, service, reads, clock=clock, random=random, workers=Threads(), providers=providers, kept=kept
    )


def _webhooks(tx: Tx) -> WebhookLog:
    ended = outbox.ended(tx)
    return WebhookLog(
        targets=outbox.standings(tx),
        delivered={target: events for (target, state), events in ended.items() if state == "delivered"},
        gave_up={target: events for (target, state), events in ended.items() if state == "gave_up"},
        deliveries=outbox.listed(tx, "", _MOST_DELIVERIES),
    )
