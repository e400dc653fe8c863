"""The option `--provider`, which names a marketplace.

Its help lists the marketplaces that are installed on this machine. They are looked up only when help is printed, or
when a shell completes the option.
"""

import click
from click.shell_completion import CompletionItem


class ProviderOption(click.Option):
    """The option `--provider`. The server decides which names it accepts."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The installed marketplaces that begin so."""
        from gpuproxy.app import entry_points

        del ctx
        return [CompletionItem(name) for name in entry_points.names() if name.startswith(incomplete)]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option's help text with the names of the installed marketplaces."""
        from gpuproxy.app import entry_points

        names = ", ".join(f'"{name}"' for name in entry_points.names())
        self.help = f"{names}, ... (default: all providers)." if names else "Name of a provider (default: all)."
        return super().get_help_record(ctx)
