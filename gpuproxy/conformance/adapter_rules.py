"""The rules about the adapter as a whole: its declarations, its secrets, its intervals, and that every call ends."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, replace
from itertools import compress, pairwise

from gpuproxy.conformance.bench import SECRET, TIMEOUTS, Bench, with_secret
from gpuproxy.conformance.subject import Make
from gpuproxy.conformance.verdict import Broken, NotJudged, ended, require
from gpuproxy.conformance.wire import FAILURES, Spoil
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import HttpResponse
from gpuproxy.ports.provider import CAPABILITY_NAMES

_LONGEST_CALL = 900.0
"""Maximum seconds of a call if no request is answered before its timeout."""
_INTERVAL = 7.0
_SLACK = 0.999
_STATUSES = (400, 401, 403, 404, 422, 429, 500)
_MISSING = InstanceId("27182818")
_LONG_SCRIPT = "".join(f"echo {number * number:x}\n" for number in range(20_000))
_LAUNCHES = (
    LaunchSpec(onstart=_LONG_SCRIPT),
    LaunchSpec(onstart="echo hi", run_mode="entrypoint"),
    LaunchSpec(args=(_LONG_SCRIPT,), run_mode="entrypoint"),
    LaunchSpec(ssh_public_keys=("ssh-ed25519 AAAA",), run_mode="jupyter"),
)
"""Launches that a marketplace may object to; image, disk and secrets are those of the subject."""


async def a_missing_capability_has_a_reason(make: Make) -> None:
    """A missing capability has a known name and a reason, which clients see."""
    bench = Bench(make)
    able, descriptor = bench.provider.capabilities, bench.subject.descriptor
    for name, reason in able.missing.items():
        require(name in CAPABILITY_NAMES, f"there is no capability {name!r}; known: {sorted(CAPABILITY_NAMES)}")
        require(reason.strip(), f"{name} is missing without a reason")
    same = dict(able.missing) == dict(descriptor.capabilities.missing)
    require(same, "the adapter and its descriptor declare different missing capabilities")


async def a_launch_is_checked_without_a_call_and_always_the_same(make: Make) -> None:
    """check_launch sends nothing, has the same result each time, and names a field. The subject's launch passes."""
    bench = Bench(make)
    passed = _objections(bench, bench.spec)
    require(not passed, f"the launch of the subject does not pass: {passed}")
    if not bench.subject.secret_env:
        refused = {objection.field for objection in _objections(bench, with_secret(bench.spec))}
        require("secret_env" in refused, "a launch with a secret variable passes, although there is no environment")
    known = {field.name for field in fields(LaunchSpec)}
    for each in _LAUNCHES:
        asked = replace(bench.spec, run_mode=each.run_mode, args=each.args, onstart=each.onstart)
        spec = replace(asked, ssh_public_keys=each.ssh_public_keys)
        first, second = _objections(bench, spec), _objections(bench, spec)
        require(first == second, f"the same launch had {len(first)} and then {len(second)} objections")
        for objection in first:
            require(objection.field.partition("[")[0] in known, f"a launch has no field {objection.field!r}")
            require(objection.description.strip(), f"the objection to {objection.field} has no description")
            require(SECRET not in objection.description, "an objection contains a secret of the launch")
    require(not bench.wire.requests, f"{len(bench.wire.requests)} requests were sent to check launches")


async def an_adapter_and_its_offers_have_the_names_of_the_descriptor(make: Make) -> None:
    """The provider and host keys begin with the descriptor's name, offer ids with its prefix. Offer ids are unique."""
    bench = Bench(make)
    name, prefix = bench.subject.descriptor.name, bench.subject.descriptor.prefix
    require(bench.provider.name == name, f"the adapter's name is {bench.provider.name!r}, its descriptor's {name!r}")
    offers = await bench.all_offers()
    for offer in offers:
        require(offer.id.startswith(f"{prefix}-"), f"the offer id {offer.id} does not begin with {prefix}-")
        require(offer.provider == name, f"{offer.id} has the provider {offer.provider!r}, not {name!r}")
        require(offer.host.startswith(f"{name}/"), f"the host {offer.host} does not begin with {name}/")
    require(len({offer.id for offer in offers}) == len(offers), "two offers have the same id")


