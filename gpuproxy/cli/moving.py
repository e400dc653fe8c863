"""The command `migrate-books`: from one SQLite file to PostgreSQL, for as many servers as wanted."""

import asyncio

import click

from gpuproxy.cli.server import explained, settings_of_here


@click.command("migrate-books")
@click.argument("source", metavar="SQLITE_URL")
@click.argument("target", metavar="[POSTGRES_URL]", required=False)
@click.option("--undo", is_flag=True, help="Let servers use a file again that was moved. Only if none used the copy.")
def migrate_books(source: str, target: str | None, undo: bool) -> None:
    """Copy the database SQLITE_URL into the empty database POSTGRES_URL, and mark the file as moved.

    Stop the server first. Without POSTGRES_URL, GPUPROXY_DATABASE_URL is used, so that no password is on the command
    line. Every table is compared before anything counts. No server starts on a file that was moved.
    """
    from gpuproxy.app import moving

    with explained():
        settings = settings_of_here()
        old = settings.model_copy(update={"database_url": source})
        new = settings.model_copy(update={"database_url": target or settings.database_url})
        if undo:
            click.echo(
                f"{old.database_name} may be used again. Delete the PostgreSQL database, so that no server uses both."
                if asyncio.run(moving.undo(old))
                else f"{old.database_name} was not moved."
            )
            return
        tables = asyncio.run(moving.migrate(old, new))
    for each in tables:
        if each.rows:
            sums = f", {each.sums}" if each.sums else ""
            click.echo(f"{each.name}: {each.rows} rows, sha256 {each.sha256[:16]}{sums}")
    click.echo(f"Moved {old.database_name} to {new.database_name}. Counts, sums and hashes agree.")
    for file, place in moving.files_to_copy(old, new):
        click.echo(f"Next: copy {file} to {place} in the working directory of each server (mode 0600).")
