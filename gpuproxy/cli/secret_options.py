"""Options of `reserve` for secrets. A secret is never printed, and there is a way to give it without an argument.

The arguments of a process are visible to every user of the machine; its environment and its stdin are not.
"""

import os
import sys

import click

from gpuproxy.config.environment import ConfigError, read_environment
from gpuproxy.v1 import gpuproxy_pb2 as pb

_VARIABLE = "GPUPROXY_REGISTRY_SECRET"


class SecretEnvType(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`, or `KEY` for the value that the variable KEY has here. Errors never quote a value."""

    name = "key[=value]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Fails the command if there is no key, or no variable of that name."""
        key, equals, text = str(value).partition("=")
        if not key.strip():
            self.fail("needs a name: KEY=VALUE, or KEY to take the value from the environment", param, ctx)
        if equals:
            return key, text
        found = os.environ.get(key)
        if found is None:
            self.fail(f"no variable {key} is set in the environment. Set it, or write {key}=VALUE", param, ctx)
        return key, found


class RegistryType(click.ParamType[tuple[str, str]]):
    """`USER@SERVER`, or `USER` for Docker Hub. The last @ separates them, because a user may be an email address."""

    name = "user[@server]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Fails the command if the user or the server is empty. The text is not quoted: it may contain a password."""
        user, at, server = str(value).strip().rpartition("@")
        if not at:
            user, server = server, ""
        if not user or (at and not server):
            self.fail("must be USER@SERVER, or USER for Docker Hub", param, ctx)
        if ":" in user:
            self.fail(f"takes no password. Set {_VARIABLE}, or type it when asked", param, ctx)
        return user, server


def registry_auth(registry: tuple[str, str]) -> pb.RegistryAuth:
    """The credentials for a user and a server. Reads the password from the environment, a prompt or stdin.

    Raises UsageError if there is none.
    """
    user, server = registry
    try:
        secret = read_environment(os.environ).get(_VARIABLE, "")
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if not secret and sys.stdin.isatty():
        where = server or "Docker Hub"
        secret = click.prompt(f"Password of {user} at {where}", hide_input=True, err=True)
    elif not secret:
        secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise click.UsageError(f"--registry-auth: no password. Set {_VARIABLE}, or write it to stdin.")
    return pb.RegistryAuth(server=server, username=user, secret=secret)
