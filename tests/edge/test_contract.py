"""The contract that clients were compiled against: published names, numbers and types stay as they are."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gpuproxy.edge.rpc.rpcs import CONTRACT
from gpuproxy.v1 import gpuproxy_pb2

ROOT = Path(__file__).resolve().parents[2]

PUBLISHED = {
    "LoginRequest": "email:string password:string",
    "LoginResponse": "token:string user_id:string email:string",
    "CreateAPIKeyRequest": "name:string token:string",
    "CreateAPIKeyResponse": "api_key:string name:string created_at:int64",
    "HealthCheckResponse": "status:string timestamp:int64 details:map",
    "ListGPUInstancesRequest": "provider:string min_vram:double max_price:double gpu_model:string",
    "ListGPUInstancesResponse": "instances:GPUInstance* total_count:int32",
    "GetGPUInstanceRequest": "provider:string instance_id:string",
    "GetGPUInstanceResponse": "instance:GPUInstance",
    "CreateGPUInstanceRequest": "provider:string instance_id:string image:string env:map ports:int32*",
    "CreateGPUInstanceResponse": "instance_id:string provider:string status:string message:string",
    "DestroyGPUInstanceRequest": "provider:string instance_id:string",
    "DestroyGPUInstanceResponse": "success:bool message:string",
    "GPUInstance": "id:string provider:string status:string price_per_hour:double vram_gb:int32 gpu_model:string "
    "num_gpus:int32 location:string metadata:map",
    "ReserveGPUsRequest": "count:int32 provider:string min_vram:double max_price:double",
    "ReserveGPUsResponse": "reserved_instances:GPUInstance* reserved_count:int32 message:string",
    "SetLoadBalancerStrategyRequest": "strategy:string",
    "SetLoadBalancerStrategyResponse": "strategy:string success:bool",
    "GetLoadBalancerStrategyResponse": "strategy:string scope:string available:string*",
    "GetLoadInfoRequest": "type:string",
    "GetLoadInfoResponse": "server_load:LoadInfo* provider_load:LoadInfo* current_strategy:string",
    "LoadInfo": "instance_id:string provider:string connections:int32 avg_response_time_ms:double load_score:double",
    "GetTransactionsRequest": "limit:int32 offset:int32",
    "GetTransactionsResponse": "transactions:Transaction* total_count:int32",
    "Transaction": "id:string type:string amount:double currency:string timestamp:int64 status:string "
    "description:string",
    "GetSpendingInfoResponse": "windows:SpendingWindow* guard_rails_enabled:bool total_spent_24h:double",
    "CheckSpendingLimitRequest": "amount:double",
    "CheckSpendingLimitResponse": "allowed:bool reason:string would_exceed:SpendingWindow*",
    "SpendingWindow": "window:string spent:double limit:double remaining:double exceeded:bool",
}

OURS = {
    "ReserveGPUsRequest": "gpu_model location verified_only min_reliability min_cuda exclude_hosts strategy packing "
    "min_count all_or_nothing image registry_auth env secret_env ports disk_gb ssh_public_keys onstart run_mode args "
    "request_id lease_duration keep_late wait_for ready_timeout on_not_ready wait labels dry_run same_model "
    "min_cpu_cores min_ram_gb min_disk_bandwidth min_inet_down min_inet_up max_traffic_price same_country "
    "release_idle_after",
    "ReserveGPUsResponse": "reservation_id state outcomes price_per_hour decision cheapest_alternative_per_hour "
    "expires_at",
    "GPUInstance": "price_per_gpu_hour host_id reliability verified lease_id reservation_id created_at ready_at "
    "expires_at account contract_id ssh port_mappings status_message cost_so_far cuda_max disk_gb "
    "cpu_cores ram_gb disk_bandwidth inet_down inet_up inet_down_price inet_up_price direct_ports compute_cap "
    "contract_ends_at ready_evidence boot_parts warnings booked_until paid refund_rule self_ending",
    "ListGPUInstancesRequest": "location verified_only min_reliability num_gpus disk_gb order_by page_size page_token "
    "state min_cpu_cores min_ram_gb min_disk_bandwidth min_inet_down min_inet_up max_traffic_price",
    "ListGPUInstancesResponse": "next_page_token as_of unreachable available_gpus message",
    "LoadInfo": "total_connections weight last_used samples ejected_until",
    "Transaction": "provider instance_id reservation_id started_at ended_at gpu_hours",
}

CALLS = """
Login CreateAPIKey ListAPIKeys RevokeAPIKey AddSSHKey ListSSHKeys DeleteSSHKey HealthCheck
ListGPUInstances GetGPUInstance StartGPUInstance StopGPUInstance GetInstanceLogs CreateGPUInstance DestroyGPUInstance
ReserveGPUs GetReservation ListReservations ReleaseReservation ExtendReservation WatchReservation
SetLoadBalancerStrategy GetLoadBalancerStrategy GetLoadInfo ListProviders ProbeProvider GetProviderProbe
GetTransactions GetSpendingInfo CheckSpendingLimit SetSpendingLimit ListSpendingLimits GetCostReport ListAuditEvents
GetWarmPoolStatus ListWarmPools ListWarmPoolHosts ProvisionWarmPool EnableWarmPool DisableWarmPool
TestWarmPoolFailover FailoverWarmPool CleanupWarmPool DeleteRetainedVolume
WatchWarmPool
"""


def message(name: str) -> Descriptor:
    descriptor: Descriptor = gpuproxy_pb2.DESCRIPTOR.message_types_by_name[name]
    return descriptor


def kind(field: Any) -> str:
    nested = field.message_type
    if nested and nested.GetOptions().map_entry:
        return "map"
    names = {v: k.removeprefix("TYPE_").lower() for k, v in vars(FieldDescriptor).items() if k.startswith("TYPE_")}
    return f"{nested.name if nested else names[field.type]}{'*' if field.is_repeated else ''}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_fields_keep_name_number_and_type_and_are_never_optional(name: str) -> None:
    fields = [field for field in message(name).fields if field.number < 20]
    assert [field.number for field in fields] == list(range(1, len(fields) + 1))
    assert " ".join(f"{field.name}:{kind(field)}" for field in fields) == PUBLISHED[name]
    assert not any(field.containing_oneof for field in fields)


@pytest.mark.parametrize("name", OURS)
def test_our_fields_of_published_messages_start_at_twenty_in_the_order_of_the_contract(name: str) -> None:
    fields = [field for field in message(name).fields if 20 <= field.number < 60]  # from 60 on: those added at once
    assert [field.number for field in fields] == list(range(20, 20 + len(fields)))
    assert " ".join(field.name for field in fields) == OURS[name]


def test_fields_of_new_messages_start_at_one() -> None:
    for name, descriptor in gpuproxy_pb2.DESCRIPTOR.message_types_by_name.items():
        if name not in PUBLISHED and descriptor.fields:
            assert min(field.number for field in descriptor.fields) == 1, name


def test_every_call_of_the_contract_is_there() -> None:
    assert set(CONTRACT.methods_by_name) == set(CALLS.split())


def test_generated_files_are_up_to_date_and_break_no_client() -> None:
    pytest.importorskip("grpc_tools")
    command = [sys.executable, ROOT / "scripts" / "proto", "--check"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_docs_name_the_fields_of_the_answers() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("| call | field of the answer |")[2]
    rows = [line.split("|")[1:3] for line in text.partition("\n\n")[0].splitlines()[2:]]
    methods = CONTRACT.methods_by_name
    named = {call.strip(): set(re.findall(r"`(\w+)`", fields)) for calls, fields in rows for call in calls.split(",")}
    assert len(named) > 10
    unknown = {call: fields - set(methods[call].output_type.fields_by_name) for call, fields in named.items()}
    assert [call for call, fields in named.items() if not fields or unknown[call]] == []
