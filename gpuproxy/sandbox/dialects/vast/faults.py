"""The faults that can hit vast.ai's calls."""

from typing import get_args

from gpuproxy.sandbox.options import GoneForm
from gpuproxy.sandbox.protocol.faults import CALLS, COMMON, GONE, Catalogue

_CHANGES = frozenset(
    {"create", "destroy", "start", "stop", "label", "ssh_key", "extend", "price", "volume_create", "volume_delete"}
)
_LISTS = frozenset({"list", "search", "volume_search", "volume_list", "charges"})
_OF_CREATE = (
    "no_capacity",
    "price_moved",
    "wrong_gpu",
    "never_ready",
    "dies_after_ready",
    "volume_share_refused",
    "image_fault",
    "host_fault",
    "no_ssh",
    "proxy_down",
    "ssh_down",
    "direct_down",
    "keys_refreshed",
    "shy_row",
    "other_name",
)
CATALOGUE = Catalogue(
    calls=CALLS,
    faults={
        **COMMON,
        **dict.fromkeys(_OF_CREATE, frozenset({"create"})),
        **dict.fromkeys(["offer_gone", "insufficient_credit"], frozenset({"create", "volume_create"})),
        "late_effect": _CHANGES,
        "empty_list": _LISTS,
        "missing_page": _LISTS,
        "slow_pages": _LISTS,
        "endless_list": frozenset({"list"}),
        "odd_row": frozenset({"list", "get"}),
        GONE: frozenset({"get", "destroy"}),
        "key_refused": frozenset({"ssh_key"}),
        "start_refused": frozenset({"start"}),
        "stop_ignored": frozenset({"stop"}),
        "stop_lies": frozenset({"stop"}),
        "destroy_ignored": frozenset({"destroy", "volume_delete"}),
    },
    choices={
        ("rate_limited", "form"): ("text", "threshold", "detail", "json", "quota"),
        ("odd_row", "kind"): (
            "undecodable",
            "surrogate",
            "nan",
            "null_row",
            "no_id",
            "wrong_types",
            "null_fields",
        ),
        ("odd_row", "whose"): ("stranger", "mine"),
        (GONE, "form"): get_args(GoneForm),
        ("shy_row", "status"): ("exited", "stopped", "null"),
        ("image_fault", "status"): ("created", "loading"),
        ("host_fault", "status"): ("created", "loading"),
    },
)