async def no_error_tells_a_secret(make: Make) -> None:
    """No error contains the key, and no error of a create contains a secret of the launch, even if an answer does."""
    spoils: list[Spoil | HttpResponse] = [*FAILURES, *_echoes(make().key)]
    for spoil in spoils:
        bench = Bench(make)
        offer = (await bench.offers())[0]
        bench.wire.spoil(spoil)
        created = _error_text(await bench.create(offer))
        told = bench.subject.secret_env and SECRET in created
        require(not told, "the error of a create contains a secret of the launch")
        for text in (created, *[_error_text(await ended(call())) for call in _calls(bench)]):
            require(bench.subject.key not in text, "an error contains the key")


async def every_call_ends(make: Make) -> None:
    """Each request has a timeout, at most the configured one. Every call ends even if no request is answered."""
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
    """The capabilities have the configured interval and timeout of creates, which the engine uses."""
    bench = Bench(make, {"create": _INTERVAL})
    able = bench.provider.capabilities
    require(able.create_interval == _INTERVAL, f"create_interval is {able.create_interval:g} s, not {_INTERVAL:g} s")
    timeout = TIMEOUTS["create"]
    require(able.create_timeout == timeout, f"create_timeout is {able.create_timeout:g} s, not {timeout:g} s")


async def reads_and_destroys_keep_their_intervals(make: Make) -> None:
    """The adapter keeps the configured intervals of list, get and destroy. The caller paces creates."""
    names = {call.name for call in make().descriptor.calls} & {"list", "get", "destroy"}
    if not names:
        raise NotJudged("the descriptor has no interval for list, get or destroy")
    for name in sorted(names):
        bench = Bench(make, {name: _INTERVAL})
        (instance_id,) = await bench.rented()
        for _ in range(3):
            begun = len(bench.wire.requests)
            await ended(_call_named(bench, name, instance_id))
            require(len(bench.wire.requests) > begun, f"{name} sent no request")
        pages = [name != "list" or bench.subject.is_page(request) for request in bench.wire.requests]
        times = list(compress(bench.wire.sent_at, pages))
        shortest = min(later - earlier for earlier, later in pairwise(times))
        require(shortest >= _INTERVAL * _SLACK, f"two calls of {name} are {shortest:.1f} s apart, not {_INTERVAL:g} s")


def _objections(bench: Bench, spec: LaunchSpec) -> Sequence[Violation]:
    try:
        return tuple(bench.provider.check_launch(spec))
    except Exception as error:
        raise Broken(f"check_launch raised {type(error).__name__}: {error}") from error


def _call_named(bench: Bench, name: str, instance_id: InstanceId) -> Awaitable[object]:
    if name == "list":
        return bench.provider.list()
    return bench.provider.get(instance_id) if name == "get" else bench.provider.destroy(instance_id)


def _calls(bench: Bench) -> tuple[Callable[[], Awaitable[object]], ...]:
    """Every call that all adapters have, except creates, and those about bookings and volumes if it has any."""
    provider = bench.provider
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        bench.all_offers,
        provider.list,
        lambda: provider.get(_MISSING),
        lambda: provider.destroy(_MISSING),
    )
    if bench.subject.prepaid is not None:
        calls = (*calls, lambda: provider.extend(_MISSING, 1))
    if bench.subject.volumes is None:
        return calls
    some_id = bench.subject.volumes.some_id
    return (*calls, provider.list_volumes, lambda: provider.delete_volume(some_id))


def _echoes(key: str) -> list[HttpResponse]:
    """Answers that repeat the secrets of the request."""
    text = f"bad request: Authorization: Bearer {key}, CONFORMANCE_SECRET={SECRET}"
    json_text = json.dumps({"success": False, "error": text, "msg": text, "message": text, "detail": text})
    bodies = (text.encode(), json_text.encode())
    return [HttpResponse(status=status, headers={}, body=body) for status in _STATUSES for body in bodies]


def _error_text(outcome: object) -> str:
    """The text and body of an error and of its causes; "" if the outcome is not an error."""
    if not isinstance(outcome, BaseException):
        return ""
    own = f"{outcome} {outcome!r} {getattr(outcome, 'body', '')}"
    return f"{own} {_error_text(outcome.__cause__)}"
