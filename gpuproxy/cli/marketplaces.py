"""The option that names a marketplace.

Its help lists those that are installed on this machine. They are looked up only when help is printed.
"""

import click


class ProviderOption(click.Option):
    """`--provider`. The server decides which names it accepts."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The help, with the names."""
        from gpuproxy.app import marketplaces

        names = ", ".join(f'"{name}"' for name in marketplaces.names())
        self.help = f"{names}, ... (default: all)." if names else "A marketplace by its name (default: all)."
        return super().get_help_record(ctx)
