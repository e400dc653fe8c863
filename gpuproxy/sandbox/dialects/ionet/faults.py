"""The faults that can hit io.net's calls."""

from gpuproxy.sandbox.protocol.faults import COMMON, GONE, Catalogue

_CREATE = frozenset({"create"})
_CHANGES = frozenset({"create", "destroy", "extend", "update"})
_LISTS = frozenset({"list", "search", "vms", "containers"})
_READS = frozenset({"list", "get"})
CATALOGUE = Catalogue(
    calls=_CHANGES | _LISTS | {"get", "price", "logs", "any"},
    faults={
        **COMMON,
        **dict.fromkeys(["no_capacity", "offer_gone", "name_taken", "deploy_body", "wrong_gpu"], _CREATE),
        **dict.fromkeys(["never_ready", "never_reachable", "host_fault", "no_ssh", "dies_after_ready"], _CREATE),
        **dict.fromkeys(["empty_list", "missing_page", "slow_pages"], _LISTS),
        **dict.fromkeys(["endless_list", "unstable_pages"], frozenset({"list"})),
        **dict.fromkeys(["odd_row", "status_words"], _READS),
        "insufficient_credit": frozenset({"create", "extend"}),
        "price_moved": frozenset({"price", "create"}),
        "late_effect": _CHANGES,
        "destroy_ignored": frozenset({"destroy"}),
        "stream_error": frozenset({"logs"}),
        GONE: frozenset({"get", "destroy"}),
    },
    choices={
        ("rate_limited", "form"): ("seconds", "date"),
        ("deploy_body", "form"): ("empty", "deployment_id", "id", "resource_id", "data"),
        ("status_words", "form"): ("upper", "underscores", "title", "unknown"),
        ("odd_row", "kind"): (
            "undecodable",
            "surrogate",
            "nan",
            "null_row",
            "no_id",
            "wrong_types",
            "null_fields",
        ),
        (GONE, "form"): ("detail_404", "null", "empty_object", "status_410", "plain_404", "html_404"),
    },
)
