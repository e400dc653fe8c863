"""What io.net can do, and how often it may be called."""

from collections.abc import Mapping

from gpuproxy.ports import Capabilities, PacedCall
from gpuproxy.providers.ionet.api import TIMEOUTS

CALLS = (
    PacedCall(name="search", seconds=5.0, what="searches"),  # 300 calls of all kinds a minute
    PacedCall(name="create", seconds=1.0, what="creates"),
    PacedCall(name="list", seconds=0.5, what="pages of a listing"),
    PacedCall(name="get", seconds=0.5, what="single reads"),
    PacedCall(name="destroy", seconds=0.5, what="destroys"),
    PacedCall(name="extend", seconds=0.5, what="extensions"),
)
INTERVALS: Mapping[str, float] = {call.name: call.seconds for call in CALLS} | {"access": 0.25}
"""Minimum seconds between two calls of one account."""

_ONLY_IMAGE = "a machine of io.net starts with an image of io.net"
_NO_VOLUMES = "io.net has no volumes"
MISSING: Mapping[str, str] = {
    "stop_start": "a machine of io.net runs until it is destroyed or its booking ends",
    "logs": "io.net keeps no logs of virtual machines",
    "charges": "io.net does not list charges; a booking is paid in advance",
    "credit": "io.net does not tell an API key how much credit the account has",
    "volumes": _NO_VOLUMES,
    "volume_sharing": _NO_VOLUMES,
    "hold_gpu": f"{_NO_VOLUMES}, and so no machine that waits for one",
    "spot": "io.net has no interruptible machines",
    "ssh_keys": "a machine of io.net gets its SSH keys when it is created; a running one takes no more",
    "custom_image": f"{_ONLY_IMAGE}, which can't be chosen",
    "registry_auth": f"{_ONLY_IMAGE}, which comes from no registry of yours",
    "jupyter": f"{_ONLY_IMAGE} and SSH",
    "container_key": "a machine of io.net gets no key of its own; io.net ends it with its booking",
    "entrypoint": f"{_ONLY_IMAGE} and SSH; it has no entry point of yours",
}
CAPABILITIES = Capabilities(
    missing=MISSING,
    billing="prepaid",
    refund_after=3_600.0,
    listing_may_miss=True,
    search_interval=INTERVALS["search"],
    create_interval=INTERVALS["create"],
    create_seconds=4.0,  # a price, a deploy, and a page of the listing, which tells the id
    create_timeout=TIMEOUTS["create"],
    destroy_interval=INTERVALS["destroy"],
    listing_lag_seconds=120.0,
    late_seconds=None,  # nothing is known about how late a deploy may be executed
)
"""The capabilities of an account with default settings."""
