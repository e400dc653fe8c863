"""The option `--provider`, which names a marketplace.

Its help lists the marketplaces that are installed on this machine. They are looked up only when help is printed.
"""

import click


class ProviderOption(click.Option):
    """The option `--provider`. The server decides which names it accepts."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option's help text with the names of the installed marketplaces."""
        from gpuproxy.app import marketplaces

        names = ", ".join(f'"{name}"' for name in marketplaces.names())
        self.help = f"{names}, ... (default: all providers)." if names else "Name of a provider (default: all)."
        return super().get_help_record(ctx)
