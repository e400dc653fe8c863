"""The command line: `gpuproxy COMMAND`.

The modules of a command are imported only when it runs, so that `--help` is quick. EXIT_CODES lists the exit codes.
The result of a command goes to stdout. Progress, questions and errors go to stderr.
"""

import importlib

import click
from click.shell_completion import CompletionItem

from gpuproxy.adapters import interrupts
from gpuproxy.cli.ending import interruptible, report_write_errors

EXIT_CODES = (
    "Exit codes: 0 success; 1 the server refused, nothing was done, or the output can't be written; 2 wrong usage or "
    "configuration; 3 no server answers; 130 interrupted. reserve also exits with 129 (SIGHUP) and 143 (SIGTERM)."
)
COMMANDS = {
    "serve": ("gpuproxy.cli.server:serve", "Run the server."),
    "sandbox": ("gpuproxy.cli.sandbox:sandbox", "Run a simulated GPU market on this machine."),
    "doctor": ("gpuproxy.cli.upkeep:doctor", "List problems and what to do about them."),
    "reconcile": ("gpuproxy.cli.upkeep:reconcile", "Compare the database with the providers' listings, once."),
    "backup": ("gpuproxy.cli.upkeep:backup", "Copy the database. The server may be running."),
    "migrate-books": ("gpuproxy.cli.moving:migrate_books", "Move the database from SQLite to PostgreSQL."),
    "keys": ("gpuproxy.cli.server:keys", "Create, list and revoke API keys in the database."),
    "users": ("gpuproxy.cli.users:users", "Create, list and disable users in the database."),
    "providers": ("gpuproxy.cli.providers:providers", "Show what each marketplace can do, and how the accounts are."),
    "probe": ("gpuproxy.cli.probe:probe", "Measure how a marketplace behaves, with machines that cost money."),
    "list": ("gpuproxy.cli.market:list_offers", "List what can be rented now, cheapest first."),
    "ps": ("gpuproxy.cli.machines:ps", "List the rented machines and what they cost."),
    "reservations": ("gpuproxy.cli.reservations:reservations", "List the reservations, also ended ones."),
    "reserve": ("gpuproxy.cli.reserve:reserve", "Rent 1-16 GPUs."),
    "show": ("gpuproxy.cli.machines:show", "Show a reservation or a machine."),
    "ssh": ("gpuproxy.cli.ssh:ssh", "Log in to a machine."),
    "ssh-config": ("gpuproxy.cli.ssh:ssh_config", "Print a Host block for each rented machine."),
    "logs": ("gpuproxy.cli.power:logs", "Print the last lines of a machine's log."),
    "stop": ("gpuproxy.cli.power:stop", "Stop a machine and keep its disk."),
    "start": ("gpuproxy.cli.power:start", "Start a stopped machine."),
    "extend": ("gpuproxy.cli.reservations:extend", "Change when a reservation ends."),
    "release": ("gpuproxy.cli.releasing:release", "Release all machines of a reservation."),
    "destroy": ("gpuproxy.cli.releasing:destroy", "Destroy single machines, by contract id."),
    "warmpool": ("gpuproxy.cli.warmpool:warmpool", "Keep a standby beside a machine that must not go down."),
    "ssh-keys": ("gpuproxy.cli.ssh_keys:ssh_keys", "Add, list and delete the public SSH keys of new machines."),
    "load": ("gpuproxy.cli.market:load", "Show how busy hosts and providers are."),
    "costs": ("gpuproxy.cli.costs:costs", "Show what was spent, by day, provider, project, model or label."),
    "audit": ("gpuproxy.cli.audit:audit", "List who rented, released or changed what."),
    "transactions": ("gpuproxy.cli.market:transactions", "List what was spent."),
    "spending": ("gpuproxy.cli.limits:spending", "Show what is spent and held, and the limits."),
    "limits": ("gpuproxy.cli.limits:limits", "List the spending limits, or set one."),
    "webhooks": ("gpuproxy.cli.webhooks:webhooks", "Test the webhooks, and show what was delivered."),
    "strategy": ("gpuproxy.cli.market:strategy", "Show or set the load balancing strategy."),
    "completion": ("gpuproxy.cli.completion:completion", "Print the completion script for bash, zsh or fish."),
}


class _Commands(click.Group):
    """The group of all commands. It imports a command's module when the command runs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from gpuproxy.cli.arguments import check_text

        check_text(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with interruptible():
            return super().invoke(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands by name, without importing them, and the options."""
        found = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            from gpuproxy.cli.extras import not_installed

            if ctx.resilient_parsing:  # a shell completes a command that is not installed
                return None
            raise not_installed(error, cmd_name) or error from None
        interrupts.raise_on_interrupt()
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="gpuproxy", prog_name="gpuproxy")
def root() -> None:
    """Rent GPUs on marketplaces through one API. No paid machine is ever lost."""


def main() -> None:
    """Run the command in the program's arguments."""
    with report_write_errors():
        root.main(prog_name="gpuproxy")
