"""The bodies of io.net's deploys: from JSON to an order, or to a list of problems."""

from gpuproxy.sandbox.dialects.ionet.validation import Fields, body_of
from gpuproxy.sandbox.market.prepaid.bookings import Container, Flaws, Order, Service
from gpuproxy.sandbox.market.prepaid.hardware import PLACE_NUMBERS
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import Incoming

_MOST_HOURS, _MOST_CARDS, _MOST_PORT = 8760, 8, 65_535
_ELSEWHERE = "?"  # a country that has nothing
_DIES_AFTER = 30.0
_FACTOR = 1.5


def vm_order(request: Incoming) -> Order:
    """The order in the body of a VMaaS deploy. Raises Invalid."""
    fields = body_of(request)
    name = fields.text("resource_private_name", required=True)
    hours = fields.whole("duration_hours", least=1, most=_MOST_HOURS)
    cards = fields.whole("gpus_per_vm", least=1, most=_MOST_CARDS)
    kind = fields.identity("hardware_id")
    fields.whole("vms_qty", least=1, default=1)
    keys = fields.named_texts("ssh_keys")
    github = fields.texts("github_ids") or []
    image = fields.word("vm_image_type", ("general", "datascience"), "general")
    location = _location(fields)
    services = _services(fields)
    fields.finish()
    return Order(
        product="vm",
        name=name,
        kind=kind,
        cards=cards,
        hours=hours,
        location=location,
        ssh_keys=keys,
        github_ids=github,
        image_type=image,
        services=services,
    )


def container_order(request: Incoming) -> Order:
    """The order in the body of a CaaS deploy. Raises Invalid."""
    fields = body_of(request)
    name = fields.text("resource_private_name", required=True)
    kind = fields.identity("hardware_id")
    hours = fields.whole("duration_hours", least=1, most=_MOST_HOURS)
    cards = fields.whole("gpus_per_container", least=1)
    own_id = fields.text("resource_id")
    fields.word("payment_source", ("credits", "payment"), "credits")
    fields.word("on_incomplete_booking", ("full_refund", "partial_refund", "extend_booked"), "full_refund")
    location = _location(fields)
    config, registry = fields.inner("container_config", required=True), fields.inner("registry_config", required=True)
    image = "" if registry is None else _image(registry)
    workers, container = (1, None) if config is None else _container(config, image)
    fields.finish()
    return Order(
        product="container",
        name=name,
        kind=kind,
        cards=cards,
        hours=hours,
        location=location,
        workers=workers,
        id=own_id or None,
        container=container,
    )


def changed_container(request: Incoming, now: Container) -> Container:
    """What a PATCH makes of a container; its fields are flat. Raises Invalid."""
    fields = body_of(request)
    sent = request.json()
    env = fields.named_texts("env_variables")
    secrets = fields.named_texts("secret_env_variables", nulls=True)
    entrypoint, args = fields.texts("entrypoint"), fields.texts("args")
    command, image = fields.text("command"), fields.text("image_url")
    port = fields.whole("traffic_port", least=1, most=_MOST_PORT, default=now.traffic_port)
    ingress = fields.yes("public_ingress_enabled")
    fields.yes("tls_required")
    fields.text("registry_username")
    fields.text("registry_secret")
    fields.finish()
    kept = {name: value for name, value in {**now.secret_env, **secrets}.items() if value is not None}
    return Container(
        image=image or now.image,
        traffic_port=port,
        env=env if "env_variables" in sent else now.env,
        secret_env=kept,
        entrypoint=entrypoint if "entrypoint" in sent else now.entrypoint,
        args=args if "args" in sent else now.args,
        command=(command or None) if "command" in sent else now.command,
        ingress=now.ingress if ingress is None else ingress,
    )


def hours_of(request: Incoming) -> int:
    """The hours of an extend. Raises Invalid."""
    fields = body_of(request)
    hours = fields.whole("duration_hours", least=1, most=_MOST_HOURS)
    fields.finish()
    return hours


def flaws_of(fault: Fault | None) -> Flaws:
    """The defects that a fault gives to a new deployment."""
    if fault is None:
        return Flaws()
    match fault.name:
        case "never_ready" | "never_reachable" | "no_ssh":
            return Flaws(kind=fault.name)
        case "host_fault":
            return Flaws(kind=fault.name, message=str(fault.args.get("message", "")))
        case "dies_after_ready":
            return Flaws(dies_after=fault.number("seconds", _DIES_AFTER))
        case "wrong_gpu":
            return Flaws(model=str(fault.args.get("gpu_name", "GeForce GT 710")))
        case "price_moved":
            return Flaws(price_factor=fault.number("factor", _FACTOR))
    return Flaws()


def location_of(named: int | str | None) -> str | None:
    """The country code of a location, which may also be given as a number; None: any country."""
    if named is None or isinstance(named, str):
        return named
    return next((code for code, number in PLACE_NUMBERS.items() if number == named), _ELSEWHERE)


def _location(fields: Fields) -> str | None:
    location = fields.place_ids()
    pool = fields.text("node_pool_id")
    if location is not None and pool:
        fields.wrong("", "Value error, location_ids and node_pool_id are mutually exclusive", "value_error")
    return _ELSEWHERE if pool else location_of(location)


def _services(fields: Fields) -> dict[str, Service]:
    named = fields.inner("network_services")
    if named is None:
        return {}
    made = {}
    for name in named.names():
        service = named.inner(name, required=True)
        if service is None:
            continue
        port = service.whole("port", least=1, most=_MOST_PORT)
        protocol = service.word("protocol", ("tcp", "udp"), "")
        if not protocol:
            service.wrong("protocol", "Field required", "missing")
        whitelist = service.texts("whitelist")
        if not whitelist:
            service.wrong("whitelist", "List should have at least 1 item after validation, not 0", "too_short")
        service.only_known()
        made[name] = Service(port=port, protocol=protocol, whitelist=whitelist or [])
    return made


def _image(registry: Fields) -> str:
    image = registry.text("image_url", required=True)
    registry.text("registry_username")
    registry.text("registry_secret")
    registry.only_known()
    return image


def _container(config: Fields, image: str) -> tuple[int, Container]:
    workers = config.whole("replica_count", least=1)
    port = config.whole("traffic_port", least=1, most=_MOST_PORT)
    ingress = config.yes("public_ingress_enabled")
    config.yes("tls_required")
    container = Container(
        image=image,
        traffic_port=port,
        env=config.named_texts("env_variables"),
        secret_env=config.named_texts("secret_env_variables"),
        entrypoint=config.texts("entrypoint"),
        args=config.texts("args"),
        command=config.text("command") or None,
        ingress=ingress is not False,
    )
    config.only_known()
    return workers, container
