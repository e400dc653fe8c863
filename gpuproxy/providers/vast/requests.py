"""Requests to vast.ai: the search, one price range after the other, and the create.

The rule: a search is never narrower than the filter, and a single answer is never taken as complete. The service may
return at most 64 rows, whatever limit is requested, and has no cursor. Therefore the market is read in price ranges. If
more rows have the same price than an answer can hold, they are read by machine.
"""

import json
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from gpuproxy import boot
from gpuproxy.model.demands import LaunchSpec, RunMode, VolumeMount
from gpuproxy.model.errors import InvalidRequest, ProviderUnavailable, Scope, Violation
from gpuproxy.model.money import usd
from gpuproxy.model.offers import OfferFilter, OfferId
from gpuproxy.providers.decode import whole_number
from gpuproxy.providers.vast.wire import NAME, PREFIX, Found, volume_id

SEARCH_CAP = 64
"""An answer with fewer rows than this is the last one."""
SEARCH_LIMIT = 3000
"""Rows that are requested: about 9 MB, which are scanned within a few milliseconds."""
_HAIR = 0.000_001  # USD: the service may round prices in answers, but not when it compares them

_MOST_TEXT = 4_048
"""Maximum characters of the start script or the arguments. vast.ai documents 4,096; the rest is for its own frame."""
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z](?:[a-z0-9-]*[a-z])?")
"""A name with a dot. Its last part is no number."""
_PRIVATE_NAMES = (".localhost", ".local", ".internal")
_REMEMBERED = 64  # start scripts: a launch is checked and sent several times

