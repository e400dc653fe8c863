"""Questions before a command changes something that can't be undone. They are asked on stderr."""

import click

yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def confirm(question: str, *, kept: str = "") -> None:
    """Ask for confirmation; without it, end with exit code 1. `kept`: printed after "Nothing was changed."."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as abort:
        if not isinstance(abort.__context__, EOFError):
            raise
        click.echo("\nConfirmation is needed, but stdin has ended. Use --yes in scripts.", err=True)
        agreed = False
    if not agreed:
        click.echo(f"Nothing was changed. {kept}".rstrip(), err=True)
        raise SystemExit(1)
