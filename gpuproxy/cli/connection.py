"""How a command talks to the server: the address and the key, one call, and how errors are printed.

The admin key that the server keeps beside its database is sent only to servers on this machine.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click
import grpc
from google.protobuf.message import Message

from gpuproxy.adapters.proxies import is_loopback
from gpuproxy.cli.arguments import FileType, TextType
from gpuproxy.cli.channel import NO_TLS, Tls, channel_to, connection_error
from gpuproxy.cli.printable import printable, printable_channel
from gpuproxy.cli.wording import in_commands
from gpuproxy.client.channel import DEFAULT_SERVER, key_error
from gpuproxy.client.errors import Refusal, refusal_of
from gpuproxy.client.servers import addresses_of
from gpuproxy.config.environment import DEFAULT_DATABASE, ConfigError, admin_key_file, read_environment
from gpuproxy.edge.messages.json_values import plain
from gpuproxy.edge.rpc.rpcs import POLL
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub

DEFAULT_TIMEOUT = 30.0

_NO_KEY = "No API key was found. Set GPUPROXY_API_KEY, or run this in the directory of the server's database."
_ONE = r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:/@,\[\]]+):\d{1,5}"
_ADDRESS = re.compile(rf"{_ONE}(,{_ONE})*|(unix|unix-abstract|dns|ipv4|ipv6):\S+")
"""HOST:PORT, a list of them, or an address with one of the schemes that gRPC knows."""

P = ParamSpec("P")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class ServerRefused(click.ClickException):
    """The server answered with an error."""

    exit_code = 1

    def __init__(self, error: Refusal, *, as_json: bool) -> None:
        super().__init__(error.as_json() if as_json else in_commands(error.as_text()))
        self.error = error
        self._as_json = as_json

    def with_hint(self, hint: str) -> "ServerRefused":
        """The same error with one more line in its message."""
        return self.with_message(f"{self.error.message}\n{hint}")

    def with_message(self, message: str) -> "ServerRefused":
        """The same error with another message."""
        return type(self)(replace(self.error, message=message), as_json=self._as_json)

    def show(self, file: object = None) -> None:
        """Print the message to stderr, without click's prefix "Error:"."""
        del file
        click.echo(self.message if self._as_json else printable(self.message), err=True)


class ServerUnreachable(ServerRefused):
    """No server listens at the address, or it does not answer in time."""

    exit_code = 3


