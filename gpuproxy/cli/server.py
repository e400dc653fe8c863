"""The commands `serve` and `keys`, which work on this machine's own database."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

import click

from gpuproxy.app import marketplaces
from gpuproxy.cli.arguments import TextType, json_option, short_text
from gpuproxy.cli.tables import table
from gpuproxy.cli.wording import in_commands
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.loading import check_start, load_settings
from gpuproxy.config.settings import Settings
from gpuproxy.edge.messages.json_values import plain
from gpuproxy.edge.messages.keys import key_message
from gpuproxy.model import ids
from gpuproxy.store.keys import KeyRow


class _NotStarted(click.ClickException):
    """The configuration is wrong, so nothing was started."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        """Print the message to stderr, without click's prefix "Error:"."""
        del file
        click.echo(self.message, err=True)


@click.command()
@click.option("--sandbox", is_flag=True, help="Also start a simulated market, and rent there. Nothing costs money.")
@click.option(
    "--force",
    is_flag=True,
    help="Start although the key of an account that still has machines was removed; they can't be released then. Also "
    "take the secrets of this server as those of the deployment, although other servers used the database with others.",
)
def serve(sandbox: bool, force: bool) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    settings = settings_of_here()
    with explained():
        check_start(settings, sandbox=sandbox)
    from gpuproxy.app import loops, main

    with explained(), asyncio.Runner(loop_factory=loops.loop_factory(settings.event_loop)) as runner:
        code = runner.run(main.serve(settings, sandbox=sandbox, force=force))
    raise SystemExit(code)


@click.group()
def keys() -> None:
    """Create, list and revoke API keys in this machine's database."""


@keys.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["admin", "user", "viewer"]), default="user", show_default=True)
@click.option("--project", default="default", show_default=True, help="Project that the key belongs to.")
@json_option
def create_key(name: str, role: Literal["admin", "user", "viewer"], project: str, as_json: bool) -> None:
    """Create a key and print it once. Its id, for `keys revoke`, goes to stderr, or into the JSON."""
    from gpuproxy.app import user_admin

    name, project = short_text("NAME", name), short_text("--project", project)
    with explained():
        made = user_admin.create_key(settings_of_here(), name, role, project)
    if as_json:
        click.echo(json.dumps({"api_key": made.text, **_fields(made.row)}, indent=2, ensure_ascii=False))
        return
    click.echo(f"{made.row.id} {name} ({role} in {project}). The key is shown only now:", err=True)
    click.echo(made.text)


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the keys, each with the first characters of its secret."""
    from gpuproxy.app import user_admin

    with explained():
        found = user_admin.list_keys(settings_of_here())
    if as_json:
        click.echo(json.dumps({"keys": [_fields(key) for key in found]}, indent=2, ensure_ascii=False))
        return
    rows = [
        (
            key.id,
            key.name,
            key.role,
            key.project,
            f"{key.prefix}..." if key.prefix else "-",
            _time(key.created_at),
            _time(key.revoked_at),
        )
        for key in found
    ]
    click.echo(table(("ID", "NAME", "ROLE", "PROJECT", "KEY", "CREATED", "REVOKED"), rows))


@keys.command("revoke")
@click.argument("key_id", metavar="ID", type=TextType())
def revoke_key(key_id: str) -> None:
    """Revoke a key permanently. It stops working within a second."""
    from gpuproxy.app import user_admin

    with explained():
        revoked = user_admin.revoke_key(settings_of_here(), key_id)
    if not revoked:
        raise click.ClickException(_no_key(key_id))
    click.echo(f"{key_id} is revoked")


def _no_key(key_id: str) -> str:
    said = in_commands(ids.hint(key_id, expected="key-"))
    named = "with this id" if ids.is_secret(key_id) else key_id
    return (
        f"There is no API key {named}.{said and f' {said[0].upper()}{said[1:]}'} To list the keys: gpuproxy keys list"
    )


@keys.command("export-signing")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_signing(file: Path) -> None:
    """Export the key that signs the labels of this deployment's machines. FILE must not exist.

    If you lose the database, a new database can find the machines only with this key.
    """
    from gpuproxy.app import upkeep

    with explained():
        wrote = upkeep.export_signing(settings_of_here(), file)
    done = f"wrote {file} (mode 0600)" if wrote else f"{file} already contains this key"
    click.echo(f"{done}; store it separately from the database")


@keys.command("import-signing")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_signing(file: Path) -> None:
    """Let a new database find the machines of a lost database. The server destroys them when it finds them."""
    from gpuproxy.app import upkeep

    with explained():
        upkeep.import_signing(settings_of_here(), file)
    click.echo("imported; the server looks for these machines when it starts next")


def settings_of_here() -> Settings:
    """The settings that a server would have if it were started here."""
    with explained():
        return load_settings(os.environ, marketplaces=marketplaces.installed())


@contextmanager
def explained() -> Iterator[None]:
    """End the command with exit code 2 and the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise _NotStarted(str(error)) from None


def _fields(key: KeyRow) -> dict[str, object]:
    """A key in JSON, as ListAPIKeys has it, with its project."""
    return {**plain(key_message(key)), "project": key.project}


def _time(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ") if moment else ""
