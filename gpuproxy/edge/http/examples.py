"""Example values of answers, for the documentation: by field name, and otherwise by type.

The values are invented; they only show what a field looks like.
"""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
"""A piece of the OpenAPI document."""

MARKETPLACE = "a marketplace"
"""The provider of the examples where no marketplace is known."""
_TIME = "2024-12-20T15:30:00Z"
_BY_FIELD: Mapping[str, Any] = {
    "GPUInstance.id": "offer-27000006",
    "APIKey.id": "key-4f7d2c",
    "CreateAPIKeyResponse.id": "key-4f7d2c",
    "SSHKey.id": "ssh-9c1b3e",
    "CreateAPIKeyResponse.created_at": 1734708600,
    "HealthCheckResponse.status": "ok",
    "CreateGPUInstanceResponse.status": "reserved",
    "Transaction.type": "usage",
    "Transaction.status": "completed",
    "Transaction.id": "txn-3k7q",
    "Transaction.amount": 1.24,
    "WarmPoolStatus.state": "active",
    "WarmPoolStatus.volume_id": 55501,
    "WarmPoolHostOffer.offer_id": 27000006,
    "DestroyGPUInstanceResponse.state": "releasing",
    "Outcome.state": "reserved",
    "Outcome.reason": "",
    "GPUInstance.refund_rule": "",
    "WarmPoolStatus.data_state": "same_volume",
    "RetainedVolume.volume_id": "55501",
    "WarmPoolStatus.failover_p50_seconds": 25.1,
    "WarmPoolStatus.failover_p95_seconds": 41.0,
    "WarmPoolStatus.detected_after_seconds": 6.2,
    "WarmPoolStatus.last_recovery_seconds": 27.4,
    "WarmPoolStatus.outage_seconds": 33.6,
    "WarmPoolStatus.standby_price_per_hour": 0.012,
    "LoadInfo.instance_id": "30000017",
    "ListGPUInstancesResponse.as_of": _TIME,
}
"""By message and field."""
_BY_NAME: Mapping[str, Any] = {
    "account": "account-1",
    "api_key": "gp_7Qm2...",
    "available": ["round_robin", "least_connections", "lowest_price"],
    "avg_price_per_hour": 0.31,
    "billing": "metered",
    "circuit": "closed",
    "command": "ssh -p 40017 root@203.0.113.7",
    "container_port": 22,
    "contract_id": "30000017",
    "cost_so_far": 0.42,
    "count": 4,
    "cpu_cores": 16,
    "cuda_max": 12.8,
    "currency": "USD",
    "current_strategy": "least_connections",
    "degraded_reason": "",
    "description": "2 x RTX 4090 at $0.8000/h, contract 30000017",
    "disk_gb": 50,
    "email": "me@example.org",
    "error_message": "",
    "event": "primary_lost",
    "fallback": "cpu_standby",
    "fallback_detail": "nothing takes over by itself",
    "fence": "api_and_lock",
    "fingerprint": "SHA256:yXo1...",
    "from_state": "active",
    "geolocation": "DE",
    "gpu_model": "RTX 4090",
    "gpu_name": "RTX_4090",
    "host": "203.0.113.7",
    "host_id": "88888",
    "host_machine_id": 88888,
    "image": "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime",
    "instance_id": "30000017",
    "kind": "failure",
    "keys": {"provider": MARKETPLACE},
    "labels": {"team": "vision"},
    "lease_id": "lease-a7k2-01",
    "limit": 100.0,
    "lines": ["gpuproxy: ready"],
    "location": "Berlin, DE",
    "machine_id": 123,
    "max_price_per_hour": 2.0,
    "max_price_source": "request",
    "message": "4 of 4 GPUs reserved",
    "metadata": {"contract_id": "30000017"},
    "mode": "shared",
    "mount_path": "/data",
    "name": "training",
    "new_primary_gpu_id": 30000018,
    "next_page_token": "",
    "notes": [],
    "num_gpus": 1,
    "offer_id": "offer-27000006",
    "offer_prefix": "offer-",
    "part": "standby",
    "pending_ids": [],
    "phase": "start",
    "port": 40017,
    "prefix": "gp_7Qm2",
    "price_per_gpu_hour": 0.31,
    "price_per_hour": 0.31,
    "primary_contract_id": "30000017",
    "primary_gpu_id": 30000017,
    "primary_ssh_host": "203.0.113.7",
    "primary_ssh_port": 40017,
    "project": "default",
    "protocol": "tcp",
    "provider": MARKETPLACE,
    "public_key": "ssh-ed25519 AAAA...",
    "public_port": 40017,
    "ram_gb": 64,
    "ready_evidence": "ssh greets",
    "reason": "",
    "refund_rule": "Nothing is paid back.",
    "region": "",
    "recovery_time_seconds": 27.4,
    "reliability": 0.995,
    "request_id": "train-7",
    "reservation_id": "res-3nggm26s",
    "resume_token": "17",
    "role": "user",
    "scope": "project",
    "spent": 37.2,
    "standby_contract_id": "30000018",
    "standby_gpu_id": 30000018,
    "standby_state": "stopped",
    "state": "active",
    "status": "active",
    "status_message": "success, running",
    "strategy": "least_connections",
    "timestamp": 1734708600,
    "to_state": "failover",
    "token": "eyJhbGciOi...",
    "total_spent_24h": 37.2,
    "troubleshooting": [],
    "unreachable": [],
    "url": "",
    "user": "root",
    "user_id": "user-8d2f",
    "verified": True,
    "vram_gb": 24,
    "warnings": [],
    "why": "fewest leases on its host",
    "window": "24h",
}
_BY_TYPE: Mapping[str, Any] = {"string": "...", "integer": 1, "number": 1.5, "boolean": True}


def example(message: str, field: str, schema: Schema) -> Any:
    """The example of a field that is no message; a list or a map of such values has one or none."""
    if schema.get("type") == "array":
        known = _BY_NAME.get(field)
        return known if isinstance(known, list) else [example(message, field, schema["items"])]
    found = _BY_FIELD.get(f"{message}.{field}", _BY_NAME.get(field))
    if found is not None and _fits(found, schema):
        return found
    if "pattern" in schema:
        return _TIME if schema.get("format") == "date-time" else "86400s"
    return _BY_TYPE.get(schema.get("type", ""), {})


def whole(name: str, schemas: Mapping[str, Schema]) -> Any:
    """An example of a whole message: every field, most lists with one element."""
    properties: Mapping[str, Schema] = schemas[name]["properties"]
    return {field: _filled(schema, schemas) for field, schema in properties.items()}


def _filled(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    if "examples" in schema:
        return schema["examples"][0]
    if "anyOf" in schema:
        return _filled(schema["anyOf"][0], schemas)
    if schema.get("type") == "array":
        return [_filled(schema["items"], schemas)]
    if "$ref" in schema:
        return whole(schema["$ref"].rpartition("/")[2], schemas)
    return {}


def _fits(value: object, schema: Schema) -> bool:
    """Whether the value has the field's type; names such as `created_at` have several."""
    kind = schema.get("type")
    if kind == "object":
        return isinstance(value, dict) and "properties" not in schema
    if "pattern" in schema or kind == "boolean":
        return isinstance(value, bool) == (kind == "boolean") and ("pattern" not in schema or value == _TIME)
    if kind == "string":
        return isinstance(value, str)
    return kind in {"integer", "number"} and isinstance(value, int if kind == "integer" else int | float)