class Connection:
    """One channel to a server, or to several. Use `stub` directly only for calls that `call` can't make."""

    def __init__(
        self, server: str, key: str, *, key_from: str = "The API key", as_json: bool = False, tls: Tls = NO_TLS
    ) -> None:
        """`key_from`: where the key comes from, for messages. Raises UsageError if a file of `tls` can't be used."""
        self._key_from = key_from
        self.server = server
        self.as_json = as_json
        self.metadata = (("x-api-key", key),) if key else ()
        self.tls = tls
        self.channel = channel_to(server, tls)
        self.stub = GPUProxyServiceStub(self.channel if as_json else printable_channel(self.channel))

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        poll: bool = False,
    ) -> Response:
        """The answer. Raises ServerRefused or ServerUnreachable, which end the command. `timeout` is in seconds.

        `poll`: True for a read that is repeated during a wait; the server logs it at level debug.
        """
        metadata = (*self.metadata, POLL) if poll else self.metadata
        try:
            return method(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise self.failure(error) from None

    def failure(self, error: grpc.RpcError) -> ServerRefused:
        """The exception that ends the command after this gRPC error."""
        refusal = refusal_of(error)
        from_server = bool(refusal.trace_id or refusal.reason)
        if not from_server and refusal.code == "UNAVAILABLE":
            text = connection_error(self.server, self.tls, refusal.message)
            text = text or f"Nothing answers at {self.server}. Start it with make run, or set GPUPROXY_SERVER."
            return ServerUnreachable(Refusal(code=refusal.code, message=text), as_json=self.as_json)
        if not from_server and refusal.code == "DEADLINE_EXCEEDED":
            text = f"{self.server} did not answer in time."
            return ServerUnreachable(Refusal(code=refusal.code, message=text), as_json=self.as_json)
        if refusal.code == "UNAUTHENTICATED":  # the server's message is about headers
            text = f"{self._key_from} is not valid at {self.server}."
            refusal = replace(refusal, message=text if self.metadata else _NO_KEY)
        return ServerRefused(refusal, as_json=self.as_json)

    def server_now(self) -> datetime:
        """The time on the server's clock, which may run faster than real time (GPUPROXY_TIME_SCALE)."""
        return datetime.fromtimestamp(self.call(self.stub.HealthCheck, pb.HealthCheckRequest()).timestamp, UTC)

    def json_of(self, message: Message) -> str:
        """The message as JSON text, in the form of the HTTP interface."""
        return json.dumps(plain(message), indent=2, ensure_ascii=False)

    def print_json(self, message: Message) -> None:
        """Print the message to stdout as JSON."""
        click.echo(self.json_of(message))

    def close(self) -> None:
        """Close the channel and cancel its calls."""
        self.channel.close()


_OPTIONS = (
    click.option(
        "--key",
        "tls_key",
        type=FileType(),
        metavar="FILE",
        help="Private key of --cert. Default: GPUPROXY_CLIENT_TLS_KEY.",
    ),
    click.option(
        "--cert",
        "tls_cert",
        type=FileType(),
        metavar="FILE",
        help="Client certificate, if the server requires one. Default: GPUPROXY_CLIENT_TLS_CERT.",
    ),
    click.option(
        "--ca",
        "tls_ca",
        type=FileType(),
        metavar="FILE",
        help="CA to trust instead of the public CAs. Default: GPUPROXY_CLIENT_TLS_CA.",
    ),
    click.option("--tls", is_flag=True, help="Use TLS. --ca and --cert imply it. Default: GPUPROXY_CLIENT_TLS."),
    click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
    click.option(
        "--api-key",
        type=TextType(),
        metavar="KEY",
        help="API key. Default: GPUPROXY_API_KEY, else the local admin key.",
    ),
    click.option(
        "--server",
        type=TextType(),
        metavar="HOST:PORT",
        help=f"gRPC address of the server, or several with commas. Default: GPUPROXY_SERVER, else {DEFAULT_SERVER}.",
    ),
)
"""Of every client command, the last one shown first."""


def client_command(command: Callable[Concatenate[Connection, P], None]) -> Callable[..., None]:
    """Add --server, --api-key, --json and the TLS options to a command; its first argument is a Connection."""

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
        if not _ADDRESS.fullmatch(address):
            named = "--server" if server else "GPUPROXY_SERVER"
            raise click.UsageError(
                f"{named}: must be the HOST:PORT of gRPC, for example {DEFAULT_SERVER}, not {address}"
            )
        security = Tls(wanted=tls, ca=tls_ca or "", cert=tls_cert or "", key=tls_key or "").over(found)
        named = "--api-key" if api_key else "GPUPROXY_API_KEY"
        key = api_key or found.get("GPUPROXY_API_KEY", "")
        if not key and (path := _key_file(found, address)) is not None:
            key, named = _read_key(path), str(path)
        if wrong := key_error(key):
            raise click.UsageError(f"{named}: {wrong}")
        connection = Connection(address, key, key_from=named, as_json=as_json, tls=security)
        try:
            command(connection, *args, **kwargs)
        finally:
            connection.close()

    for option in _OPTIONS:
        run = option(run)
    return run


def _environment() -> Mapping[str, str]:
    try:
        return read_environment(os.environ)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _key_file(found: Mapping[str, str], server: str) -> Path | None:
    """The file of the local admin key; None unless all servers are on this machine."""
    if not all(is_loopback(address.rpartition(":")[0].strip("[]")) for address in addresses_of(server)):
        return None
    if named := found.get("GPUPROXY_ADMIN_KEY_FILE"):
        return Path(named)
    return admin_key_file(found.get("GPUPROXY_DATABASE_URL", DEFAULT_DATABASE))


def _read_key(path: Path) -> str:
    """The key in the file; "" if it can't be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return ""
