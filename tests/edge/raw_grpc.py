"""A gRPC client of bare HTTP/2 frames. It pings when it likes; the clients of gRPC's libraries limit themselves."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from google.protobuf.message import Message

DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEAD = struct.Struct(">BHBBI")
"""Length (one byte, then two), type, flags, stream."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    stream: int
    payload: bytes


class RawGrpc:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def call(self, path: str, request: Message, key: str) -> None:
        """Starts a call with one request, as stream 1."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
            "x-api-key": key,
        }
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        body = request.SerializeToString()
        self._send(HEADERS, _END_HEADERS, 1, block)
        self._send(DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(body)) + body)

    def ping(self) -> None:
        self._send(PING, 0, 0, b"12345678")

    async def until(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds, or a GOAWAY, which the caller did not expect."""
        while True:
            high, low, kind, flags, stream = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            frame = Frame(kind, stream, await self._reader.readexactly(high << 16 | low))
            if kind == SETTINGS and not flags & _ACK:
                self._send(SETTINGS, _ACK, 0, b"")
            if kind == PING and not flags & _ACK:
                self._send(PING, _ACK, 0, frame.payload)
            elif kind in (*kinds, GOAWAY):
                return frame

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._writer.write(_HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawGrpc]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = RawGrpc(reader, writer)
    writer.write(_PREFACE)
    client._send(SETTINGS, 0, 0, b"")
    try:
        yield client
    finally:
        writer.close()


def _text(text: str) -> bytes:
    """A literal of HPACK without compression, shorter than 127 bytes."""
    return bytes([len(text)]) + text.encode()
