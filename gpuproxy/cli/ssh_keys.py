"""The commands `ssh-keys`: the public keys that are installed on the machines that a project rents from now on."""

from collections.abc import Sequence
from pathlib import Path

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import TextType, short_text
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.key_files import default_key, read_public_key
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PREFIX = "SHA256:"


@click.group("ssh-keys")
def ssh_keys() -> None:
    """Add, list and delete the public SSH keys of your project.

    Every machine that the project rents from now on gets them. Machines that exist already do not change.
    """


@ssh_keys.command("add")
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", type=TextType(), help="Name of the key (default: the comment in the key).")
@client_command
def add(connection: Connection, /, file: Path | None, name: str | None) -> None:
    """Add the public key in FILE. `-` reads stdin. Default: ~/.ssh/id_ed25519.pub, else ~/.ssh/id_rsa.pub.

    A private key is refused and never sent. Adding a key again changes nothing.
    """
    name = short_text("--name", name) if name else ""
    path = file or default_key()
    line = read_public_key("FILE", path)
    if file is None:
        click.echo(f"Using {path}", err=True)
    request = pb.AddSSHKeyRequest(name=name, public_key=line)
    before = frozenset[str]() if connection.as_json else _ids(connection)
    key = connection.call(connection.stub.AddSSHKey, request).key
    if connection.as_json:
        connection.print_json(key)
        return
    click.echo(f"{key.id} {_named(key)} · new machines get this key, existing ones do not")
    if key.id in before:
        unchanged = "Its name was not changed." if name and key.name != name else "Nothing was changed."
        click.echo(f"The key was added before, as {key.name!r}. {unchanged}", err=True)


@ssh_keys.command("list")
@client_command
def list_keys(connection: Connection, /) -> None:
    """List the public keys of your project, newest first."""
    answer = connection.call(connection.stub.ListSSHKeys, pb.ListSSHKeysRequest())
    if connection.as_json:
        connection.print_json(answer)
        return
    if not answer.keys:
        click.echo("No SSH key. To add yours: gpuproxy ssh-keys add")
        return
    rows = [(key.id, key.name, key.fingerprint, tables.moment(key.created_at)) for key in answer.keys]
    click.echo(tables.table(("ID", "NAME", "FINGERPRINT", "ADDED"), rows))


@ssh_keys.command("delete")
@click.argument("name", metavar="KEY", type=TextType())
@client_command
def delete(connection: Connection, /, name: str) -> None:
    """Delete the key with this id, fingerprint or name.

    Machines that have the key keep it, so nobody is locked out. It does not ask: the key can be added again.
    """
    key = _meant(connection.call(connection.stub.ListSSHKeys, pb.ListSSHKeysRequest()).keys, name.strip())
    connection.call(connection.stub.DeleteSSHKey, pb.DeleteSSHKeyRequest(id=key.id))
    if connection.as_json:
        connection.print_json(key)
        return
    click.echo(f"{key.id} {_named(key)} deleted · new machines do not get it; machines that have it keep it")


def _ids(connection: Connection) -> frozenset[str]:
    """The ids of the keys that the project has."""
    answer = connection.call(connection.stub.ListSSHKeys, pb.ListSSHKeysRequest())
    return frozenset(key.id for key in answer.keys)


def _meant(keys: Sequence[pb.SSHKey], name: str) -> pb.SSHKey:
    """The key that is meant: by its id, else by its fingerprint, else by a name that only one key has."""
    for key in keys:
        if name in (key.id, key.fingerprint, key.fingerprint.removeprefix(_PREFIX)):
            return key
    found = [key for key in keys if key.name == name]
    if len(found) > 1:
        ids = ", ".join(key.id for key in found)
        raise click.UsageError(f"{len(found)} keys have the name {name}. Name one by its id: {ids}")
    if not found:
        other = " This is the id of an API key: gpuproxy keys revoke takes it." if name.startswith("key-") else ""
        raise click.ClickException(f"There is no SSH key {name}.{other} To list the keys: gpuproxy ssh-keys list")
    return found[0]


def _named(key: pb.SSHKey) -> str:
    return f"{key.name} {key.fingerprint}" if key.name else key.fingerprint
