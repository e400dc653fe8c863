"""How a command talks to the server: address and key, one call, and what an error looks like.

The admin key that the first start leaves beside the database is sent to this machine only.
"""

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Concatenate, ParamSpec, TypeVar

import click
import grpc
from google.protobuf.message import Message

from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.channel import NO_TLS, Tls, channel_to, misunderstanding
from gpuproxy.client.channel import DEFAULT_SERVER, key_error
from gpuproxy.client.errors import Refusal, refusal_of
from gpuproxy.config.loading import read_environment
from gpuproxy.config.settings import DEFAULT_DATABASE, ConfigError, admin_key_file
from gpuproxy.config.values import is_loopback
from gpuproxy.edge.messages.json_codec import plain
from gpuproxy.edge.rpc.rpcs import POLL
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub

DEFAULT_TIMEOUT = 30.0

P = ParamSpec("P")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class ServerRefused(click.ClickException):
    """The server answered with an error."""

    exit_code = 1

    def __init__(self, error: Refusal, *, as_json: bool) -> None:
        super().__init__(error.as_json() if as_json else error.as_text())
        self.error = error
        self._as_json = as_json

    def with_hint(self, hint: str) -> "ServerRefused":
        """The same with one more line of message."""
        return type(self)(replace(self.error, message=f"{self.error.message}\n{hint}"), as_json=self._as_json)

    def show(self, file: object = None) -> None:
        """To stderr, without a prefix: the message speaks for itself."""
        del file
        click.echo(self.message, err=True)


class NobodyAnswers(ServerRefused):
    """There is no server, or it stopped answering."""

    exit_code = 3


class Connection:
    """One channel to one server. `stub` is for what `call` is too simple for."""

    def __init__(self, server: str, key: str, *, as_json: bool = False, tls: Tls = NO_TLS) -> None:
        """Raises UsageError for files of `tls` that can't be used."""
        self.server = server
        self.as_json = as_json
        self.metadata = (("x-api-key", key),) if key else ()
        self.tls = tls
        self.channel = channel_to(server, tls)
        self.stub = GPUProxyServiceStub(self.channel)

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        poll: bool = False,
    ) -> Response:
        """The answer; raises ServerRefused, or NobodyAnswers, which end the command.

        `poll`: a read that is repeated while something else is waited for; the server logs it at debug.
        """
        metadata = (*self.metadata, POLL) if poll else self.metadata
        try:
            return method(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise self.failure(error) from None

    def failure(self, error: grpc.RpcError) -> ServerRefused:
        """What ends the command for an error of the channel's."""
        refusal = refusal_of(error)
        from_server = bool(refusal.trace_id or refusal.reason)
        if not from_server and refusal.code == "UNAVAILABLE":
            text = misunderstanding(self.server, self.tls, refusal.message)
            text = text or f"Nothing answers at {self.server}. Start it with make run, or set GPUPROXY_SERVER."
            return NobodyAnswers(Refusal(code=refusal.code, message=text), as_json=self.as_json)
        if not from_server and refusal.code == "DEADLINE_EXCEEDED":
            text = f"{self.server} did not answer in time."
            return NobodyAnswers(Refusal(code=refusal.code, message=text), as_json=self.as_json)
        if refusal.code == "UNAUTHENTICATED" and not self.metadata:
            hint = "No API key was found: set GPUPROXY_API_KEY, or run this in the directory of the server's database."
            refusal = replace(refusal, message=f"{refusal.message}\n{hint}")
        return ServerRefused(refusal, as_json=self.as_json)

    def server_now(self) -> datetime:
        """The server's clock, which may run faster than ours (GPUPROXY_TIME_SCALE)."""
        return datetime.fromtimestamp(self.call(self.stub.HealthCheck, pb.HealthCheckRequest()).timestamp, UTC)

    def json_of(self, message: Message) -> str:
        """As the HTTP interface would say it."""
        return json.dumps(plain(message), indent=2, ensure_ascii=False)

    def print_json(self, message: Message) -> None:
        """`json_of` on stdout."""
        click.echo(self.json_of(message))

    def close(self) -> None:
        """End the channel and what is under way on it."""
        self.channel.close()


def client_command(command: Callable[Concatenate[Connection, P], None]) -> Callable[..., None]:
    """Give a command --server, --api-key, --json and those of TLS, and a Connection as its first argument."""

    @functools.wraps(command)
    def run(  # noqa: PLR0917 - click passes them all by name
        server: str | None,
        api_key: str | None,
        as_json: bool,
        tls: bool,
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        found = _environment()
        address = server or found.get("GPUPROXY_SERVER", DEFAULT_SERVER)
        if address.startswith(("http://", "https://")):
            named = "--server" if server else "GPUPROXY_SERVER"
            raise click.UsageError(f"{named}: should be HOST:PORT of gRPC, as in {DEFAULT_SERVER}, not {address}")
        security = Tls(wanted=tls, ca=tls_ca or "", cert=tls_cert or "", key=tls_key or "").over(found)
        key = api_key or _key(found, address)
        if wrong := key_error(key):
            raise click.UsageError(f"{'--api-key' if api_key else 'GPUPROXY_API_KEY'}: {wrong}")
        connection = Connection(address, key, as_json=as_json, tls=security)
        try:
            command(connection, *args, **kwargs)
        finally:
            connection.close()

    for option in (
        click.option(
            "--key", "tls_key", type=TextType(), metavar="FILE", help="Key of --cert. Default: GPUPROXY_CLIENT_TLS_KEY."
        ),
        click.option(
            "--cert",
            "tls_cert",
            type=TextType(),
            metavar="FILE",
            help="Client certificate, if the server requires one. Default: GPUPROXY_CLIENT_TLS_CERT.",
        ),
        click.option(
            "--ca",
            "tls_ca",
            type=TextType(),
            metavar="FILE",
            help="CA to trust instead of the public CAs. Default: GPUPROXY_CLIENT_TLS_CA.",
        ),
        click.option("--tls", is_flag=True, help="Use TLS, as --ca and --cert do. Default: GPUPROXY_CLIENT_TLS."),
        click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
        click.option(
            "--api-key", type=TextType(), metavar="KEY", help="Default: GPUPROXY_API_KEY, else the local admin key."
        ),
        click.option(
            "--server", type=TextType(), metavar="HOST:PORT", help=f"Default: GPUPROXY_SERVER, else {DEFAULT_SERVER}."
        ),
    ):
        run = option(run)
    return run


def _environment() -> Mapping[str, str]:
    try:
        return read_environment(os.environ)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _key(found: Mapping[str, str], server: str) -> str:
    if key := found.get("GPUPROXY_API_KEY", ""):
        return key
    if not is_loopback(server.rpartition(":")[0].strip("[]")):
        return ""
    path = admin_key_file(found.get("GPUPROXY_DATABASE_URL", DEFAULT_DATABASE))
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return ""
