"""The command `webhooks`, for operators: which targets there are, a test event, and the log of deliveries."""

import json
from datetime import datetime

import click

from gpuproxy.cli.arguments import TextType, json_option
from gpuproxy.cli.server import explained, settings_of_here
from gpuproxy.cli.tables import table


@click.group()
def webhooks() -> None:
    """Test the webhooks of this machine's settings, and show what was delivered."""


@webhooks.command("list")
@json_option
def list_targets(as_json: bool) -> None:
    """List the targets. URLs and secrets are not shown."""
    from gpuproxy.app import webhooks as work

    with explained():
        found = work.targets(settings_of_here())
    shown = [
        {"name": each.name, "form": each.form, "project": each.project, "events": sorted(each.events)} for each in found
    ]
    if as_json:
        click.echo(json.dumps({"targets": shown}, indent=2, ensure_ascii=False))
        return
    if not found:
        click.echo("There is no webhook. Set GPUPROXY_WEBHOOK_URL and GPUPROXY_WEBHOOK_SECRET.")
        return
    rows = [(each.name, each.form, each.project or "all", f"{len(each.events)} kinds") for each in found]
    click.echo(table(("NAME", "FORM", "PROJECT", "EVENTS"), rows))


@webhooks.command("test")
@click.argument("target", required=False, type=TextType())
@json_option
def post_test(target: str | None, as_json: bool) -> None:
    """Post a signed test event to TARGET (default: to all). The exit code is 1 if one does not take it."""
    from gpuproxy.app import webhook_commands as work

    with explained():
        answers = work.test(settings_of_here(), target or "")
    if as_json:
        told = [{"target": each.name, "status": answer.status, "error": answer.error} for each, answer in answers]
        click.echo(json.dumps({"answers": told}, indent=2, ensure_ascii=False))
    else:
        for each, answer in answers:
            click.echo(f"{each.name}: {answer.error or f'taken (status {answer.status})'}")
    raise SystemExit(int(any(answer.error for _, answer in answers)))


@webhooks.command("log")
@click.option("--target", type=TextType(), help="Only the deliveries to this target.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most that are shown.")
@json_option
def show_log(target: str | None, limit: int, as_json: bool) -> None:
    """Show the newest deliveries: what, when, the status of the last try, and when the next one is due."""
    from gpuproxy.app import webhook_commands as work

    with explained():
        found = work.deliveries(settings_of_here(), target or "", limit)
    if as_json:
        told = [
            {
                "id": each.event_id,
                "target": each.target,
                "type": each.type.value,
                "project": each.project,
                "about": each.about,
                "created_at": each.at.isoformat(),
                "state": each.state,
                "tries": each.tries,
                "status": each.status,
                "error": each.error,
                "tried_at": _iso(each.tried_at),
                "next_try_at": _iso(each.next_at) if each.state == "pending" else None,
                "data": each.data,
            }
            for each in found
        ]
        click.echo(json.dumps({"deliveries": told}, indent=2, ensure_ascii=False))
        return
    rows = [
        (
            _time(each.at),
            each.target,
            each.type.value,
            each.about or "-",
            each.project or "-",
            each.state.replace("_", " "),
            str(each.tries),
            str(each.status or "-"),
            _time(each.next_at) if each.state == "pending" else "-",
            each.event_id,
            each.error,
        )
        for each in found
    ]
    titles = ("CREATED", "TARGET", "EVENT", "ABOUT", "PROJECT", "STATE", "TRIES", "STATUS", "NEXT TRY", "ID", "ERROR")
    click.echo(table(titles, rows) if rows else "Nothing was told yet.")


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _time(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
