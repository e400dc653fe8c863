"""Health and reflection, as tools use them."""

import importlib
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from gpuproxy.edge.grpc.server import PUBLISHED
from gpuproxy.edge.rpc.rpcs import CONTRACT
from gpuproxy.model.errors import Unavailable
from tests.edge.face import Face, facing

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WHOLE_AND_BOTH = ("", "gpuproxy.v1.GPUProxyService", "gpuproxy.GPUProxyService")


async def health(face: Face, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(face.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=120)).status


async def test_health_is_reported_for_the_server_and_both_service_names_without_a_key() -> None:
    async with facing(object()) as face:
        assert [await health(face, name) for name in WHOLE_AND_BOTH] == [NOT_SERVING] * 3
        await face.server.serving(True)
        assert [await health(face, name) for name in WHOLE_AND_BOTH] == [SERVING] * 3


async def test_a_drain_first_reports_not_serving() -> None:
    async with facing(object()) as face:
        await face.server.serving(True)
        stub = health_pb2_grpc.HealthStub(face.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=120)
        assert (await watch.read()).status == SERVING
        await face.server.drain(0.1)
        assert (await watch.read()).status == NOT_SERVING


async def reflected(face: Face, version: str, **what: Any) -> reflection_pb2.ServerReflectionResponse:
    multi = face.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = multi(iter([reflection_pb2.ServerReflectionRequest(**what)]), timeout=120)
    answers = [answer async for answer in call]
    return answers[0]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_both_names_and_health(version: str) -> None:
    async with facing(object()) as face:
        answer = await reflected(face, version, list_services="")
    assert {service.name for service in answer.list_services_response.service} == {
        "gpuproxy.v1.GPUProxyService",
        "gpuproxy.GPUProxyService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_every_listed_service_can_be_described(version: str) -> None:
    async with facing(object()) as face:
        listed = await reflected(face, version, list_services="")
        for service in listed.list_services_response.service:
            answer = await reflected(face, version, file_containing_symbol=service.name)
            assert answer.file_descriptor_response.file_descriptor_proto, service.name


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("service", ["gpuproxy.v1.GPUProxyService", "gpuproxy.GPUProxyService"])
async def test_a_single_call_can_be_described_and_an_unknown_symbol_is_not_found(version: str, service: str) -> None:
    async with facing(object()) as face:
        found = await reflected(face, version, file_containing_symbol=f"{service}.ReserveGPUs")
        assert found.file_descriptor_response.file_descriptor_proto
        for nothing in (f"{service}.RentEverything", "gpuproxy.v1.Nobody.ReserveGPUs", "nothing"):
            missing = await reflected(face, version, file_containing_symbol=nothing)
            assert missing.error_response.error_code == 5


class Busy:
    def __init__(self, retry_after: float) -> None:
        self.refusal = Unavailable("not now", retry_after=retry_after)

    async def HealthCheck(self, request: Any, caller: Any) -> Any:  # noqa: N802 - named by the contract
        raise self.refusal


@pytest.mark.parametrize(
    ("retry_after", "seconds_left", "pushback"),
    [(2.5, None, "2500"), (2.5, 100.0, "2500"), (0.0, 100.0, "1"), (20.0, 10.0, "-1"), (20.0, None, "-1")],
)
async def test_a_retry_is_requested_only_before_the_deadline_and_never_after_0_ms(
    retry_after: float, seconds_left: float | None, pushback: str
) -> None:
    async with facing(Busy(retry_after)) as face:
        refused = await face.refused("HealthCheck", timeout=seconds_left)
    assert refused.trailers["grpc-retry-pushback-ms"] == pushback


async def test_other_errors_do_not_mention_retries() -> None:
    async with facing(object()) as face:
        assert "grpc-retry-pushback-ms" not in (await face.refused("HealthCheck")).trailers


def test_both_service_names_have_the_same_calls() -> None:
    def calls(service: Any) -> list[tuple[str, str, str, bool]]:
        return [(m.name, m.input_type.full_name, m.output_type.full_name, m.server_streaming) for m in service.methods]

    assert calls(CONTRACT) == calls(PUBLISHED)


def test_the_stubs_of_the_contract_load() -> None:
    grpc_stubs = importlib.import_module("gpuproxy.v1.gpuproxy_pb2_grpc")
    assert hasattr(grpc_stubs, "GPUProxyServiceStub")