_RUN_TYPES: dict[RunMode, str] = {
    "ssh": "ssh_direc ssh_proxy",
    "jupyter": "jupyter_direc ssh_direc ssh_proxy",
    "entrypoint": "args",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the market: all offers from a price (USD per hour), or those of one price from a machine on."""

    price_from: float = 0.0
    price_to: float | None = None
    machine_from: int = 0


def next_stretch(asked: Stretch, found: Found) -> Stretch | None:
    """The next part to read; None at the end. Raises ProviderUnavailable if the answer ignores the request."""
    full = found.rows >= SEARCH_CAP
    if asked.price_to is not None:
        return _next_machine(asked, found) if full else Stretch(price_from=asked.price_to)
    if not full:
        return None
    if found.last_price < asked.price_from:
        raise ProviderUnavailable(f"{NAME} ignores the lowest price of a search")
    last = found.last_price - _HAIR
    if last > asked.price_from:
        return Stretch(price_from=last)
    return replace(asked, price_to=found.last_price + _HAIR)


def charges_query(since: datetime, until: datetime) -> dict[str, str]:
    """The query for the charges of these days, and of one day more on each side, as clocks may differ."""
    day = timedelta(days=1)
    first = since.replace(hour=0, minute=0, second=0, microsecond=0) - day
    last = until.replace(hour=0, minute=0, second=0, microsecond=0) + 2 * day
    days = {"gte": int(first.timestamp()), "lte": int(last.timestamp())}
    filters = {"day": days, "type": {"in": ["instance", "volume"]}}
    return {"select_filters": json.dumps(filters), "limit": "500", "format": "table"}


def is_log_address(url: str, base_url: str) -> bool:
    """True if a log may be fetched from the URL: the service itself, or a public host by https; no private network."""
    service = urlsplit(base_url)
    try:
        there = urlsplit(url)
        host, _ = there.hostname or "", there.port  # raises ValueError, too
    except ValueError:
        return False
    if (there.scheme, host) == (service.scheme, service.hostname):
        return True
    return there.scheme == "https" and _is_public(host.rstrip("."))


def _is_public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:  # "127.1" is not an IP address here, but it is one for a resolver
        return bool(_NAME.fullmatch(host)) and not host.endswith(_PRIVATE_NAMES)


def _next_machine(asked: Stretch, found: Found) -> Stretch:
    if found.last_machine < asked.machine_from:
        raise ProviderUnavailable(f"{NAME} ignores the lowest machine id of a search")
    # If one machine has more rows of one price than an answer holds, its other rows can't be requested.
    step = 1 if found.last_machine == asked.machine_from else 0
    return replace(asked, machine_from=found.last_machine + step)


def search_body(wanted: OfferFilter, stretch: Stretch) -> dict[str, object]:
    """The query for the parts of `wanted` that the service filters reliably. The caller filters the rest."""
    body: dict[str, object] = {
        "verified": {"eq": True} if wanted.verified_only else {"in": [True, False]},
        "rentable": {"eq": True},
        "dph_total": _prices(wanted, stretch),
        "order": [["dph_total", "asc"]],
        "type": "on-demand",
        "limit": SEARCH_LIMIT,
        "allocated_storage": wanted.disk_gb,
        "disable_bundling": True,
    }
    if stretch.price_to is not None:
        body["order"] = [["machine_id", "asc"]]
    if machines := _machines(wanted, stretch):
        body["machine_id"] = machines
    if wanted.min_vram > 0:
        # A nominal size is up to 8 % more than what is reported, or half a GB where it was rounded.
        body["gpu_ram"] = {"gte": 1024 * min(0.92 * wanted.min_vram, wanted.min_vram - 0.5)}
    if wanted.num_gpus:
        body["num_gpus"] = {"eq": wanted.num_gpus}
    if wanted.min_cuda > 0 and not wanted.cuda_assumed:
        body["cuda_max_good"] = {"gte": wanted.min_cuda}
    if wanted.offer_id is not None:
        body["ask_contract_id"] = {"eq": native_id(wanted.offer_id)}
    return body


def numeric(machine_ids: Collection[str]) -> tuple[int, ...]:
    """Those of the ids that a machine of vast.ai can have, in order."""
    return tuple(sorted({number for each in machine_ids if (number := whole_number(each)) is not None}))


def can_find(wanted: OfferFilter) -> bool:
    """False if an id in the filter is none of vast.ai, so that nothing can be found."""
    if wanted.offer_id is not None and native_id(wanted.offer_id) is None:
        return False
    return not wanted.machine_ids or bool(numeric(wanted.machine_ids))


def _machines(wanted: OfferFilter, stretch: Stretch) -> dict[str, object]:
    """The wanted machines, and those that this part begins with; the service combines both."""
    wanted_ids: dict[str, object] = {"in": [*numeric(wanted.machine_ids)]} if wanted.machine_ids else {}
    return wanted_ids | ({} if stretch.price_to is None else {"gte": stretch.machine_from})


def native_id(offer_id: OfferId) -> int | None:
    """The number in an offer's id; None if it is not an id of vast.ai."""
    number = offer_id.removeprefix(f"{PREFIX}-")
    return int(number) if offer_id.startswith(f"{PREFIX}-") and number.isdecimal() else None


def _prices(wanted: OfferFilter, stretch: Stretch) -> dict[str, float]:
    """The price range. The service has no price per GPU, so a price limit needs the number of GPUs."""
    prices = {"gte": stretch.price_from}
    highest = [] if stretch.price_to is None else [stretch.price_to]
    if wanted.num_gpus:
        highest.append(usd(wanted.ceiling(wanted.num_gpus)) + 2 * _HAIR)
    if highest:
        prices["lte"] = min(highest)
    return prices


def launch_violations(spec: LaunchSpec) -> tuple[Violation, ...]:
    """What vast.ai does not accept in a launch."""
    if spec.run_mode != "entrypoint":
        try:
            script, _ = _boot_script(spec.ssh_public_keys, spec.onstart, _lock(spec), spec.self_ending)
        except ValueError as error:
            return (Violation("volume", str(error)),)
        return () if isinstance(script, str) else (Violation("onstart", _too_long("is", script, " after compression")),)
    found: list[Violation] = []
    if spec.onstart:
        found.append(
            Violation("onstart", f"can't run on {NAME} with run_mode entrypoint: the image's own command runs")
        )
    size = len(" ".join(spec.args).encode())
    if size > _MOST_TEXT:
        found.append(Violation("args", _too_long("are", size, "")))
    return tuple(found)


def create_body(spec: LaunchSpec, label: str) -> dict[str, object]:
    """The body that rents an on-demand machine, which starts at once or not at all.

    Raises InvalidRequest for a launch that vast.ai does not accept, or a volume that it can't have.
    """
    for violation in launch_violations(spec):
        raise InvalidRequest(f"{violation.field} {violation.description}", scope=Scope.PROVIDER)
    shell = spec.run_mode != "entrypoint"
    script = _boot_script(spec.ssh_public_keys, spec.onstart, _lock(spec), spec.self_ending)[0] if shell else None
    body: dict[str, object] = {
        "client_id": "me",
        "image": spec.image,
        "env": _env(spec),
        "disk": spec.disk_gb,
        "label": label,
        "runtype": _RUN_TYPES[spec.run_mode],
        "onstart": script or None,
        "image_login": _image_login(spec),
        "price": None,  # with a number the machine would be interruptible
        # Otherwise a machine whose GPUs are taken is created anyway, stopped and billed. A machine that is created
        # stopped must fail too: it is wanted where its GPUs are free.
        "cancel_unavail": True,
        "target_state": "stopped" if spec.stopped else "running",
    }
    if spec.volume is not None:
        body["volume_info"] = _volume_info(spec.volume)
    if spec.run_mode == "entrypoint":
        body["args"] = [*spec.args]
    return body


def _volume_info(mount: VolumeMount) -> dict[str, object]:
    """The existing volume that a machine mounts. It can't be attached later."""
    known = volume_id(mount.volume_id)
    if known is None:
        raise InvalidRequest(f"{mount.volume_id[:64]!r} is no volume of {NAME}", scope=Scope.PROVIDER)
    return {"create_new": False, "volume_id": int(known.removeprefix("V.")), "mount_path": mount.path}


def _lock(spec: LaunchSpec) -> VolumeMount | None:
    """The volume whose lock the boot script waits for; None: it waits for nothing."""
    return spec.volume if spec.volume is not None and spec.volume.nonce else None


def _env(spec: LaunchSpec) -> dict[str, str]:
    """Variables and ports as one object; the service silently ignores a string."""
    ports = {f"-p {port}:{port}": "1" for port in spec.ports}
    return {**dict(spec.env), **dict(spec.secret_env), **ports}


def left_out(spec: LaunchSpec) -> tuple[str, ...]:
    """The parts of the boot script that are not sent, because vast.ai takes no longer script."""
    if spec.run_mode == "entrypoint":
        return ()
    return _boot_script(spec.ssh_public_keys, spec.onstart, _lock(spec), spec.self_ending)[1]


@lru_cache(maxsize=_REMEMBERED)
def _boot_script(
    keys: tuple[str, ...], onstart: str, lock: VolumeMount | None, ending: bool = False
) -> tuple[str | int, tuple[str, ...]]:
    """What is sent as onstart, "" if there is nothing to do, or its size in characters if it is too long.

    Also the parts that are left out. The keys are left out if only they make it too long: the marketplace also gets
    them through its own API. Then the part `ending` is left out. A user's script that fits only without ours is sent
    as it is; then nothing is reported. It is never sent without its lock.
    """
    size = 0
    for some_keys, ends in dict.fromkeys(((keys, ending), ((), ending), ((), False))):
        out = _parts(keys and not some_keys, ending and not ends)
        try:
            text = boot.script(some_keys, onstart, more=(boot.ENDING,) if ends else (), lock=lock)
            return boot.fitted(text, _MOST_TEXT), out
        except boot.TooLong as error:
            size = error.size
    if lock is None and len(onstart.encode()) <= _MOST_TEXT:
        return onstart, _parts(keys, ending)
    return size, ()


def _parts(keys: object, ending: object) -> tuple[str, ...]:
    return (*([boot.ENDING.name] if ending else []), *([boot.KEYS.name] if keys else []))


def _too_long(verb: str, size: int, how: str) -> str:
    return f"{verb} {size:,} characters{how}; {NAME} takes at most {_MOST_TEXT:,}"


def _image_login(spec: LaunchSpec) -> str | None:
    login = spec.registry_auth
    if login is None:
        return None
    return f"-u {shlex.quote(login.username)} -p {shlex.quote(login.secret)} {shlex.quote(login.server)}"
