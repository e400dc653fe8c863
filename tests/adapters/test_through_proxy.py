"""The Http port through a real proxy: each request is sent at most once, and what never left is HttpNotSent."""

import base64
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trustme

from gpuproxy.adapters.proxies import Proxies, exceptions_in, proxy_at
from gpuproxy.adapters.transport import AioHttp
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse
from tests.adapters.proxy import Fault, HttpProxy
from tests.adapters.raw_server import OK, Answer, Server, closes, resets, says, stays_silent

SECRET = "cnryproxy:q7@/é"
LOGIN = "agent:cnryproxy%3Aq7%40%2F%C3%A9@"
HEADER = f"proxy-authorization: basic {base64.b64encode(f'agent:{SECRET}'.encode()).decode()}".lower()
METHODS = ("GET", "PUT", "POST", "DELETE")
SCHEMES = ("https", "http")
_NAME = "market.test"


@dataclass
class Route:
    """A client, the proxy that it uses, and the server behind it, which no name leads to."""

    http: AioHttp
    proxy: HttpProxy
    server: Server
    scheme: str

    async def send(self, method: str = "PUT", timeout: float = 20.0) -> HttpResponse:
        """Sends a request to the server's name."""
        url = f"{self.scheme}://{_NAME}:{self.server.port}/v1?token=query-secret"
        return await self.http.send(HttpRequest(method=method, url=url, body=b"x", timeout=timeout))


@asynccontextmanager
async def route(
    scheme: str = "https",
    *answers: Answer,
    fault: Fault = "",
    refusal: str = "",
    trusted: bool = True,
    tls_proxy: bool = False,
    names: tuple[str, ...] = (_NAME,),
) -> AsyncIterator[Route]:
    ca, trust = trustme.CA(), ssl.create_default_context()
    if trusted:
        ca.configure_trust(trust)
    served = _serving(ca, *names) if scheme == "https" else None
    server = Server(*(answers or (says(OK),)), tls=served)
    proxy = HttpProxy(
        fault,
        asked=lambda: bool(server.requests),
        refusal=refusal,
        tls=_serving(ca, "127.0.0.1") if tls_proxy else None,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server.running())
        await stack.enter_async_context(proxy.running())
        place = proxy_at(f"http{'s' if tls_proxy else ''}://{LOGIN}127.0.0.1:{proxy.port}")
        http = AioHttp(proxies=Proxies(https=place, http=place), tls=trust)
        stack.push_async_callback(http.close)
        yield Route(http, proxy, server, scheme)


def _serving(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize(("scheme", "first"), [("https", "CONNECT market.test:"), ("http", "PUT http://market.test:")])
async def test_a_request_goes_through_the_proxy_which_resolves_the_name(scheme: str, first: str) -> None:
    async with route(scheme) as way:
        assert (await way.send()).body == b"ok"
    assert [head.startswith(first) for head in way.proxy.heads] == [True]
    assert len(way.server.requests) == 1


async def test_a_proxy_that_itself_uses_tls_works() -> None:
    async with route(tls_proxy=True) as way:
        assert (await way.send()).body == b"ok"
    assert len(way.proxy.heads) == len(way.server.requests) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_proxy_gets_its_credentials_and_through_a_tunnel_the_server_does_not(scheme: str) -> None:
    async with route(scheme) as way:
        await way.send()
    assert HEADER in way.proxy.heads[0].lower()
    if scheme == "https":
        assert b"proxy-authorization" not in way.server.requests[0].lower()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_if_the_proxy_can_not_be_reached_the_request_is_not_sent(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = proxy_at(f"http://{LOGIN}127.0.0.1:{unused.getsockname()[1]}")
        http = AioHttp(proxies=Proxies(https=place, http=place))
        with pytest.raises(HttpNotSent) as failure:
            await http.send(HttpRequest(method="PUT", url=f"{scheme}://{_NAME}/"))
        await http.close()
    assert "cnryproxy" not in repr(failure.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "refusal",
    ["407 Proxy Authentication Required", "502 Bad Gateway", "403 agent:cnryproxy:q7 is not allowed", "302 Found"],
)
async def test_a_proxy_that_refuses_the_tunnel_means_that_the_request_is_not_sent(method: str, refusal: str) -> None:
    async with route(refusal=refusal) as way:
        with pytest.raises(HttpNotSent, match=f"the proxy 127.0.0.1:{way.proxy.port} .* {refusal[:3]}") as failure:
            await way.send(method)
    assert (len(way.proxy.heads), way.server.requests) == (1, [])
    assert "cnryproxy" not in repr(failure.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["closes", "silent", "closes in the tunnel"])
async def test_what_breaks_before_the_tunnel_stands_is_not_sent_and_not_repeated(method: str, fault: Fault) -> None:
    async with route(fault=fault) as way:
        with pytest.raises(HttpNotSent):
            await way.send(method, timeout=0.3 if fault == "silent" else 20.0)
    assert (len(way.proxy.heads), way.server.requests) == (1, [])


@pytest.mark.parametrize(("trusted", "names"), [(False, (_NAME,)), (True, ("other.test",))])
async def test_a_server_behind_the_proxy_needs_a_valid_certificate(trusted: bool, names: tuple[str, ...]) -> None:
    async with route(trusted=trusted, names=names) as way:
        with pytest.raises(HttpNotSent):
            await way.send()
    assert way.server.requests == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["breaks after the request", "cuts the answer"])
async def test_a_proxy_that_breaks_after_the_request_was_sent_is_a_lost_reply(
    scheme: str, method: str, fault: Fault
) -> None:
    async with route(scheme, fault=fault) as way:
        with pytest.raises(HttpReplyLost):
            await way.send(method)
    assert len(way.server.requests) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", [resets, closes])
async def test_a_server_that_breaks_behind_the_proxy_gets_no_request_twice(
    scheme: str, method: str, fault: Answer
) -> None:
    async with route(scheme, fault) as way:
        with pytest.raises(HttpReplyLost):
            await way.send(method)
    assert len(way.server.requests) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_server_that_stays_silent_behind_the_proxy_is_a_lost_reply(scheme: str) -> None:
    async with route(scheme, stays_silent) as way:
        with pytest.raises(HttpReplyLost, match="no complete answer"):
            await way.send(timeout=1.0)
    assert len(way.server.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_request_to_this_machine_uses_no_proxy(host: str) -> None:
    async with route("http") as way:
        reply = await way.http.send(HttpRequest(method="PUT", url=f"http://{host}:{way.server.port}/", body=b"x"))
    assert (reply.status, way.proxy.heads, len(way.server.requests)) == (200, [], 1)


async def test_an_exception_uses_no_proxy() -> None:
    async with HttpProxy().running() as proxy:
        place = proxy_at(f"127.0.0.1:{proxy.port}")
        http = AioHttp(proxies=Proxies(http=place, exceptions=exceptions_in("market.invalid")))
        with pytest.raises(HttpNotSent):
            await http.send(HttpRequest(method="GET", url="http://market.invalid/"))
        await http.close()
    assert proxy.heads == []
