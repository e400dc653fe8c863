"""The rules about the adapter as a whole: what it declares, what it keeps to itself, and that every call ends."""

import json
from collections.abc import Awaitable, Callable
from itertools import pairwise

from gpuproxy.conformance.bench import SECRET, TIMEOUTS, Bench
from gpuproxy.conformance.subject import Make
from gpuproxy.conformance.verdict import NotJudged, ended, require
from gpuproxy.conformance.wire import FAILURES, Spoil
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpResponse
from gpuproxy.ports.provider import CAPABILITY_NAMES

_LONGEST_CALL = 900.0
"""Seconds of the clock, with every request unanswered until its timeout."""
_INTERVAL = 7.0
_SLACK = 0.999
_STATUSES = (400, 401, 403, 404, 422, 429, 500)
_MISSING = InstanceId("27182818")


async def a_missing_capability_has_a_reason(make: Make) -> None:
    """What can't be done is one of the known names, with the reason that clients are shown."""
    bench = Bench(make)
    able, descriptor = bench.provider.capabilities, bench.subject.descriptor
    for name, reason in able.missing.items():
        require(name in CAPABILITY_NAMES, f"nobody asks for a capability {name!r}; known: {sorted(CAPABILITY_NAMES)}")
        require(reason.strip(), f"{name} is missing without a reason")
    require(dict(able.missing) == dict(descriptor.capabilities.missing), "adapter and descriptor lack different things")


async def an_adapter_and_its_offers_have_the_names_of_the_descriptor(make: Make) -> None:
    """Provider, host keys and offer ids carry the descriptor's name and prefix; no two offers have the same id."""
    bench = Bench(make)
    name, prefix = bench.subject.descriptor.name, bench.subject.descriptor.prefix
    require(bench.provider.name == name, f"the adapter is called {bench.provider.name!r}, its descriptor {name!r}")
    offers = await bench.all_offers()
    for offer in offers:
        require(offer.id.startswith(f"{prefix}-"), f"the offer id {offer.id} does not begin with {prefix}-")
        require(offer.provider == name, f"{offer.id} says that its provider is {offer.provider!r}")
        require(offer.host.startswith(f"{name}/"), f"the host {offer.host} does not begin with {name}/")
    require(len({offer.id for offer in offers}) == len(offers), "two offers have the same id")


async def no_error_tells_a_secret(make: Make) -> None:
    """No error tells the key, and no error of a create tells a secret of the launch, even where an answer echoes it."""
    spoils: list[Spoil | HttpResponse] = [*FAILURES, *_echoes(make().key)]
    for spoil in spoils:
        bench = Bench(make)
        offer = (await bench.offers())[0]
        bench.wire.spoil(spoil)
        created = _everything_said_by(await bench.create(offer))
        require(SECRET not in created, "a secret of a launch is in the error of its create")
        for told in (created, *[_everything_said_by(await ended(call())) for call in _calls(bench)]):
            require(bench.subject.key not in told, "the key is in an error")


async def every_call_ends(make: Make) -> None:
    """Each request has a timeout, at most the one that is set; with no answer at all, every call still ends."""
    bench = Bench(make)
    offer = (await bench.offers())[0]
    bench.wire.spoil(Spoil.HANGS)
    for call in (lambda: bench.create(offer), *_calls(bench)):
        begun = bench.clock.monotonic()
        await ended(call())
        took = bench.clock.monotonic() - begun
        require(took <= _LONGEST_CALL, f"a call without an answer took {took:.0f} s")
    for request in bench.wire.requests:
        bound = TIMEOUTS["create"] if bench.subject.is_create(request) else max(TIMEOUTS.values())
        require(0 < request.timeout <= bound, f"{request.method} {request.url} has a timeout of {request.timeout} s")


async def what_is_set_for_creates_is_declared(make: Make) -> None:
    """The capabilities show the interval and the timeout that are set for creates: the engine goes by them."""
    bench = Bench(make, {"create": _INTERVAL})
    able = bench.provider.capabilities
    require(able.create_interval == _INTERVAL, f"create_interval is {able.create_interval:g} s, not {_INTERVAL:g} s")
    timeout = TIMEOUTS["create"]
    require(able.create_timeout == timeout, f"create_timeout is {able.create_timeout:g} s, not {timeout:g} s")


async def reads_and_destroys_keep_their_intervals(make: Make) -> None:
    """An interval that is set for list, get or destroy passes between two such calls; the caller paces creates."""
    names = {call.name for call in make().descriptor.calls} & {"list", "get", "destroy"}
    if not names:
        raise NotJudged("the descriptor names none of list, get and destroy")
    for name in sorted(names):
        bench = Bench(make, {name: _INTERVAL})
        (instance_id,) = await bench.rented()
        for _ in range(3):
            begun = len(bench.wire.requests)
            await ended(_call_named(bench, name, instance_id))
            require(len(bench.wire.requests) > begun, f"{name} sent nothing")
        times = bench.wire.sent_at
        shortest = min(later - earlier for earlier, later in pairwise(times))
        require(shortest >= _INTERVAL * _SLACK, f"two calls of {name} are {shortest:.1f} s apart, not {_INTERVAL:g} s")


def _call_named(bench: Bench, name: str, instance_id: InstanceId) -> Awaitable[object]:
    if name == "list":
        return bench.provider.list()
    return bench.provider.get(instance_id) if name == "get" else bench.provider.destroy(instance_id)


def _calls(bench: Bench) -> tuple[Callable[[], Awaitable[object]], ...]:
    """Every call that all adapters have, but for creates."""
    provider = bench.provider
    return bench.all_offers, provider.list, lambda: provider.get(_MISSING), lambda: provider.destroy(_MISSING)


def _echoes(key: str) -> list[HttpResponse]:
    """Answers that quote the request."""
    text = f"bad request: Authorization: Bearer {key}, CONFORMANCE_SECRET={SECRET}"
    body = json.dumps({"success": False, "error": text, "msg": text, "message": text, "detail": text})
    bodies = (text.encode(), body.encode())
    return [HttpResponse(status=status, headers={}, body=said) for status in _STATUSES for said in bodies]


def _everything_said_by(outcome: object) -> str:
    """An error's text, its body, and those of its causes; "" of anything else."""
    if not isinstance(outcome, BaseException):
        return ""
    own = f"{outcome} {outcome!r} {getattr(outcome, 'body', '')}"
    return f"{own} {_everything_said_by(outcome.__cause__)}"
