"""The command line: `gpuproxy COMMAND`. Nothing is imported for a command before it runs, so that help is quick.

Exit codes: EXIT_CODES below.
What the user asked for goes to stdout; progress, questions and errors to stderr.
"""

import importlib

import click

from gpuproxy.adapters import interrupts
from gpuproxy.cli.ending import interruptible, unwritten_told

EXIT_CODES = (
    "Exit codes: 0 done, 1 refused, not done, or an output that can't be written, 2 wrong usage or configuration, "
    "3 nobody answers, 130 interrupted; reserve also 129 (hangup) and 143 (terminated)."
)
COMMANDS = {
    "serve": ("gpuproxy.cli.server:serve", "Run the server."),
    "sandbox": ("gpuproxy.cli.sandbox:sandbox", "Run a simulated market on this machine."),
    "doctor": ("gpuproxy.cli.upkeep:doctor", "Say what in the books needs a look, and what to do."),
    "reconcile": ("gpuproxy.cli.upkeep:reconcile", "Compare the books with what the providers list, once."),
    "backup": ("gpuproxy.cli.upkeep:backup", "Copy the books, also while the server runs."),
    "keys": ("gpuproxy.cli.server:keys", "Make, list and revoke API keys, in the database."),
    "users": ("gpuproxy.cli.users:users", "Make, list and disable users, in the database."),
    "list": ("gpuproxy.cli.market:list_offers", "Show what can be rented now."),
    "ps": ("gpuproxy.cli.machines:ps", "Show what I pay for now; unknowns first."),
    "reserve": ("gpuproxy.cli.reserve:reserve", "Rent 1-16 GPUs."),
    "show": ("gpuproxy.cli.machines:show", "Show a reservation or a machine."),
    "ssh": ("gpuproxy.cli.ssh:ssh", "Log in to a machine."),
    "ssh-config": ("gpuproxy.cli.ssh:ssh_config", "Print a Host block for each rented machine."),
    "logs": ("gpuproxy.cli.power:logs", "Print the end of a machine's log."),
    "stop": ("gpuproxy.cli.power:stop", "Stop a machine; its disk stays."),
    "start": ("gpuproxy.cli.power:start", "Start a stopped machine again."),
    "extend": ("gpuproxy.cli.machines:extend", "Move the end of a reservation."),
    "release": ("gpuproxy.cli.giving_back:release", "Give back a whole reservation."),
    "destroy": ("gpuproxy.cli.giving_back:destroy", "Give back single machines, by contract id."),
    "load": ("gpuproxy.cli.market:load", "Show how busy hosts and providers are."),
    "transactions": ("gpuproxy.cli.market:transactions", "Show what was spent."),
    "strategy": ("gpuproxy.cli.market:strategy", "Show or set the load balancing strategy."),
}


class _Commands(click.Group):
    """Imports a command's module when the command is run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from gpuproxy.cli.arguments import check_text

        check_text(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with interruptible():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
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
    """Rent GPUs on marketplaces through one API, and never lose track of a paid machine."""


def main() -> None:
    """Run the command that the program was called with."""
    with unwritten_told():
        root.main(prog_name="gpuproxy")
