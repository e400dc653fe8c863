"""Server reflection in both versions, v1 and v1alpha; they differ only in their names.

grpcio-reflection has only v1alpha, and with protobuf's C pool it can't find the file of a method (`grpcurl describe
package.Service.Method`). This module adds both.
"""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

_V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: aio.Server, services: Sequence[str]) -> None:
    """Add reflection to the server, so that clients can read the descriptors of `services` and of reflection."""
    alpha = reflection_pb2.DESCRIPTOR
    text = text_format.MessageToString(_file(alpha)).replace("grpc.reflection.v1alpha", "grpc.reflection.v1")
    renamed = text_format.Parse(text.replace("reflection/v1alpha/", "reflection/v1/"), FileDescriptorProto())
    descriptor_pool.Default().Add(renamed)
    names = (*services, reflection.SERVICE_NAME, _V1)
    servicer = reflection.aio.ReflectionServicer(names, pool=_Symbols(descriptor_pool.Default()))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_V1, {"ServerReflectionInfo": method}),))


class _Symbols:
    """A descriptor pool that also finds methods; raises KeyError for an unknown symbol."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - the pool's own name
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            return found.methods_by_name[method].containing_service.file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def _file(descriptor: Any) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    descriptor.CopyToProto(proto)
    return proto
