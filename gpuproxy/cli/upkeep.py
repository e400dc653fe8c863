"""The commands `doctor`, `reconcile` and `backup`, for operators, on the database of this machine."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from gpuproxy.cli.arguments import json_option
from gpuproxy.cli.server import explained, settings_of_here


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """List problems and what to do about them. The exit code is 1 if there is a problem, and 0 if only notices."""
    from gpuproxy.app import upkeep

    with explained():
        settings = settings_of_here()
        found = upkeep.doctor(settings)
    notes = upkeep.notes(settings)
    code = 0 if all(each.notice for each in found) else 1
    if as_json:
        listed = [
            {
                "kind": each.kind,
                "notice": each.notice,
                "subject": each.subject,
                "text": each.text.strip(),
                "advice": each.advice,
            }
            for each in found
        ]
        click.echo(json.dumps({"findings": listed, "notes": notes}, indent=2, ensure_ascii=False))
        raise SystemExit(code)
    for note in notes:
        click.echo(note)
    for finding in found:
        click.echo(f"{finding.kind}{' (notice)' if finding.notice else ''}: {finding.subject}")
        click.echo(f"  {finding.text.strip()}")
        click.echo(f"  -> {finding.advice}")
    if not code:
        click.echo("No problems found, only notices." if found else "No problems found.")
    raise SystemExit(code)


@click.command()
@click.option("--once", is_flag=True, help="Run one pass. Required, because a running server repeats this on its own.")
@click.option("--dry-run", is_flag=True, help="Only print the steps and their reasons. The server may be running.")
def reconcile(once: bool, dry_run: bool) -> None:
    """Compare the database with the providers' listings, and repair the differences.

    The exit code is 1 if a provider does not answer.
    """
    if not once:
        raise click.UsageError("--once is required. A running server does this repeatedly on its own.")
    from gpuproxy.app import upkeep

    with explained(), _log_on_stderr():
        done = upkeep.reconcile(settings_of_here(), dry_run=dry_run)
    for line in done.lines:
        click.echo(line)
    raise SystemExit(0 if done.complete else 1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(file: Path) -> None:
    """Write a consistent copy of the database to FILE, which must not exist. The server may be running.

    To restore it, stop the server and replace the database by the copy. docs/operations.md describes all steps.
    """
    from gpuproxy.app import upkeep

    with explained():
        upkeep.backup(settings_of_here(), file)
    click.echo(f"wrote {file} (mode 0600)")


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Send the log to stderr, because it is not part of the result."""
    import structlog

    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)
