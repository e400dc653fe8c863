"""Streams as Server-Sent Events: `id` is the resume token, `data` the message as JSON.

If the server ends the stream, it sends an event `error` with the same body as a refused call. The client then opens
the stream again with `Last-Event-ID`, as browsers do automatically. A comment line is sent as a heartbeat. It keeps
proxies from closing the connection, and it shows the server when a client is gone, so that its stream is freed.
"""

import asyncio

from aiohttp import hdrs, web

from gpuproxy.edge.http.answers import body_of, error_body, problem_of, refused
from gpuproxy.edge.rpc.dispatch import Call, Dispatcher
from gpuproxy.edge.rpc.rpcs import Answer
from gpuproxy.ports import Clock

EVENTS_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 15.0
"""Real seconds between two heartbeats."""
_HEADERS = {
    hdrs.CONTENT_TYPE: EVENTS_TYPE,
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # otherwise nginx buffers the events
}


async def stream(dispatcher: Dispatcher, call: Call, request: web.Request, clock: Clock) -> web.StreamResponse:
    """Send each answer as an event at once. An error before the first answer becomes an ordinary response."""
    response = web.StreamResponse(headers=_HEADERS)

    async def send(answer: Answer) -> None:
        if not response.prepared:
            await response.prepare(request)
        token = getattr(answer, "resume_token", "")
        await _write(response, f"id: {token}\n".encode() + b"data: " + body_of(answer) + b"\n\n")

    beating = asyncio.create_task(_beat(response, clock))
    try:
        reply = await dispatcher.stream(call, send)
    finally:
        beating.cancel()
    if reply.refusal is not None and not response.prepared:
        return refused(problem_of(reply.refusal), reply.trace_id)
    if not response.prepared:
        await response.prepare(request)
    if reply.refusal is not None:
        error = error_body(problem_of(reply.refusal), reply.trace_id)
        await _write(response, b"event: error\ndata: " + error + b"\n\n")
    await response.write_eof()
    return response


async def _beat(response: web.StreamResponse, clock: Clock) -> None:
    """Send heartbeats until cancelled. If the client doesn't read, this waits; TCP detects a dead client."""
    while True:
        await clock.sleep(HEARTBEAT_SECONDS * clock.scale)
        if response.prepared:
            try:
                await response.write(b": still here\n\n")
            except ConnectionError:
                return  # aiohttp is about to cancel the stream


async def _write(response: web.StreamResponse, event: bytes) -> None:
    try:
        await response.write(event)
    except ConnectionError:
        # The client is gone. aiohttp is about to cancel this task for it.
        task = asyncio.current_task()
        if task is not None:
            task.cancel()
        await asyncio.sleep(0)
