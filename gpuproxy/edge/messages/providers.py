"""Marketplaces and accounts as messages."""

from collections.abc import Iterable

from gpuproxy.edge.messages.probes import measurement
from gpuproxy.edge.messages.times import timestamp
from gpuproxy.health.sheets import AccountSheet, Sheet
from gpuproxy.model.money import usd
from gpuproxy.ports.provider import CAPABILITY_NAMES
from gpuproxy.v1 import gpuproxy_pb2 as pb


def providers_answer(sheets: Iterable[Sheet]) -> pb.ListProvidersResponse:
    """The answer with these sheets."""
    return pb.ListProvidersResponse(providers=[_provider(sheet) for sheet in sheets])


def _provider(sheet: Sheet) -> pb.ProviderInfo:
    able = sheet.capabilities
    return pb.ProviderInfo(
        provider=sheet.marketplace.name,
        offer_prefix=sheet.marketplace.prefix,
        capabilities=[
            pb.ProviderCapability(name=name, available=name not in able.missing, reason=able.missing.get(name, ""))
            for name in sorted(CAPABILITY_NAMES)
        ],
        billing=able.billing,
        refund_rule=sheet.refund_rule,
        calls=[
            pb.ProviderCall(name=name, interval_seconds=seconds) for name, seconds in sorted(sheet.intervals.items())
        ],
        search_page=able.search_page or 0,
        create_timeout_seconds=able.create_timeout,
        listing_lag_seconds=able.listing_lag_seconds,
        late_execution_seconds=able.late_seconds,
        listing_may_miss=able.listing_may_miss,
        regional_keys=sheet.marketplace.regional,
        pools_per_account=sheet.pools_per_account,
        accounts=[_account(each) for each in sheet.accounts],
    )


def _account(each: AccountSheet) -> pb.ProviderAccount:
    return pb.ProviderAccount(
        name=each.name,
        region=each.region,
        state=each.state,
        reason=each.reason,
        since=timestamp(each.since),
        circuit=each.circuit,
        failures=each.failures,
        create_wait_seconds=each.create_wait,
        create_interval_seconds=each.create_interval,
        credit=None if each.credit is None else usd(each.credit),
        credit_at=timestamp(each.credit_at),
        machines=each.machines,
        unknown=each.unknown,
        volumes=each.volumes,
        price_per_hour=usd(each.rate),
        measured=[measurement(found) for found in each.measured],
    )
