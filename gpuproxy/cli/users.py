"""The commands `users`, on the database of this machine. A password is typed or piped; it is never an argument."""

import json
import sys
from typing import Literal

import click

from gpuproxy.cli.arguments import TextType, json_option, short_text
from gpuproxy.cli.server import explained, settings_of_here
from gpuproxy.cli.tables import table
from gpuproxy.model.users import email_error, password_error
from gpuproxy.store.users import UserRow


@click.group()
def users() -> None:
    """Create, list and change users in this machine's database."""


@users.command("create")
@click.argument("email")
@click.option("--role", type=click.Choice(["admin", "user", "viewer"]), default="user", show_default=True)
@click.option("--project", default="default", show_default=True, help="Project that the user belongs to.")
@json_option
def create(email: str, role: Literal["admin", "user", "viewer"], project: str, as_json: bool) -> None:
    """Create a user who can log in. Prompts for the password, or reads it from stdin if that is not a terminal."""
    from gpuproxy.app import user_admin

    if wrong := email_error(email):
        raise click.UsageError(f"EMAIL {wrong}.")
    project = short_text("--project", project)
    password = _password()
    with explained():
        user = user_admin.create_user(settings_of_here(), email, password, role=role, project=project)
    if as_json:
        click.echo(json.dumps(_fields(user), indent=2, ensure_ascii=False))
    else:
        click.echo(f"{user.id} {user.email} ({user.role} in {user.project})")


@users.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """List users, disabled ones included."""
    from gpuproxy.app import user_admin

    with explained():
        found = user_admin.list_users(settings_of_here())
    if as_json:
        click.echo(json.dumps({"users": [_fields(user) for user in found]}, indent=2, ensure_ascii=False))
        return
    rows = [
        (
            user.id,
            user.email,
            user.role,
            user.project,
            f"{user.created_at:%Y-%m-%d %H:%M:%SZ}",
            f"{user.disabled_at:%Y-%m-%d %H:%M:%SZ}" if user.disabled_at else "",
        )
        for user in found
    ]
    click.echo(table(("ID", "EMAIL", "ROLE", "PROJECT", "CREATED", "DISABLED"), rows))


@users.command("disable")
@click.argument("email", type=TextType())
def disable(email: str) -> None:
    """Disable a user. The user's tokens and API keys stop working within a second."""
    from gpuproxy.app import user_admin

    with explained():
        _known(email, user_admin.disable_user(settings_of_here(), email))
    click.echo(f"{email} is disabled")


@users.command("enable")
@click.argument("email", type=TextType())
def enable(email: str) -> None:
    """Enable a disabled user. The user's API keys work again too."""
    from gpuproxy.app import user_admin

    with explained():
        _known(email, user_admin.enable_user(settings_of_here(), email))
    click.echo(f"{email} is enabled")


@users.command("password")
@click.argument("email", type=TextType())
def password(email: str) -> None:
    """Change a user's password. Prompts for the new one, or reads it from stdin if that is not a terminal.

    The user's tokens stop working within a second. API keys stay valid.
    """
    from gpuproxy.app import user_admin

    chosen = _password()
    with explained():
        _known(email, user_admin.set_password(settings_of_here(), email, chosen))
    click.echo(f"The password of {email} was changed.")


def _fields(user: UserRow) -> dict[str, str | None]:
    """A user in JSON, without the password's hash."""
    return {
        "id": user.id,
        "email": user.email,
        "role": user.role,
        "project": user.project,
        "created_at": f"{user.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "disabled_at": f"{user.disabled_at:%Y-%m-%dT%H:%M:%SZ}" if user.disabled_at else None,
    }


def _known(email: str, known: bool) -> None:
    if not known:
        raise click.ClickException(f"There is no user {email}. To list the users: gpuproxy users list")


def _password() -> str:
    """The password that was typed twice or piped in. Raises UsageError if it is not valid."""
    if _at_a_terminal():
        text: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        text = sys.stdin.readline().rstrip("\r\n")
    if wrong := password_error(text):
        raise click.UsageError(f"The password {wrong}.")
    return text


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()
